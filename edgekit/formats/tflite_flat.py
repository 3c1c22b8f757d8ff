"""The tables of a .tflite file as plain Python objects, checked: nothing here knows operators.

Slot numbers are those of TensorFlow Lite's schema.fbs, version 3 (fields are only ever appended).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.errors import FormatError, UnsupportedError
from edgekit.formats.flatbuf import FlatFile, Table
from edgekit.formats.tflite_write import TENSOR_TYPES
from edgekit.graph.int4 import unpack
from edgekit.graph.ir import QuantParams

_DTYPES = {code: dtype for dtype, code in TENSOR_TYPES.items()}
_MAX_TENSOR_BYTES = 2**31
_MAX_RANK = 8
_MAX_TENSORS_OF_ONE = 10_000  # inputs and outputs of an operator, or of the model
_CUSTOM = 32


def brief(name: str) -> str:
    """A tensor's name, cut to what fits into a sentence."""
    return name if len(name) <= 60 else f"{name[:57]}..."


@dataclass(frozen=True)
class RawTensor:
    """shape: as stored; dynamic: the axes that are -1 in the signature; data: None when it is an
    activation; an empty constant (a shape of no dimensions) has no data either.

    problem: why edgekit cannot represent it ("is a variable"), None when it can; operators that
    touch such a tensor are not supported, and dtype, quant and data mean nothing.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dynamic: tuple[int, ...]
    dtype: str
    quant: QuantParams | None
    data: np.ndarray | None
    problem: str | None = None

    @property
    def label(self) -> str:
        """The name for messages; converters join the names of all that they fused."""
        return brief(self.name)

    @property
    def empty(self) -> bool:
        return 0 in self.shape


@dataclass(frozen=True)
class RawOperator:
    """type: BuiltinOperator's name, or the custom operator's own name when ``custom``."""

    index: int
    type: str
    custom: bool
    inputs: tuple[int, ...]  #: -1 for an absent optional input
    outputs: tuple[int, ...]
    custom_options: bytes
    _options_type: int
    _options: Table | None

    @property
    def name(self) -> str:
        """The node's name: operators have none in the file, so type and position."""
        return f"{self.type.lower()}_{self.index}"

    def options(self, kind: str) -> Any:
        """The generated accessor of ``<kind>Options``, or None when the file has none (defaults)."""
        from ai_edge_litert import schema_py_generated as schema

        if self._options is None or self._options_type == 0:
            return None
        if self._options_type != getattr(schema.BuiltinOptions, f"{kind}Options"):
            raise FormatError(f"{self.name} does not carry the options of its operator type")
        out = getattr(schema, f"{kind}Options")()
        out.Init(self._options.file.data, self._options.pos)
        return out


