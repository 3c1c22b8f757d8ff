"""Graph -> .tflite bytes: tensors, buffers, operator codes; the operators are in ``tflite_emit``.

The same graph always gives the same bytes. Constant data is aligned to 16 bytes, as the schema
asks (``force_align: 16`` in TensorFlow Lite's schema.fbs), so that interpreters read it in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.graph.int4 import pack
from edgekit.graph.ir import Graph, QuantParams, Tensor, unique

#: Our dtype -> ``TensorType`` of the schema.
TENSOR_TYPES = {
    "float32": 0,
    "float16": 1,
    "int32": 2,
    "uint8": 3,
    "int64": 4,
    "bool": 6,
    "int16": 7,
    "int8": 9,
    "int4": 17,
}

_SCHEMA_VERSION = 3
_ALIGN = 16
_CUSTOM = 32  # BuiltinOperator.CUSTOM
_PLACEHOLDER = 127  # what deprecated_builtin_code says for codes that do not fit into a byte


class _AlignedBuffer:
    """A ``BufferT`` whose data vector starts at a multiple of 16 (the Python builder has no
    ``force_align``)."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def Pack(self, builder: Any) -> int:  # called by ModelT.Pack
        from ai_edge_litert import schema_py_generated as schema

        vector = None
        if self.data:
            n = len(self.data)
            builder.StartVector(1, n, _ALIGN)
            builder.head -= n
            builder.Bytes[builder.head : builder.head + n] = self.data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return int(schema.BufferEnd(builder))


