"""Exact integer arithmetic of TensorFlow Lite's reference kernels, vectorised.

The oracle is TensorFlow Lite Micro's reference kernels: gemmlowp fixed point with *double*
rounding (``tensorflow/lite/kernels/internal/common.cc``, ``quantization_util.cc``, gemmlowp
``fixedpoint/fixedpoint.h``). Integers are carried in int64 arrays and wrapped to 32 bits where the
C code would overflow, because that is what the compiled kernels do.

A *quantized multiplier* is ``(mult, shift)``: real = mult * 2**-31 * 2**shift, with
2**30 <= mult < 2**31 (or 0) and a positive shift meaning left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgekit.errors import GraphError, InputError
from edgekit.graph.ir import QuantParams

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

#: Value range of each integer dtype a quantized tensor may have.
LIMITS: dict[str, tuple[int, int]] = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "int32": (INT32_MIN, INT32_MAX),
    "int64": (-(2**63), 2**63 - 1),
}

Padding4 = tuple[int, int, int, int]  #: (top, bottom, left, right)


# -- multipliers -------------------------------------------------------------------------------


def quantize_multiplier(real: float) -> tuple[int, int]:
    """``(mult, shift)`` of a real multiplier >= 0: TFLite's ``QuantizeMultiplier``.

    Multipliers below about 2**-32 become (0, 0), as there. GraphError when not finite or negative.
    """
    if not math.isfinite(real) or real < 0:
        raise GraphError(f"a requantization multiplier is {real}; it must be finite and >= 0")
    if real == 0.0:
        return 0, 0
    q, shift = math.frexp(real)
    mult = math.floor(q * 2**31 + 0.5)  # exact: q has 53 bits; q >= 0, so this is half away from 0
    if mult == 2**31:
        mult //= 2
        shift += 1
    if shift < -31:
        return 0, 0
    return mult, shift


def quantize_multipliers(real: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """:func:`quantize_multiplier` of each element: two int64 vectors."""
    pairs = [quantize_multiplier(float(r)) for r in np.asarray(real, np.float64).ravel()]
    return (
        np.array([m for m, _ in pairs], np.int64),
        np.array([s for _, s in pairs], np.int64),
    )


def quantize_multiplier_smaller_than_one_exp(real: float) -> tuple[int, int]:
    """As :func:`quantize_multiplier`; GraphError unless 0 < real < 1 (shift is then <= 0).

    A multiplier that rounds up to 1.0 keeps shift 1, for which TFLite aborts: GraphError here.
    """
    mult, shift = quantize_multiplier(real) if 0.0 < real < 1.0 else (0, 1)
    if shift > 0:
        raise GraphError(f"a requantization multiplier is {real}; it must be above 0 and below 1")
    return mult, shift


def conv_multipliers(
    s_in: float, s_weight: np.ndarray, s_out: float, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Multiplier and shift of each output channel of a convolution: int64 ``[channels]`` each.

    The float32 scales are widened first, then ``s_in * s_w[c] / s_out`` is taken in double
    (``PopulateConvolutionQuantizationParams``).
    """
    w = np.asarray(s_weight, np.float32).astype(np.float64)
    real = float(np.float32(s_in)) * w / float(np.float32(s_out))
    if real.size not in (1, channels):
        raise GraphError(f"{real.size} weight scales for {channels} output channels")
    mult, shift = quantize_multipliers(real)
    return np.broadcast_to(mult, channels), np.broadcast_to(shift, channels)


# -- fixed-point primitives --------------------------------------------------------------------


def wrap32(x: np.ndarray) -> np.ndarray:
    """int64 values reduced to what a 32-bit register would hold, as int64."""
    return np.asarray(x).astype(np.int32).astype(np.int64)


def saturating_rounding_doubling_high_mul(a: np.ndarray | int, b: np.ndarray | int) -> np.ndarray:
    """gemmlowp ``SaturatingRoundingDoublingHighMul`` of int32 values: round(a * b / 2**31).

    gemmlowp nudges by the sign and truncates; for both signs that equals adding 2**30 and
    shifting arithmetically. Only INT32_MIN * INT32_MIN saturates.
    """
    ab = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    return np.minimum((ab + (1 << 30)) >> 31, INT32_MAX)


