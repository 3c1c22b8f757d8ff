"""FULLY_CONNECTED with one multiplier for cores with Helium: eight outputs at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from .dsp_common import Linear, const_data, reject_weights, wrap32
from .dsp_conv import linear_layer
from .mve_common import (
    LANES,
    blocks_of,
    finish,
    initializer,
    reject_common,
    reject_shifts,
    round_up,
)

_LEAST_OUTPUTS = 4
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def _layer(node: Node, graph: Graph) -> Linear:
    w = const_data(graph.tensor(node.inputs[1]))
    return linear_layer(node, graph, w.reshape(w.shape[0], -1))


def _pack(layer: Linear) -> np.ndarray:
    """Biases and weights as ``ek_mve.h`` wants them, as int32."""
    o = round_up(len(layer.w), 8)
    bias = np.zeros(o, np.int32)
    bias[: len(layer.bias)] = wrap32(layer.bias)
    w = np.pad(layer.w, ((0, o - len(layer.w)), (0, 0)))
    steps = np.stack(blocks_of(w), axis=1)  # [O, blocks, 16]
    parts = []
    for first in range(0, o, 8):
        outputs = [first + i for i in _ORDER]
        parts.append(bias[outputs])
        parts.append(
            np.ascontiguousarray(steps[outputs].transpose(1, 0, 2)).reshape(-1).view(np.int32)
        )
    return np.concatenate(parts)


@dataclass(frozen=True)
class MveFullyConnected:
    name: str = "fully_connected_s8_mve"
    op: str = "FULLY_CONNECTED"
    rank: int = 5

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target) or reject_weights(node, graph)
        if reason is not None:
            return reason
        layer = _layer(node, graph)
        if len(layer.w) < _LEAST_OUTPUTS:
            return f"{len(layer.w)} outputs do not fill half of a group of eight"
        if np.any(layer.mult != layer.mult[0]) or np.any(layer.shift != layer.shift[0]):
            return "outputs have multipliers of their own"
        return reject_shifts(layer)

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        x, y = graph.tensor(node.inputs[0]), graph.outs(node)[0]
        layer = _layer(node, graph)
        o, k = layer.w.shape
        lo, hi = nm.activation_range(node.attrs["activation"], y.quant, "int8")
        return KernelCall(
            variant=self.name,
            sources=(f"mve/{self.name}.c", "mve/layout_s8_mve.c"),
            header="ek_mve.h",
            params_type="ek_mve_fc_params",
            params=initializer(
                {
                    "mult": int(layer.mult[0]),
                    "shift": int(layer.shift[0]),
                    "zp": layer.out_zp,
                    "lo": lo,
                    "hi": hi,
                    "rows": x.elements // k,
                    "in_c": k,
                    "out_c": o,
                    "dense": f"ek_mve_dense_{finish(layer.out_zp, int(lo), int(hi))}",
                }
            ),
            call=f"ek_{self.name}(&{{p}}, {{in0}}, {{c.weights}}, {{out0}}, {{scratch}});",
            consts=(ConstArray("weights", "int32_t", _pack(layer)),),
            scratch_bytes=round_up(k, LANES) if k % LANES else 0,
        )


VARIANTS = [MveFullyConnected()]
