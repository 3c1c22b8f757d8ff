"""RESIZE_NEAREST_NEIGHBOR and RESIZE_BILINEAR over height and width.

Sources: TensorFlow Lite ``reference/resize_nearest_neighbor.h`` and ``reference/resize_bilinear.h``
(float coordinates in float32; the integer bilinear kernel in 1/1024 pixels).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.errors import GraphError, UnsupportedError
from edgekit.graph.ir import Node, Tensor
from edgekit.graph.ops import Call, OpSpec, register
from edgekit.graph.ops.quant import Ins, Shape, first, saturate

_F = np.float32


def _infer(node: Node, ins: Ins) -> list[Shape]:
    s = first(ins).shape
    if len(s) != 4:
        raise GraphError(f"the input has shape {list(s)}; it must be [N, H, W, C]")
    h, w = (int(v) for v in node.attrs["size"])
    if h < 1 or w < 1:
        raise GraphError(f"size {h} x {w} is empty")
    return [(s[0], h, w, s[3])]


def _flags(node: Node) -> tuple[bool, bool]:
    return bool(node.attr("align_corners", False)), bool(node.attr("half_pixel_centers", False))


def nearest_indices(n_in: int, n_out: int, align: bool, half: bool) -> np.ndarray:
    """Source index of each of ``n_out`` positions along one axis: int64 ``[n_out]``."""
    scale = _F(n_in - 1) / _F(n_out - 1) if align and n_out > 1 else _F(n_in) / _F(n_out)
    at = (np.arange(n_out, dtype=_F) + _F(0.5 if half else 0.0)) * scale
    # TfLiteRound of a value >= 0: half away from zero
    index = np.floor(at.astype(np.float64) + 0.5) if align else np.floor(at)
    return np.clip(index.astype(np.int64), 0, n_in - 1)


def _nearest(call: Call) -> list[np.ndarray]:
    x, (align, half) = call.x[0], _flags(call.node)
    assert x is not None
    h, w = (int(v) for v in call.node.attrs["size"])
    rows = nearest_indices(x.shape[1], h, align, half)
    cols = nearest_indices(x.shape[2], w, align, half)
    return [np.ascontiguousarray(x[:, rows][:, :, cols])]


def bilinear_integer(
    n_in: int, n_out: int, align: bool, half: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(lower, upper, fraction)`` of each position along one axis, int64 ``[n_out]`` each.

    The value is ``(lower * (1024 - fraction) + upper * fraction) / 1024``; where the position lies
    outside, lower and upper are one cell and the fraction may leave 0 .. 1024, which is harmless.
    """
    scale = (1024 * n_in + n_out // 2) // n_out
    if align and n_out > 1:
        scale = (1024 * (n_in - 1) + (n_out - 1) // 2) // (n_out - 1)
    at = np.arange(n_out, dtype=np.int64) * scale
    if half:
        at = at + scale // 2 - 512
    lower = np.clip(np.maximum(at, 0) // 1024, 0, n_in - 1)
    upper = np.minimum(np.maximum(at + 1023, 0) // 1024, n_in - 1)
    return lower, upper, at - 1024 * lower


def bilinear_float(
    n_in: int, n_out: int, align: bool, half: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(lower, upper, fraction)`` along one axis: int64, int64 and float32 ``[n_out]``."""
    scale = _F(n_in - 1) / _F(n_out - 1) if align and n_out > 1 else _F(n_in) / _F(n_out)
    at = np.arange(n_out, dtype=_F)
    at = (at + _F(0.5)) * scale - _F(0.5) if half else at * scale
    lower = np.maximum(np.floor(at).astype(np.int64), 0)
    upper = np.minimum(np.ceil(at).astype(np.int64), n_in - 1)
    lower = np.minimum(lower, n_in - 1)
    return lower, upper, (at - lower.astype(_F)).astype(_F)


def _bilinear(call: Call) -> list[np.ndarray]:
    x, t, (align, half) = call.x[0], first(call.ins), _flags(call.node)
    assert x is not None
    h, w = (int(v) for v in call.node.attrs["size"])
    if t.is_float:
        y0, y1, fy = bilinear_float(x.shape[1], h, align, half)
        x0, x1, fx = bilinear_float(x.shape[2], w, align, half)
        wide, one = x.astype(np.float64), 1.0
    elif t.dtype in ("int8", "uint8", "int16"):
        y0, y1, fy = bilinear_integer(x.shape[1], h, align, half)
        x0, x1, fx = bilinear_integer(x.shape[2], w, align, half)
        wide, one = x.astype(np.int64), 1024
    else:
        raise UnsupportedError(
            f"RESIZE_BILINEAR of {t.dtype}; float32, int8, uint8 and int16 are known"
        )
    fy, fx = fy[None, :, None, None], fx[None, None, :, None]
    rows = wide[:, y0] * (one - fy) + wide[:, y1] * fy
    y = rows[:, :, x0] * (one - fx) + rows[:, :, x1] * fx
    if t.is_float:
        return [y.astype(np.float32)]
    rounded = y + np.where(y > 0, 1 << 19, -(1 << 19))
    return [saturate(np.sign(rounded) * (np.abs(rounded) >> 20), t.dtype)]  # truncating division


def _bilinear_macs(node: Node, ins: Ins, outs: Sequence[Tensor]) -> int:
    return 4 * outs[0].elements


register(OpSpec("RESIZE_NEAREST_NEIGHBOR", _infer, _nearest))
register(OpSpec("RESIZE_BILINEAR", _infer, _bilinear, macs=_bilinear_macs))
