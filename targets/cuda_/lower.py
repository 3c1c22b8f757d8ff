"""edgekit Graph -> kernels, each one TIR function, and the order in which they are launched.

One node becomes one launch (or none, where it only renames memory): padding, bias, requantization
and clamp belong to the kernel of their node. Matrix products, depthwise convolutions and pools are
written for the GPU (:mod:`.gemm`, :mod:`.direct`); the rest are the TE computations that the CPU
engine uses, too, under GPU schedules (:mod:`.schedule`). Integers stay integers: the bytes are those
of :mod:`edgekit.graph.reference`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node, Tensor
from edgekit.graph.ops import macs
from edgekit.graph.ops.pool import mean_multiplier
from edgekit_targets.cuda_ import direct, gemm, schedule, support
from edgekit_targets.cuda_.gpu import Gpu, Precision
from edgekit_targets.tvm_ import linear, te_conv, te_matrix, te_ops
from edgekit_targets.tvm_ import vector as vx
from edgekit_targets.tvm_.linear import Window
from edgekit_targets.tvm_.pool import PoolWindow
from edgekit_targets.tvm_.vector import Expr, const, script


@dataclass(frozen=True)
class Value:
    """A tensor in memory. stored: its type there. constant: its data, else it lies in the arena as
    ``name`` (two tensors of one name share their bytes)."""

    name: str
    shape: tuple[int, ...]
    stored: str
    constant: np.ndarray | None = None

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.elements * np.dtype(self.stored).itemsize


@dataclass(frozen=True)
class Step:
    """One launch. args: in the order of the function's parameters, the output last."""

    node: int
    function: str
    args: tuple[Value, ...]


@dataclass
class Lowered:
    functions: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)  #: by tensor name
    plan: list[dict[str, Any]] = field(default_factory=list)


class Lowering:
    """State of one lowering; also what :mod:`edgekit_targets.tvm_.te_ops` builds functions with."""

    def __init__(self, graph: Graph, gpu: Gpu, precision: Precision) -> None:
        self.graph, self.gpu, self.precision = graph, gpu, precision
        self.out = Lowered()
        self.index = -1
        self._outs: Iterator[Tensor] = iter(())
        self._ends = {*graph.inputs, *graph.outputs}

    # -- values ------------------------------------------------------------------------------

    def stored(self, t: Tensor) -> str:
        if t.dtype == "float32" and self.precision == "float16" and t.name not in self._ends:
            return "float16"
        return t.dtype

    def value(self, name: str | None) -> Value:
        t = self.graph.tensor(name)
        if t.data is not None:
            return self.const(t.data)
        return self.out.values[t.name]

    def const(self, data: np.ndarray) -> Value:
        data = np.ascontiguousarray(data)
        return Value("", data.shape, str(data.dtype), data)

    def result(self, t: Tensor) -> Value:
        value = Value(t.name, t.shape, self.stored(t))
        self.out.values[t.name] = value
        return value

    # -- launches ----------------------------------------------------------------------------

    def name(self, hint: str) -> str:
        return f"ek_{self.index}_" + re.sub(r"[^a-z0-9_]", "_", hint.lower())[:24]

    def launch(self, function: Any, name: str, args: Sequence[Value]) -> Value:
        self.out.functions[name] = function
        self.out.steps.append(Step(self.index, name, tuple(args)))
        return args[-1]

    def emit_te(self, build: Callable[..., Any], *inputs: Value, hint: str) -> Value:
        """A function of a TE computation; its result is the node's next output."""
        from tvm import te

        T = script()
        out = self.result(next(self._outs))
        places, views = [], []
        for k, v in enumerate(inputs):
            place = te.placeholder(v.shape, v.stored, name=f"a{k}")
            places.append(place)
            views.append(_converted(te, T, place, "float32") if v.stored == "float16" else place)
        got = build(*views)
        if out.stored == "float16":
            got = _converted(te, T, got, "float16")
        name = self.name(f"{hint}_{len(self.out.steps)}")
        function = te.create_prim_func([*places, got]).with_attr("global_symbol", name)
        function = schedule.scheduled(function, self.gpu.tvm_target())
        function = function.with_attr("global_symbol", name)
        return self.launch(function, name, [*inputs, out])

    def begin(self, index: int, node: Node) -> None:
        self.index = index
        self._outs = iter(self.graph.outs(node))


