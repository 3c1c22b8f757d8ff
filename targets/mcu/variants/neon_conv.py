"""CONV_2D and FULLY_CONNECTED for 64-bit Arm cores, by three kinds of multiplication: ``mlal`` on
every core, ``dot`` with dot products, ``mmla`` with i8mm (and DEPTHWISE_CONV_2D of one input channel,
which is a convolution)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from .dsp_common import Linear, const_data, reject_weights
from .dsp_conv import geometry, linear_layer
from .neon_common import (
    channel_consts,
    finish,
    initializer,
    pack_mlal,
    pack_steps,
    reject_common,
    reject_shifts,
    round_up,
)

MAX_SEGMENTS = 64  #: ``EK_NEON_MAX_SEGMENTS``
SLACK = 16  #: ``EK_NEON_SLACK``
#: Kind -> the feature it needs, bytes of depth that it takes at a time, rank.
KINDS = {"mmla": ("i8mm", 8, 10), "dot": ("dotprod", 4, 20), "mlal": ("neon", 4, 40)}
_CALL = "{in0}, {c.weights}, {c.bias}, {c.mult}, {c.shift}, {out0}, {scratch});"


def ring_row(columns: int, in_c: int) -> int:
    """``ek_neon_ring_row``: bytes of a copied input row."""
    return round_up(columns * in_c + SLACK, 16)


def _weights(node: Node, graph: Graph) -> np.ndarray:
    """OHWI weights of either convolution as ``[O, kh, kw, I]``."""
    w = const_data(graph.tensor(node.inputs[1]))
    return w if node.type == "CONV_2D" else w.transpose(3, 1, 2, 0)


def _reject_weights(kind: str, layer: Linear) -> str | None:
    if kind == "mlal" and layer.w.size and layer.w.min() < -127:
        return "a weight is -128: two products of it do not fit 16 bits"
    return reject_shifts(layer)


def _pack(kind: str, w: np.ndarray) -> ConstArray:
    data = pack_mlal(w) if kind == "mlal" else pack_steps(w, KINDS[kind][1])
    return ConstArray("weights", "int8_t", data, align=16)


def leaves_input(f: dict[str, int]) -> bool:
    """Whether a window of ``geometry`` reaches beyond the input."""
    down = (f["out_h"] - 1) * f["stride_h"] + (f["kernel_h"] - 1) * f["dilation_h"]
    right = (f["out_w"] - 1) * f["stride_w"] + (f["kernel_w"] - 1) * f["dilation_w"]
    return bool(
        f["pad_top"]
        or f["pad_left"]
        or down - f["pad_top"] >= f["in_h"]
        or right - f["pad_left"] >= f["in_w"]
    )


@dataclass(frozen=True)
class NeonConv:
    kind: str
    op: str = "CONV_2D"

    @property
    def name(self) -> str:
        return f"conv2d_s8_{self.kind}_neon"

    @property
    def rank(self) -> int:
        return KINDS[self.kind][2]

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target, KINDS[self.kind][0])
        reason = reason or reject_weights(node, graph)
        if reason is not None:
            return reason
        x, w = graph.tensor(node.inputs[0]), _weights(node, graph)
        if x.shape[0] != 1:
            return f"the batch is {x.shape[0]}, not 1"
        if node.type == "DEPTHWISE_CONV_2D" and x.shape[3] != 1:
            return f"{x.shape[3]} input channels: only with one is a depthwise a plain convolution"
        if w.shape[3] != x.shape[3]:
            return f"{x.shape[3] // w.shape[3]} groups; one is implemented"
        segments = w.shape[1] * (1 if node.attrs["dilation"][1] == 1 else w.shape[2])
        if segments > MAX_SEGMENTS:
            return f"its window has {segments} segments; at most {MAX_SEGMENTS} are taken"
        return _reject_weights(self.kind, linear_layer(node, graph, w.reshape(w.shape[0], -1)))

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        w = _weights(node, graph)
        o, kh, kw, c = w.shape
        f = geometry(node, graph, (kh, kw))
        layer = linear_layer(node, graph, w.reshape(o, -1))
        segments = w.reshape(o, kh, kw * c) if f["dilation_w"] == 1 else w.reshape(o, kh * kw, c)
        real = segments.shape[2]
        depth = round_up(real, KINDS[self.kind][1])
        copy = depth != real or leaves_input(f)
        if (
            copy and self.kind == "mlal"
        ):  # a step of 4 costs as much as one of 8, and two as one of 16
            depth = (
                round_up(real, 16) if real % 16 > 8 else round_up(real, 8 if real % 8 > 4 else 4)
            )
        scratch = 0
        if copy:
            columns = (f["out_w"] - 1) * f["stride_w"] + (kw - 1) * f["dilation_w"] + 1
            scratch = ((kh - 1) * f["dilation_h"] + 1) * ring_row(columns, c)
        end = finish(layer, f["act_min"], f["act_max"])
        fields: dict[str, object] = {**f, "finish": end, "depth": depth, "copy": int(copy)}
        fields["rows"] = f"ek_neon_rows_{self.kind}"
        packed = np.pad(segments, ((0, 0), (0, 0), (0, depth - real)))
        return KernelCall(
            variant=self.name,
            sources=("neon/conv2d_s8_neon.c", f"neon/rows_s8_{self.kind}_neon.c"),
            header="ek_neon.h",
            params_type="ek_neon_conv_params",
            params=initializer(fields),
            call=f"ek_conv2d_s8_neon(&{{p}}, {_CALL}",
            consts=(_pack(self.kind, packed), *channel_consts(layer)),
            scratch_bytes=scratch,
            details={"copied": copy},
        )


@dataclass(frozen=True)
class NeonFullyConnected:
    kind: str
    op: str = "FULLY_CONNECTED"

    @property
    def name(self) -> str:
        return f"fully_connected_s8_{self.kind}_neon"

    @property
    def rank(self) -> int:
        return KINDS[self.kind][2]

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target, KINDS[self.kind][0])
        reason = reason or reject_weights(node, graph)
        if reason is not None:
            return reason
        return _reject_weights(self.kind, _dense(node, graph))

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        x, y = graph.tensor(node.inputs[0]), graph.outs(node)[0]
        layer = _dense(node, graph)
        o, k = layer.w.shape
        depth, rows = round_up(k, KINDS[self.kind][1]), x.elements // k
        lo, hi = nm.activation_range(node.attrs["activation"], y.quant, "int8")
        fields: dict[str, object] = {"rows": rows, "in_c": k, "out_c": o}
        fields["out_zp"] = layer.out_zp
        fields |= {"act_min": int(lo), "act_max": int(hi)}
        fields |= {"finish": finish(layer, int(lo), int(hi)), "depth": depth}
        packed = np.pad(layer.w, ((0, 0), (0, depth - k)))[:, None]
        return KernelCall(
            variant=self.name,
            sources=("neon/fully_connected_s8_neon.c", f"neon/rows_s8_{self.kind}_neon.c"),
            header="ek_neon.h",
            params_type="ek_neon_fc_params",
            params=initializer({**fields, "kernel": f"ek_neon_rows_{self.kind}"}),
            call=f"ek_fully_connected_s8_neon(&{{p}}, {_CALL}",
            consts=(_pack(self.kind, packed), *channel_consts(layer)),
            scratch_bytes=0 if depth == k else rows * depth,
        )


def _dense(node: Node, graph: Graph) -> Linear:
    w = const_data(graph.tensor(node.inputs[1]))
    return linear_layer(node, graph, w.reshape(w.shape[0], -1))


VARIANTS = [
    *(NeonConv(k) for k in KINDS),
    *(NeonConv(k, "DEPTHWISE_CONV_2D") for k in KINDS),
    *(NeonFullyConnected(k) for k in KINDS),
]