@dataclass(frozen=True)
class RawModel:
    """size: of the file, in bytes; bounds what may be made out of it."""

    size: int
    name: str
    tensors: tuple[RawTensor, ...]
    operators: tuple[RawOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def parse(data: bytes) -> RawModel:
    """The one subgraph of a file; FormatError when malformed, UnsupportedError when it has several
    or an operator code that nobody knows."""
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise FormatError("the signature TFL3 is missing")
    file = FlatFile(data)
    model = file.root()
    version = model.scalar(4, "I", 0)
    if version != 3:
        raise FormatError(f"schema version {version} is not 3")
    builtin = _enum("BuiltinOperator")
    codes = [_operator_code(t, builtin) for t in model.tables(6)]
    subgraphs = model.tables(8)
    if not subgraphs:
        raise FormatError("there is no subgraph")
    if len(subgraphs) > 1:
        names = ", ".join(f"'{s.string(12)[:40]}'" for s in subgraphs[:4])
        raise UnsupportedError(
            f"the model has {len(subgraphs)} subgraphs ({names}); one is accepted"
        )
    buffers = [_buffer(file, t) for t in model.tables(12)]
    sub = subgraphs[0]
    taken: set[str] = set()
    tensors = tuple(_tensor(i, t, buffers, taken) for i, t in enumerate(sub.tables(4)))
    operators = tuple(_operator(i, t, codes, len(tensors)) for i, t in enumerate(sub.tables(10)))
    ends = []
    for slot, what in ((6, "input"), (8, "output")):
        indices = sub.ints(slot)
        if not 1 <= len(indices) <= _MAX_TENSORS_OF_ONE:
            raise FormatError(f"the model has {len(indices)} {what}s")
        _check_indices(indices, len(tensors), f"the model's {what}s", optional=False)
        ends.append(indices)
    if len(set(ends[0])) != len(ends[0]):
        raise FormatError("a tensor is listed twice among the model's inputs")
    return RawModel(len(data), sub.string(12) or "main", tensors, operators, ends[0], ends[1])


def _check_indices(indices: tuple[int, ...], n: int, where: str, *, optional: bool) -> None:
    for i in indices:
        if not (0 <= i < n or (optional and i == -1)):
            raise FormatError(f"{where} name tensor {i} of {n}")


def _enum(name: str) -> dict[int, str]:
    """Value -> name of an enumeration of the schema."""
    from ai_edge_litert import schema_py_generated as schema

    return {v: k for k, v in vars(getattr(schema, name)).items() if isinstance(v, int)}


def _operator_code(t: Table, names: dict[int, str]) -> tuple[str, bool]:
    """(type name, is custom); old files have the code in a byte, new ones in an int."""
    code = max(t.scalar(4, "b", 0), t.scalar(10, "i", 0))
    if code == _CUSTOM:
        return t.string(6) or "CUSTOM", True
    if code not in names:
        raise UnsupportedError(f"operator code {code} is not in the schema known to edgekit")
    return names[code], False


def _buffer(file: FlatFile, t: Table) -> np.ndarray:
    data = t.array(4, "uint8", free=True)
    offset, size = t.scalar(6, "Q", 0), t.scalar(8, "Q", 0)
    if not data.size and offset > 1:  # data behind the flatbuffer, as in files beyond 2 GiB
        file.check(offset, size)
        return np.frombuffer(file.data, np.uint8, size, offset)
    return data


def _tensor(index: int, t: Table, buffers: list[np.ndarray], taken: set[str]) -> RawTensor:
    name = t.string(10) or f"tensor_{index}"
    if name in taken:
        name = f"{name}_{index}"
        while name in taken:
            name += "_"
    taken.add(name)
    shape = t.ints(4)
    if len(shape) > _MAX_RANK or min(shape, default=0) < 0:
        raise FormatError(f"tensor '{brief(name)}' has the shape {list(shape)[: _MAX_RANK + 1]}")
    problem = _problem(t)
    if problem is not None:
        return RawTensor(index, name, shape, (), "", None, None, problem)
    dtype = _DTYPES[t.scalar(6, "b", 0)]
    elements = 1
    for d in shape:
        elements *= d
    nbytes = (elements + 1) // 2 if dtype == "int4" else elements * np.dtype(dtype).itemsize
    if nbytes > _MAX_TENSOR_BYTES:
        raise FormatError(
            f"tensor '{brief(name)}' of shape {list(shape)} would take {nbytes} bytes"
        )
    signature = t.ints(18)
    if signature and len(signature) != len(shape):
        raise FormatError(
            f"tensor '{brief(name)}' has a shape signature of another rank than its shape"
        )
    where = t.scalar(8, "I", 0)
    if where >= len(buffers) and where != 0:
        raise FormatError(f"tensor '{brief(name)}' names buffer {where} of {len(buffers)}")
    raw = buffers[where] if where else np.empty(0, np.uint8)
    data = None
    if raw.size:
        if raw.size != nbytes:
            raise FormatError(
                f"tensor '{brief(name)}' ({dtype}{list(shape)}) needs {nbytes} bytes "
                f"but its buffer has {raw.size}"
            )
        if dtype == "bool" and raw.max() > 1:
            raise FormatError(f"tensor '{brief(name)}' is bool but holds other values than 0 and 1")
        if dtype == "int4":
            data = unpack(raw, tuple(shape))
        else:
            data = raw.view(np.dtype(dtype).newbyteorder("<")).reshape(shape)
    dynamic = tuple(i for i, d in enumerate(signature) if d < 0)
    return RawTensor(index, name, shape, dynamic, dtype, _quant(t, name, dtype, shape), data)


def _problem(t: Table) -> str | None:
    """What follows the tensor's name in a message, when edgekit cannot represent it."""
    code = t.scalar(6, "b", 0)
    if code not in _DTYPES:
        known = ", ".join(TENSOR_TYPES)
        return f"has type {_enum('TensorType').get(code, code)}; known are {known}"
    if t.scalar(14, "?", False):
        return "is a variable; models with state are refused"
    if t.has(16):
        return "is stored sparse; only dense tensors are accepted"
    if t.scalar(24, "I", 0):
        return "has its data in another file"
    q = t.table(12)
    if q is not None and q.scalar(12, "B", 0) and _DTYPES[code] not in ("float32", "float16"):
        return "has a quantization other than affine per tensor or per channel"
    return None


def _quant(t: Table, name: str, dtype: str, shape: tuple[int, ...]) -> QuantParams | None:
    q = t.table(12)
    if q is None:
        return None
    scale = q.array(8, "float32").astype(np.float32)
    zero = q.array(10, "int64").astype(np.int64)
    axis = q.scalar(16, "i", 0)
    if scale.size == 0 or dtype in ("float32", "float16", "bool"):
        return None
    if not np.all(np.isfinite(scale)) or np.any(scale <= 0):
        raise FormatError(
            f"tensor '{brief(name)}' has a scale that is not a positive finite number"
        )
    if zero.size == 0:
        zero = np.zeros(scale.size, np.int64)
    if zero.size not in (1, scale.size):
        raise FormatError(
            f"tensor '{brief(name)}' has {scale.size} scales but {zero.size} zero points"
        )
    info = np.iinfo({"int64": "int32", "int4": "int8"}.get(dtype, dtype))
    if np.any(zero < info.min) or np.any(zero > info.max):
        raise FormatError(f"tensor '{brief(name)}' has a zero point that {dtype} cannot hold")
    if scale.size == 1:
        return QuantParams(scale, zero.astype(np.int32))
    if not 0 <= axis < len(shape) or shape[axis] != scale.size:
        raise FormatError(
            f"tensor '{brief(name)}' of shape {list(shape)} has {scale.size} scales along axis {axis}"
        )
    return QuantParams(scale, zero.astype(np.int32), axis)


def _operator(index: int, t: Table, codes: list[tuple[str, bool]], n: int) -> RawOperator:
    code = t.scalar(4, "I", 0)
    if code >= len(codes):
        raise FormatError(f"operator {index} names operator code {code} of {len(codes)}")
    op_type, custom = codes[code]
    inputs, outputs = t.ints(6), t.ints(8)
    where = f"operator {index} ({op_type[:60]})"
    _check_indices(inputs, n, f"the inputs of {where}", optional=True)
    _check_indices(outputs, n, f"the outputs of {where}", optional=False)
    if not outputs or len(inputs) + len(outputs) > _MAX_TENSORS_OF_ONE:
        raise FormatError(f"{where} has {len(inputs)} inputs and {len(outputs)} outputs")
    return RawOperator(
        index,
        op_type,
        custom,
        inputs,
        outputs,
        t.array(14, "uint8").tobytes(),
        t.scalar(10, "B", 0),
        t.table(12),
    )
