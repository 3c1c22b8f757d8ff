"""Fixed-point arithmetic against scalar definitions in plain Python integers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.errors import GraphError, InputError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import QuantParams

int32s = st.integers(nm.INT32_MIN, nm.INT32_MAX)
quick = settings(max_examples=300, deadline=None, derandomize=True)


def _c_div(a: int, b: int) -> int:
    """Division as C does it: towards zero."""
    return abs(a) // b if a >= 0 else -(abs(a) // b)


def _wrap(x: int) -> int:
    return (x + 2**31) % 2**32 - 2**31


def _high_mul(a: int, b: int) -> int:
    if a == b == nm.INT32_MIN:
        return nm.INT32_MAX
    nudge = 1 << 30 if a * b >= 0 else 1 - (1 << 30)
    return _c_div(a * b + nudge, 1 << 31)


def _divide_by_pot(x: int, exponent: int) -> int:
    mask = (1 << exponent) - 1
    threshold = (mask >> 1) + (1 if x < 0 else 0)
    return (x >> exponent) + (1 if x & mask > threshold else 0)


@quick
@given(int32s, int32s)
@example(nm.INT32_MIN, nm.INT32_MIN)
@example(nm.INT32_MIN, nm.INT32_MAX)
@example(-1, 1 << 30)
@example(1, 1 << 30)
@example(-3, 1 << 30)
def test_high_mul(a: int, b: int) -> None:
    assert int(nm.saturating_rounding_doubling_high_mul(a, b)) == _high_mul(a, b)


@quick
@given(int32s, st.integers(0, 31))
@example(-1, 1)
@example(-1, 0)
@example(-3, 1)
@example(nm.INT32_MIN, 31)
@example(nm.INT32_MAX, 31)
def test_divide_by_pot(x: int, exponent: int) -> None:
    assert int(nm.rounding_divide_by_pot(np.asarray(x), exponent)) == _divide_by_pot(x, exponent)
    # halves go away from zero
    exact = Fraction(x, 1 << exponent)
    assert _divide_by_pot(x, exponent) == math.floor(abs(exact) + Fraction(1, 2)) * (
        1 if x >= 0 else -1
    )


def test_divide_by_pot_per_channel() -> None:
    x = np.array([[-1, -1, -1, -2], [5, 5, 5, 6]])
    got = nm.rounding_divide_by_pot(x, np.array([0, 1, 2, 2]))
    assert got.tolist() == [[-1, -1, 0, -1], [5, 3, 1, 2]]


@quick
@given(
    st.lists(int32s, min_size=1, max_size=20),
    st.integers(1 << 30, nm.INT32_MAX),
    st.integers(-31, 30),
)
def test_multiply_by_quantized_multiplier(values: list[int], mult: int, shift: int) -> None:
    got = nm.multiply_by_quantized_multiplier(np.array(values), mult, shift)
    want = [
        _divide_by_pot(_high_mul(_wrap(v << max(shift, 0)), mult), max(-shift, 0)) for v in values
    ]
    assert got.tolist() == want
    n = len(values)  # the same, with one multiplier per channel
    again = nm.multiply_by_quantized_multiplier(
        np.array([values]), np.full(n, mult), np.full(n, shift)
    )
    assert again.tolist() == [want]


@quick
@given(st.integers(-(2**46), 2**46), st.integers(1 << 30, nm.INT32_MAX), st.integers(-31, 7))
def test_multiply_wide(acc: int, mult: int, shift: int) -> None:
    reduced = (mult + (1 << 15)) >> 16 if mult < 0x7FFF0000 else 0x7FFF
    total = 15 - shift
    want = _wrap((acc * reduced + (1 << (total - 1))) >> total)
    assert int(nm.multiply_by_quantized_multiplier_int64(acc, mult, shift)) == want


def test_multiply_wide_refuses_undefined_shifts() -> None:
    with pytest.raises(GraphError, match="2\\*\\*14"):
        nm.multiply_by_quantized_multiplier_int64(1, 1 << 30, 15)


@quick
@given(st.floats(2.0**-31, 2.0**20))
@example(1.0)
@example(0.5)
@example(1 - 2.0**-40)
@example(2.0**-32)
def test_quantize_multiplier_is_close(real: float) -> None:
    mult, shift = nm.quantize_multiplier(real)
    assert 1 << 30 <= mult < 1 << 31
    assert abs(Fraction(mult) * Fraction(2) ** (shift - 31) / Fraction(real) - 1) <= Fraction(
        1, 1 << 31
    )


@pytest.mark.parametrize(
    ("real", "want"),
    [
        (0.0, (0, 0)),
        (1.0, (1 << 30, 1)),
        (0.5, (1 << 30, 0)),
        (1 - 2.0**-40, (1 << 30, 1)),  # rounds up to one
        (2.0**-32, (1 << 30, -31)),
        (2.0**-33, (0, 0)),  # flushed
        (2.0**-32 * (1 - 2.0**-30), (0, 0)),
        (1.5 * 2**-31, (3 << 29, -30)),
        (0.5 + 2.0**-33, (1 << 30, 0)),
        (0.5 + 2.0**-32, ((1 << 30) + 1, 0)),  # a half goes away from zero
    ],
)
def test_quantize_multiplier_cases(real: float, want: tuple[int, int]) -> None:
    assert nm.quantize_multiplier(real) == want


@pytest.mark.parametrize("real", [-1.0, math.nan, math.inf])
def test_quantize_multiplier_refuses(real: float) -> None:
    with pytest.raises(GraphError, match="finite"):
        nm.quantize_multiplier(real)


@pytest.mark.parametrize("real", [0.0, 1.0, 2.0, 1 - 2.0**-40])
def test_smaller_than_one_refuses(real: float) -> None:
    with pytest.raises(GraphError, match="below 1"):
        nm.quantize_multiplier_smaller_than_one_exp(real)


def test_conv_multipliers_widen_before_they_multiply() -> None:
    s_in, s_out = np.float32(0.1), np.float32(0.7)
    s_w = np.array([0.013, 0.2], np.float32)
    mult, shift = nm.conv_multipliers(float(s_in), s_w, float(s_out), 2)
    want = [nm.quantize_multiplier(float(s_in) * float(w) / float(s_out)) for w in s_w]
    assert list(zip(mult.tolist(), shift.tolist(), strict=True)) == want
    with pytest.raises(GraphError, match="2 weight scales for 3"):
        nm.conv_multipliers(0.1, s_w, 0.7, 3)


def test_requantize_clamps_and_narrows() -> None:
    acc = np.array([-1000, -3, 0, 3, 1000])
    # times one half; the high multiplication rounds -1.5 up, unlike a division by a power of two
    got = nm.requantize(acc, 1 << 30, 0, zero_point=-1, limits=(-128, 100), dtype="int8")
    assert got.dtype == np.int8
    assert got.tolist() == [-128, -2, -1, 1, 100]
    quarter = nm.requantize(acc * 2, 1 << 30, -1, zero_point=-1, limits=(-128, 100), dtype="int8")
    assert quarter.tolist() == [-128, -3, -1, 1, 100]


# -- functions in fixed point ------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0, 2, 4, 5, 6])
def test_exp(bits: int) -> None:
    x = -np.linspace(0, 2**31 - 1, 4001).astype(np.int64)
    real = x / 2.0 ** (31 - bits)
    got = nm.exp_on_negative_values(x, bits) / 2.0**31
    assert np.abs(got - np.exp(real)).max() < 4e-7
    assert int(nm.exp_on_negative_values(np.asarray(0), bits)) == nm.INT32_MAX


def test_logistic_and_tanh() -> None:
    x = np.linspace(-(2**31) + 1, 2**31 - 1, 4001).astype(np.int64)
    real = x / 2.0**27
    assert np.abs(nm.logistic(x, 4) / 2.0**31 - 1 / (1 + np.exp(-real))).max() < 4e-7
    assert np.abs(nm.tanh(x, 4) / 2.0**31 - np.tanh(real)).max() < 4e-7
    assert nm.logistic(np.array([0]), 4).tolist() == [1 << 30]
    assert np.array_equal(nm.tanh(-x, 4), -nm.tanh(x, 4))


def test_reciprocals() -> None:
    a = np.linspace(1, 2**31 - 1, 1001).astype(np.int64)
    real = a / 2.0**31
    assert np.abs(nm.one_over_one_plus_x(a) / 2.0**31 - 1 / (1 + real)).max() < 4e-7
    got = nm.one_minus_x_over_one_plus_x(a) / 2.0**31
    assert np.abs(got - (1 - real) / (1 + real)).max() < 4e-7


@quick
@given(st.integers(2, nm.INT32_MAX))
@example(2)
@example(1 << 29)
@example(nm.INT32_MAX)
def test_inv_sqrt(value: int) -> None:
    mult, shift = nm.inv_sqrt_quantized_multiplier(value)
    assert shift >= 0
    assert mult * 2.0 ** (-31 - shift) * math.sqrt(value) == pytest.approx(1, abs=5e-6)


def test_inv_sqrt_of_one_and_zero() -> None:
    assert nm.inv_sqrt_quantized_multiplier(1) == (nm.INT32_MAX, 0)
    assert nm.inv_sqrt_quantized_multiplier(0) == (nm.INT32_MAX, 0)


# -- ranges, quantize, dequantize --------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "want"),
    [("NONE", (-128, 127)), ("RELU", (-3, 127)), ("RELU6", (-3, 57)), ("RELU_N1_TO_1", (-13, 7))],
)
def test_activation_range(activation: str, want: tuple[int, int]) -> None:
    assert nm.activation_range(activation, QuantParams.per_tensor(0.1, -3), "int8") == want


def test_activation_range_refuses() -> None:
    with pytest.raises(GraphError, match="no scale"):
        nm.activation_range("RELU", None, "int8")
    with pytest.raises(GraphError, match="activation SWISH is unknown"):
        nm.activation_range("SWISH", QuantParams.per_tensor(0.1, 0), "int8")


def test_round_half_away() -> None:
    x = np.array([0.5, -0.5, 1.5, 2.5, -2.5, 0.49999997, -0.49999997, 2.0**52 + 1], np.float64)
    assert nm.round_half_away(x).tolist() == [1, -1, 2, 3, -3, 0, 0, 2.0**52 + 1]


def test_quantize_rounds_and_clamps() -> None:
    q = QuantParams.per_tensor(0.5, 3)
    real = np.array([0.0, 0.25, -0.25, 100.0, -100.0, np.inf, -np.inf], np.float32)
    assert nm.quantize(real, q, "int8").tolist() == [3, 4, 2, 127, -128, 127, -128]
    assert nm.quantize(real, q, "uint8").tolist() == [3, 4, 2, 203, 0, 255, 0]


def test_quantize_refuses_nan() -> None:
    with pytest.raises(InputError, match="NaN"):
        nm.quantize(np.array([1.0, np.nan]), QuantParams.per_tensor(1.0, 0), "int8")


def test_quantize_bias_keeps_all_bits() -> None:
    q = QuantParams.per_channel([2.0**-20, 2.0**-10], 0)
    real = np.array([1000.0 + 2.0**-20, 1e30])
    assert nm.quantize(real, q, "int32").tolist() == [1000 * 2**20 + 1, nm.INT32_MAX]
    wide = nm.quantize(np.array([1e30, -1e30]), QuantParams.per_tensor(1.0, 0), "int64")
    assert wide.tolist() == [2**63 - 1024, -(2**63)]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
@pytest.mark.parametrize("zp", [0, 7])
def test_dequantize_then_quantize_is_identity(dtype: str, zp: int) -> None:
    lo, hi = nm.LIMITS[dtype]
    q = np.arange(lo, hi + 1).astype(dtype)
    params = QuantParams.per_tensor(0.0371, zp)
    real = nm.dequantize(q, params)
    assert real.dtype == np.float32
    assert np.array_equal(nm.quantize(real, params, dtype), q)


def test_per_channel_along_axis() -> None:
    params = QuantParams.per_channel([0.5, 2.0], 1)
    q = np.array([[1, 1], [2, -2]], np.int8)
    assert nm.dequantize(q, params).tolist() == [[0.5, 2.0], [1.0, -4.0]]
    assert np.array_equal(nm.quantize(nm.dequantize(q, params), params, "int8"), q)


# -- windows -----------------------------------------------------------------------------------


@quick
@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_conv_padding(size: int, window: int, stride: int, dilation: int, same: bool) -> None:
    reach = (window - 1) * dilation + 1
    args = ((size, 50), (window, 1), (stride, 1), "SAME" if same else "VALID", (dilation, 1))
    if not same and reach > size:
        with pytest.raises(GraphError, match="does not fit the padded height"):
            nm.conv_padding(*args)
        return
    (top, bottom, left, right), (oh, ow) = nm.conv_padding(*args)
    assert (left, right, ow) == (0, 0, 50)
    assert oh == (math.ceil(size / stride) if same else math.ceil((size - reach + 1) / stride))
    assert 0 <= bottom - top <= 1
    # the last window ends inside the padded input, and no cell of padding is superfluous
    last = (oh - 1) * stride + reach
    assert last <= size + top + bottom
    if top + bottom:
        assert last == size + top + bottom
    explicit = nm.conv_padding(args[0], args[1], args[2], (top, bottom, 0, 0), args[4])
    assert explicit == ((top, bottom, 0, 0), (oh, ow))


@pytest.mark.parametrize(
    ("padding", "message"),
    [("FULL", "not SAME, VALID"), ((1, 2, 3), "four sizes"), ((-1, 0, 0, 0), "at least 0")],
)
def test_conv_padding_refuses(padding: object, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        nm.conv_padding((5, 5), (3, 3), (1, 1), padding)  # type: ignore[arg-type]
    with pytest.raises(GraphError, match="at least 1"):
        nm.conv_padding((5, 5), (3, 3), (0, 1), "SAME")
