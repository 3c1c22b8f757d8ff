"""The one model representation: tensors, nodes, graphs.

Conventions (DESIGN.md section 3, and the contract for every reader, pass and backend):

* Activations are NHWC, convolution weights OHWI (depthwise ``[1, kh, kw, C * multiplier]``),
  fully connected weights ``[out, in]``: TFLite's layouts.
* Node types are TFLite's operator names (``CONV_2D``); what TFLite lacks is named the same way
  (``LAYER_NORM``). Everything that is a compile-time parameter of an operator is an *attribute*
  (``axes``, ``perm``, ``paddings``), never an input tensor; inputs are activations, weights, biases.
* Quantization is TFLite's: ``real = scale * (q - zero_point)``; activations per tensor; weights
  symmetric, per tensor or per channel; biases int32 with scale ``s_input * s_weight[c]``.
* A graph is built for batch 1 (leading dimension 1 of the inputs); the reference executor can
  run many samples at once where every node allows it.
* Graphs are immutable in spirit: a pass copies (``graph.copy()`` is shallow and cheap: tensors and
  nodes are frozen, constant arrays are shared and read-only) and returns a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgekit.errors import GraphError

#: dtypes a tensor may have, as NumPy spells them.
DTYPES = frozenset(
    {"float32", "float16", "int4", "int8", "uint8", "int16", "int32", "int64", "bool"}
)


def storage(dtype: str) -> np.dtype[Any]:
    """The NumPy dtype in which a tensor's values are held: int4 (constants only) in int8."""
    return np.dtype("int8" if dtype == "int4" else dtype)


