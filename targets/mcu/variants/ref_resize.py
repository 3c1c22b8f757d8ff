"""Portable RESIZE_NEAREST_NEIGHBOR (any dtype) and RESIZE_BILINEAR (int8); positions by table."""

from __future__ import annotations

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.graph.ir import Graph, Node
from edgekit.graph.ops.resize import bilinear_integer, nearest_indices

from ..contract import ConstArray, KernelCall
from .ref_common import RefVariant, int8, lowered, nhwc, output, required

_CALL = "&{p}, {in0}, {c.rows}, {c.columns}, {out0}"

#: |1024 - f| + |f| of the vertical times that of the horizontal weights, times 128, fits 31 bits.
_MAX_WEIGHTS = 4000


def _int16(name: str, values: np.ndarray) -> ConstArray:
    if values.size and (values.min() < -32768 or values.max() > 32767):
        raise UnsupportedError("positions beyond 32767; the kernel's tables are int16")
    return ConstArray(name, "int16_t", values.astype(np.int16).reshape(-1))


def _nearest(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    if x.dtype != y.dtype:
        raise UnsupportedError(f"'{x.name}' is {x.dtype} and '{y.name}' is {y.dtype}")
    (in_h, in_w, channels), (out_h, out_w, _) = nhwc(x), nhwc(y)
    align, half = node.attr("align_corners", False), node.attr("half_pixel_centers", False)
    pixel = channels * np.dtype(x.dtype).itemsize
    return lowered(
        "resize_nearest_ref",
        "ek_resize.h",
        _CALL,
        "ek_resize_params",
        {"in_w": in_w, "out_h": out_h, "out_w": out_w, "pixel": pixel},
        (
            _int16("rows", nearest_indices(in_h, out_h, align, half)),
            _int16("columns", nearest_indices(in_w, out_w, align, half)),
        ),
    )


def _positions(name: str, n_in: int, n_out: int, align: bool, half: bool) -> ConstArray:
    table = np.stack(bilinear_integer(n_in, n_out, align, half), axis=1)
    weights = np.abs(1024 - table[:, 2]) + np.abs(table[:, 2])
    if weights.max() > _MAX_WEIGHTS:
        raise UnsupportedError(f"{n_in} to {n_out} positions extrapolate too far for 32-bit sums")
    return _int16(name, table)


def _bilinear(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    int8(x)
    int8(y)
    (in_h, in_w, channels), (out_h, out_w, _) = nhwc(x), nhwc(y)
    align, half = node.attr("align_corners", False), node.attr("half_pixel_centers", False)
    return lowered(
        "resize_bilinear_s8_ref",
        "ek_resize.h",
        _CALL,
        "ek_resize_params",
        {"in_w": in_w, "out_h": out_h, "out_w": out_w, "pixel": channels},
        (
            _positions("rows", in_h, out_h, align, half),
            _positions("columns", in_w, out_w, align, half),
        ),
    )


VARIANTS = [
    RefVariant("resize_nearest_ref", "RESIZE_NEAREST_NEIGHBOR", _nearest),
    RefVariant("resize_bilinear_s8_ref", "RESIZE_BILINEAR", _bilinear),
]
