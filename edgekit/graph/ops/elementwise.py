"""Binary operators element by element: ADD SUB MUL DIV MAXIMUM MINIMUM SQUARED_DIFFERENCE.

NumPy broadcasting. Integer arithmetic is TensorFlow Lite Micro's: both inputs of ADD and SUB are
brought to twice the larger scale with some bits of head room (20 for 8-bit, 15 for 16-bit
inputs) before they are summed. MAXIMUM and MINIMUM compare stored values (inputs and output share
their quantization). int32 without quantization is plain 32-bit arithmetic. What Micro lacks: uint8
is computed like int8; DIV is float only here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgekit.errors import GraphError, UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Node, QuantParams, Tensor
from edgekit.graph.ops import Call, OpSpec, register

_QUANTIZED = ("int8", "uint8", "int16")


def _infer(node: Node, ins: Sequence[Tensor | None]) -> list[tuple[int, ...]]:
    x, y = ins[0], ins[1]
    if x is None or y is None:
        raise GraphError("an input is missing")
    if min((*x.shape, *y.shape), default=1) < 1:
        raise GraphError(f"inputs {list(x.shape)} and {list(y.shape)}, with an empty dimension")
    nm.activation_bounds(node.attr("activation", "NONE"))
    try:
        return [np.broadcast_shapes(x.shape, y.shape)]
    except ValueError:
        raise GraphError(f"shapes {list(x.shape)} and {list(y.shape)} do not broadcast") from None


def _batchable(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> bool:
    """A lower-rank activation would line its samples up with another axis."""
    rank = len(outs[0].shape)
    return all(t is None or t.is_const or len(t.shape) == rank for t in ins)


def _each_value(x: np.ndarray, f: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """``f`` of int64 values; through a table of all 256 where x has 8 bits and is larger."""
    if x.dtype.itemsize > 1 or x.size <= 256:
        return f(x.astype(np.int64))
    table = f(np.arange(256, dtype=np.uint8).view(x.dtype).astype(np.int64))
    return np.take(table, x.view(np.uint8))


Operands = tuple[np.ndarray, np.ndarray, QuantParams, QuantParams, QuantParams]


def _operands(call: Call) -> Operands | None:
    """Integer values and quantizations of both inputs and the output; None where all is float."""
    t, u, out = call.ins[0], call.ins[1], call.outs[0]
    x, y = call.x[0], call.x[1]
    assert t is not None and u is not None and x is not None and y is not None
    if (t.dtype, u.dtype, out.dtype) == ("float32",) * 3:
        return None
    if t.dtype not in _QUANTIZED or {t.dtype, u.dtype, out.dtype} != {t.dtype}:
        raise UnsupportedError(
            f"{call.node.type} of {t.dtype} and {u.dtype} to {out.dtype}; one of float32, int8, "
            "uint8, int16 for all is implemented"
        )
    if t.quant is None or u.quant is None or out.quant is None:
        raise UnsupportedError(f"an integer {call.node.type} without quantization parameters")
    if t.quant.is_per_channel or u.quant.is_per_channel:
        raise UnsupportedError(f"{call.node.type} with per-channel scales; one scale is needed")
    return x, y, t.quant, u.quant, out.quant


def _float(call: Call, f: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> list[np.ndarray]:
    x, y = call.x[0], call.x[1]
    assert x is not None and y is not None
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = f(x, y)
    z = nm.clamp_float(np.asarray(z), call.node.attr("activation", "NONE"))
    return [z.astype(np.float32, copy=False)]


def _plain32(call: Call, f: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray | None:
    """32-bit arithmetic that wraps, for int32 tensors without quantization; else None."""
    tensors = [*call.ins, *call.outs]
    if any(t is None or t.dtype != "int32" for t in tensors):
        return None
    if any(t is not None and t.quant is not None for t in tensors):
        raise UnsupportedError(f"{call.node.type} of quantized int32 tensors")
    if call.node.attr("activation", "NONE") != "NONE":
        raise UnsupportedError(f"{call.node.type} of int32 with a fused activation")
    x, y = call.x[0], call.x[1]
    assert x is not None and y is not None
    return f(x.astype(np.int64), y.astype(np.int64)).astype(np.int32)


def head_room(dtype: str) -> int:
    """Bits by which ADD and SUB shift their inputs left (TFLM ``add_common.cc``)."""
    return 15 if dtype == "int16" else 20


AddParams = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def add_multipliers(
    qx: QuantParams, qy: QuantParams, qo: QuantParams, left_shift: int
) -> AddParams:
    """Multiplier and shift of both inputs and of the output of ADD and SUB.

    The ratios are taken in double for both. (A later ``sub_common.cc`` takes SUB's in float32; the
    oracle does not, which int16 inputs show.)
    """
    twice = 2 * max(qx.s, qy.s)
    return (
        nm.quantize_multiplier_smaller_than_one_exp(qx.s / twice),
        nm.quantize_multiplier_smaller_than_one_exp(qy.s / twice),
        nm.quantize_multiplier_smaller_than_one_exp(twice / ((1 << left_shift) * qo.s)),
    )


def _add_or_sub(call: Call) -> list[np.ndarray]:
    sign = 1 if call.node.type == "ADD" else -1
    plain = _plain32(call, lambda a, b: a + sign * b)
    if plain is not None:
        return [plain]
    operands = _operands(call)
    if operands is None:
        return _float(call, np.add if sign > 0 else np.subtract)
    x, y, qx, qy, qo = operands
    out = call.outs[0]
    left = head_room(out.dtype)
    mx, my, mo = add_multipliers(qx, qy, qo, left)
    scaled_x = _each_value(
        x, lambda v: nm.multiply_by_quantized_multiplier((v - qx.zp) << left, *mx)
    )
    scaled_y = _each_value(
        y, lambda v: sign * nm.multiply_by_quantized_multiplier((v - qy.zp) << left, *my)
    )
    return [_finish(call, scaled_x + scaled_y, mo, qo)]


def _finish(
    call: Call, acc: np.ndarray, multiplier: tuple[int, int], qo: QuantParams
) -> np.ndarray:
    out = call.outs[0]
    limits = nm.activation_range(call.node.attr("activation", "NONE"), qo, out.dtype)
    return nm.requantize(
        np.asarray(acc), *multiplier, zero_point=qo.zp, limits=limits, dtype=out.dtype
    )


def _mul(call: Call) -> list[np.ndarray]:
    plain = _plain32(call, np.multiply)
    if plain is not None:
        return [plain]
    operands = _operands(call)
    if operands is None:
        return _float(call, np.multiply)
    x, y, qx, qy, qo = operands
    product = (x.astype(np.int64) - qx.zp) * (y.astype(np.int64) - qy.zp)
    return [_finish(call, product, nm.quantize_multiplier(qx.s * qy.s / qo.s), qo)]


def _div(call: Call) -> list[np.ndarray]:
    if _operands(call) is not None:
        raise UnsupportedError("DIV of integers; float32 is implemented")
    return _float(call, np.divide)


def squared_difference_shift(dtype: str) -> int:
    """Bits by which SQUARED_DIFFERENCE shifts its inputs left (``squared_difference.cc``)."""
    return 0 if dtype == "int16" else 7


def squared_difference_multipliers(
    qx: QuantParams, qy: QuantParams, qo: QuantParams, left_shift: int
) -> AddParams:
    """Multiplier and shift of both inputs and of the output of SQUARED_DIFFERENCE."""
    twice = 2.0 * max(qx.s, qy.s)
    return (
        nm.quantize_multiplier_smaller_than_one_exp(qx.s / twice),
        nm.quantize_multiplier_smaller_than_one_exp(qy.s / twice),
        nm.quantize_multiplier(twice * twice / ((1 << left_shift * 2) * qo.s)),
    )


def _squared_difference(call: Call) -> list[np.ndarray]:
    operands = _operands(call)
    if operands is None:
        return _float(call, lambda a, b: np.square(a - b))
    x, y, qx, qy, qo = operands
    left = squared_difference_shift(call.outs[0].dtype)
    mx, my, mo = squared_difference_multipliers(qx, qy, qo, left)
    scaled_x = _each_value(
        x, lambda v: nm.multiply_by_quantized_multiplier((v - qx.zp) << left, *mx)
    )
    scaled_y = _each_value(
        y, lambda v: nm.multiply_by_quantized_multiplier((v - qy.zp) << left, *my)
    )
    return [_finish(call, nm.wrap32(np.square(scaled_x - scaled_y)), mo, qo)]


def _extremum(f: Callable[..., np.ndarray]) -> Callable[[Call], list[np.ndarray]]:
    def reference(call: Call) -> list[np.ndarray]:
        types = {t.dtype for t in [*call.ins, *call.outs] if t is not None}
        x, y = call.x[0], call.x[1]
        assert x is not None and y is not None
        if len(types) != 1:
            raise UnsupportedError(f"{call.node.type} of different types {sorted(types)}")
        return [np.asarray(f(x, y))]

    return reference


def _register(op_type: str, reference: Callable[[Call], list[np.ndarray]]) -> None:
    register(OpSpec(op_type, _infer, reference, batchable=_batchable, n_inputs=(2, 2)))


_register("ADD", _add_or_sub)
_register("SUB", _add_or_sub)
_register("MUL", _mul)
_register("DIV", _div)
_register("SQUARED_DIFFERENCE", _squared_difference)
_register("MAXIMUM", _extremum(np.maximum))
_register("MINIMUM", _extremum(np.minimum))
