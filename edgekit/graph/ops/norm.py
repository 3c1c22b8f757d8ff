"""LAYER_NORM over the last axis: ``y = (x - mean) / sqrt(var + epsilon) * gamma + beta``.

TFLite has no such operator, so the integer form is edgekit's own. It is integer arithmetic from
end to end, so that a C kernel gives the same bytes.

**Integer specification.** Tensors: x int8 (scale s_x; its zero point cancels out), gamma int8 or
int16 (symmetric, per tensor, scale s_g), beta int32 with scale ``s_g * 2**-12``, output int8
(s_y, zp_y); C = size of the last axis, at most 65536.
Constants, computed ahead in double from the float32 scales widened (:func:`layer_norm_params`):

- ``E = round(epsilon * C*C / (s_x * s_x))``, half away from zero, at most 2**61 (int64)
- ``k`` = 8 for int16 gamma, 0 for int8 gamma
- ``(mult, shift) = QuantizeMultiplier(s_g * 2**(k-12) / s_y)``

For each row of C values (int64 unless said otherwise; ``>>`` on signed values is arithmetic):

1. ``S = sum(x[i])``, ``Q = sum(x[i]*x[i])`` (int32 each), ``W = C*Q - S*S + E`` (>= 0, < 2**62).
   If ``W == 0``, every ``n[i]`` of step 3 is 0: skip step 2.
2. ``t = clz64(W) & ~1`` (even count of leading zeros), ``r = floor(sqrt(W << t))`` (unsigned 64-bit
   radicand in [2**62, 2**64); r is an exact uint32 in [2**31, 2**32)), ``v = floor(2**62 / r)``
   (in [2**30, 2**31]), ``e = 50 - t/2`` (19 .. 49).
3. ``d = C*x[i] - S`` (int32); ``n[i] = (d * v + (1 << (e-1))) >> e``: the normalized value in
   1/4096 (int32, ``|n| <= 4096 * sqrt(C)``).
4. ``a = gamma[i] * n[i] + beta[i]``; if k > 0: ``a = (a + (1 << (k-1))) >> k``; saturate a to int32.
5. ``y[i] = clamp(MultiplyByQuantizedMultiplier(a, mult, shift) + zp_y, -128, 127)`` (TFLite's 32-bit
   double-rounding form).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np

from edgekit.errors import GraphError, UnsupportedError
from edgekit.graph import numerics as nx
from edgekit.graph.ir import Node, QuantParams, Tensor
from edgekit.graph.ops import Call, OpSpec, register
from edgekit.graph.ops.quant import Ins, Shape, first, per_tensor, saturate

FRACTION_BITS = 12  #: normalized values are in 2**-12
MAX_CHANNELS = 1 << 16


@dataclass(frozen=True)
class LayerNormParams:
    """Constants of the integer kernel; names as in the module's specification."""

    epsilon: int  #: E
    gamma_shift: int  #: k
    mult: int
    shift: int


def layer_norm_params(node: Node, ins: Ins, outs: Sequence[Tensor]) -> LayerNormParams:
    """The integer kernel's constants; UnsupportedError for tensors it does not take."""
    x, gamma, beta = (_given(ins, i) for i in range(3))
    out = outs[0]
    c = x.shape[-1]
    if (x.dtype, beta.dtype, out.dtype) != ("int8", "int32", "int8") or gamma.dtype not in (
        "int8",
        "int16",
    ):
        raise UnsupportedError(
            f"LAYER_NORM of {x.dtype} with {gamma.dtype} gamma and {beta.dtype} beta to "
            f"{out.dtype}; int8 with int8 or int16 gamma and int32 beta to int8 is known"
        )
    s_x, s_g, s_y = (per_tensor(t).s for t in (x, gamma, out))
    s_b = per_tensor(beta).s
    if c > MAX_CHANNELS or per_tensor(gamma).zp != 0 or per_tensor(beta).zp != 0:
        raise UnsupportedError(
            f"LAYER_NORM of {c} channels; at most {MAX_CHANNELS}, with gamma and beta symmetric"
        )
    if abs(s_b - s_g * 2.0**-FRACTION_BITS) > 1e-5 * s_b:
        raise UnsupportedError(
            f"LAYER_NORM beta '{beta.name}' has scale {s_b:g}; it must be gamma's times 2**-12"
        )
    k = 8 if gamma.dtype == "int16" else 0
    eps = float(node.attrs["epsilon"]) * (c * c) / (s_x * s_x)
    e = int(nx.round_half_away(np.asarray(min(eps, 2.0**61))))
    mult, shift = nx.quantize_multiplier(s_g * 2.0 ** (k - FRACTION_BITS) / s_y)
    return LayerNormParams(e, k, mult, shift)