def rounding_divide_by_pot(x: np.ndarray, exponent: np.ndarray | int) -> np.ndarray:
    """gemmlowp ``RoundingDivideByPOT``: x / 2**exponent, halves away from zero; exponent >= 0."""
    x = np.asarray(x, np.int64)
    e = np.asarray(exponent, np.int64)
    half = (np.int64(1) << e) >> 1
    negative = x >> 63  # -1 where negative
    if e.ndim or e == 0:
        negative = negative & -(e > 0).astype(np.int64)  # a division by one does not round
    return (x + (half + negative)) >> e


def multiply_by_quantized_multiplier(
    acc: np.ndarray | int, mult: np.ndarray | int, shift: np.ndarray | int
) -> np.ndarray:
    """TFLite's 32-bit ``MultiplyByQuantizedMultiplier`` with double rounding; int64 values out.

    acc: int32 values; mult, shift broadcast against it (per channel along the last axis). The left
    shift wraps to 32 bits, as the kernels do. Source: ``internal/common.cc``.
    """
    s = np.asarray(shift, np.int64)
    x = np.asarray(acc, np.int64)
    if np.any(s > 0):
        x = wrap32(x << np.maximum(s, 0))
    # mult >= 0: the saturating case of the high multiplication cannot occur. In place from here on:
    # this is where an integer network spends its time.
    high = np.asarray(x * np.asarray(mult, np.int64))
    high += 1 << 30
    high >>= 31
    right = np.maximum(-s, 0)
    if not np.any(right):
        return high
    nudge = high >> 63  # as in rounding_divide_by_pot
    if not np.all(right):
        nudge &= -(right > 0).astype(np.int64)
    nudge += (np.int64(1) << right) >> 1
    high += nudge
    high >>= right
    return high


def multiply_by_quantized_multiplier_int64(
    acc: np.ndarray | int, mult: np.ndarray | int, shift: np.ndarray | int
) -> np.ndarray:
    """The 64-bit accumulator variant (int16x8): a 16-bit multiplier and a single rounding.

    acc: int64 values within 48 bits. GraphError for multipliers of 2**14 or more, where the kernel's
    rounding shift is undefined. Source: ``internal/common.cc``.
    """
    if np.any(np.asarray(shift) > 14):
        raise GraphError("a requantization multiplier of a 64-bit sum is 2**14 or more")
    m = np.asarray(mult, np.int64)
    reduced = np.where(m < 0x7FFF0000, (m + (1 << 15)) >> 16, 0x7FFF)
    total = 15 - np.asarray(shift, np.int64)
    x = np.asarray(acc, np.int64) * reduced + (np.int64(1) << (total - 1))
    return wrap32(x >> total)


def requantize(
    acc: np.ndarray,
    mult: np.ndarray | int,
    shift: np.ndarray | int,
    *,
    zero_point: int,
    limits: tuple[int, int],
    dtype: str,
    wide: bool = False,
) -> np.ndarray:
    """An accumulator's way out: multiplier, output zero point, clamp, narrowing.

    acc: integer values, channels last; mult and shift broadcast against it; limits: inclusive, in
    the output's integers. wide: use the 64-bit accumulator arithmetic (int16 activations).
    """
    scale = multiply_by_quantized_multiplier_int64 if wide else multiply_by_quantized_multiplier
    out = np.asarray(scale(acc, mult, shift))
    out += zero_point
    np.maximum(out, limits[0], out=out)
    np.minimum(out, limits[1], out=out)
    return out.astype(dtype)


def saturating_rounding_multiply_by_pot(x: np.ndarray, exponent: int) -> np.ndarray:
    """gemmlowp ``SaturatingRoundingMultiplyByPOT`` on int32 values; any sign of exponent."""
    if exponent <= 0:
        return rounding_divide_by_pot(x, -exponent)
    return np.clip(np.asarray(x, np.int64) << exponent, INT32_MIN, INT32_MAX)


