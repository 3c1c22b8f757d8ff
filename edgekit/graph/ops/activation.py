"""Unary elementwise operators, and PRELU.

float32: evaluated in double and rounded once. Integers: bytes of TensorFlow Lite Micro's reference
kernels where it has the operator: LOGISTIC and TANH (``reference/integer_ops/{logistic,tanh}.h``),
RELU, RELU6 (``activations_common.cc``), HARD_SWISH (``reference/hard_swish.h``), LEAKY_RELU
(``reference/leaky_relu.h``), ABS and RSQRT (``micro/kernels/elementwise.cc``), PRELU
(``reference/prelu.h``). What it lacks (GELU, EXP, LOG, SQRT, NEG), and LOGISTIC or TANH into another
scale than TFLite's fixed one, is defined as TFLite's lookup-table kernels are, but in double:
``q_out = clamp(round_half_away(f(s_in * (q - zp_in)) / s_out) + zp_out)``.

An int8 unary operator is a function of 256 values: :func:`lookup_table` gives it as a table, which
is how microcontrollers run all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from edgekit.errors import GraphError, UnsupportedError
from edgekit.graph import numerics as nx
from edgekit.graph.ir import Node, Tensor
from edgekit.graph.ops import Call, OpSpec, register, spec
from edgekit.graph.ops.quant import Ins, Shape, first, per_tensor, same_shape, saturate

IntegerKernel = Callable[[Node, Tensor, Tensor, np.ndarray], np.ndarray]
RealFunction = Callable[[Node, np.ndarray], np.ndarray]

_erf = np.frompyfunc(math.erf, 1, 1)


# -- real functions (float64 in, float64 out) ------------------------------------------------------


def _sigmoid(node: Node, x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0 / (1.0 + e), e / (1.0 + e))


def _gelu(node: Node, x: np.ndarray) -> np.ndarray:
    if node.attr("approximate", False):
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1.0 + np.asarray(_erf(x * math.sqrt(0.5)), np.float64))


def _alpha(node: Node) -> float:
    return float(np.float32(node.attrs["alpha"]))


_REAL: dict[str, RealFunction] = {
    "LOGISTIC": _sigmoid,
    "TANH": lambda n, x: np.tanh(x),
    "RELU": lambda n, x: np.maximum(x, 0.0),
    "RELU6": lambda n, x: np.clip(x, 0.0, 6.0),
    "RELU_N1_TO_1": lambda n, x: np.clip(x, -1.0, 1.0),
    "HARD_SWISH": lambda n, x: x * np.clip(x + 3.0, 0.0, 6.0) / 6.0,
    "ABS": lambda n, x: np.abs(x),
    "EXP": lambda n, x: np.exp(x),
    "LOG": lambda n, x: np.log(x),
    "NEG": lambda n, x: -x,
    "SQRT": lambda n, x: np.sqrt(x),
    "RSQRT": lambda n, x: 1.0 / np.sqrt(x),
    "LEAKY_RELU": lambda n, x: np.where(x >= 0, x, x * _alpha(n)),
    "GELU": _gelu,
}


# -- integer kernels (int64 in, int64 out, saturated by the caller) ---------------------------------


def _through_real(node: Node, src: Tensor, out: Tensor, q: np.ndarray) -> np.ndarray:
    """Any function by double arithmetic: dequantize, evaluate, round half away from zero.

    Where the function is not finite or not defined (LOG, SQRT and RSQRT of x < 0), the argument counts
    as 0; infinities saturate.
    """
    a, b = per_tensor(src), per_tensor(out)
    x = (q - a.zp).astype(np.float64) * a.s
    if node.type in ("LOG", "SQRT", "RSQRT"):
        x = np.maximum(x, 0.0)
    with np.errstate(over="ignore", divide="ignore"):
        y = _REAL[node.type](node, x) / b.s
    return nx.round_half_away(np.clip(y, -(2.0**40), 2.0**40)).astype(np.int64) + b.zp


def _requantized(q: np.ndarray, src: Tensor, out: Tensor) -> np.ndarray:
    a, b = per_tensor(src), per_tensor(out)
    mult, shift = nx.quantize_multiplier(a.s / b.s)
    return nx.multiply_by_quantized_multiplier(q - a.zp, mult, shift) + b.zp


def _relu(node: Node, src: Tensor, out: Tensor, q: np.ndarray) -> np.ndarray:
    lo, hi = nx.activation_range("RELU", out.quant, out.dtype)
    return nx.clamp_limits(_requantized(q, src, out), lo, hi)


def _relu6(node: Node, src: Tensor, out: Tensor, q: np.ndarray) -> np.ndarray:
    """RELU6, RELU_N1_TO_1: requantize, clamp.

    TFLite Micro's RELU6 clamps without requantizing; that is the same while input and output share
    one quantization, and wrong otherwise, where TFLite's own ``QuantizedReluX`` is followed.
    """
    lo, hi = nx.activation_range(node.type, out.quant, out.dtype)
    if per_tensor(src).same_as(out.quant):
        return nx.clamp_limits(q, lo, hi)
    return nx.clamp_limits(_requantized(q, src, out), lo, hi)


def _fixed_output(out: Tensor, per_unit: float, zero_point: int) -> bool:
    b = per_tensor(out)
    return b.s == 1.0 / per_unit and b.zp == zero_point


def _sigmoid_like(node: Node, src: Tensor, out: Tensor, q: np.ndarray) -> np.ndarray:
    """LOGISTIC and TANH of 8-bit values: Q4.27 fixed point, output in 1/256 or 1/128."""
    is_tanh = node.type == "TANH"
    low = nx.LIMITS[out.dtype][0]
    middle = (1 << 7) + low  # 0 for int8, 128 for uint8
    if src.dtype == "int16" and out.dtype == "int16":
        return _sigmoid_like_16(is_tanh, src, out, q)
    if src.dtype == "int16" or out.dtype == "int16":
        raise UnsupportedError(f"{node.type} of {src.dtype} to {out.dtype}; both must be one width")
    if not _fixed_output(out, 128.0 if is_tanh else 256.0, middle if is_tanh else low):
        return _through_real(node, src, out, q)
    a = per_tensor(src)
    mult, shift = nx.quantize_multiplier(a.s * (1 << 27))
    x = q - a.zp
    if shift < 0:
        raise UnsupportedError(f"{node.type} of '{src.name}': scale {a.s:g} is below 2**-28")
    radius = math.floor(15 * (1 << 27) / (1 << shift))
    inside = np.abs(x) < radius
    scaled = nx.multiply_by_quantized_multiplier(np.where(inside, x, 0), mult, shift)
    if is_tanh:
        y = nx.rounding_divide_by_pot(nx.tanh(scaled, 4), 24) + middle
    else:
        y = nx.rounding_divide_by_pot(nx.logistic(scaled, 4), 23) + low
    low, high = nx.LIMITS[out.dtype]
    return np.where(inside, y, np.where(x < 0, low, high))


#: Entries of the table below that are one above the rounded sigmoid, as a bit mask (measured from
#: TensorFlow Lite Micro's outputs; the generator of its table was not correctly rounding).
_SIGMOID_16_BUMPS = int(
    "800000000000000000000000000000800011009020440005c0467baefa7bd110",
    16,
)

#: sigmoid(i / 24) in 1/65536: the values of TFLite's ``sigmoid_table_uint16``.
_SIGMOID_16 = np.minimum(
    np.floor(65536.0 / (1.0 + np.exp(-np.arange(256) / 24.0)) + 0.5).astype(np.int64)
    + np.array([_SIGMOID_16_BUMPS >> i & 1 for i in range(256)]),
    65535,
)


def _sigmoid_like_16(is_tanh: bool, src: Tensor, out: Tensor, q: np.ndarray) -> np.ndarray:
    """int16 LOGISTIC and TANH: linear interpolation in a table of 256 sigmoids."""
    a = per_tensor(src)
    if a.zp != 0 or not _fixed_output(out, 32768.0, 0):
        raise UnsupportedError(
            f"int16 LOGISTIC and TANH need zero points 0 and an output scale of 2**-15; "
            f"'{src.name}' or '{out.name}' has another"
        )
    log2 = math.log2(a.s)
    power = round(log2)
    # scales within 0.1 % or so of 2**-12 (TANH: also 2**-11) are taken to be exactly that
    if abs(log2 - power) < 1e-3 and power in ((-12, -11) if is_tanh else (-12,)):
        multiplier, shift = 3 << (power + 12), 0
    else:
        real, shift = a.s * 4096.0 * 3.0, 0
        while real <= 32767.0 / 2.0 and shift <= 30:
            shift, real = shift + 1, real * 2.0
        multiplier = int(real)
    half = 1 << (shift - 1) if shift > 0 else 0
    x = nx.wrap32(q * multiplier + half) >> shift
    size = np.abs(x)
    bits = 8 if is_tanh else 9
    cell = size >> bits
    inner = np.minimum(cell, 254)
    ua, ub = _SIGMOID_16[inner], _SIGMOID_16[inner + 1]
    y = (ua << bits) + (size & ((1 << bits) - 1)) * (ub - ua)
    if is_tanh:
        y = np.where(cell >= 255, 0xFFFF << 8, y)
        return np.where(x >= 0, y - (1 << 23) + 128, -y + (1 << 23) + 127) >> 8
    y = np.where(cell >= 255, 0x7FFF << 10, y)
    return np.where(x >= 0, y + 512, (1 << 25) - y + 511) >> 10


def _to_int16_multiplier(m: int) -> int:
    return 32767 if m >= nx.INT32_MAX - (1 << 15) else (m + (1 << 15)) >> 16


def _clip16(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -32768, 32767)


def _high_mul_16(a: np.ndarray, b: int) -> np.ndarray:
    """gemmlowp's 16-bit ``SaturatingRoundingDoublingHighMul``."""
    return _clip16((a * b + (1 << 14)) >> 15)


