"""FULLY_CONNECTED for cores with the DSP extension: eight outputs at a time, no scratch.

A CONV_2D whose kernel covers its whole input, unpadded, is one too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from .dsp_common import (
    GENERAL,
    Linear,
    const_data,
    halfword_bias,
    initializer,
    pack,
    quant_const,
    reject_common,
    reject_weights,
    wrap32,
)
from .dsp_conv import linear_layer


def layer_of(node: Node, graph: Graph) -> Linear:
    """The layer, a row of weights an output."""
    w = const_data(graph.tensor(node.inputs[1]))
    return linear_layer(node, graph, w.reshape(w.shape[0], -1))


def covers_input(node: Node, graph: Graph) -> str | None:
    """The reason a CONV_2D is not a fully connected layer, or None."""
    x, w = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1])
    if x.shape[0] != 1 or w.shape[1:] != x.shape[1:]:
        return "the kernel does not cover the whole input"
    hw, a = (x.shape[1], x.shape[2]), node.attrs
    pads, out = nm.conv_padding(hw, hw, a["stride"], a["padding"], a["dilation"])
    if any(pads) or out != (1, 1):
        return "the input is padded"
    return None


def _quant(layer: Linear, per_tensor: bool) -> np.ndarray:
    """The requantization table: one entry for the layer, or one an output. Biases stay out of it:
    a layer of many outputs has one multiplier far more often than not."""
    words = layer.quant(np.zeros(len(layer.w), np.int64), 1).reshape(-1, 4)
    if not per_tensor:
        return words.reshape(-1)
    if layer.fast().all():
        return words[0]
    return wrap32(np.array([int(layer.mult[0]), 0, GENERAL + int(layer.shift[0]), 0]))


@dataclass(frozen=True)
class DspFullyConnected:
    """A form of the kernel: ``pairs`` takes any weights, ``halfword`` is faster."""

    op: str
    form: str
    rank: int

    @property
    def name(self) -> str:
        return f"fully_connected_s8_{self.form}_dsp"

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target) or reject_weights(node, graph)
        if reason is not None:
            return reason
        if node.type == "CONV_2D":
            reason = covers_input(node, graph)
            if reason is not None:
                return reason
        if self.form == "halfword":
            return layer_of(node, graph).halfword_reason()
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        x, w, y = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1]), graph.outs(node)[0]
        assert w.quant is not None
        layer = layer_of(node, graph)
        half = self.form == "halfword"
        bias = halfword_bias(layer) if half else wrap32(layer.bias)
        per_tensor = w.quant.scale.size == 1
        o, k = layer.w.shape
        act_min, act_max = nm.activation_range(node.attrs["activation"], y.quant, "int8")
        fc = initializer(
            {
                "rows": x.elements // k,
                "in_c": k,
                "out_c": o,
                "out_zp": layer.out_zp,
                "act_min": act_min,
                "act_max": act_max,
            }
        )
        return KernelCall(
            variant=self.name,
            sources=(f"dsp/{self.name}.c", f"dsp/mac_s8_8x1_{self.form}_dsp.c"),
            header="ek_dsp.h",
            params_type="ek_fc_dsp_params",
            params=f"{{ .fc = {fc}, .quant_step = {int(not per_tensor)} }}",
            call=(
                f"ek_{self.name}(&{{p}}, {{in0}}, {{c.weights}}, {{c.bias}}, "
                "(const ek_dsp_quant *)(const void *){c.quant}, {out0}, {scratch});"
            ),
            consts=(
                ConstArray("weights", "int8_t", pack(layer.w, 8, half)),
                ConstArray("bias", "int32_t", np.pad(bias, (0, -o % 8))),
                quant_const(_quant(layer, per_tensor)),
            ),
            scratch_bytes=0,
            details={"form": self.form, "fast_requant": bool(layer.fast().all())},
        )


VARIANTS = [
    DspFullyConnected("FULLY_CONNECTED", "halfword", 20),
    DspFullyConnected("FULLY_CONNECTED", "pairs", 30),
    DspFullyConnected("CONV_2D", "halfword", 10),
    DspFullyConnected("CONV_2D", "pairs", 25),
]
