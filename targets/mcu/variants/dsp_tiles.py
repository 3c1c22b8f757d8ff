"""3x3 CONV_2D by tiles in a transformed domain, for cores with the DSP extension: exact integer
Winograd of stride 1, and stride 2 in its four phases.

Arithmetic and layouts: ``kernels/include/ek_dsp_tiles.h``. Each scheme has two kernels: one with the
transformed weights in flash, and a *lean* one that transforms int8 weights as it goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from .dsp_common import (
    GENERAL,
    Linear,
    const_data,
    initializer,
    quant_const,
    reject_common,
    reject_weights,
    wrap32,
)
from .dsp_conv import geometry, linear_layer

#: ``EK_TILE_COLUMNS`` and the lanes of a group.
COLUMNS, LANES = 18, 4


@dataclass(frozen=True)
class Scheme:
    """One transform; the fields are those of ``ek_tile_scheme``.

    matrix: int64 ``[size', 3]``, the weight transform along one axis, scale included.
    order: stream numbers ``[size', size']`` of the transformed weights' rows and columns.
    offset: what the input transform adds to each input.
    factor: on the transformed weights.
    raised: as in :attr:`DspTiles.raised`, of the kernel that is not lean.
    *_cost: instructions on a Cortex-M4, of a tile and a pair of input channels, of a tile and an output
    channel, and of a pair of input channels and an output channel.
    """

    name: str
    stride: int
    tile: int
    step: int
    size: int
    positions: int
    scale: int
    offset: int
    matrix: np.ndarray
    order: np.ndarray
    input_cost: int
    output_cost: int
    weight_cost: int
    factor: int = 1
    raised: int = 0

    @property
    def streams(self) -> int:
        return int(self.order.size)

    def transformed(self, w: np.ndarray) -> np.ndarray:
        """OHWI int8 weights as int64 ``[O, streams, I]``."""
        t = np.einsum("ur,orsi,vs->ouvi", self.matrix, w.astype(np.int64), self.matrix)
        t *= self.factor
        out = np.zeros((w.shape[0], self.streams, w.shape[3]), np.int64)
        out[:, self.order.reshape(-1)] = t.reshape(w.shape[0], -1, w.shape[3])
        return out


_F4 = Scheme(
    name="winograd_f4",
    stride=1,
    tile=4,
    step=4,
    size=6,
    positions=36,
    scale=6,
    offset=128,
    matrix=np.array(
        [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 12]], np.int64
    ),
    order=np.arange(36).reshape(6, 6),
    input_cost=312,
    output_cost=304,
    weight_cost=238,
    raised=0x3400,
)

_F2 = Scheme(
    name="winograd_f2",
    stride=1,
    tile=2,
    step=2,
    size=4,
    positions=16,
    scale=2,
    offset=0,
    matrix=np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], np.int64),
    order=np.arange(16).reshape(4, 4),
    input_cost=80,
    output_cost=75,
    weight_cost=130,
)

#: Streams 0 to 4 of an axis: taps 0 and 1 (even and odd phase) of the first output, their sum with
#: tap 2, and taps 2 and 1 of the second; doubled once, for the requantization.
_POLYPHASE = Scheme(
    name="polyphase",
    stride=2,
    tile=2,
    step=4,
    size=5,
    positions=9,
    scale=1,
    offset=0,
    matrix=np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1], [0, 1, 0]], np.int64),
    order=np.array(
        [
            [0, 1, 16, 4, 5],
            [2, 3, 17, 6, 7],
            [18, 19, 24, 20, 21],
            [8, 9, 22, 12, 13],
            [10, 11, 23, 14, 15],
        ]
    ),
    input_cost=150,
    output_cost=52,
    weight_cost=155,
    factor=2,
)


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def pack_streams(w: np.ndarray) -> np.ndarray:
    """``[O, streams, I]`` as int16 ``[O / 2][streams][I / 2][2][2]``, padded with zeros: pairs of
    input channels (0, 2), (1, 3) of each four, two output channels."""
    o, s, c = w.shape
    w = np.pad(w, ((0, o % 2), (0, 0), (0, -c % 4)))
    w = w.reshape(w.shape[0] // 2, 2, s, w.shape[2] // 4, 2, 2)  # pair, out, s, four, hi, k
    return np.ascontiguousarray(w.transpose(0, 2, 3, 5, 1, 4)).astype(np.int16).reshape(-1)


def tile_quant(layer: Linear, scheme: Scheme, raised: int) -> tuple[np.ndarray, np.ndarray]:
    """(``ek_dsp_quant[]``, or ``ek_tile_quant[]``, as int32 words, padded to an even number of
    channels; which channels are fast).

    layer: the sums over raw input bytes. The kernel's sums are over inputs raised by the scheme's
    offset, and 2^scale times as large. raised: what the input transform adds to its last two columns,
    in low halfwords; 0: nothing, and no corner biases.
    """
    n, k = len(layer.bias), scheme.scale - 1
    offset = scheme.offset * layer.w.sum(axis=1)
    e = -layer.shift
    half = (np.int64(1) << np.clip(e - 1, 0, 31)) + (np.int64(layer.out_zp) << np.clip(e, 0, 31))
    rounding = (half << k) + ((1 << k) >> 1)
    fast = (
        (e >= 1)
        & (e + k <= 31)
        & (layer.mult >= 1 << 30)
        & (layer.worst < 1 << (31 - scheme.scale))
    )
    fast &= (layer.worst << k) + np.abs(rounding) + (2 << k) < 1 << 31
    out = np.zeros((round_up(n, 2), 8 if raised else 4), np.int32)
    out[:n, 0] = wrap32(layer.mult)
    out[:n, 1] = np.where(fast, wrap32(rounding), wrap32(layer.bias))
    out[:n, 2] = np.where(fast, e + k, GENERAL + layer.shift)
    bias = np.where(fast, layer.bias, 0) - offset
    out[:n, 3] = wrap32(bias << scheme.scale)
    if raised:
        # inputs 4 and 5 of both axes are raised in the low halfwords: channels 0 and 1 of each four
        w = layer.w.reshape(n, 3, 3, -1)
        low = w[..., np.arange(w.shape[3]) % 4 < 2].sum(axis=3)
        seen = [low[:, 2:, 2:], low[:, 2:, 1:], low[:, 1:, 2:], low[:, 1:, 1:]]
        for i, taps in enumerate(seen):
            out[:n, 4 + i] = wrap32((bias - raised * taps.sum(axis=(1, 2))) << scheme.scale)
    out[n:, 2] = GENERAL
    return out.reshape(-1), fast


@dataclass(frozen=True)
class DspTiles:
    """A scheme with the weights' streams in flash, or lean."""

    scheme: Scheme
    lean: bool
    rank: int
    op: str = "CONV_2D"

    @property
    def name(self) -> str:
        return f"conv2d_s8_{self.scheme.name}{'_lean' if self.lean else ''}_dsp"

    @property
    def raised(self) -> int:
        """What the input transform adds to its last two columns, in low halfwords."""
        return 0 if self.lean else self.scheme.raised

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target) or reject_weights(node, graph)
        if reason is not None:
            return reason
        s, a = self.scheme, node.attrs
        x, w = graph.tensor(node.inputs[0]), const_data(graph.tensor(node.inputs[1]))
        if x.shape[0] != 1:
            return f"the batch is {x.shape[0]}, not 1"
        if w.shape[1:3] != (3, 3) or tuple(a["stride"]) != (s.stride, s.stride):
            return f"not a 3x3 convolution of stride {s.stride}"
        if tuple(a["dilation"]) != (1, 1):
            return "the convolution is dilated"
        if w.shape[3] != x.shape[3]:
            return f"{x.shape[3] // w.shape[3]} groups; one is implemented"
        top = 128 * int(np.abs(w.astype(np.int64)).sum(axis=(1, 2, 3)).max(initial=0))
        limit = 1 << (31 - s.scale)
        if top >= limit:
            return f"sums may reach {top}; the transform is exact below {limit}"
        tiled = self.instructions(node, graph, target)
        others = [("plainly", wide_instructions(node, graph))]
        if s is _F4:  # the smaller tile takes less memory, too
            small = DspTiles(_F2, self.lean, 0)
            others.append(("with 2x2", small.instructions(node, graph, target)))
        for how, cost in others:
            if tiled > cost:
                return f"too few outputs or channels: about {tiled:,} instructions, {how} {cost:,}"
        need, room = self.scratch_bytes(node, graph, 1), scratch_limit(node, graph, target)
        if room is not None and need > room:
            return f"its tiles need {need} bytes of scratch; at most {room} are spent on it"
        return None

    def instructions(self, node: Node, graph: Graph, target: Target) -> int:
        """Roughly what an inference executes on a Cortex-M4."""
        s, y = self.scheme, graph.tensor(node.outputs[0])
        pairs = round_up(graph.tensor(node.inputs[0]).shape[3], 4) // 2
        tiles = -(-y.shape[1] // s.tile) * -(-y.shape[2] // s.tile)
        groups, out_pairs = -(-tiles // LANES), -(-y.shape[3] // 2)
        sums = groups * out_pairs * (11 * s.streams * pairs + 8 * s.positions + 130)
        cost = sums + tiles * (pairs * s.input_cost + y.shape[3] * s.output_cost)
        if self.lean:
            passes = -(-groups // self.groups(node, graph, target))
            cost += passes * y.shape[3] * pairs * s.weight_cost
        return cost

    def groups(self, node: Node, graph: Graph, target: Target) -> int:
        """Groups of tiles whose streams are held at once: the fewer passes over the weights, the
        fewer times a lean kernel transforms them."""
        if not self.lean:
            return 1
        y, s = graph.tensor(node.outputs[0]), self.scheme
        tiles = -(-y.shape[1] // s.tile) * -(-y.shape[2] // s.tile)
        need = -(-tiles // LANES)
        limit = scratch_limit(node, graph, target)
        room = LEAN_SCRATCH if limit is None else min(limit, LEAN_SCRATCH)
        while need > 1 and self.scratch_bytes(node, graph, need) > room:
            need = -(-need // 2)
        return need

    def scratch_bytes(self, node: Node, graph: Graph, groups: int) -> int:
        """``ek_tiles_scratch_bytes``."""
        s, shape = self.scheme, graph.tensor(node.inputs[0]).shape
        c = round_up(shape[3], 4)
        streams = s.streams * (c // 2)
        shared = max(2 * 4 * s.size * COLUMNS, 32 * s.positions)
        rows = (1 if shape[3] % 4 == 0 else 1 + s.size) * shape[2] * c
        return streams * 16 * groups + (streams * 8 if self.lean else 0) + shared + rows

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        s = self.scheme
        w = const_data(graph.tensor(node.inputs[1]))
        layer = linear_layer(node, graph, w.reshape(len(w), -1))
        quant, fast = tile_quant(layer, s, self.raised)
        groups = self.groups(node, graph, target)
        quant_type = "ek_tile_quant" if self.raised else "ek_dsp_quant"
        if self.lean:
            raw = np.pad(w, ((0, 0), (0, 0), (0, 0), (0, -w.shape[3] % 4)))
            weights = ConstArray("weights", "int8_t", raw.reshape(-1))
        else:
            weights = ConstArray("weights", "int16_t", pack_streams(s.transformed(w)))
        params: dict[str, Any] = {**geometry(node, graph, (3, 3)), "groups": 1}
        return KernelCall(
            variant=self.name,
            sources=(
                f"dsp/{self.name}.c",
                "dsp/tiles_driver_dsp.c",
                f"dsp/{s.name}_input_dsp.c",
                f"dsp/{s.name}_output_dsp.c",
                "dsp/mac_s16_2x4_dsp.c",
                *(["dsp/winograd_f4_weights_dsp.c"] if self.lean and s is _F4 else []),
            ),
            header="ek_dsp_tiles.h",
            params_type="ek_tiles_params",
            params=f"{{ .conv = {initializer(params)}, .groups = {groups} }}",
            call=(
                f"ek_{self.name}(&{{p}}, {{in0}}, {{c.weights}}, "
                f"(const {quant_type} *)(const void *){{c.quant}}, {{out0}}, {{scratch}});"
            ),
            consts=(weights, quant_const(quant)),
            scratch_bytes=self.scratch_bytes(node, graph, groups),
            details={
                "form": s.name,
                "fast_requant": int(fast.sum()),
                "channels": len(w),
                "groups": groups,
            },
        )


def wide_instructions(node: Node, graph: Graph) -> int:
    """The same for ``conv2d_s8_wide_dsp``."""
    w, y = graph.tensor(node.inputs[1]), graph.tensor(node.outputs[0])
    pixels, blocks = y.shape[1] * y.shape[2], -(-int(np.prod(w.shape[1:])) // 4)
    columns = pixels * blocks * (10 if w.shape[3] % 4 == 0 else 45)
    return -(-pixels // 4) * -(-y.shape[3] // 2) * (22 * blocks + 78) + columns


#: Scratch that lean kernels spend to transform their weights less often.
LEAN_SCRATCH = 45056


def live_bytes(node: Node, graph: Graph) -> int:
    """Bytes of activations that are alive while the node runs."""
    step = next(i for i, n in enumerate(graph.nodes) if n.name == node.name)
    first: dict[str, int] = dict.fromkeys(graph.inputs, 0)
    last: dict[str, int] = dict.fromkeys(graph.outputs, len(graph.nodes))
    for i, n in enumerate(graph.nodes):
        for name in n.outputs:
            first.setdefault(name, i)
            last.setdefault(name, i)
        for used in n.inputs:
            if used is not None:
                last[used] = max(last.get(used, 0), i)
    alive = (n for n, at in first.items() if at <= step <= last.get(n, at))
    return sum(graph.tensor(n).nbytes for n in alive)


def scratch_limit(node: Node, graph: Graph, target: Target) -> int | None:
    """Scratch a tiled convolution may take: a quarter of the RAM (8 KiB at least), and what the
    activations leave of it; None: the RAM is unknown."""
    ram = target.memory_size("ram", "tcm")
    if not ram:
        return None
    return min(max(8192, ram // 4), max(0, ram - ram // 8 - live_bytes(node, graph)))


SCHEMES = (_F4, _F2, _POLYPHASE)

VARIANTS = [
    DspTiles(_F4, False, 10),
    DspTiles(_F4, True, 12),
    DspTiles(_F2, False, 14),
    DspTiles(_F2, True, 16),
    DspTiles(_POLYPHASE, False, 10),
    DspTiles(_POLYPHASE, True, 12),
]