def quantize_layer_norm(
    gamma: np.ndarray, beta: np.ndarray
) -> tuple[np.ndarray, QuantParams, np.ndarray, QuantParams]:
    """Float32 ``[C]`` gamma and beta -> int16 gamma and int32 beta as LAYER_NORM wants them."""
    top = float(np.max(np.abs(gamma), initial=0.0))
    floor = float(np.max(np.abs(beta), initial=0.0)) * 2.0**FRACTION_BITS / 2.0**30
    scale = max(top / 32767.0, floor, 1e-30)
    qg = QuantParams.per_tensor(scale, 0)
    qb = QuantParams.per_tensor(qg.s * 2.0**-FRACTION_BITS, 0)
    g = nx.round_half_away(np.asarray(gamma, np.float64) / qg.s)
    b = nx.round_half_away(np.asarray(beta, np.float64) / qb.s)
    return saturate(g, "int16"), qg, saturate(b, "int32"), qb


def _given(ins: Ins, index: int) -> Tensor:
    t = ins[index]
    if t is None:
        raise GraphError(f"input {index} is missing")
    return t


def _infer(node: Node, ins: Ins) -> list[Shape]:
    s = first(ins).shape
    for i in (1, 2):
        if _given(ins, i).shape != s[-1:]:
            raise GraphError(
                f"gamma and beta must have the {s[-1]} elements of the last axis; "
                f"input {i} has shape {list(_given(ins, i).shape)}"
            )
    return [s]


def _row_scale(w: int) -> tuple[int, int]:
    """Step 2: ``(v, e)`` of a positive W."""
    t = (64 - w.bit_length()) & ~1
    return (1 << 62) // isqrt(w << t), 50 - t // 2


def _integer(call: Call, x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    p = layer_norm_params(call.node, call.ins, call.outs)
    c = x.shape[-1]
    rows = x.reshape(-1, c).astype(np.int64)
    s = rows.sum(axis=1)
    w = c * (rows * rows).sum(axis=1) - s * s + p.epsilon
    scales = [_row_scale(v) if v else (0, 1) for v in w.tolist()]
    v = np.array([a for a, _ in scales], np.int64)[:, None]
    e = np.array([b for _, b in scales], np.int64)[:, None]
    d = c * rows - s[:, None]
    n = (d * v + (np.int64(1) << (e - 1))) >> e
    a = gamma.astype(np.int64) * n + beta.astype(np.int64)
    if p.gamma_shift:
        a = (a + (1 << (p.gamma_shift - 1))) >> p.gamma_shift
    a = np.clip(a, nx.INT32_MIN, nx.INT32_MAX)
    y = nx.multiply_by_quantized_multiplier(a, p.mult, p.shift) + per_tensor(call.outs[0]).zp
    return saturate(y, "int8").reshape(x.shape)


def _layer_norm(call: Call) -> list[np.ndarray]:
    x, gamma, beta = call.x
    assert x is not None and gamma is not None and beta is not None
    if not first(call.ins).is_float:
        return [_integer(call, x, gamma, beta)]
    wide = x.astype(np.float64)
    centered = wide - wide.mean(axis=-1, keepdims=True)
    var = (centered * centered).mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):  # a constant row without an epsilon
        y = centered / np.sqrt(var + float(call.node.attrs["epsilon"])) * gamma + beta
    return [y.astype(np.float32)]


def _macs(node: Node, ins: Ins, outs: Sequence[Tensor]) -> int:
    return 2 * outs[0].elements  # the squares and the scaling


register(
    OpSpec(
        "LAYER_NORM",
        _infer,
        _layer_norm,
        macs=_macs,
        batchable=lambda n, i, o: len(o[0].shape) > 1,
        n_inputs=(3, 3),
    )
)