def rounding_half_sum(a: np.ndarray, b: np.ndarray | int) -> np.ndarray:
    """gemmlowp ``RoundingHalfSum``: (a + b) / 2, halves away from zero."""
    return rounding_divide_by_pot(np.asarray(a, np.int64) + b, 1)


# -- transcendental functions in fixed point (gemmlowp fixedpoint.h) ---------------------------
# A Q(m).(31-m) number has m integer bits; 1.0 is 2**(31-m), or INT32_MAX where m is 0.

_mul = saturating_rounding_doubling_high_mul


def _exp_on_last_quarter(a: np.ndarray) -> np.ndarray:
    """exp(a) for Q0.31 a in [-1/4, 0): a Taylor expansion around -1/8."""
    exp_minus_eighth, one_third = 1895147668, 715827883
    x = a + (1 << 28)
    x2 = _mul(x, x)
    x3 = _mul(x2, x)
    x4 = _mul(x2, x2)
    tail = rounding_divide_by_pot(_mul(rounding_divide_by_pot(x4, 2) + x3, one_third) + x2, 1)
    return exp_minus_eighth + _mul(x + tail, exp_minus_eighth)


#: exp(-2**k) in Q0.31 for k = -2 .. 4.
_EXP_POWERS = (
    (-2, 1672461947),
    (-1, 1302514674),
    (0, 790015084),
    (1, 290630308),
    (2, 39332535),
    (3, 720401),
    (4, 242),
)


def exp_on_negative_values(a: np.ndarray, integer_bits: int) -> np.ndarray:
    """gemmlowp ``exp_on_negative_values``: exp of Q(integer_bits) values <= 0, as Q0.31 int64."""
    a = np.asarray(a, np.int64)
    fraction = 31 - integer_bits
    quarter = 1 << (fraction - 2)
    a_mod = (a & (quarter - 1)) - quarter
    result = _exp_on_last_quarter(saturating_rounding_multiply_by_pot(a_mod, integer_bits))
    remainder = a_mod - a
    for k, constant in _EXP_POWERS:
        if integer_bits > k:
            bit = (remainder >> (fraction + k)) & 1
            result = np.where(bit != 0, _mul(result, constant), result)
    if integer_bits > 5:
        result = np.where(a < -(1 << (36 - integer_bits)), 0, result)
    return np.where(a == 0, INT32_MAX, result)


def _newton_reciprocal(a: np.ndarray) -> np.ndarray:
    """2 / (1 + a) for Q0.31 a in (0, 1), as Q2.29: three Newton-Raphson steps."""
    half_denominator = rounding_half_sum(a, INT32_MAX)
    x = 1515870810 + _mul(half_denominator, -1010580540)  # 48/17 - 32/17 d
    for _ in range(3):
        error = (1 << 29) - _mul(half_denominator, x)
        x = x + saturating_rounding_multiply_by_pot(_mul(x, error), 2)
    return x


def one_over_one_plus_x(a: np.ndarray) -> np.ndarray:
    """gemmlowp ``one_over_one_plus_x_for_x_in_0_1``: Q0.31 in, Q0.31 out."""
    return saturating_rounding_multiply_by_pot(_newton_reciprocal(np.asarray(a, np.int64)), 1)


def one_minus_x_over_one_plus_x(a: np.ndarray) -> np.ndarray:
    """gemmlowp ``one_minus_x_over_one_plus_x_for_x_in_0_1``: Q0.31 in, Q0.31 out."""
    x = _newton_reciprocal(np.asarray(a, np.int64))
    return saturating_rounding_multiply_by_pot(x - (1 << 29), 2)


def logistic(a: np.ndarray, integer_bits: int) -> np.ndarray:
    """gemmlowp ``logistic``: Q(integer_bits) in, Q0.31 out."""
    a = np.asarray(a, np.int64)
    positive = one_over_one_plus_x(exp_on_negative_values(-np.abs(a), integer_bits))
    result = np.where(a > 0, positive, INT32_MAX - positive)
    return np.where(a == 0, 1 << 30, result)


