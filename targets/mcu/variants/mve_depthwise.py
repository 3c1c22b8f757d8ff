"""DEPTHWISE_CONV_2D up to 3x3 with multiplier 1 for cores with Helium: taps in one vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from .dsp_common import Linear, const_data, reject_weights, wrap32
from .dsp_conv import linear_layer
from .mve_common import LANES, finish, initializer, reject_common, reject_shifts, round_up

_GROUPS = {1: (2, 4), 2: (1, 8)}  #: stride -> outputs of a group along u and v


def pack_planar(layer: Linear, taps: np.ndarray) -> np.ndarray:
    """The stream of ``ek_mve_planar`` as int32. taps: int8 ``[C, ku, kv]``, at most 3 by 3."""
    c, ku, kv = taps.shape
    words = np.zeros((c, 5, 4), np.int8)
    words[:, 1 : 1 + kv, :ku] = taps.transpose(0, 2, 1)
    head = np.stack([wrap32(layer.bias), layer.mult, layer.shift & 255], axis=1).astype(np.int32)
    return np.concatenate([head, words.reshape(c, 20).view(np.int32)], axis=1).reshape(-1)


def _layer(node: Node, graph: Graph) -> tuple[Linear, np.ndarray]:
    w = const_data(graph.tensor(node.inputs[1]))
    taps = w[0].transpose(2, 0, 1)
    return linear_layer(node, graph, taps.reshape(len(taps), -1)), taps


def _axes(node: Node, graph: Graph) -> tuple[int, int] | None:
    """(u, v): 0 the height, 1 the width, whichever wastes fewer outputs; None where neither does."""
    y = graph.outs(node)[0]
    stride = node.attrs["stride"][0]
    best = None
    for u, v in ((0, 1), (1, 0)):
        out_u, out_v = y.shape[1 + u], y.shape[1 + v]
        row = y.shape[3] * (y.shape[2] if u == 0 else 1)
        pixel = y.shape[3] * (1 if u == 0 else y.shape[2])
        du, dv = _GROUPS[stride]
        if out_v < dv or (out_u < du and out_v < 8) or row + 7 * pixel > 65535:
            continue
        lines, odd = divmod(out_u, du)
        cost = lines * du * round_up(out_v, dv) + odd * round_up(out_v, 8)
        if best is None or cost < best[0]:
            best = (cost, u, v)
    return None if best is None else best[1:]


@dataclass(frozen=True)
class MveDepthwise:
    name: str = "depthwise_s8_planar_mve"
    op: str = "DEPTHWISE_CONV_2D"
    rank: int = 5

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target) or reject_weights(node, graph)
        if reason is not None:
            return reason
        x, w, a = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1]), node.attrs
        if x.shape[0] != 1:
            return f"the batch is {x.shape[0]}, not 1"
        if w.shape[3] != x.shape[3]:
            return f"the channel multiplier is {w.shape[3] // x.shape[3]}; 1 is implemented"
        if max(w.shape[1:3]) > 3:
            return f"the kernel is {w.shape[1]}x{w.shape[2]}; up to 3x3 is implemented"
        if tuple(a["dilation"]) != (1, 1) or tuple(a["stride"]) not in ((1, 1), (2, 2)):
            return "only strides of 1 or 2 without dilation are implemented"
        if _axes(node, graph) is None:
            return "the output is too small, or its rows are too long"
        return reject_shifts(_layer(node, graph)[0])

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        x, y, a = graph.tensor(node.inputs[0]), graph.outs(node)[0], node.attrs
        assert x.quant is not None
        layer, taps = _layer(node, graph)
        axes = _axes(node, graph)
        assert axes is not None
        u, v = axes
        _, kh, kw = taps.shape
        pads, _ = nm.conv_padding((x.shape[1], x.shape[2]), (kh, kw), a["stride"], a["padding"])
        lo, hi = nm.activation_range(a["activation"], y.quant, "int8")
        c, stride = x.shape[3], a["stride"][0]
        in_steps, out_steps = (x.shape[2] * c, c), (y.shape[2] * c, c)
        form = finish(layer.out_zp, int(lo), int(hi))
        fields = {
            "in_u": x.shape[1 + u],
            "in_v": x.shape[1 + v],
            "out_u": y.shape[1 + u],
            "out_v": y.shape[1 + v],
            "in_su": in_steps[u],
            "in_sv": in_steps[v],
            "out_su": out_steps[u],
            "out_sv": out_steps[v],
            "pad_u": pads[2 * u],
            "pad_v": pads[2 * v],
            "stride": stride,
            "channels": c,
            "in_zp": x.quant.zp,
            "out_zp": layer.out_zp,
            "lo": lo,
            "hi": hi,
            "two": f"ek_mve_planar_tile_{form}" if stride == 1 else "0",
            "one": f"ek_mve_planar_line{stride}_{form}" if y.shape[1 + v] >= 8 else "0",
        }
        columns = (y.shape[1 + v] - 1) * stride + 4
        return KernelCall(
            variant=self.name,
            sources=(f"mve/{self.name}.c", "mve/layout_s8_mve.c"),
            header="ek_mve.h",
            params_type="ek_mve_depthwise_params",
            params=initializer(fields),
            call=f"ek_{self.name}(&{{p}}, {{in0}}, {{c.weights}}, {{out0}}, {{scratch}});",
            consts=(
                ConstArray(
                    "weights",
                    "int32_t",
                    pack_planar(layer, taps if u == 0 else taps.transpose(0, 2, 1)),
                ),
            ),
            scratch_bytes=4 * columns * round_up(c, LANES) + 16,
            details={"finish": form, "u": "height" if u == 0 else "width"},
        )


VARIANTS = [MveDepthwise()]