def _converted(te: Any, T: Any, x: Any, dtype: str) -> Any:
    return te.compute(x.shape, lambda *i: T.Cast(dtype, x[i]), name=f"{x.op.name}_{dtype}")


# -- operators -----------------------------------------------------------------------------------


def _integer_table(node: Node, graph: Graph, weights: np.ndarray, channels: int) -> np.ndarray:
    """Rows bias (zero points folded in), multiplier, right shift, left shift."""
    table = te_conv._table(node, graph, channels).copy()
    x = graph.tensor(node.inputs[0])
    assert x.quant is not None
    sums = weights.reshape(channels, -1).astype(np.int64).sum(axis=1)
    folded = table[0].astype(np.int64) - x.quant.zp * sums
    table[0] = nm.wrap32(folded).astype(np.int32)
    return table


def requantized(tab: Any, acc: Expr, column: Expr, width: int, node: Node, out: Tensor) -> Expr:
    """A sum's way out by the rows of :func:`_integer_table`."""
    T = script()
    assert out.quant is not None
    rows = [tab[column], *(tab[k * width + column] for k in (1, 2, 3))]
    high = T.call_extern("int32", "ek_requantize", acc, *rows)
    y = high + const(out.quant.zp, "int32")
    limits = vx.limits(node.attrs["activation"], out.quant, out.dtype)
    return T.Cast(out.dtype, vx.clamp(y, *limits, "int32", 1))


def _lower_linear(lo: Lowering, node: Node) -> None:
    graph = lo.graph
    if not linear.is_tiled(node, graph):
        te_conv.general_conv(lo, node)
        return
    x_t, w_t, out_t = (
        graph.tensor(node.inputs[0]),
        graph.tensor(node.inputs[1]),
        graph.outs(node)[0],
    )
    assert w_t.data is not None
    x, win = lo.value(node.inputs[0]), linear.window_of(node, graph)
    out = lo.result(out_t)
    integer = x_t.dtype == "int8"
    zero_point = x_t.quant.zp if integer and x_t.quant else 0
    name = lo.name(node.type)
    if node.type == "DEPTHWISE_CONV_2D":
        _lower_depthwise(lo, node, win, x, out, zero_point, name)
        return
    kind: gemm.Kind = "s8" if integer else _KINDS[lo.precision]
    t = gemm.tiling(win, kind)
    weights = w_t.data.reshape(win.outputs, *win.kernel, win.channels)
    packed = lo.const(gemm.pack(weights, kind, t))
    width = t.padded_outputs
    if integer:
        rows = _integer_table(node, graph, weights, win.outputs)
        table = np.zeros((4, width), np.int32)
        table[:, : win.outputs] = rows
    else:
        table = np.zeros((1, width), np.float32)
        table[:, : win.outputs] = te_conv._table(node, graph, win.outputs)
    clamp = direct.leaves_float(node.attrs["activation"], out.stored)

    def leave(tab: Any) -> gemm.Leave:
        def store(acc: Expr, column: Expr) -> Expr:
            if integer:
                return requantized(tab, acc, column, width, node, out_t)
            return clamp(acc + tab[column])

        return store

    many = win.out_height * win.out_width > gemm.FEW_ROWS
    make = gemm.tiled if many else gemm.by_warps
    operand = gemm.Operand(x.stored, x.elements, zero_point)
    kept = ((table.size,), str(table.dtype))
    function = make(name, win, kind, operand, t, kept, out.stored, leave)
    lo.launch(function, name, [x, packed, lo.const(table.ravel()), out])


_KINDS: dict[Precision, gemm.Kind] = {"float32": "f32", "tf32": "tf32", "float16": "f16"}