@dataclass(frozen=True, eq=False)
class QuantParams:
    """Affine quantization of a tensor: ``real = scale * (q - zero_point)``.

    scale: float32 array ``[1]`` (per tensor) or ``[C]`` (per channel along ``axis``).
    zero_point: int32 array of the same length.
    axis: the channel axis when per channel, else None.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None = None

    @staticmethod
    def per_tensor(scale: float, zero_point: int) -> QuantParams:
        return QuantParams(
            np.asarray([scale], np.float32), np.asarray([zero_point], np.int32), None
        )

    @staticmethod
    def per_channel(scale: Iterable[float], axis: int) -> QuantParams:
        s = np.asarray(list(scale), np.float32)
        return QuantParams(s, np.zeros(s.shape, np.int32), axis)

    def __post_init__(self) -> None:
        scale = np.atleast_1d(np.asarray(self.scale, np.float32))
        zp = np.atleast_1d(np.asarray(self.zero_point, np.int32))
        if zp.size == 1 and scale.size > 1:
            zp = np.repeat(zp, scale.size)
        if scale.ndim != 1 or scale.shape != zp.shape:
            raise GraphError(
                f"quantization with {scale.shape} scales and {zp.shape} zero points; "
                "both must be vectors of one length"
            )
        if not np.all(np.isfinite(scale)) or np.any(scale <= 0):
            raise GraphError("a quantization scale is not a positive finite number")
        scale.flags.writeable = False
        zp.flags.writeable = False
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "zero_point", zp)

    @property
    def is_per_channel(self) -> bool:
        return self.axis is not None

    @property
    def s(self) -> float:
        """The scale of a per-tensor quantization, as the float32 value widened to a Python float."""
        return float(self.scale[0])

    @property
    def zp(self) -> int:
        """The zero point of a per-tensor quantization."""
        return int(self.zero_point[0])

    def same_as(self, other: QuantParams | None) -> bool:
        return (
            other is not None
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value: an activation (``data is None``) or a constant.

    shape: all dimensions known and positive (dynamic ones are fixed by the reader, or refused);
    ``()`` is a scalar. data: read-only array of exactly ``shape`` and ``dtype``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    quant: QuantParams | None = None
    data: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(d) for d in self.shape))
        if self.dtype not in DTYPES:
            raise GraphError(
                f"tensor '{self.name}' has dtype {self.dtype}; "
                f"known are {', '.join(sorted(DTYPES))}"
            )
        if self.data is not None:
            data = np.asarray(self.data)
            if data.dtype != storage(self.dtype) or data.shape != self.shape:
                raise GraphError(
                    f"tensor '{self.name}' is declared {self.dtype}{list(self.shape)} but its data "
                    f"is {data.dtype}{list(data.shape)}"
                )
            if self.dtype == "int4" and data.size and (data.min() < -8 or data.max() > 7):
                raise GraphError(f"tensor '{self.name}' is int4 and holds values beyond -8..7")
            if data.flags.writeable:
                data = data.copy()
                data.flags.writeable = False
            object.__setattr__(self, "data", data)

    @property
    def is_const(self) -> bool:
        return self.data is not None

    @property
    def elements(self) -> int:
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def nbytes(self) -> int:
        if self.dtype == "int4":  # packed
            return (self.elements + 1) // 2
        return self.elements * np.dtype(self.dtype).itemsize

    @property
    def is_float(self) -> bool:
        return self.dtype in ("float32", "float16")

    def with_(self, **changes: Any) -> Tensor:
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class Node:
    """One operator application.

    inputs: tensor names; None where an optional input (a bias) is absent.
    attrs: plain Python values only (int, float, bool, str, and tuples of them); the keys each type
    takes are documented at its :class:`edgekit.graph.ops.OpSpec`.
    """

    name: str
    type: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "outputs", tuple(self.outputs))
        object.__setattr__(self, "attrs", dict(self.attrs))

    def attr(self, key: str, default: Any = None) -> Any:
        return self.attrs.get(key, default)

    def with_(self, **changes: Any) -> Node:
        return replace(self, **changes)

    def with_attrs(self, **changes: Any) -> Node:
        return replace(self, attrs={**self.attrs, **changes})


@dataclass(eq=False)
class Graph:
    """A network: named tensors and a topologically ordered list of nodes.

    metadata: strings that travel with the model (``source``: file name, ``format``, ...); never
    anything that an operator's meaning depends on, and never an absolute path.
    """

    name: str
    tensors: dict[str, Tensor]
    nodes: list[Node]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: dict[str, str] = field(default_factory=dict)

    # -- looking -------------------------------------------------------------------------------

    def tensor(self, name: str | None) -> Tensor:
        if name is None or name not in self.tensors:
            raise GraphError(f"graph '{self.name}' has no tensor '{name}'")
        return self.tensors[name]

    def node(self, name: str) -> Node:
        for n in self.nodes:
            if n.name == name:
                return n
        raise GraphError(f"graph '{self.name}' has no node '{name}'")

    def ins(self, node: Node) -> list[Tensor | None]:
        """The node's input tensors, None where an optional input is absent."""
        return [None if i is None else self.tensor(i) for i in node.inputs]

    def outs(self, node: Node) -> list[Tensor]:
        return [self.tensor(o) for o in node.outputs]

    def producers(self) -> dict[str, Node]:
        return {o: n for n in self.nodes for o in n.outputs}

    def consumers(self) -> dict[str, list[Node]]:
        """Tensor name -> nodes that read it (each once), in graph order."""
        out: dict[str, list[Node]] = {t: [] for t in self.tensors}
        for n in self.nodes:
            for i in dict.fromkeys(i for i in n.inputs if i is not None):
                out[i].append(n)
        return out

    def constants(self) -> Iterator[Tensor]:
        return (t for t in self.tensors.values() if t.is_const)

    @property
    def is_quantized(self) -> bool:
        """True when no arithmetic node (anything but QUANTIZE/DEQUANTIZE) touches a float tensor."""
        for n in self.nodes:
            if n.type in ("QUANTIZE", "DEQUANTIZE"):
                continue
            if any(t is not None and t.is_float for t in [*self.ins(n), *self.outs(n)]):
                return False
        return True

    # -- making --------------------------------------------------------------------------------

    def copy(self) -> Graph:
        return Graph(
            self.name,
            dict(self.tensors),
            list(self.nodes),
            self.inputs,
            self.outputs,
            dict(self.metadata),
        )

    def add_tensor(self, tensor: Tensor) -> Tensor:
        """Add under a name made unique (``x``, ``x_1``, ...); returns the tensor as stored."""
        name = unique(tensor.name, self.tensors)
        tensor = tensor if name == tensor.name else tensor.with_(name=name)
        self.tensors[name] = tensor
        return tensor

    def add_const(self, name: str, data: np.ndarray, quant: QuantParams | None = None) -> Tensor:
        data = np.asarray(data)
        return self.add_tensor(Tensor(name, data.shape, str(data.dtype), quant, data))

    def add_node(
        self,
        type: str,
        inputs: Sequence[str | None],
        outputs: Sequence[str],
        attrs: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> Node:
        name = unique(name or type.lower(), {n.name for n in self.nodes})
        node = Node(name, type, tuple(inputs), tuple(outputs), attrs or {})
        self.nodes.append(node)
        return node

    def rename_uses(self, old: str, new: str) -> None:
        """Make every reader of ``old`` (nodes and graph outputs) read ``new``, in place."""
        self.nodes = [
            n.with_(inputs=tuple(new if i == old else i for i in n.inputs))
            if old in n.inputs
            else n
            for n in self.nodes
        ]
        self.outputs = tuple(new if o == old else o for o in self.outputs)

    def toposort(self) -> None:
        """Order nodes so that producers come first, stable otherwise; GraphError on a cycle."""
        producers = self.producers()
        state: dict[str, int] = {}
        order: list[Node] = []
        for root in self.nodes:
            stack: list[tuple[Node, bool]] = [(root, False)]
            while stack:
                node, done = stack.pop()
                if done:
                    state[node.name] = 2
                    order.append(node)
                    continue
                if state.get(node.name) == 2:
                    continue
                if state.get(node.name) == 1:
                    raise GraphError(f"graph '{self.name}' has a cycle through '{node.name}'")
                state[node.name] = 1
                stack.append((node, True))
                for i in reversed(node.inputs):
                    p = producers.get(i) if i is not None else None
                    if p is not None and state.get(p.name) != 2:
                        if state.get(p.name) == 1:
                            raise GraphError(f"graph '{self.name}' has a cycle through '{p.name}'")
                        stack.append((p, False))
        self.nodes = order

    def prune(self) -> None:
        """Drop nodes whose results nobody needs and tensors nobody names, in place."""
        needed = set(self.outputs)
        kept: list[Node] = []
        for n in reversed(self.nodes):
            if any(o in needed for o in n.outputs):
                kept.append(n)
                needed.update(i for i in n.inputs if i is not None)
        self.nodes = kept[::-1]
        named = needed | set(self.inputs) | {o for n in self.nodes for o in n.outputs}
        self.tensors = {k: t for k, t in self.tensors.items() if k in named}

    def validate(self) -> Graph:
        """Check the whole graph, shapes included; raises GraphError naming the node. Returns self."""
        from edgekit.graph.ops import check_node  # ops know tensors; not the other way round

        seen = {t.name for t in self.constants()} | set(self.inputs)
        names: set[str] = set()
        for name in self.inputs:
            if self.tensor(name).is_const:
                raise GraphError(f"graph input '{name}' is a constant")
        for key, t in self.tensors.items():
            if key != t.name:
                raise GraphError(f"tensor '{t.name}' is filed under the name '{key}'")
        for n in self.nodes:
            if n.name in names:
                raise GraphError(f"two nodes are named '{n.name}'")
            names.add(n.name)
            for i in n.inputs:
                if i is not None and i not in seen:
                    raise GraphError(
                        f"node '{n.name}' ({n.type}) reads '{i}' before anything produces it"
                    )
            for o in n.outputs:
                if o in seen:
                    raise GraphError(f"tensor '{o}' is produced twice")
                self.tensor(o)
                seen.add(o)
            check_node(n, self)
        for o in self.outputs:
            if o not in seen:
                raise GraphError(f"graph output '{o}' is produced by nothing")
        return self

    def to_torch(self, **options: Any) -> Any:
        """A trainable ``torch.nn.Module`` of this graph; the options and the way back are described
        at :func:`edgekit.graph.to_torch.to_torch`."""
        from edgekit.graph.to_torch import to_torch

        return to_torch(self, **options)


def unique(name: str, taken: Iterable[str]) -> str:
    """``name``, or ``name_1``, ``name_2``, ... whichever is not in ``taken`` yet."""
    taken = taken if isinstance(taken, (set, dict)) else set(taken)
    if name not in taken:
        return name
    k = 1
    while f"{name}_{k}" in taken:
        k += 1
    return f"{name}_{k}"
