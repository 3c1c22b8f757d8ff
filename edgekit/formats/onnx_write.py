"""Write a graph as .onnx (opset 20; 21 with 16-bit tensors): float32, QDQ for integer tensors.

Feature maps are NCHW inside, graph inputs and outputs keep the graph's NHWC: transposes stand where
an image enters the first convolution and where a feature map is flattened, nowhere else. An integer
tensor becomes QuantizeLinear and DequantizeLinear around float operators (per-channel weights, int32
biases), the form that runtimes fuse into integer kernels; inputs and outputs are float32 in real
units. Operators are in :mod:`edgekit.formats.onnx_write_ops`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.formats.builder import HIDDEN
from edgekit.graph.ir import Graph, Node, QuantParams, Tensor, unique

if TYPE_CHECKING:
    import onnx

#: 21 adds 16-bit quantization, but there ONNX Runtime 1.31's optimizer makes invalid Q nodes of its
#: own ("output_dtype INT8 does not match y_zero_point type UINT8"), so it is used only when needed.
OPSET, OPSET_INT16 = 20, 21
IR_VERSION = 10
#: Metadata of a model whose 4-D inputs and outputs are NHWC already; the reader leaves them so.
NHWC_KEY = "edgekit.nhwc"

Order = Literal["plain", "nchw"]
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
_ONNX_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int16": 5, "int32": 6, "int64": 7}


def write(graph: Graph, path: Path | str) -> None:
    """Write ``graph`` to an .onnx file; UnsupportedError names the nodes that ONNX cannot hold."""
    Path(path).write_bytes(to_model(graph).SerializeToString(deterministic=True))


def to_model(graph: Graph) -> onnx.ModelProto:
    """The ModelProto of a graph, checked by ``onnx.checker``."""
    import onnx

    model = Writer(graph).model()
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as e:
        line = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise UnsupportedError(f"graph '{graph.name}' makes no valid ONNX model ({line})") from e
    return model


class Writer:
    """The ONNX model under construction.

    ``real(name, order)`` is the ONNX value that holds a tensor's real (float) content, channels
    last as in the graph ("plain") or first ("nchw"); ``put`` declares what computes it.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Any] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.values: dict[tuple[str, Order], str] = {}
        self.taken = {*graph.inputs, *graph.outputs}
        self.node_names: set[str] = set()

    # -- the whole -----------------------------------------------------------------------------

    def model(self) -> onnx.ModelProto:
        from onnx import helper, numpy_helper

        from edgekit.formats.onnx_write_ops import EMITTERS

        g = self.graph
        inputs = [self._input(g.tensor(i)) for i in g.inputs]
        refused = [f"'{n.name}' ({n.type})" for n in g.nodes if n.type not in EMITTERS]
        if refused:
            raise UnsupportedError(f"ONNX has no operator for node {', '.join(refused)}")
        for n in g.nodes:
            self._supported(n)
            EMITTERS[n.type](self, n)
        outputs = [self._output(g.tensor(o)) for o in g.outputs]
        used = {i for n in self.nodes for i in n.input}
        proto = helper.make_graph(
            self.nodes,
            g.name or "edgekit",
            inputs,
            outputs,
            [
                numpy_helper.from_array(np.ascontiguousarray(v).reshape(v.shape), k)
                for k, v in self.initializers.items()
                if k in used
            ],
        )
        wide = any(t.dtype == "int16" for t in g.tensors.values())
        opset = helper.make_opsetid("", OPSET_INT16 if wide else OPSET)
        model = helper.make_model(proto, opset_imports=[opset], producer_name="edgekit")
        model.ir_version = IR_VERSION
        helper.set_model_props(model, {NHWC_KEY: "yes"})
        return model

    def _supported(self, n: Node) -> None:
        for t in [*self.graph.ins(n), *self.graph.outs(n)]:
            if t is None or t.is_float or t.quant is not None:
                continue
            if not (t.dtype in ("int32", "int64") and (n.type == "ARG_MAX" or not t.is_const)):
                raise UnsupportedError(
                    f"node '{n.name}' ({n.type}) uses '{t.name}', {t.dtype} without quantization, "
                    "which is not written"
                )

    def _input(self, t: Tensor) -> Any:
        from onnx import helper

        kind = "float32" if t.quant is not None or t.is_float else t.dtype
        if kind not in _ONNX_TYPES:
            raise UnsupportedError(f"graph input '{t.name}' is {t.dtype}, which is not written")
        if t.quant is None:
            self.values[(t.name, "plain")] = t.name
        else:
            self.values[(t.name, "plain")] = self._quantized(t, t.name)
        return helper.make_tensor_value_info(t.name, _ONNX_TYPES[kind], t.shape)

    def _output(self, t: Tensor) -> Any:
        from onnx import helper

        value = self.real(t.name, "plain")
        if value in self.initializers or value in self.graph.inputs or value in self.graph.outputs:
            self.node("Identity", [value], output=t.name)
        else:
            for n in self.nodes:
                n.input[:] = [t.name if i == value else i for i in n.input]
                n.output[:] = [t.name if o == value else o for o in n.output]
            self.values = {k: t.name if v == value else v for k, v in self.values.items()}
        kind = "float32" if t.quant is not None or t.is_float else t.dtype
        return helper.make_tensor_value_info(t.name, _ONNX_TYPES[kind], t.shape)

    # -- pieces --------------------------------------------------------------------------------

    def fresh(self, base: str) -> str:
        name = unique(base.replace(HIDDEN, "_"), self.taken)
        self.taken.add(name)
        return name

    def node(
        self,
        type: str,
        inputs: Sequence[str | None],
        *,
        base: str = "",
        output: str | None = None,
        outputs: Sequence[str] | None = None,
        name: str | None = None,
        **attrs: Any,
    ) -> str:
        """Add a node; its (first) output's name."""
        from onnx import helper

        outs = list(outputs) if outputs else [output or self.fresh(base or type.lower())]
        node_name = unique(name or outs[0], self.node_names)
        self.node_names.add(node_name)
        ins = [i or "" for i in inputs]
        while ins and not ins[-1]:
            ins.pop()
        self.nodes.append(helper.make_node(type, ins, outs, node_name, **attrs))
        return outs[0]

    def init(self, base: str, value: np.ndarray) -> str:
        name = self.fresh(base)
        self.initializers[name] = value
        return name

    def ints(self, base: str, values: Sequence[int]) -> str:
        return self.init(base, np.asarray(values, np.int64))

    def number(self, base: str, value: float) -> str:
        return self.init(base, np.asarray(value, np.float32))

    # -- values --------------------------------------------------------------------------------

    def tensor(self, name: str | None) -> Tensor:
        return self.graph.tensor(name)

    def order(self, *names: str | None) -> Order:
        """The order in which the (non-constant, 4-D) values are at hand; plain when in doubt."""
        for n in names:
            if n is not None and (n, "nchw") in self.values and not self.tensor(n).is_const:
                return "nchw"
        return "plain"

    def real(self, name: str | None, order: Order = "plain") -> str:
        """The ONNX value of a tensor's real content in the given order."""
        t = self.tensor(name)
        key = (t.name, order)
        if key not in self.values:
            if t.is_const:
                perm = _TO_NCHW if order == "nchw" else tuple(range(len(t.shape)))
                self.values[key] = self.constant(t, perm)
            else:
                other: Order = "plain" if order == "nchw" else "nchw"
                perm = _TO_NCHW if order == "nchw" else _TO_NHWC
                value = self.node(
                    "Transpose", [self.values[(t.name, other)]], base=f"{t.name}_{order}", perm=perm
                )
                # Q and DQ behind it too: runtimes fuse operators that stand between such pairs.
                self.values[key] = value if t.quant is None else self._quantized(t, value)
        return self.values[key]

    def constant(self, t: Tensor, perm: Sequence[int], shape: Sequence[int] | None = None) -> str:
        """A constant's real content, transposed (then reshaped, its channel axis kept apart)."""
        assert t.data is not None
        if t.dtype == "int64" and t.quant is not None:  # a bias of 16-bit activations
            if np.any(np.abs(t.data) > 2**31 - 1):
                raise UnsupportedError(f"constant '{t.name}' needs more than 32 bits")
            t = t.with_(dtype="int32", data=t.data.astype(np.int32))
        data = np.asarray(t.data).transpose(perm)
        if t.quant is None:
            data = data.reshape(shape) if shape is not None else data
            return self.init(t.name, data.astype(np.float32) if t.is_float else data)
        axis = None if t.quant.axis is None else list(perm).index(t.quant.axis)
        if shape is not None:
            axis = None if axis is None else list(shape).index(data.shape[axis])
            data = data.reshape(shape)
        q = self.init(f"{t.name}_quantized", data)
        return self._dq(q, t.name, t.quant, axis, t.dtype, f"{t.name}_real")

    def _dq(
        self, q: str, base: str, quant: QuantParams, axis: int | None, dtype: str, out: str
    ) -> str:
        scale, zero = self._params(base, quant, dtype)
        attrs: dict[str, Any] = {} if axis is None else {"axis": axis}
        return self.node("DequantizeLinear", [q, scale, zero], base=out, **attrs)

    def _params(self, base: str, quant: QuantParams, dtype: str) -> tuple[str, str]:
        scale = quant.scale if quant.is_per_channel else quant.scale.reshape(())
        zero = quant.zero_point if quant.is_per_channel else quant.zero_point.reshape(())
        return (
            self.init(f"{base}_scale", scale.astype(np.float32)),
            self.init(f"{base}_zero_point", zero.astype(dtype)),
        )

    def _quantized(self, t: Tensor, value: str) -> str:
        assert t.quant is not None
        scale, zero = self._params(t.name, t.quant, t.dtype)
        q = self.node("QuantizeLinear", [value, scale, zero], base=f"{t.name}_quantized")
        return self.node("DequantizeLinear", [q, scale, zero], base=f"{t.name}_real")

    def put(self, name: str, value: str, order: Order = "plain") -> None:
        """Declare the ONNX value that computes a tensor; quantized when the tensor is."""
        t = self.tensor(name)
        if t.quant is not None:
            value = self._quantized(t, value)
        self.values[(name, order)] = value
