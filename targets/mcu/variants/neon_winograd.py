"""CONV_2D 3x3 with stride 1 for 64-bit Arm cores, by exact integer Winograd F(2x2, 3x3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from .dsp_common import const_data, reject_weights
from .dsp_conv import geometry, linear_layer
from .neon_common import (
    LANES,
    channel_consts,
    finish,
    initializer,
    padded,
    reject_common,
    reject_shifts,
    round_up,
)

MAX_IN_C = 1024  #: sums of 16-bit products and their transforms stay inside 32 bits
#: Twice the transform of the weights.
_G = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], np.int64)
_FIELDS = ("in_h", "in_w", "in_c", "out_h", "out_w", "out_c", "pad_top", "pad_left", "in_zp",
           "out_zp", "act_min", "act_max")  # fmt: skip


def scratch_bytes(out_w: int, in_c: int) -> int:
    """``ek_conv2d_s8_winograd_f2_neon_scratch_bytes``."""
    return 16 * round_up((out_w + 1) // 2, 4) * (2 * in_c + 4 * 16)


def pack(w: np.ndarray) -> np.ndarray:
    """``[O, 3, 3, I]`` weights as transformed int16 ``[position][O / 16][I][16]``."""
    u = np.einsum("ay,oyxi,bx->aboi", _G, np.asarray(w, np.int64), _G)
    u = np.pad(u.reshape(16, *u.shape[2:]), ((0, 0), (0, -w.shape[0] % LANES), (0, 0)))
    u = u.reshape(16, -1, LANES, u.shape[2]).transpose(0, 1, 3, 2)
    return np.ascontiguousarray(u).astype(np.int16).reshape(-1)


@dataclass(frozen=True)
class NeonWinograd:
    name: str = "conv2d_s8_winograd_f2_neon"
    op: str = "CONV_2D"
    rank: int = 45

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target) or reject_weights(node, graph)
        if reason is not None:
            return reason
        x, w, a = graph.tensor(node.inputs[0]), const_data(graph.tensor(node.inputs[1])), node.attrs
        if x.shape[0] != 1:
            return f"the batch is {x.shape[0]}, not 1"
        if w.shape[1:3] != (3, 3) or tuple(a["stride"]) != (1, 1) or tuple(a["dilation"]) != (1, 1):
            return "the kernel is not 3x3 with stride 1"
        c = x.shape[3]
        if w.shape[3] != c or c % 8 or c > MAX_IN_C:
            return (
                f"{c} input channels in {c // w.shape[3]} groups; multiples of 8 in one are taken"
            )
        return reject_shifts(linear_layer(node, graph, w.reshape(w.shape[0], -1)))

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        w = const_data(graph.tensor(node.inputs[1]))
        f = geometry(node, graph, (3, 3))
        layer = linear_layer(node, graph, w.reshape(w.shape[0], -1))
        fields: dict[str, object] = {k: f[k] for k in _FIELDS}
        fields["finish"] = finish(layer, f["act_min"], f["act_max"])
        model_bias = layer.bias + f["in_zp"] * layer.w.sum(axis=1)  # inputs are centred
        _, mult, shift = channel_consts(layer)
        return KernelCall(
            variant=self.name,
            sources=(f"neon/{self.name}.c",),
            header="ek_neon_winograd.h",
            params_type="ek_neon_winograd_params",
            params=initializer(fields),
            call=(
                f"ek_{self.name}(&{{p}}, {{in0}}, {{c.weights}}, {{c.bias}}, {{c.mult}}, "
                "{c.shift}, {out0}, {scratch});"
            ),
            consts=(
                ConstArray("weights", "int16_t", pack(w), align=16),
                ConstArray("bias", "int32_t", padded(model_bias), align=16),
                mult,
                shift,
            ),
            scratch_bytes=scratch_bytes(f["out_w"], f["in_c"]),
        )


VARIANTS = [NeonWinograd()]