def _lower_depthwise(
    lo: Lowering, node: Node, win: Window, x: Value, out: Value, zero_point: int, name: str
) -> None:
    graph = lo.graph
    w_t, out_t = graph.tensor(node.inputs[1]), graph.outs(node)[0]
    assert w_t.data is not None
    integer = x.stored == "int8"
    weights = w_t.data[0]
    if lo.precision == "float16" and not integer:
        weights = weights.astype(np.float16)
    table = te_conv._table(node, graph, win.outputs)
    clamp = direct.leaves_float(node.attrs["activation"], out.stored)

    def leave(tab: Any, acc: Expr, channel: Expr) -> Expr:
        if integer:
            return requantized(tab, acc, channel, win.outputs, node, out_t)
        return clamp(acc + tab[channel])

    function = direct.depthwise(
        name,
        win,
        (x.elements, x.stored),
        zero_point,
        (weights.size, str(weights.dtype)),
        (table.size, str(table.dtype)),
        (out.elements, out.stored),
        leave,
    )
    lo.launch(function, name, [x, lo.const(weights.ravel()), lo.const(table.ravel()), out])


def _lower_pool(lo: Lowering, node: Node) -> None:
    x_t, out_t = lo.graph.tensor(node.inputs[0]), lo.graph.outs(node)[0]
    a = node.attrs
    pads, out_hw = nm.conv_padding(x_t.shape[1:3], a["filter"], a["stride"], a["padding"])  # type: ignore[arg-type]
    kind = "max" if node.type == "MAX_POOL_2D" else "average"
    win = PoolWindow(kind, tuple(a["filter"]), tuple(a["stride"]), pads, out_hw)
    limits: tuple[float | None, float | None] = nm.activation_bounds(a["activation"])
    if not out_t.is_float:
        limits = nm.activation_range(a["activation"], out_t.quant, out_t.dtype)
    _launch_pool(lo, node, win, x_t, out_t, limits, None)


def _launch_pool(
    lo: Lowering,
    node: Node,
    win: PoolWindow,
    x_t: Tensor,
    out_t: Tensor,
    limits: tuple[float | None, float | None],
    mean: tuple[int, int, int] | None,
) -> None:
    x, out, name = lo.value(x_t.name), lo.result(out_t), lo.name(node.type)
    function = direct.pool(name, win, x_t, out_t, (x.stored, out.stored), limits, mean)
    lo.launch(function, name, [x, out])


def _lower_reduction(lo: Lowering, node: Node) -> None:
    x, out = lo.graph.tensor(node.inputs[0]), lo.graph.outs(node)[0]
    spatial = len(x.shape) == 4 and x.shape[0] == 1 and sorted(node.attrs["axes"]) == [1, 2]
    if node.type != "MEAN" or not spatial:
        te_ops.reduction(lo, node, [lo.value(node.inputs[0])], [x], out)
        return
    kernel = (x.shape[1], x.shape[2])
    win = PoolWindow("mean", kernel, kernel, (0, 0, 0, 0), (1, 1))
    mean: tuple[int, int, int] | None = None
    limits: tuple[float | None, float | None] = (None, None)
    if not out.is_float:
        assert x.quant is not None and out.quant is not None
        n = kernel[0] * kernel[1]
        mean = (*mean_multiplier(x.quant.s, out.quant.s, n), x.quant.zp * n)
        limits = nm.LIMITS[out.dtype]
    _launch_pool(lo, node, win, x, out, limits, mean)


def _lower_softmax(lo: Lowering, node: Node) -> None:
    x_t, out_t = lo.graph.tensor(node.inputs[0]), lo.graph.outs(node)[0]
    x = lo.value(node.inputs[0])
    if x_t.is_float:
        te_ops.softmax_float(lo, node, [x], [x_t], out_t)
        return
    name, out = lo.name(node.type), lo.result(out_t)
    function, table = direct.integer_softmax(name, node, x_t, out_t)
    lo.launch(function, name, [x, lo.const(table), out])


def _lower_unary(lo: Lowering, node: Node) -> None:
    ins = [t for t in lo.graph.ins(node) if t is not None]
    out, args = lo.graph.outs(node)[0], [lo.value(i) for i in node.inputs]
    if node.type == "PRELU" and (out.is_float or ins[1].elements > 1):
        make: Any = te_matrix.prelu
    elif ins[0].dtype in ("int8", "uint8"):
        make = te_ops.table
    elif node.type == "QUANTIZE":
        make = te_ops.quantize_float
    elif node.type == "DEQUANTIZE":
        _lower_view(lo, node)
        return
    else:
        make = te_ops.float_unary
    make(lo, node, args, ins, out)