def tanh(a: np.ndarray, integer_bits: int) -> np.ndarray:
    """gemmlowp ``tanh``: Q(integer_bits) in, Q0.31 out."""
    a = np.asarray(a, np.int64)
    # doubling is exact: the same bits read with one integer bit more
    t = one_minus_x_over_one_plus_x(exp_on_negative_values(-np.abs(a), integer_bits + 1))
    return np.where(a == 0, 0, np.where(a < 0, -t, t))


def inv_sqrt_quantized_multiplier(value: int) -> tuple[int, int]:
    """``(mult, right_shift)`` of 1/sqrt(value), value an int32 >= 0.

    TFLite's ``GetInvSqrtQuantizedMultiplierExp`` with ``reverse_shift`` 1: the shift is to the
    right. 0 is treated as 1, as there.
    """
    if value <= 1:
        return INT32_MAX, 0
    shift = 11
    while value >= 1 << 29:
        value //= 4
        shift += 1
    pairs = (32 - value.bit_length() - 1) // 2 - 1
    shift -= pairs
    value <<= 2 * pairs
    half = rounding_divide_by_pot(np.asarray(value >> 1), 1)
    x = np.asarray(1 << 28)
    for _ in range(5):
        x3 = saturating_rounding_multiply_by_pot(_mul(_mul(x, x), x), 6)
        x = saturating_rounding_multiply_by_pot(_mul((1 << 28) + (1 << 27), x) - _mul(half, x3), 3)
    mult = int(_mul(x, 1518500250))  # sqrt(2) / 2
    if shift < 0:
        mult <<= -shift
        shift = 0
    return mult, shift


# -- ranges and conversion ---------------------------------------------------------------------


def round_half_away(x: np.ndarray) -> np.ndarray:
    """C's ``round``: halves away from zero, in double (exact for float32 arguments)."""
    x = np.asarray(x, np.float64)
    whole = np.trunc(x)
    return whole + np.where(np.abs(x - whole) >= 0.5, np.copysign(1.0, x), 0.0)


def activation_range(activation: str, quant: QuantParams | None, dtype: str) -> tuple[int, int]:
    """Clamp limits of a fused activation on a quantized output (inclusive).

    TFLite's ``CalculateActivationRangeQuantized``; division in float32, as there. GraphError for
    an unknown activation, or one on a tensor without quantization.
    """
    lo, hi = LIMITS[dtype]
    bounds = activation_bounds(activation)
    if bounds == (None, None):
        return lo, hi
    if quant is None:
        raise GraphError(f"a fused {activation} needs a quantized output; this one has no scale")

    def q(real: float) -> int:
        return quant.zp + int(round_half_away(np.float32(real) / quant.scale[0]))

    if bounds[0] is not None:
        lo = max(lo, q(bounds[0]))
    if bounds[1] is not None:
        hi = min(hi, q(bounds[1]))
    return lo, hi


def activation_bounds(activation: str) -> tuple[float | None, float | None]:
    """Real lower and upper bound of a fused activation; None where there is none."""
    try:
        return {
            "NONE": (None, None),
            "RELU": (0.0, None),
            "RELU6": (0.0, 6.0),
            "RELU_N1_TO_1": (-1.0, 1.0),
        }[activation]
    except KeyError:
        raise GraphError(
            f"activation {activation} is unknown; known are NONE, RELU, RELU6, RELU_N1_TO_1"
        ) from None


def clamp_float(x: np.ndarray, activation: str) -> np.ndarray:
    """A fused activation on float values."""
    lo, hi = activation_bounds(activation)
    if lo is not None:
        x = np.maximum(x, np.asarray(lo, x.dtype))
    if hi is not None:
        x = np.minimum(x, np.asarray(hi, x.dtype))
    return x


def clamp_limits(x: np.ndarray, lo: int, hi: int) -> np.ndarray:
    """``min(max(x, lo), hi)`` as the kernels order it: hi wins where lo > hi."""
    return np.minimum(np.maximum(x, lo), hi)