def _hard_swish(node: Node, src: Tensor, out: Tensor, q: np.ndarray) -> np.ndarray:
    a, b = per_tensor(src), per_tensor(out)
    hires = np.float32(1.0 / 128.0) * np.float32(a.s)
    out_mult, out_shift = nx.quantize_multiplier(float(hires / np.float32(b.s)))
    relu_mult, relu_shift = nx.quantize_multiplier(float(hires / np.float32(3.0 / 32768.0)))
    if out_shift > 0:
        raise UnsupportedError(
            f"HARD_SWISH from scale {a.s:g} to {b.s:g}: the output scale must be at least "
            "1/128 of the input's"
        )
    x = (q - a.zp) << 7
    value = _high_mul_16(x, _to_int16_multiplier(out_mult))
    gate = x
    if relu_shift > 0:
        gate = _clip16(gate << (relu_shift - 1))
    gate = _high_mul_16(gate, _to_int16_multiplier(relu_mult))
    if relu_shift > 0:
        gate = _clip16(gate << 1)
    elif relu_shift < 0:
        gate = nx.rounding_divide_by_pot(gate, -relu_shift)
    gate = (gate + (1 << 15)) >> 1
    product = gate * value
    truncated = np.sign(product) * (np.abs(product) >> 15)
    return nx.rounding_divide_by_pot(truncated, -out_shift) + b.zp


