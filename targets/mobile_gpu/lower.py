"""edgekit Graph -> kernels (TIR functions), weights and the order in which they run.

Every group of :mod:`.fusion` becomes one kernel (SPLIT: one an output). What is written about a
kernel here is what the launch plan says: function, arguments, geometry.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node, Tensor
from edgekit_targets.tvm_.vector import Expr, const, script

from . import fusion
from .fusion import Group
from .tir import FLOAT, Arg, Kernel, Storage, grid, snapped, spread, storage_of, width


@dataclass(frozen=True)
class Limits:
    """What launch geometry depends on. group: work-items that a work-group should have."""

    group: int
    max_group: int
    max_items: tuple[int, int, int]
    local_bytes: int

    @property
    def items(self) -> tuple[int, int, int]:
        x, y, z = (min(n, self.max_group) for n in self.max_items)
        return x, y, z


@dataclass(frozen=True)
class Launch:
    """A kernel of the plan. nodes: the graph nodes it computes, anchor first. writes: the tensor."""

    kernel: Kernel
    nodes: tuple[Node, ...]
    writes: str


@dataclass
class Lowering:
    """State of one lowering. weights: constants by name, with their storage."""

    graph: Graph
    half: bool
    limits: Limits
    launches: list[Launch] = field(default_factory=list)
    weights: dict[str, tuple[Storage, np.ndarray]] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)

    # -- operands ------------------------------------------------------------------------------

    def root(self, name: str) -> str:
        """The tensor whose buffer holds ``name`` (views share their input's)."""
        while name in self.roots:
            name = self.roots[name]
        return name

    def storage(self, t: Tensor) -> Storage:
        """Inputs and outputs of the graph keep the model's own type."""
        end = t.name in self.graph.inputs or t.name in self.graph.outputs
        return storage_of(t, self.half and not end)

    def arg(self, name: str) -> Arg:
        """The argument for a tensor; constants are stored as real values."""
        t = self.graph.tensor(name)
        if t.data is not None:
            real = t.data.astype(np.float32)
            if t.quant is not None:
                real = (real - t.quant.zp) * np.float32(t.quant.s)
            return self.constant(t.name, real, self.half and len(t.shape) > 1)
        return Arg(self.root(t.name), False, self.storage(t), t.elements)

    def constant(
        self, name: str, data: np.ndarray, half: bool = False, storage: Storage | None = None
    ) -> Arg:
        """An entry of the weights file. half: stored as float16, where its range allows."""
        if storage is None and half:
            with np.errstate(over="ignore"):
                short = data.astype(np.float16)
            if np.all(np.isfinite(short)):
                data, storage = short, Storage("float16")
        storage = storage or FLOAT
        data = np.ascontiguousarray(data.astype(storage.dtype, copy=False))
        key, k = name, 0
        while key in self.weights and not _same(self.weights[key], storage, data):
            k += 1
            key = f"{name}#{k}"
        self.weights[key] = (storage, data)
        return Arg(key, True, storage, data.size)

    # -- kernels -------------------------------------------------------------------------------

    def kernel(self, node: Node) -> Kernel:
        hint = re.sub(r"[^a-z0-9_]", "_", node.type.lower())[:32]
        name = f"ek_{len(self.launches)}_{hint}"
        return Kernel(name, self.limits.group, self.limits.items)

    def grid(self, *items: int) -> Any:
        return grid((*items, 1, 1)[:3], self.limits.group, self.limits.items)


def _same(known: tuple[Storage, np.ndarray], storage: Storage, data: np.ndarray) -> bool:
    return known[0] == storage and known[1].tobytes() == data.tobytes()


class Writer:
    """The way out of a kernel: the anchor's activation, the chain, the store.

    Declares its operands when made, so before the kernel's body. flat: all tensors of the chain
    have one shape, and an index is all that is needed of a position.
    """

    def __init__(self, lo: Lowering, kernel: Kernel, group: Group, output: str | None = None):
        self.lo, self.kernel, self.group = lo, kernel, group
        out = lo.graph.tensor(output or group.output)
        self.shape = lo.graph.tensor(output or group.anchor.outputs[0]).shape
        self.others: dict[str, int] = {}
        previous = group.anchor.outputs[0]
        for node in group.chain:
            for name in node.inputs:
                if name is not None and name != previous:
                    self.others[name] = kernel.operand(lo.arg(name))
            previous = node.outputs[0]
        self.out = kernel.operand(lo.arg(out.name))

    @property
    def broadcasts(self) -> bool:
        graph = self.lo.graph
        return any(graph.tensor(n).shape != self.shape for n in self.others)

    def write(self, value: Expr, index: Expr, n: int, coords: tuple[Expr, ...] | None) -> None:
        """``n`` values of the anchor at flat ``index``. coords: the position, one expression a
        dimension, needed where an operand broadcasts."""
        graph, T = self.lo.graph, script()
        value = activated(value, self.group.anchor, n)
        tensor = self.group.anchor.outputs[0]
        for node in self.group.chain:
            value = snapped(T.Bind(value), self.lo.storage(graph.tensor(tensor)), n)
            operands = [
                value if name == tensor else self.other(str(name), index, n, coords)
                for name in node.inputs
            ]
            quantized = not graph.tensor(tensor).is_float
            value = activated(elementwise(node, operands, n, quantized), node, n)
            tensor = node.outputs[0]
        self.kernel.store(self.out, index, value, n)

    def other(self, name: str, index: Expr, n: int, coords: tuple[Expr, ...] | None) -> Expr:
        shape = self.lo.graph.tensor(name).shape
        k = self.others[name]
        if shape == self.shape:
            return self.kernel.load(k, index, n)
        return broadcast(self.kernel, k, shape, coords, n)


def broadcast(
    kernel: Kernel, k: int, shape: tuple[int, ...], coords: tuple[Expr, ...] | None, n: int
) -> Expr:
    """Values of an operand that broadcasts to the position ``coords``."""
    at, step = const(0, "int32"), 1
    if coords is not None:
        tail = coords[len(coords) - len(shape) :]
        for d, c in zip(reversed(shape), reversed(tail), strict=True):
            if d != 1:
                at = at + c * step
            step *= d
    if not shape or shape[-1] == 1:
        return spread(kernel.load(k, at, 1), n)
    return kernel.load(k, at, n)


def coordinates(index: Expr, shape: tuple[int, ...]) -> tuple[Expr, ...]:
    """The position of flat ``index`` in ``shape``."""
    T = script()
    out: list[Expr] = []
    for d in reversed(shape):
        out.append(T.floormod(index, d) if len(out) < len(shape) - 1 else index)
        index = T.floordiv(index, d)
    return tuple(reversed(out))


def activated(value: Expr, node: Node, n: int) -> Expr:
    return clamped(value, node.attr("activation", "NONE"), n)


def clamped(value: Expr, activation: str, n: int) -> Expr:
    T = script()
    low, high = nm.activation_bounds(activation)
    if low is not None:
        value = T.max(value, const(low, "float32", n))
    if high is not None:
        value = T.min(value, const(high, "float32", n))
    return value


def elementwise(node: Node, x: list[Expr], n: int, quantized: bool) -> Expr:
    """The value of a node of :data:`fusion.UNARY` or :data:`fusion.BINARY`, without activation.

    quantized: the first operand is an integer's value: where the function has none for it, it
    counts as 0, as for the reference.
    """
    from tvm import tirx

    T, kind = script(), node.type

    def f(v: float) -> Expr:
        return const(v, "float32", n)

    a = x[0]
    if quantized and kind in ("LOG", "SQRT", "RSQRT"):
        a = T.max(a, f(0.0))
    if kind in ("RELU", "RELU6", "RELU_N1_TO_1"):
        return clamped(a, kind, n)
    if kind == "LOGISTIC":
        return f(1.0) / (f(1.0) + tirx.exp(f(0.0) - a))
    if kind == "HARD_SWISH":
        return a * T.min(T.max(a + f(3.0), f(0.0)), f(6.0)) * f(1.0 / 6.0)
    if kind in ("LEAKY_RELU", "PRELU"):
        slope = f(float(np.float32(node.attrs["alpha"]))) if kind == "LEAKY_RELU" else x[1]
        return T.max(a, f(0.0)) + slope * T.min(a, f(0.0))
    if kind == "GELU":
        if node.attr("approximate", False):
            inner = f(0.7978845608028654) * (a + f(0.044715) * a * a * a)
            return f(0.5) * a * (f(1.0) + tirx.tanh(inner))
        return f(0.5) * a * (f(1.0) + tirx.erf(a * f(0.7071067811865476)))
    if kind == "SQUARED_DIFFERENCE":
        return (a - x[1]) * (a - x[1])
    return {
        "QUANTIZE": lambda: a,
        "DEQUANTIZE": lambda: a,
        "ABS": lambda: T.max(a, f(0.0) - a),
        "NEG": lambda: f(0.0) - a,
        "EXP": lambda: tirx.exp(a),
        "LOG": lambda: tirx.log(a),
        "SQRT": lambda: tirx.sqrt(a),
        "RSQRT": lambda: f(1.0) / tirx.sqrt(a),
        "TANH": lambda: tirx.tanh(a),
        "ADD": lambda: a + x[1],
        "SUB": lambda: a - x[1],
        "MUL": lambda: a * x[1],
        "DIV": lambda: a / x[1],
        "MAXIMUM": lambda: T.max(a, x[1]),
        "MINIMUM": lambda: T.min(a, x[1]),
    }[kind]()


def lower(graph: Graph, half: bool, limits: Limits) -> Lowering:
    """All kernels of ``graph``, in the order in which they run."""
    from . import linear, maps, reduce

    table: dict[str, Callable[[Lowering, Group], None]] = {
        **linear.LOWER,
        **maps.LOWER,
        **reduce.LOWER,
    }
    lo = Lowering(graph, half, limits)
    for node in graph.nodes:
        if fusion.is_view(node, graph):
            lo.roots[node.outputs[0]] = str(node.inputs[0])
    for group in fusion.groups(graph):
        table[group.anchor.type](lo, group)
    return lo


def finish(lo: Lowering, kernel: Kernel, group: Group, writes: str | None = None) -> None:
    """Append the kernel to the plan."""
    lo.launches.append(Launch(kernel, tuple(group.nodes), lo.root(writes or group.output)))


__all__ = ["Launch", "Limits", "Lowering", "Writer", "coordinates", "finish", "lower", "width"]
