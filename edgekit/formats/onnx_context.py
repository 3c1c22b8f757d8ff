"""What the ONNX operator converters share: the graph being built, constants, emission.

A converter is ``convert(ctx, node) -> None``: it reads constants and shapes through the context,
emits nodes in the *logical* layout of ONNX (NCHW, with explicit TRANSPOSE nodes around operators
that need NHWC) and binds the ONNX output names. :mod:`edgekit.formats.onnx_layout` then removes the
transposes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import FormatError, UnsupportedError
from edgekit.formats.builder import HIDDEN, Builder
from edgekit.graph.ir import QuantParams

if TYPE_CHECKING:
    import onnx

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)


@dataclass(frozen=True)
class QuantConst:
    """An integer constant and what it stands for (a DequantizeLinear of an initializer)."""

    data: np.ndarray
    quant: QuantParams


@dataclass
class Op:
    """An ONNX node in plain Python: attributes decoded, absent optional inputs as None."""

    name: str
    type: str
    inputs: list[str | None]
    outputs: list[str | None]
    attrs: dict[str, Any]
    domain: str = ""

    def input(self, i: int) -> str | None:
        return self.inputs[i] if i < len(self.inputs) else None

    def attr(self, key: str, default: Any = None) -> Any:
        return self.attrs.get(key, default)

    @property
    def x(self) -> str:
        name = self.input(0)
        if name is None:
            raise FormatError(f"node '{self.name}' ({self.type}) has no input")
        return name

    @property
    def y(self) -> str:
        if not self.outputs or self.outputs[0] is None:
            raise FormatError(f"node '{self.name}' ({self.type}) has no output")
        return self.outputs[0]


__all__ = ["HIDDEN", "Context", "Converter", "Op", "QuantConst", "decode"]

Converter = Callable[["Context", Op], None]


@dataclass
class Context(Builder):
    """The state of one import.

    graph: what is being built. values: ONNX name -> constant. quants: ONNX name -> constant behind
    a DequantizeLinear. bound: ONNX name -> graph tensor.
    """

    opset: int
    values: dict[str, np.ndarray] = field(default_factory=dict)
    quants: dict[str, QuantConst] = field(default_factory=dict)
    bound: dict[str, str] = field(default_factory=dict)

    # -- reading -------------------------------------------------------------------------------

    def value(self, name: str | None) -> np.ndarray | None:
        return None if name is None else self.values.get(name)

    def need(self, op: Op, i: int, what: str) -> np.ndarray:
        """The constant value of input ``i``; UnsupportedError when it is computed at run time."""
        v = self.value(op.input(i))
        if v is None:
            raise UnsupportedError(f"its {what} is not a constant")
        return v

    def real(self, op: Op, i: int, what: str) -> np.ndarray:
        """As :meth:`need`; a quantized constant counts as what it stands for."""
        q = self.quants.get(op.input(i) or "")
        if q is None:
            return self.need(op, i, what)
        shape = [-1 if k == q.quant.axis else 1 for k in range(q.data.ndim)]
        scale, zp = q.quant.scale, q.quant.zero_point
        if q.quant.is_per_channel:
            scale, zp = scale.reshape(shape), zp.reshape(shape)
        return ((q.data.astype(np.float64) - zp) * scale).astype(np.float32)

    def ints(self, op: Op, i: int, attr: str, what: str) -> list[int] | None:
        """A list of integers that is an attribute in old opsets and input ``i`` in new ones."""
        if attr in op.attrs:
            return [int(v) for v in op.attrs[attr]]
        if op.input(i) is None:
            return None
        return [int(v) for v in np.ravel(self.need(op, i, what))]

    def shape(self, name: str | None) -> tuple[int, ...]:
        """Logical shape of an ONNX value."""
        if name is None:
            raise FormatError("a node leaves out an input that it needs")
        if name in self.values:
            return self.values[name].shape
        if name in self.quants:
            return self.quants[name].data.shape
        return self.graph.tensor(self.bound.get(name, name)).shape

    def is_const(self, name: str | None) -> bool:
        return name in self.values or name in self.quants

    def axis(self, axis: int, rank: int) -> int:
        if not -rank <= axis < rank:
            raise FormatError(f"axis {axis} is outside a tensor of rank {rank}")
        return axis % rank

    # -- emitting ------------------------------------------------------------------------------

    def tensor(self, name: str | None) -> str:
        """The graph tensor of an ONNX value; a constant is added when first used."""
        if name is None:
            raise FormatError("a node leaves out an input that it needs")
        if name in self.bound:
            return self.bound[name]
        if name in self.values:
            self.bound[name] = self.const(name, self.values[name])
        elif name in self.quants:
            q = self.quants[name]
            self.bound[name] = self.dequantized(name, q.data, q.quant)
        else:
            raise FormatError(f"value '{name}' is read before anything produces it")
        return self.bound[name]

    def dequantized(self, name: str, data: np.ndarray, quant: QuantParams) -> str:
        """An integer constant behind a DEQUANTIZE node: what the integer pass looks for."""
        c = self.graph.add_const(f"{name}{HIDDEN}int", data, quant).name
        return self.emit("DEQUANTIZE", [c], out=name)

    def weight(
        self, name: str | None, change: Callable[[np.ndarray], np.ndarray], axis: int | None
    ) -> str:
        """A constant operand after ``change`` (a transposition); UnsupportedError if not constant.

        axis: where the channel axis is after ``change``, for a per-channel quantization.
        """
        if name is None or not self.is_const(name):
            raise UnsupportedError(f"its weights '{name}' are not constant")
        if name in self.values:
            return self.const(name, change(self.values[name]))
        q = self.quants[name]
        quant = q.quant
        if quant.is_per_channel:
            data = change(q.data)
            if axis is None or data.shape[axis] != quant.scale.size:
                raise UnsupportedError(
                    f"its weights '{name}' are quantized along an axis that is not the output's"
                )
            return self.dequantized(name, data, QuantParams(quant.scale, quant.zero_point, axis))
        return self.dequantized(name, change(q.data), quant)

    def bind(self, onnx_name: str, tensor: str) -> None:
        self.bound[onnx_name] = tensor

    def alias(self, op: Op) -> None:
        """Output 0 is input 0 under another name."""
        if op.x in self.values:
            self.values[op.y] = self.values[op.x]
        elif op.x in self.quants:
            self.quants[op.y] = self.quants[op.x]
        else:
            self.bound[op.y] = self.tensor(op.x)

    def nhwc(self, op: Op, x: str | None = None) -> str:
        """Input 0 (or the tensor ``x``, [N,C,H,W]) behind a TRANSPOSE to NHWC."""
        x = x or self.tensor(op.x)
        return self.transpose(x, TO_NHWC, f"{x}{HIDDEN}to_nhwc")

    def from_nhwc(self, op: Op, x: str, out: str | None = None) -> str:
        """Bind output 0 to the tensor ``x`` [N,H,W,C], seen as NCHW."""
        y = self.transpose(x, TO_NCHW, f"{out or op.y}{HIDDEN}nchw")
        self.bind(out or op.y, y)
        return y


def decode(node: onnx.NodeProto, index: int) -> Op:
    """A NodeProto in plain Python; tensors as NumPy arrays; FormatError for subgraphs' absence."""
    from onnx import AttributeProto, helper, numpy_helper

    attrs: dict[str, Any] = {}
    for a in node.attribute:
        if a.type == AttributeProto.TENSOR:
            attrs[a.name] = numpy_helper.to_array(a.t)
        elif a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            attrs[a.name] = None
        else:
            v = helper.get_attribute_value(a)
            attrs[a.name] = v.decode("utf-8", "replace") if isinstance(v, bytes) else v
    outputs: list[str | None] = [o or None for o in node.output]
    first = next((o for o in outputs if o), None)
    return Op(
        node.name or first or f"{node.op_type}_{index}",
        node.op_type,
        [i or None for i in node.input],
        outputs,
        attrs,
        "" if node.domain == "ai.onnx" else node.domain,
    )