def _lower_view(lo: Lowering, node: Node) -> None:
    """The same bytes under another shape; copied where another type is stored, or where both ends
    are buffers of the caller."""
    out, x = lo.graph.outs(node)[0], lo.value(node.inputs[0])
    stored = lo.stored(out)
    if x.constant is None and x.stored == stored and out.name not in lo._ends:
        lo.out.values[out.name] = Value(x.name, out.shape, stored)
        return
    result, name = lo.result(out), lo.name(node.type)
    function = direct.copy(name, (x.elements, x.stored), (x.elements, stored))
    lo.launch(function, name, [x, result])


def _lower_arg_max(lo: Lowering, node: Node) -> None:
    x_t, out_t = lo.graph.tensor(node.inputs[0]), lo.graph.outs(node)[0]
    x, out, name = lo.value(node.inputs[0]), lo.result(out_t), lo.name(node.type)
    function = direct.arg_max(name, x_t, out_t, int(node.attrs["axis"]), x.stored)
    lo.launch(function, name, [x, out])


def _te(function: Callable[..., Any], lo: Lowering, node: Node) -> None:
    ins = [t for t in lo.graph.ins(node) if t is not None]
    function(lo, node, [lo.value(t.name) for t in ins], ins, lo.graph.outs(node)[0])


def _lower_split(lo: Lowering, node: Node) -> None:
    te_ops.split(lo, node, [lo.value(node.inputs[0])], lo.graph.outs(node))


_UNARY = [
    *("LOGISTIC", "TANH", "RELU", "RELU6", "RELU_N1_TO_1", "HARD_SWISH", "ABS", "EXP", "NEG"),
    *("SQRT", "RSQRT", "LEAKY_RELU", "GELU", "PRELU", "QUANTIZE", "DEQUANTIZE"),
]
_BINARY = ["ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"]
_LINEAR = ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"]

_LOWER: dict[str, Callable[[Lowering, Node], None]] = {
    **dict.fromkeys(_LINEAR, _lower_linear),
    **dict.fromkeys(("MAX_POOL_2D", "AVERAGE_POOL_2D"), _lower_pool),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX"), _lower_reduction),
    **dict.fromkeys(_BINARY, partial(_te, te_ops.binary)),
    **dict.fromkeys(_UNARY, _lower_unary),
    **dict.fromkeys(("RESHAPE", "SQUEEZE"), _lower_view),
    "SOFTMAX": _lower_softmax,
    "ARG_MAX": _lower_arg_max,
    "SPLIT": _lower_split,
    "CONCATENATION": partial(_te, te_ops.concatenation),
    "PAD": partial(_te, te_ops.pad),
    "TRANSPOSE": partial(_te, te_ops.transpose),
    "STRIDED_SLICE": partial(_te, te_ops.strided_slice),
    "GATHER": partial(_te, te_ops.gather),
    "RESIZE_NEAREST_NEIGHBOR": partial(_te, te_ops.resize_nearest),
    "RESIZE_BILINEAR": partial(_te, te_ops.resize_bilinear),
    "BATCH_MATMUL": partial(_te, te_matrix.batch_matmul),
    "LAYER_NORM": partial(_te, te_matrix.layer_norm_float),
}


def lower(graph: Graph, gpu: Gpu, precision: Precision = "float32") -> Lowered:
    """The kernels of ``graph``. UnsupportedError names every node that cannot be taken."""
    missing = support.unsupported(graph)
    if missing:
        first = missing[0]
        raise UnsupportedError(
            f"node '{first.node}' ({first.op}): {first.reason}",
            [(u.node, u.op, u.reason) for u in missing],
        )
    lo = Lowering(graph, gpu, precision)
    for name in graph.inputs:
        lo.result(graph.tensor(name))
    for index, node in enumerate(graph.nodes):
        lo.begin(index, node)
        _LOWER[node.type](lo, node)
        names = [s.function for s in lo.out.steps if s.node == index]
        lo.out.plan.append(
            {
                "name": node.name,
                "op": node.type,
                "macs": macs(node, graph),
                "variant": names[0] if names else "view",
                "kernels": names,
            }
        )
    return lo.out
