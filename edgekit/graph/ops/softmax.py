"""SOFTMAX over the last axis.

Integer form: TensorFlow Lite ``reference/softmax.h`` with ``PreprocessSoftmaxScaling`` (gemmlowp
fixed point: differences to the row maximum in Q5.26, exponentials in Q0.31, their sum in Q12.19),
for int8 and uint8 in, and int8, uint8 or int16 out (the output is taken to be in 1/256, or 1/65536
for int16, from the smallest integer on, whatever its declared scale).
"""

from __future__ import annotations

import math

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.graph import numerics as nx
from edgekit.graph.ir import Node, Tensor
from edgekit.graph.ops import Call, OpSpec, register
from edgekit.graph.ops.quant import first, per_tensor, same_shape, saturate

DIFF_BITS = 5  #: integer bits of the scaled differences
SUM_BITS = 12  #: integer bits of the sum of exponentials


def softmax_params(node: Node, src: Tensor) -> tuple[int, int, int]:
    """``(mult, left_shift, diff_min)`` of the integer kernel; diff_min <= 0.

    Differences (int32, to the row maximum) below diff_min give the smallest output; the others are
    ``SRDHM(diff << left_shift, mult)`` in Q5.26. UnsupportedError for a scale below about 2**-26.
    """
    beta = float(np.float32(node.attr("beta", 1.0)))
    real = min(beta * per_tensor(src).s * (1 << (31 - DIFF_BITS)), 2.0**31 - 1.0)
    if real <= 1.0:
        raise UnsupportedError(
            f"softmax of '{src.name}' with beta * scale {real / (1 << 26):g}; "
            "the integer form needs more than 2**-26"
        )
    mult, shift = nx.quantize_multiplier(real)
    radius = math.floor(((1 << DIFF_BITS) - 1) * (1 << (31 - DIFF_BITS)) / (1 << shift))
    return mult, shift, -radius


def _integer(call: Call, x: np.ndarray) -> np.ndarray:
    src, out = first(call.ins), call.outs[0]
    if src.dtype not in ("int8", "uint8") or out.dtype not in ("int8", "uint8", "int16"):
        raise UnsupportedError(
            f"SOFTMAX of {src.dtype} to {out.dtype}; int8 or uint8 to int8, uint8 or int16 is known"
        )
    mult, shift, diff_min = softmax_params(call.node, src)
    # exponentials of every possible difference -255 .. 0, by table: there are only 256
    diffs = np.arange(-255, 1, dtype=np.int64)
    scaled = nx.multiply_by_quantized_multiplier(diffs, mult, shift)
    table = np.where(
        diffs >= diff_min, nx.exp_on_negative_values(np.where(diffs >= diff_min, scaled, 0), 5), 0
    )
    wide = x.astype(np.int64)
    index = wide - wide.max(axis=-1, keepdims=True) + 255
    live = index >= diff_min + 255
    exps = table[index]
    total = nx.rounding_divide_by_pot(exps, SUM_BITS).sum(axis=-1, keepdims=True)
    total = nx.wrap32(total)
    headroom = 32 - _bit_length(total)  # count of leading zeros
    shifted = nx.wrap32((total << headroom) - (1 << 31))
    scale = nx.one_over_one_plus_x(shifted)
    bits = 16 if out.dtype == "int16" else 8
    low = nx.LIMITS[out.dtype][0]
    exponent = SUM_BITS - headroom + 31 - bits
    product = nx.saturating_rounding_doubling_high_mul(scale, exps)
    y = nx.rounding_divide_by_pot(product, exponent) + low
    return saturate(np.where(live, y, low), out.dtype)


def _bit_length(x: np.ndarray) -> np.ndarray:
    """Bits of positive integers below 2**53 (exact: frexp of a double that holds them)."""
    return np.frexp(x.astype(np.float64))[1].astype(np.int64)


def _softmax(call: Call) -> list[np.ndarray]:
    x = call.x[0]
    assert x is not None
    if not first(call.ins).is_float:
        return [_integer(call, x)]
    wide = x.astype(np.float64)
    z = np.exp((wide - wide.max(axis=-1, keepdims=True)) * float(call.node.attr("beta", 1.0)))
    return [(z / z.sum(axis=-1, keepdims=True)).astype(np.float32)]


register(OpSpec("SOFTMAX", same_shape, _softmax, batchable=lambda n, i, o: len(o[0].shape) > 1))