def _leaky_relu(node: Node, src: Tensor, out: Tensor, q: np.ndarray) -> np.ndarray:
    a, b = per_tensor(src), per_tensor(out)
    identity = nx.quantize_multiplier(a.s / b.s)
    slope = a.s * _alpha(node) / b.s
    sign = -1 if slope < 0 else 1  # a negative slope: the same multiplier, negated
    mult, shift = nx.quantize_multiplier(abs(slope))
    x = q - a.zp
    positive = nx.multiply_by_quantized_multiplier(x, *identity)
    negative = nx.multiply_by_quantized_multiplier(x, mult, shift) * sign
    return np.where(x >= 0, positive, negative) + b.zp


def _abs(node: Node, src: Tensor, out: Tensor, q: np.ndarray) -> np.ndarray:
    a, b = per_tensor(src), per_tensor(out)
    x = np.abs(q - a.zp)
    if a.s != b.s:
        x = nx.multiply_by_quantized_multiplier(x, *nx.quantize_multiplier(a.s / b.s))
    return x + b.zp


def _rsqrt(node: Node, src: Tensor, out: Tensor, q: np.ndarray) -> np.ndarray:
    """TFLite Micro refuses negative arguments at run time; here they count as 0 (the maximum)."""
    if src.dtype == "int16":
        return _through_real(node, src, out, q)
    a, b = per_tensor(src), per_tensor(out)
    mult, shift = nx.quantize_multiplier(1.0 / (math.sqrt(a.s) * b.s))
    x = q - a.zp
    table = np.zeros(int(max(x.max(initial=0), 0)) + 1, np.int64)
    table[0] = nx.LIMITS[out.dtype][1]
    one = np.ones((), np.int64)
    for v in range(1, table.size):
        m, right = nx.inv_sqrt_quantized_multiplier(v)
        root = nx.multiply_by_quantized_multiplier(one, m, 20 - right)
        table[v] = int(nx.multiply_by_quantized_multiplier(root, mult, shift - 20)) + b.zp
    return table[np.maximum(x, 0)]


