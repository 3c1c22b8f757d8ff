"""CONV_2D for cores with the DSP extension (and DEPTHWISE_CONV_2D of one input channel, which is a
convolution): im2col of four output pixels, two channels at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from .dsp_common import (
    Linear,
    const_data,
    halfword_bias,
    initializer,
    pack,
    pack_wide,
    quant_const,
    reject_common,
    reject_weights,
)


def geometry(node: Node, graph: Graph, kernel: tuple[int, int]) -> dict[str, int]:
    """The fields that ``ek_conv_params`` and ``ek_depthwise_params`` share, kernel included."""
    x, y = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    assert x.quant is not None and y.quant is not None
    a = node.attrs
    pads, _ = nm.conv_padding(
        (x.shape[1], x.shape[2]), kernel, a["stride"], a["padding"], a["dilation"]
    )
    act_min, act_max = nm.activation_range(a["activation"], y.quant, "int8")
    return {
        "in_h": x.shape[1],
        "in_w": x.shape[2],
        "in_c": x.shape[3],
        "out_h": y.shape[1],
        "out_w": y.shape[2],
        "out_c": y.shape[3],
        "kernel_h": kernel[0],
        "kernel_w": kernel[1],
        "stride_h": a["stride"][0],
        "stride_w": a["stride"][1],
        "dilation_h": a["dilation"][0],
        "dilation_w": a["dilation"][1],
        "pad_top": pads[0],
        "pad_left": pads[2],
        "in_zp": x.quant.zp,
        "out_zp": y.quant.zp,
        "act_min": act_min,
        "act_max": act_max,
    }


def linear_layer(node: Node, graph: Graph, w: np.ndarray) -> Linear:
    """The layer with weights ``w`` ``[O, K]`` over raw input bytes; per-channel multipliers."""
    x, wt, y = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1]), graph.outs(node)[0]
    assert x.quant is not None and wt.quant is not None and y.quant is not None
    w = np.asarray(w, np.int64)
    bias = np.zeros(len(w), np.int64)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = const_data(graph.tensor(node.inputs[2])).reshape(-1).astype(np.int64)
    mult, shift = nm.conv_multipliers(x.quant.s, wt.quant.scale, y.quant.s, len(w))
    return Linear(w, bias - x.quant.zp * w.sum(axis=1), mult, shift, y.quant.zp)


def _weights(node: Node, graph: Graph) -> np.ndarray:
    """OHWI weights of either operator as ``[O, kh, kw, I]``."""
    w = const_data(graph.tensor(node.inputs[1]))
    return w if node.type == "CONV_2D" else w.transpose(3, 1, 2, 0)


def scratch_bytes(taps: int, in_c: int) -> int:
    """``ek_dsp_conv_scratch_bytes``: four columns, and a byte column where in_c is odd-sized."""
    blocks = -(-taps * in_c // 4)
    return blocks * (32 if in_c % 4 == 0 else 36)


def scratch_limit(target: Target) -> int | None:
    """Scratch a convolution may take: an eighth of the RAM, 8 KiB at least; None: RAM unknown."""
    ram = target.memory_size("ram", "tcm")
    return max(8192, ram // 8) if ram else None


@dataclass(frozen=True)
class DspConv:
    """A form of the DSP convolution: ``pairs`` takes any weights, ``halfword`` is faster, ``wide``
    (int16 weights) faster still at twice the flash."""

    op: str
    form: str
    rank: int

    @property
    def name(self) -> str:
        return f"conv2d_s8_{self.form}_dsp"

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target) or reject_weights(node, graph)
        if reason is not None:
            return reason
        x, w = graph.tensor(node.inputs[0]), _weights(node, graph)
        if x.shape[0] != 1:
            return f"the batch is {x.shape[0]}, not 1"
        if node.type == "DEPTHWISE_CONV_2D" and x.shape[3] != 1:
            return f"{x.shape[3]} input channels: only with one is a depthwise a plain convolution"
        if w.shape[3] != x.shape[3]:
            return f"{x.shape[3] // w.shape[3]} groups; one is implemented"
        scratch, limit = scratch_bytes(w.shape[1] * w.shape[2], w.shape[3]), scratch_limit(target)
        if limit is not None and scratch > limit:
            return f"its columns need {scratch} bytes of scratch; at most {limit} are spent on it"
        if self.form == "halfword":
            return linear_layer(node, graph, w.reshape(w.shape[0], -1)).halfword_reason()
        if self.form == "wide":
            return linear_layer(node, graph, w.reshape(w.shape[0], -1)).wide_reason()
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        w4 = _weights(node, graph)
        o, kh, kw, c = w4.shape
        layer = linear_layer(node, graph, w4.reshape(o, -1))
        half, wide = self.form == "halfword", self.form == "wide"
        bias = halfword_bias(layer) if half else 2 * layer.bias if wide else layer.bias
        if wide:
            weights = ConstArray("weights", "int16_t", pack_wide(layer.w))
            sources: tuple[str, ...] = ("dsp/conv_columns_s16_dsp.c", "dsp/mac_s16_2x4_dsp.c")
        else:
            weights = ConstArray("weights", "int8_t", pack(layer.w, 2, half))
            sources = (f"dsp/mac_s8_2x4_{self.form}_dsp.c",)
        return KernelCall(
            variant=self.name,
            sources=(f"dsp/{self.name}.c", *sources),
            header="ek_dsp.h",
            params_type="ek_conv_params",
            params=initializer({**geometry(node, graph, (kh, kw)), "groups": 1}),
            call=(
                f"ek_{self.name}(&{{p}}, {{in0}}, {{c.weights}}, "
                "(const ek_dsp_quant *)(const void *){c.quant}, {out0}, {scratch});"
            ),
            consts=(weights, quant_const(layer.quant(bias, 2))),
            scratch_bytes=scratch_bytes(kh * kw, c),
            details={"form": self.form, "fast_requant": int(layer.fast().sum()), "channels": o},
        )


VARIANTS = [
    DspConv(op, form, rank)
    for op in ("CONV_2D", "DEPTHWISE_CONV_2D")
    for form, rank in (("halfword", 20), ("pairs", 30), ("wide", 18))
]
