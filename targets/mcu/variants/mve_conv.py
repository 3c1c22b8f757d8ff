"""CONV_2D for cores with Helium (and DEPTHWISE_CONV_2D of one input channel, which is a convolution)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from .dsp_common import Linear, const_data, reject_weights
from .dsp_conv import linear_layer
from .mve_common import (
    LANES,
    blocks_of,
    finish,
    initializer,
    reject_common,
    reject_shifts,
    round_up,
    stream,
)

_FIELDS = ("in_h", "in_w", "in_c", "out_h", "out_w", "out_c", "kernel_h", "kernel_w")
_STRIP_ROWS = 8  #: output rows for which input rows are made at a time
_SHORT_BLOCKS = 8
_FEW_MACS = 16384  #: below this, fewer than four output pixels are not worth columns
_COLUMN_BYTES = 8192  #: columns of several output rows are made up to this size


@dataclass(frozen=True)
class _Layer:
    """A convolution: OHWI weights, its linear form, and the numbers of ``ek_mve_conv_params``."""

    w: np.ndarray
    linear: Linear
    fields: dict[str, int]
    act: tuple[int, int]
    padded: bool

    @property
    def finish(self) -> str:
        return finish(self.linear.out_zp, *self.act)


def _weights(node: Node, graph: Graph) -> np.ndarray:
    """OHWI weights of either operator as ``[O, kh, kw, I]``."""
    w = const_data(graph.tensor(node.inputs[1]))
    return w if node.type == "CONV_2D" else w.transpose(3, 1, 2, 0)


def _layer(node: Node, graph: Graph) -> _Layer:
    x, y = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    assert x.quant is not None and y.quant is not None
    w, a = _weights(node, graph), node.attrs
    pads, _ = nm.conv_padding(
        (x.shape[1], x.shape[2]), w.shape[1:3], a["stride"], a["padding"], a["dilation"]
    )
    sizes = (*x.shape[1:], *y.shape[1:], *w.shape[1:3])
    fields = dict(zip(_FIELDS, sizes, strict=True))
    fields |= {"stride_h": a["stride"][0], "stride_w": a["stride"][1]}
    fields |= {"pad_top": pads[0], "pad_left": pads[2], "in_zp": x.quant.zp}
    act = nm.activation_range(a["activation"], y.quant, "int8")
    linear = linear_layer(node, graph, w.reshape(w.shape[0], -1))
    return _Layer(w, linear, fields, (int(act[0]), int(act[1])), any(pads))


def reject_conv(node: Node, graph: Graph, target: Target) -> str | None:
    """The reason no form takes the node."""
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
    if tuple(node.attrs["dilation"]) != (1, 1) and w.shape[1:3] != (1, 1):
        return f"the dilation is {list(node.attrs['dilation'])}; 1 is implemented"
    return reject_shifts(_layer(node, graph).linear)


def _call(
    name: str, layer: _Layer, mac: str, steps: list[np.ndarray], strip: int, scratch: int
) -> KernelCall:
    file = "mac_s8_rows3_mve" if mac.startswith("rows3") else "mac_s8_4x2_mve"
    sources = [f"mve/{name}.c", f"mve/{file}.c"]
    if not name.startswith("conv2d_s8_pointwise"):
        sources.append("mve/layout_s8_mve.c")
    fields = {**layer.fields, "strip": strip, "mac": f"ek_mve_{mac}_{layer.finish}"}
    return KernelCall(
        variant=name,
        sources=tuple(sources),
        header="ek_mve.h",
        params_type="ek_mve_conv_params",
        params=initializer(fields),
        call=f"ek_{name}(&{{p}}, {{in0}}, {{c.weights}}, {{out0}}, {{scratch}});",
        consts=(
            ConstArray("weights", "int32_t", stream(layer.linear, steps, layer.act, layer.finish)),
        ),
        scratch_bytes=scratch,
        details={"finish": layer.finish},
    )


def _mac(blocks: int) -> str:
    return f"mac_{blocks}" if blocks <= _SHORT_BLOCKS else "mac_long"


@dataclass(frozen=True)
class MvePointwise:
    name: str = "conv2d_s8_pointwise_mve"
    op: str = "CONV_2D"
    rank: int = 4

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_conv(node, graph, target)
        if reason is not None:
            return reason
        layer = _layer(node, graph)
        o, kh, kw, c = layer.w.shape
        if (kh, kw) != (1, 1) or layer.padded:
            return "the kernel is not 1x1 without padding"
        if c % LANES or o % 4:
            return f"{c} input and {o} output channels are not multiples of {LANES} and 4"
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        layer = _layer(node, graph)
        steps = blocks_of(layer.linear.w)
        return _call(self.name, layer, _mac(len(steps)), steps, 0, 0)


@dataclass(frozen=True)
class MveRows3:
    name: str = "conv2d_s8_rows3_mve"
    op: str = "CONV_2D"
    rank: int = 5

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_conv(node, graph, target)
        if reason is not None:
            return reason
        layer = _layer(node, graph)
        o, kh, kw, c = layer.w.shape
        stride = tuple(node.attrs["stride"])
        if (kh, kw) != (3, 3) or stride not in ((1, 1), (2, 2)):
            return "the kernel is not 3x3 with stride 1 or 2"
        if o % 4 or layer.fields["out_w"] < 4:
            return "output channels are not a multiple of 4, or a row has fewer than 4 pixels"
        if 4 * c < 3 * round_up(c, LANES):
            return f"{c} input channels leave more than a quarter of blocks of {LANES} empty"
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        layer = _layer(node, graph)
        f = layer.fields
        c = layer.w.shape[3]
        stride, blocks = f["stride_w"], round_up(c, LANES) // LANES
        strip = min(_STRIP_ROWS, f["out_h"])
        w = np.pad(layer.w, ((0, 0), (0, 0), (0, 0), (0, -c % LANES)))
        taps = (0, 1, 2) if stride == 1 else (0, 2, 1)
        steps = [
            w[:, ky, kx, LANES * b : LANES * (b + 1)]
            for ky in range(3)
            for b in range(blocks)
            for kx in taps
        ]
        rows = (strip - 1) * stride + 3
        scratch = rows * blocks * LANES * ((f["out_w"] - 1) * stride + 3)
        return _call(self.name, layer, f"rows3_s{stride}", steps, strip, scratch)


@dataclass(frozen=True)
class MveIm2col:
    op: str = "CONV_2D"
    name: str = "conv2d_s8_im2col_mve"
    rank: int = 6

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_conv(node, graph, target)
        if reason is not None:
            return reason
        y, w = graph.outs(node)[0], _weights(node, graph)
        pixels = y.shape[1] * y.shape[2]
        if pixels < 4 and pixels * w.size < _FEW_MACS:
            return f"{pixels} output pixels of a small layer do not fill a group of four"
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        layer = _layer(node, graph)
        f = layer.fields
        o, kh, kw, c = layer.w.shape
        steps = blocks_of(layer.linear.w)
        column = LANES * len(steps)
        strip = min(f["out_h"], 4 // math.gcd(4, f["out_w"]))
        while 2 * strip * f["out_w"] * column <= _COLUMN_BYTES and strip < f["out_h"]:
            strip *= 2
        strip = min(strip, f["out_h"])
        pixels = max(4, strip * f["out_w"])
        aside = round_up(o, 4) if o % 4 or strip * f["out_w"] < 4 else 0
        row = ((f["out_w"] - 1) * f["stride_w"] + kw) * c
        rows = (strip - 1) * f["stride_h"] + kh
        scratch = pixels * (column + aside) + round_up(rows * row + LANES, LANES)
        return _call(self.name, layer, _mac(len(steps)), steps, strip, scratch)


VARIANTS = [MvePointwise(), MveRows3(), MveIm2col(), MveIm2col(op="DEPTHWISE_CONV_2D")]