_INTEGER: dict[str, IntegerKernel] = {
    "LOGISTIC": _sigmoid_like,
    "TANH": _sigmoid_like,
    "RELU": _relu,
    "RELU6": _relu6,
    "RELU_N1_TO_1": _relu6,
    "HARD_SWISH": _hard_swish,
    "ABS": _abs,
    "LEAKY_RELU": _leaky_relu,
    "RSQRT": _rsqrt,
    "EXP": _through_real,
    "LOG": _through_real,
    "NEG": _through_real,
    "SQRT": _through_real,
    "GELU": _through_real,
}

#: Operators that :func:`lookup_table` takes.
TABLE_OPS = frozenset(_INTEGER) | {"QUANTIZE", "PRELU"}


def _unary(call: Call) -> list[np.ndarray]:
    x, src, out, node = call.x[0], first(call.ins), call.outs[0], call.node
    assert x is not None
    if src.is_float:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            y = _REAL[node.type](node, x.astype(np.float64))
            return [np.asarray(y).astype(np.float32)]
    if src.dtype not in ("int8", "uint8", "int16") or out.dtype not in ("int8", "uint8", "int16"):
        raise UnsupportedError(
            f"{node.type} of {src.dtype} to {out.dtype}; float32, int8, uint8 and int16 are known"
        )
    kernel = _INTEGER[node.type]
    if src.dtype == "int16":
        return [saturate(kernel(node, src, out, x.astype(np.int64)), out.dtype)]
    low, high = nx.LIMITS[src.dtype]
    table = saturate(kernel(node, src, out, np.arange(low, high + 1, dtype=np.int64)), out.dtype)
    return [table[x.astype(np.int64) - low]]


def lookup_table(node: Node, ins: Ins, outs: Sequence[Tensor]) -> np.ndarray:
    """The 256 outputs of an int8 -> int8 unary node: int8 ``[256]``, index ``q + 128``.

    Takes the node types of :data:`TABLE_OPS` (PRELU only with an alpha of one element). Raises
    UnsupportedError for any other node or dtype.
    """
    src, out = first(ins), outs[0]
    if node.type not in TABLE_OPS or src.dtype != "int8" or out.dtype != "int8":
        raise UnsupportedError(
            f"node '{node.name}' ({node.type}, {src.dtype} to {out.dtype}) is no table of 256 int8 "
            f"values; {', '.join(sorted(TABLE_OPS))} from int8 to int8 are"
        )
    values: list[np.ndarray | None] = [np.arange(-128, 128).astype(np.int8)]
    if node.type == "PRELU":
        alpha = ins[1]
        if alpha is None or alpha.data is None or alpha.elements != 1:
            raise UnsupportedError(
                f"node '{node.name}' (PRELU) is no table: its alpha has more than one element"
            )
        values.append(alpha.data.reshape(1))
    return spec(node.type).reference(Call(node, ins, outs, values))[0]


# -- PRELU -----------------------------------------------------------------------------------------


def _prelu_infer(node: Node, ins: Ins) -> list[Shape]:
    x, alpha = first(ins), ins[1]
    if alpha is None:
        raise GraphError("alpha is missing")
    if np.broadcast_shapes(x.shape, alpha.shape) != x.shape:
        raise GraphError(
            f"alpha of shape {list(alpha.shape)} does not broadcast to {list(x.shape)}"
        )
    return [x.shape]


def _prelu(call: Call) -> list[np.ndarray]:
    x, alpha, src, out = call.x[0], call.x[1], first(call.ins), call.outs[0]
    t = call.ins[1]
    assert x is not None and alpha is not None and t is not None
    if src.is_float:
        return [np.where(x >= 0, x, x * alpha).astype(np.float32)]
    if {src.dtype, out.dtype, t.dtype} - {"int8", "uint8"}:
        raise UnsupportedError(
            f"PRELU of {src.dtype} with {t.dtype} alpha to {out.dtype}; float32, int8 and uint8 "
            "are known"
        )
    a, b, c = per_tensor(src), per_tensor(out), per_tensor(t)
    v = x.astype(np.int64) - a.zp
    w = alpha.astype(np.int64) - c.zp
    identity = nx.quantize_multiplier(a.s / b.s)
    slope = nx.quantize_multiplier(a.s * c.s / b.s)
    positive = nx.multiply_by_quantized_multiplier(v, *identity)
    negative = nx.multiply_by_quantized_multiplier(v * w, *slope)
    return [saturate(np.where(v >= 0, positive, negative) + b.zp, out.dtype)]


for _type in _REAL:
    register(OpSpec(_type, same_shape, _unary))
register(OpSpec("PRELU", _prelu_infer, _prelu, n_inputs=(2, 2)))