class ModelBuilder:
    """Collects what goes into the file; handlers in ``tflite_emit`` add operators to it."""

    def __init__(self, graph: Graph) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.graph = graph
        self._tensors: list[Any] = []
        self._buffers: list[_AlignedBuffer] = [_AlignedBuffer(b"")]  # buffer 0 is always empty
        self._shared: dict[bytes, int] = {}
        self._operators: list[Any] = []
        self._codes: dict[tuple[int, str | None, int], int] = {}
        self._index: dict[str, int] = {}
        self._names: set[str] = set(graph.tensors)

    # -- tensors -------------------------------------------------------------------------------

    def tensor(self, name: str | None) -> int:
        """The index of a graph tensor, added on first use; -1 for an absent optional input."""
        if name is None:
            return -1
        if name not in self._index:
            self._index[name] = self._add(self.graph.tensor(name))
        return self._index[name]

    def const(self, name: str, data: np.ndarray, quant: QuantParams | None = None) -> int:
        """A constant that is an attribute in the graph (a shape, a permutation, a pad value)."""
        name = self._fresh(name)
        return self._add(Tensor(name, data.shape, str(data.dtype), quant, data))

    def ints(self, name: str, values: Any) -> int:
        """An int32 constant."""
        return self.const(name, np.asarray(values, np.int32))

    def temp(self, like: Tensor, name: str, shape: tuple[int, ...] | None = None) -> int:
        """An intermediate value with the dtype and quantization of ``like``."""
        shape = like.shape if shape is None else shape
        return self._add(Tensor(self._fresh(name), shape, like.dtype, like.quant))

    def bias(self, name: str, data: Tensor, x: Tensor, w: Tensor) -> int:
        """A bias; an integer one without quantization gets that of ``bias_quant``."""
        if name not in self._index and data.quant is None:
            self._index[name] = self._add(data.with_(quant=self.bias_quant(x, w)))
        return self.tensor(name)

    @staticmethod
    def bias_quant(x: Tensor, w: Tensor) -> QuantParams | None:
        """``s_x * s_w`` per channel, which LiteRT checks; None for float tensors."""
        if x.is_float or x.quant is None or w.quant is None:
            return None
        scale = np.float32(x.quant.s) * w.quant.scale
        return QuantParams(scale, np.zeros(scale.shape, np.int32), 0 if scale.size > 1 else None)

    def _fresh(self, name: str) -> str:
        name = unique(name, self._names)
        self._names.add(name)
        return name

    def _add(self, t: Tensor) -> int:
        s = self.schema
        out = s.TensorT()
        out.name = t.name
        out.type = TENSOR_TYPES[t.dtype]
        out.shape = np.asarray(t.shape, np.int32)
        out.hasRank = True
        out.buffer = (
            0 if t.data is None else self._buffer(pack(t.data) if t.dtype == "int4" else t.data)
        )
        if t.quant is not None:
            q = s.QuantizationParametersT()
            q.scale = t.quant.scale.astype(np.float32)
            q.zeroPoint = t.quant.zero_point.astype(np.int64)
            q.quantizedDimension = t.quant.axis or 0
            out.quantization = q
        self._tensors.append(out)
        return len(self._tensors) - 1

    def _buffer(self, data: np.ndarray) -> int:
        little = np.ascontiguousarray(data).astype(data.dtype.newbyteorder("<"), copy=False)
        raw = little.tobytes()
        if raw not in self._shared:
            self._buffers.append(_AlignedBuffer(raw))
            self._shared[raw] = len(self._buffers) - 1
        return self._shared[raw]

    # -- operators -----------------------------------------------------------------------------

    def op(
        self,
        op_type: str,
        inputs: list[int],
        outputs: list[int],
        options: Any = None,
        version: int = 1,
        *,
        custom: tuple[str, bytes] | None = None,
    ) -> None:
        """Append an operator. ``options``: a ``...OptionsT`` object; ``custom``: (name, bytes)."""
        s = self.schema
        code = _CUSTOM if custom else getattr(s.BuiltinOperator, op_type)
        key = (code, custom[0] if custom else None, version)
        o = s.OperatorT()
        o.opcodeIndex = self._codes.setdefault(key, len(self._codes))
        o.inputs = np.asarray(inputs, np.int32)
        o.outputs = np.asarray(outputs, np.int32)
        if options is not None:
            o.builtinOptionsType = getattr(s.BuiltinOptions, type(options).__name__[:-1])
            o.builtinOptions = options
        if custom:
            o.customOptions = np.frombuffer(custom[1], np.uint8)
        self._operators.append(o)

    # -- the file ------------------------------------------------------------------------------

    def finish(self) -> bytes:
        import flatbuffers

        s = self.schema
        sub = s.SubGraphT()
        sub.name = self.graph.name
        sub.inputs = np.asarray([self.tensor(i) for i in self.graph.inputs], np.int32)
        sub.outputs = np.asarray([self.tensor(o) for o in self.graph.outputs], np.int32)
        sub.tensors = self._tensors
        sub.operators = self._operators
        model = s.ModelT()
        model.version = _SCHEMA_VERSION
        model.description = "edgekit"
        model.subgraphs = [sub]
        model.buffers = self._buffers
        model.operatorCodes = []
        for builtin, custom, version in self._codes:
            code = s.OperatorCodeT()
            code.builtinCode = builtin
            code.deprecatedBuiltinCode = min(builtin, _PLACEHOLDER)
            code.customCode = custom
            code.version = version
            model.operatorCodes.append(code)
        total = sum(len(b.data) for b in self._buffers)
        builder = flatbuffers.Builder(total + (1 << 16))
        try:
            builder.Finish(model.Pack(builder), b"TFL3")
        except flatbuffers.builder.BuilderSizeError:
            raise UnsupportedError(
                f"graph '{self.graph.name}' holds {total} bytes of constants; "
                "a .tflite file has at most 2 GiB"
            ) from None
        return bytes(builder.Output())


def write_bytes(graph: Graph) -> bytes:
    """The .tflite file of ``graph`` (float, integer or mixed), valid for LiteRT and TFLM.

    Explicit paddings become PAD (zero point fill) in front of a VALID operator; LAYER_NORM is
    written decomposed when float and as the custom operator ``EdgekitLayerNorm`` when integer.
    Raises UnsupportedError naming the node for what the format cannot express.
    """
    from edgekit.formats.tflite_emit import emit

    builder = ModelBuilder(graph)
    for i in graph.inputs:
        builder.tensor(i)
    for node in graph.nodes:
        emit(builder, node)
    return builder.finish()
