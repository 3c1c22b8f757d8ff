"""Portable kernels for int16 activations with int8 weights (TensorFlow Lite's 16x8 scheme)."""

from __future__ import annotations

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node, QuantParams

from ..contract import ConstArray, KernelCall
from .ref_common import RefVariant, constant, integer, lowered, output, product, required
from .ref_conv import _geometry, _weights
from .ref_elementwise import add_s16
from .ref_pool import pool_s16
from .ref_reduce import sum_s16

_HEADER = "ek_s16.h"
_CALL = "&{p}, {in0}, {c.weights}, {c.bias}, {c.mult}, {c.shift}, {out0}"
#: What the arithmetic of 64-bit sums is defined for.
_SUM_LIMIT = 1 << 47


def _bias(node: Node, graph: Graph, channels: int) -> tuple[np.ndarray, bool]:
    """The bias as int64, and whether there is one of 32 bits."""
    t = graph.ins(node)[2] if len(node.inputs) > 2 else None
    if t is None:
        return np.zeros(channels, np.int64), False
    if t.dtype not in ("int32", "int64"):
        raise UnsupportedError(f"the bias '{t.name}' is {t.dtype}; the kernel takes int32 or int64")
    return constant(t, "bias").reshape(-1).astype(np.int64), t.dtype == "int32"


def _consts(
    node: Node, graph: Graph, w: np.ndarray, qw: QuantParams, axis: int
) -> tuple[tuple[ConstArray, ...], bool]:
    """Weights, bias, multipliers, shifts; whether sums are of 64 bits."""
    qx, qy = integer(required(node, graph), "int16"), integer(output(node, graph), "int16")
    channels = w.shape[axis]
    bias, short = _bias(node, graph, channels)
    wide = not (short and node.type == "CONV_2D")
    others = tuple(i for i in range(w.ndim) if i != axis)
    worst = np.abs(w.astype(np.int64)).sum(axis=others) * 32768 + np.abs(bias.astype(np.float64))
    if worst.max(initial=0) >= _SUM_LIMIT:
        raise UnsupportedError("sums may leave the 48 bits that the multiplication takes")
    mult, shift = nm.conv_multipliers(qx.s, qw.scale, qy.s, channels)
    mult, shift = np.asarray(mult, np.int64), np.asarray(shift, np.int64)
    if wide:
        if np.any(shift > 14):
            raise UnsupportedError("a requantization multiplier of a 64-bit sum is 2**14 or more")
        mult = np.where(mult < 0x7FFF0000, (mult + (1 << 15)) >> 16, 0x7FFF)
        shift = 15 - shift
    return (
        ConstArray("weights", "int8_t", np.ascontiguousarray(w).reshape(-1)),
        ConstArray("bias", "int64_t", bias, align=8),
        ConstArray("mult", "int32_t", mult.astype(np.int32)),
        ConstArray("shift", "int8_t", shift.astype(np.int8), align=1),
    ), wide


def _conv(node: Node, graph: Graph) -> KernelCall:
    w, qw = _weights(node, graph)
    fields = _geometry(node, graph, (w.shape[1], w.shape[2]), "int16")
    consts, wide = _consts(node, graph, w, qw, 0)
    groups = required(node, graph).shape[3] // w.shape[3]
    return lowered(
        "conv2d_s16_ref",
        _HEADER,
        f"{_CALL}, {int(wide)}",
        "ek_conv_params",
        {**fields, "groups": groups},
        consts,
    )


def _depthwise(node: Node, graph: Graph) -> KernelCall:
    w, qw = _weights(node, graph)
    fields = _geometry(node, graph, (w.shape[1], w.shape[2]), "int16")
    consts, _ = _consts(node, graph, w, qw, 3)
    multiplier = w.shape[3] // required(node, graph).shape[3]
    return lowered(
        "depthwise_s16_ref",
        _HEADER,
        _CALL,
        "ek_depthwise_params",
        {**fields, "multiplier": multiplier},
        consts,
    )


def _fully_connected(node: Node, graph: Graph) -> KernelCall:
    w, qw = _weights(node, graph)
    x, y = required(node, graph), output(node, graph)
    consts, _ = _consts(node, graph, w, qw, 0)
    lo, hi = nm.activation_range(node.attrs["activation"], integer(y, "int16"), "int16")
    out_c, in_c = w.shape
    fields = {
        "rows": product(x.shape) // in_c,
        "in_c": in_c,
        "out_c": out_c,
        "out_zp": 0,
        "act_min": lo,
        "act_max": hi,
    }
    return lowered("fully_connected_s16_ref", _HEADER, _CALL, "ek_fc_params", fields, consts)


VARIANTS = [
    RefVariant("conv2d_s16_ref", "CONV_2D", _conv),
    RefVariant("depthwise_s16_ref", "DEPTHWISE_CONV_2D", _depthwise),
    RefVariant("fully_connected_s16_ref", "FULLY_CONNECTED", _fully_connected),
    RefVariant("add_s16_ref", "ADD", add_s16),
    RefVariant("sub_s16_ref", "SUB", add_s16),
    RefVariant("average_pool_s16_ref", "AVERAGE_POOL_2D", pool_s16),
    RefVariant("max_pool_s16_ref", "MAX_POOL_2D", pool_s16),
    RefVariant("sum_s16_ref", "MEAN", sum_s16),
    RefVariant("sum_s16_ref", "SUM", sum_s16),
]
