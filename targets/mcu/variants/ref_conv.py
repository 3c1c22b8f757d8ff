"""Portable CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV, FULLY_CONNECTED."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node, QuantParams

from ..contract import ConstArray, KernelCall
from .ref_common import (
    RefVariant,
    constant,
    int8,
    integer,
    lowered,
    nhwc,
    output,
    product,
    required,
    wrap32,
)

_CALL = (
    "&{p}, {in0}, {c.weights}, {c.bias}, {c.mult}, {c.shift}, {out0}, {scratch}"  # of all of them
)


def _weights(node: Node, graph: Graph, symmetric: bool = True) -> tuple[np.ndarray, QuantParams]:
    """Constant int8 weights and their quantization."""
    t = required(node, graph, 1)
    w = constant(t, "weights")
    if t.dtype != "int8" or t.quant is None:
        raise UnsupportedError(f"the weights '{t.name}' are {t.dtype}; the kernel takes int8")
    if symmetric and np.any(t.quant.zero_point):
        raise UnsupportedError(f"the weights '{t.name}' have a zero point; it must be 0")
    return w, t.quant


def _bias(node: Node, graph: Graph, channels: int) -> np.ndarray:
    """The bias as int64 ``[channels]``; zeros where there is none."""
    t = graph.ins(node)[2] if len(node.inputs) > 2 else None
    if t is None:
        return np.zeros(channels, np.int64)
    if t.dtype != "int32":
        raise UnsupportedError(f"the bias '{t.name}' is {t.dtype}; the kernel takes int32")
    return constant(t, "bias").reshape(-1).astype(np.int64)


def _consts(
    weights: np.ndarray, bias: np.ndarray, mult: np.ndarray, shift: np.ndarray
) -> tuple[ConstArray, ...]:
    return (
        ConstArray("weights", "int8_t", np.ascontiguousarray(weights).reshape(-1)),
        ConstArray("bias", "int32_t", wrap32(bias)),
        ConstArray("mult", "int32_t", np.asarray(mult, np.int32)),
        ConstArray("shift", "int8_t", np.asarray(shift, np.int8), align=1),
    )


def _geometry(
    node: Node, graph: Graph, kernel: tuple[int, int], dtype: str = "int8"
) -> dict[str, object]:
    """The parameters that all three convolutions share, in the order of ``ek_conv.h``."""
    x, y = required(node, graph), output(node, graph)
    qx, qy = integer(x, dtype), integer(y, dtype)
    (in_h, in_w, in_c), (out_h, out_w, out_c) = nhwc(x), nhwc(y)
    stride, dilation = node.attrs["stride"], node.attr("dilation", (1, 1))
    transposed = node.type == "TRANSPOSE_CONV"
    over = (out_h, out_w) if transposed else (in_h, in_w)
    pads, _ = nm.conv_padding(over, kernel, stride, node.attrs["padding"], dilation)
    lo, hi = nm.activation_range(node.attrs["activation"], qy, dtype)
    return {
        "in_h": in_h,
        "in_w": in_w,
        "in_c": in_c,
        "out_h": out_h,
        "out_w": out_w,
        "out_c": out_c,
        "kernel_h": kernel[0],
        "kernel_w": kernel[1],
        "stride_h": stride[0],
        "stride_w": stride[1],
        "dilation_h": dilation[0],
        "dilation_w": dilation[1],
        "pad_top": pads[0],
        "pad_left": pads[2],
        "in_zp": qx.zp,
        "out_zp": qy.zp,
        "act_min": lo,
        "act_max": hi,
    }


def _conv(node: Node, graph: Graph, name: str) -> KernelCall:
    w, qw = _weights(node, graph)
    o, kh, kw, per_group = w.shape
    fields = _geometry(node, graph, (kh, kw))
    qx, qy = int8(required(node, graph)), int8(output(node, graph))
    groups = required(node, graph).shape[3] // per_group
    bias = _bias(node, graph, o) - qx.zp * w.astype(np.int64).sum(axis=(1, 2, 3))
    mult, shift = nm.conv_multipliers(qx.s, qw.scale, qy.s, o)
    return lowered(
        name,
        "ek_conv.h",
        _CALL,
        "ek_conv_params",
        {**fields, "groups": groups},
        _consts(w, bias, mult, shift),
    )


def _direct(node: Node, graph: Graph) -> KernelCall:
    return _conv(node, graph, "conv2d_s8_direct_ref")


def _im2col(node: Node, graph: Graph) -> KernelCall:
    call = _conv(node, graph, "conv2d_s8_im2col_ref")
    w, a = constant(required(node, graph, 1), "weights"), node.attrs
    (in_h, in_w, _), (out_h, out_w, _) = nhwc(required(node, graph)), nhwc(output(node, graph))
    pads, _ = nm.conv_padding((in_h, in_w), w.shape[1:3], a["stride"], a["padding"], a["dilation"])
    pointwise = (
        w.shape[1:3] == (1, 1)
        and w.shape[3] == required(node, graph).shape[3]
        and (pads[0], pads[2]) == (0, 0)
        and (out_h - 1) * a["stride"][0] < in_h
        and (out_w - 1) * a["stride"][1] < in_w
    )
    return replace(call, scratch_bytes=0 if pointwise else 2 * (w.size // w.shape[0]))


def _depthwise(node: Node, graph: Graph) -> KernelCall:
    w, qw = _weights(node, graph)
    _, kh, kw, o = w.shape
    fields = _geometry(node, graph, (kh, kw))
    x = required(node, graph)
    qx, qy = int8(x), int8(output(node, graph))
    bias = _bias(node, graph, o)
    folded = wrap32(bias - qx.zp * w.astype(np.int64).sum(axis=(0, 1, 2)))
    mult, shift = nm.conv_multipliers(qx.s, qw.scale, qy.s, o)
    a = node.attrs
    pads, _ = nm.conv_padding(
        (x.shape[1], x.shape[2]), (kh, kw), a["stride"], a["padding"], a["dilation"]
    )
    consts, border = _consts(w, folded, mult, shift), "bias"
    if any(pads) and not np.array_equal(folded, wrap32(bias)):
        border = "border_bias"
        consts = (*consts, ConstArray(border, "int32_t", wrap32(bias)))
    return lowered(
        "depthwise_s8_direct_ref",
        "ek_conv.h",
        f"&{{p}}, {{in0}}, {{c.weights}}, {{c.bias}}, {{c.{border}}}, {{c.mult}}, {{c.shift}}, "
        "{out0}, {scratch}",
        "ek_depthwise_params",
        {**fields, "multiplier": o // x.shape[3]},
        consts,
    )


def _transpose_conv(node: Node, graph: Graph) -> KernelCall:
    w, qw = _weights(node, graph)
    o, kh, kw, _ = w.shape
    fields = _geometry(node, graph, (kh, kw))
    qx, qy = int8(required(node, graph)), int8(output(node, graph))
    mult, shift = nm.conv_multipliers(qx.s, qw.scale, qy.s, o)
    return lowered(
        "transpose_conv_s8_gather_ref",
        "ek_conv.h",
        _CALL,
        "ek_conv_params",
        {**fields, "groups": 1},
        _consts(w, _bias(node, graph, o), mult, shift),
    )


def _dense(
    node: Node, graph: Graph, w: np.ndarray, qw: QuantParams
) -> tuple[dict[str, object], tuple[ConstArray, ...]]:
    """Parameters and constants of a fully connected layer."""
    x, y = required(node, graph), output(node, graph)
    qx, qy = int8(x), int8(y)
    out_c, in_c = w.shape
    centred = w.astype(np.int64) - (qw.zp if qw.zero_point.size == 1 else 0)
    bias = _bias(node, graph, out_c) - qx.zp * centred.sum(axis=1)
    mult, shift = nm.conv_multipliers(qx.s, qw.scale, qy.s, out_c)
    lo, hi = nm.activation_range(node.attrs["activation"], qy, "int8")
    fields = {
        "rows": product(x.shape) // in_c,
        "in_c": in_c,
        "out_c": out_c,
        "out_zp": qy.zp,
        "act_min": lo,
        "act_max": hi,
    }
    return fields, _consts(w, bias, mult, shift)


def _fully_connected(node: Node, graph: Graph) -> KernelCall:
    fields, consts = _dense(node, graph, *_weights(node, graph))
    name = "fully_connected_s8_ref"
    return lowered(name, "ek_conv.h", _CALL, "ek_fc_params", fields, consts)


def _asymmetric(node: Node, graph: Graph) -> KernelCall:
    w, qw = _weights(node, graph, symmetric=False)
    if qw.zero_point.size != 1:
        raise UnsupportedError("the weights have a zero point for each channel; one is taken")
    fields, consts = _dense(node, graph, w, qw)
    return lowered(
        "fully_connected_s8_asymmetric_ref",
        "ek_conv.h",
        f"&{{p}}, {{in0}}, {{c.weights}}, {qw.zp}, {{c.bias}}, {{c.mult}}, {{c.shift}}, {{out0}}",
        "ek_fc_params",
        fields,
        consts,
    )


VARIANTS = [
    RefVariant("conv2d_s8_im2col_ref", "CONV_2D", _im2col, rank=95),
    RefVariant("conv2d_s8_direct_ref", "CONV_2D", _direct),
    RefVariant("depthwise_s8_direct_ref", "DEPTHWISE_CONV_2D", _depthwise),
    RefVariant("transpose_conv_s8_gather_ref", "TRANSPOSE_CONV", _transpose_conv),
    RefVariant("fully_connected_s8_ref", "FULLY_CONNECTED", _fully_connected, rank=95),
    RefVariant("fully_connected_s8_asymmetric_ref", "FULLY_CONNECTED", _asymmetric),
]
