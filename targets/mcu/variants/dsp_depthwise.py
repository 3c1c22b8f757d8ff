"""DEPTHWISE_CONV_2D with multiplier 1 for cores with the DSP extension: taps in pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from .dsp_common import (
    const_data,
    initializer,
    quant_const,
    reject_common,
    reject_weights,
)
from .dsp_conv import geometry, linear_layer


def pack_taps(w: np.ndarray) -> np.ndarray:
    """``[C, taps]`` as uint32 ``[C / 4][taps / 2][4]``: a pair of taps of one channel a word."""
    w = np.pad(np.asarray(w, np.int64), ((0, -w.shape[0] % 4), (0, w.shape[1] % 2)))
    low, high = w[:, 0::2] & 0xFFFF, w[:, 1::2] & 0xFFFF
    words = (low | (high << 16)).astype(np.uint32)  # [C, pairs]
    c, pairs = words.shape
    return words.reshape(c // 4, 4, pairs).transpose(0, 2, 1).reshape(-1)


@dataclass(frozen=True)
class DspDepthwise:
    name: str = "depthwise_s8_pairs_dsp"
    op: str = "DEPTHWISE_CONV_2D"
    rank: int = 40

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target) or reject_weights(node, graph)
        if reason is not None:
            return reason
        x, w = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1])
        if x.shape[0] != 1:
            return f"the batch is {x.shape[0]}, not 1"
        if w.shape[3] != x.shape[3]:
            return f"the channel multiplier is {w.shape[3] // x.shape[3]}; 1 is implemented"
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        w = const_data(graph.tensor(node.inputs[1]))
        _, kh, kw, c = w.shape
        taps = w.reshape(kh * kw, c).T
        layer = linear_layer(node, graph, taps)
        fields = geometry(node, graph, (kh, kw))
        fields["multiplier"] = 1
        return KernelCall(
            variant=self.name,
            sources=(f"dsp/{self.name}.c", "dsp/depthwise_pixel_s8_pairs_dsp.c"),
            header="ek_dsp.h",
            params_type="ek_depthwise_params",
            params=initializer(fields),
            call=(
                f"ek_{self.name}(&{{p}}, {{in0}}, {{c.weights}}, "
                "(const ek_dsp_quant *)(const void *){c.quant}, {out0}, {scratch});"
            ),
            consts=(
                ConstArray("weights", "uint32_t", pack_taps(taps)),
                quant_const(layer.quant(layer.bias, 4)),
            ),
            scratch_bytes=-(-kh * kw // 2) * 16 + -(-c // 4) * 4,
            details={"fast_requant": int(layer.fast().sum()), "channels": c},
        )


VARIANTS = [DspDepthwise()]
