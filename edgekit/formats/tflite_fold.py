"""What a .tflite file computes from constants and shapes alone, evaluated while reading.

Keras writes SHAPE -> STRIDED_SLICE -> PACK -> RESHAPE for a dynamic batch; float16 files keep their
weights behind a DEQUANTIZE each. Both are constants once the input's shape is known, and have to be:
shapes are attributes in a graph, and weights are constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import FormatError
from edgekit.formats.tflite_flat import RawOperator

if TYPE_CHECKING:
    from edgekit.formats.tflite_read import Reader

#: Index arithmetic is about shapes; anything larger is data, and stays an operator.
_MAX_ELEMENTS = 1 << 16

Values = list[np.ndarray]


def fold(r: Reader, op: RawOperator) -> bool:
    """Evaluate ``op`` if it depends on constants and shapes only; True when it is done."""
    if op.custom:
        return False
    if op.type in ("SHAPE", "RANK"):
        shape = r.shape(r.arg(op, 0))
        dtype = r.raw(op.outputs[0]).dtype
        if dtype not in ("int32", "int64"):
            raise FormatError(f"{op.name} gives {dtype}, not an integer")
        value = np.asarray(shape if op.type == "SHAPE" else len(shape), dtype)
        r.fold(op.outputs[0], value)
        return True
    values = [None if i < 0 else r.const(i) for i in op.inputs]
    if not values or any(v is None for v in values):
        return False
    x = [v for v in values if v is not None]
    if op.type == "DEQUANTIZE":
        r.fold(op.outputs[0], _dequantize(r, op, x[0]))
        return True
    if op.type in _MOVES and _may_move(r, op):
        results = _MOVES[op.type](r, op, x)
    elif op.type in _INTEGER and all(v.dtype.kind in "iub" and v.size <= _MAX_ELEMENTS for v in x):
        results = _INTEGER[op.type](r, op, x)
    else:
        return False
    if len(results) != len(op.outputs):
        raise FormatError(f"{op.name} has {len(op.outputs)} outputs; it computes {len(results)}")
    for o, value in zip(op.outputs, results, strict=True):
        r.fold(o, np.array(value, r.raw(o).dtype, order="C"))
    return True


def _may_move(r: Reader, op: RawOperator) -> bool:
    """Moving data around keeps per-tensor quantization, but not the axis of a per-channel one."""
    q, out = r.raw(op.inputs[0]).quant, r.raw(op.outputs[0]).quant
    return (q is None and out is None) or (
        q is not None and not q.is_per_channel and q.same_as(out)
    )


def _dequantize(r: Reader, op: RawOperator, x: np.ndarray) -> np.ndarray:
    q = r.raw(op.inputs[0]).quant
    if x.dtype.kind == "f":
        return x.astype(np.float32)
    if q is None:
        raise FormatError(f"{op.name} reads an integer constant without quantization")
    shape = [1] * x.ndim
    if q.axis is not None:
        shape[q.axis] = -1
    scale, zero = q.scale.reshape(shape), q.zero_point.reshape(shape)
    if x.ndim == 0:
        scale, zero = q.scale[0], q.zero_point[0]
    out: np.ndarray = (scale * (x.astype(np.int64) - zero).astype(np.float32)).astype(np.float32)
    return out


# -- data movement, any dtype --------------------------------------------------------------------


def _target_shape(op: RawOperator, x: Values) -> list[int]:
    from edgekit.formats.tflite_checks import few

    if len(x) > 1:
        return [int(d) for d in x[1].reshape(-1)]
    options = op.options("Reshape")
    if options is None or options.NewShapeIsNone():
        raise FormatError(f"{op.name} has no target shape")
    return few(op, options.NewShapeAsNumpy())


def _reshape(r: Reader, op: RawOperator, x: Values) -> Values:
    return [x[0].reshape(_target_shape(op, x))]


def _expand_dims(r: Reader, op: RawOperator, x: Values) -> Values:
    return [np.expand_dims(x[0], int(x[1].reshape(-1)[0]))]


def _squeeze(r: Reader, op: RawOperator, x: Values) -> Values:
    from edgekit.formats.tflite_checks import few

    options = op.options("Squeeze")
    if options is None or options.SqueezeDimsLength() == 0:
        return [np.squeeze(x[0])]
    return [np.squeeze(x[0], tuple(few(op, options.SqueezeDimsAsNumpy())))]


def _transpose(r: Reader, op: RawOperator, x: Values) -> Values:
    return [np.transpose(x[0], [int(d) for d in x[1].reshape(-1)])]


# -- index arithmetic, integers only -------------------------------------------------------------


def _strided_slice(r: Reader, op: RawOperator, x: Values) -> Values:
    from edgekit.formats.tflite_movement import resolve_slice

    spec = [[int(v) for v in x[k].reshape(-1)] for k in (1, 2, 3)]
    s = resolve_slice(op, x[0].shape, spec[0], spec[1], spec[2])
    index = tuple(
        slice(b, None if e < 0 else e, st)
        for b, e, st in zip(s.begin, s.end, s.strides, strict=True)
    )
    y = np.squeeze(x[0][index], s.shrink_axes) if s.shrink_axes else x[0][index]
    return [y.reshape(s.final_shape)]


def _slice(r: Reader, op: RawOperator, x: Values) -> Values:
    begin, size = ([int(v) for v in x[k].reshape(-1)] for k in (1, 2))
    index = tuple(slice(b, None if n < 0 else b + n) for b, n in zip(begin, size, strict=True))
    return [x[0][index]]


def _pack(r: Reader, op: RawOperator, x: Values) -> Values:
    options = op.options("Pack")
    return [np.stack(x, 0 if options is None else options.Axis())]


def _unpack(r: Reader, op: RawOperator, x: Values) -> Values:
    options = op.options("Unpack")
    return list(np.moveaxis(x[0], 0 if options is None else options.Axis(), 0))


def _concatenation(r: Reader, op: RawOperator, x: Values) -> Values:
    options = op.options("Concatenation")
    return [np.concatenate(x, 0 if options is None else options.Axis())]


def _gather(r: Reader, op: RawOperator, x: Values) -> Values:
    options = op.options("Gather")
    if options is not None and options.BatchDims():
        raise FormatError(f"{op.name} gathers indices in batches")
    return [np.take(x[0], x[1].astype(np.int64), 0 if options is None else options.Axis())]


def _reduce(function: Callable[..., Any]) -> Callable[[Reader, RawOperator, Values], Values]:
    def run(r: Reader, op: RawOperator, x: Values) -> Values:
        options = op.options("Reducer")
        keep = bool(options.KeepDims()) if options is not None else False
        axes = tuple(int(a) for a in x[1].reshape(-1))
        return [np.asarray(function(x[0], axis=axes, keepdims=keep))]

    return run


def _binary(function: Callable[..., Any]) -> Callable[[Reader, RawOperator, Values], Values]:
    def run(r: Reader, op: RawOperator, x: Values) -> Values:
        if r.raw(op.inputs[0]).quant is not None:
            raise FormatError(f"{op.name} computes a shape from quantized constants")
        out = np.asarray(function(x[0], x[1]))
        if out.size > _MAX_ELEMENTS:
            raise FormatError(f"{op.name} computes a constant of shape {list(out.shape)}")
        return [out]

    return run


_MOVES: dict[str, Callable[[Any, RawOperator, Values], Values]] = {
    "RESHAPE": _reshape,
    "EXPAND_DIMS": _expand_dims,
    "SQUEEZE": _squeeze,
    "TRANSPOSE": _transpose,
}

_INTEGER: dict[str, Callable[[Any, RawOperator, Values], Values]] = {
    "STRIDED_SLICE": _strided_slice,
    "SLICE": _slice,
    "PACK": _pack,
    "UNPACK": _unpack,
    "CONCATENATION": _concatenation,
    "GATHER": _gather,
    "CAST": lambda r, op, x: [x[0]],
    "REDUCE_PROD": _reduce(np.prod),
    "SUM": _reduce(np.sum),
}

#: Arithmetic on unquantized integers.
for _name, _function in {
    "ADD": np.add,
    "SUB": np.subtract,
    "MUL": np.multiply,
    "MAXIMUM": np.maximum,
    "MINIMUM": np.minimum,
}.items():
    _INTEGER[_name] = _binary(_function)