def _along(values: np.ndarray, quant: QuantParams, ndim: int) -> np.ndarray:
    """Scales or zero points shaped to broadcast against a tensor of ``ndim`` dimensions."""
    if quant.axis is None:
        return values[0]
    shape = [1] * ndim
    shape[quant.axis] = -1
    return values.reshape(shape)


def quantize(real: np.ndarray, quant: QuantParams, dtype: str) -> np.ndarray:
    """Real values -> integers of ``dtype``: round half away from zero, then clamp.

    Narrow types divide in float32, as TFLite's ``AffineQuantize`` does; int32 and int64 (biases) in
    double. Infinities clamp; InputError on a NaN.
    """
    real = np.asarray(real)
    if np.any(np.isnan(real)):
        raise InputError("a NaN cannot be quantized; only finite values would be accepted")
    lo, hi = LIMITS[dtype]
    wide = dtype in ("int32", "int64")
    scale = _along(quant.scale, quant, real.ndim)
    zp = _along(quant.zero_point, quant, real.ndim)
    with np.errstate(over="ignore"):
        q = real.astype(np.float64 if wide else np.float32) / scale
    q = round_half_away(np.where(np.isinf(q), np.sign(q) * 1e30, q)) + zp
    top = float(hi) if dtype != "int64" else np.nextafter(2.0**63, 0)  # 2**63 - 1 is no double
    return np.clip(q, float(lo), top).astype(dtype)


def dequantize(q: np.ndarray, quant: QuantParams) -> np.ndarray:
    """Integers -> float32: ``scale * (q - zero_point)``, the product taken in float32."""
    q = np.asarray(q)
    scale = _along(quant.scale, quant, q.ndim)
    zp = _along(quant.zero_point, quant, q.ndim)
    return ((q.astype(np.int64) - zp).astype(np.float32) * scale).astype(np.float32)


# -- windows -----------------------------------------------------------------------------------


def same_padding(size: int, window: int, stride: int, dilation: int = 1) -> tuple[int, int, int]:
    """TFLite's SAME along one axis: ``(before, after, output size)``; the odd cell goes after."""
    out = -(-size // stride)
    total = max(0, (out - 1) * stride + (window - 1) * dilation + 1 - size)
    return total // 2, total - total // 2, out


def conv_padding(
    in_hw: tuple[int, int],
    filter_hw: tuple[int, int],
    stride: tuple[int, int],
    padding: str | Padding4,
    dilation: tuple[int, int] = (1, 1),
) -> tuple[Padding4, tuple[int, int]]:
    """``((top, bottom, left, right), (out_h, out_w))`` of a sliding window.

    padding: "SAME", "VALID" or explicit. GraphError when nothing would come out.
    """
    if min(*stride, *dilation, *filter_hw) < 1:
        raise GraphError(
            f"stride {list(stride)}, dilation {list(dilation)} and window {list(filter_hw)} "
            "must be at least 1"
        )
    pads: list[int] = []
    out: list[int] = []
    for i in range(2):
        if padding == "SAME":
            before, after, n = same_padding(in_hw[i], filter_hw[i], stride[i], dilation[i])
        else:
            if padding == "VALID":
                before, after = 0, 0
            elif isinstance(padding, str) or len(padding) != 4 or min(padding) < 0:
                raise GraphError(
                    f"padding {padding!r} is not SAME, VALID or four sizes (top, bottom, left, "
                    "right) of at least 0"
                )
            else:
                before, after = padding[2 * i], padding[2 * i + 1]
            reach = (filter_hw[i] - 1) * dilation[i] + 1
            span = in_hw[i] + before + after - reach
            if span < 0:
                raise GraphError(
                    f"a window of {reach} (with dilation) does not fit the padded "
                    f"{'height' if i == 0 else 'width'} {in_hw[i] + before + after}"
                )
            n = span // stride[i] + 1
        pads += [before, after]
        out.append(n)
    return (pads[0], pads[1], pads[2], pads[3]), (out[0], out[1])
