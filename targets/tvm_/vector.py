"""Vector expressions in TIR, and TFLite's fixed-point arithmetic on them.

``lanes`` 1 means a scalar: the same text serves loops over whole vectors and their tails. The
arithmetic is that of :mod:`edgekit.graph.numerics` (gemmlowp double rounding), in 32 bits where a
bound on the operands allows it, else in 64.
"""

from __future__ import annotations

from typing import Any

from edgekit.graph import numerics as nm

Expr = Any  #: a TIR expression


def script() -> Any:
    """TVM's builder of TIR functions (``T``); imported here, because TVM is heavy."""
    from tvm.tirx.script.builder import ir

    return ir


def bind(x: Expr) -> Expr:
    """``x`` under a name of its own, where statements are being built; else ``x``."""
    from tvm.script.ir_builder import IRBuilder

    return script().Bind(x) if IRBuilder.is_in_scope() else x


def vtype(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def const(value: float, dtype: str, lanes: int = 1) -> Expr:
    from tvm import tirx

    scalar = tirx.const(value, dtype)
    return scalar if lanes == 1 else script().Broadcast(scalar, lanes)


def cast(x: Expr, dtype: str, lanes: int) -> Expr:
    return script().Cast(vtype(dtype, lanes), x)


def at(base: Expr, lanes: int) -> Expr:
    """The index of ``lanes`` consecutive elements from ``base``."""
    return base if lanes == 1 else script().Ramp(base, 1, lanes)


def clamp(x: Expr, lo: float, hi: float, dtype: str, lanes: int) -> Expr:
    """``min(max(x, lo), hi)``: hi wins, as the kernels order it."""
    T = script()
    return T.min(T.max(x, const(lo, dtype, lanes)), const(hi, dtype, lanes))


def high_mul(x: Expr, mult: Expr, lanes: int) -> Expr:
    """SaturatingRoundingDoublingHighMul of int32 ``x`` and a multiplier >= 0, as int64."""
    product = cast(x, "int64", lanes) * cast(mult, "int64", lanes)
    return (product + const(1 << 30, "int64", lanes)) >> const(31, "int64", lanes)


def divide_by_pot(x: Expr, exponent: int, lanes: int, dtype: str) -> Expr:
    """RoundingDivideByPOT by a constant exponent >= 0: halves away from zero."""
    if exponent == 0:
        return x
    bits = 63 if dtype == "int64" else 31
    x = bind(x)
    nudge = (x >> const(bits, dtype, lanes)) + const(1 << (exponent - 1), dtype, lanes)
    return (x + nudge) >> const(exponent, dtype, lanes)


def multiply(x: Expr, mult: int, shift: int, lanes: int) -> Expr:
    """``MultiplyByQuantizedMultiplier`` of int32 ``x`` with constants; int32 out (wrapped)."""
    if shift > 0:
        x = x << const(shift, "int32", lanes)
    high = high_mul(x, const(mult, "int32", lanes), lanes)
    return cast(divide_by_pot(high, max(-shift, 0), lanes, "int64"), "int32", lanes)


def requantize_const(
    x: Expr,
    mult: int,
    shift: int,
    zero_point: int,
    limits: tuple[int, int],
    dtype: str,
    lanes: int,
) -> Expr:
    """An int32 sum's way out with one multiplier: value of ``dtype``."""
    y = multiply(x, mult, shift, lanes) + const(zero_point, "int32", lanes)
    return cast(clamp(y, *limits, "int32", lanes), dtype, lanes)


def limits(activation: str, quant: Any, dtype: str) -> tuple[int, int]:
    return nm.activation_range(activation, quant, dtype)
