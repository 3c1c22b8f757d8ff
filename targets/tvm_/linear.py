"""Packing of linear layers: weights, biases and multipliers as the kernels of :mod:`.conv` read them.

No TVM here: NumPy arrays and plain numbers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node, Tensor
from edgekit_targets.tvm_.isa import CpuTarget


@dataclass(frozen=True)
class Window:
    """A convolution's geometry; a fully connected layer is one of height 1 and rows for width."""

    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: nm.Padding4

    @property
    def padded(self) -> bool:
        return any(self.pads)

    @property
    def row(self) -> int:
        """Elements of one padded row."""
        return (self.width + self.pads[2] + self.pads[3]) * self.channels

    @property
    def rows(self) -> int:
        return self.height + self.pads[0] + self.pads[1]

    @property
    def runs(self) -> tuple[tuple[int, int], int]:
        """((runs vertically, horizontally), elements of a run): a kernel row is one run where its
        cells lie side by side."""
        kh, kw = self.kernel
        if self.dilation[1] == 1:
            return (kh, 1), kw * self.channels
        return (kh, kw), self.channels


@dataclass(frozen=True)
class Tile:
    """Register blocking: output pixels and vectors of output channels at a time, and whether the
    loop over channel blocks is the outer one (weights stay in cache) or the inner one."""

    pixels: int
    vectors: int
    channels_outer: bool = True

    def to_json(self) -> list[int]:
        return [self.pixels, self.vectors, int(self.channels_outer)]

    @staticmethod
    def from_json(value: list[int]) -> Tile:
        return Tile(int(value[0]), int(value[1]), bool(value[2]))


def window_of(node: Node, graph: Graph) -> Window:
    """The geometry of CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED."""
    x, w, out = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1]), graph.outs(node)[0]
    if node.type == "FULLY_CONNECTED":
        outputs, inputs = w.shape
        rows = x.elements // inputs
        return Window(1, rows, inputs, 1, rows, outputs, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0))
    _, h, wd, c = x.shape
    a = node.attrs
    pads, (oh, ow) = nm.conv_padding(
        (h, wd), (w.shape[1], w.shape[2]), a["stride"], a["padding"], a["dilation"]
    )
    kernel = (w.shape[1], w.shape[2])
    pointwise = node.type == "CONV_2D" and kernel == (1, 1) and tuple(a["stride"]) == (1, 1)
    if pointwise and not any(pads):  # a matrix product over all pixels
        h, wd, oh, ow = 1, h * wd, 1, oh * ow
    return Window(
        h, wd, c, oh, ow, out.shape[3], kernel, tuple(a["stride"]), tuple(a["dilation"]), pads
    )


def default_tile(win: Window, target: CpuTarget) -> Tile:
    """A tile that fills the registers and leaves few pixels over."""
    vectors_needed = -(-win.outputs // target.lanes)
    best, best_cost = Tile(1, 1), float("inf")
    for vectors in (1, 2, 3, 4, 6, 8):
        if vectors > vectors_needed:
            break
        for pixels in range(1, min(win.out_width, 14) + 1):
            if pixels * vectors > target.vectors:
                break
            full, tail = divmod(win.out_width, pixels)

            def step(p: int, v: int) -> float:
                # loads beside multiplications; few independent sums cannot hide the latency
                return 0 if p == 0 else max(p * v, 8) + 0.35 * (p + v)

            full_v, tail_v = divmod(vectors_needed, vectors)
            cost = full * full_v * step(pixels, vectors) + full * step(pixels, tail_v)
            cost += full_v * step(tail, vectors) + step(tail, tail_v)
            if cost < best_cost - 1e-9:
                best, best_cost = Tile(pixels, vectors), cost
    input_bytes = win.rows * win.row
    weight_bytes = win.kernel[0] * win.kernel[1] * win.channels * win.outputs
    return Tile(best.pixels, best.vectors, weight_bytes >= input_bytes // 4)


def task_key(node: Node, win: Window, dtype: str, target: CpuTarget) -> str:
    """Identifies a tunable kernel: operator, types, geometry and target, not its weights."""
    geometry = [
        win.height, win.width, win.channels, win.out_height, win.out_width, win.outputs,
        *win.kernel, *win.stride, *win.dilation, *win.pads,
    ]  # fmt: skip
    text = ",".join(map(str, geometry))
    digest = hashlib.sha256(f"{target.key}|{target.dot_name}".encode()).hexdigest()[:12]
    return f"{node.type}/{dtype}/{text}/{digest}"


def is_tiled(node: Node, graph: Graph) -> bool:
    """Whether the vector kernels take this node: what can be tuned."""
    x = graph.tensor(node.inputs[0]) if node.inputs and node.inputs[0] else None
    if node.type == "FULLY_CONNECTED":
        return True
    if node.type not in ("CONV_2D", "DEPTHWISE_CONV_2D") or x is None:
        return False
    return graph.tensor(node.inputs[1]).shape[3] == x.shape[3]  # no groups, multiplier 1


def tiles(node: Node, win: Window, target: CpuTarget) -> list[Tile]:
    """Tiles worth measuring for a node, the default first."""
    if node.type != "DEPTHWISE_CONV_2D":
        return candidate_tiles(win, target)
    default = Tile(min(win.out_width, 8), 1, False)
    others = [
        Tile(p, 1, outer)
        for p in (1, 2, 3, 4, 6, 7, 8, 10, 12, 14, 16)
        if p <= min(win.out_width, target.vectors)
        for outer in (False, True)
    ]
    return list(dict.fromkeys([default, *others]))


def candidate_tiles(win: Window, target: CpuTarget) -> list[Tile]:
    """Tiles worth measuring, the default first."""
    needed = -(-win.outputs // target.lanes)
    out = [default_tile(win, target)]
    for vectors in (1, 2, 3, 4, 6, 8):
        if vectors > needed:
            break
        most = min(win.out_width, target.vectors // vectors, 14)
        useful = {most, most - 1, most // 2}
        useful |= {p for p in range(2, most + 1) if win.out_width % p == 0}
        for pixels in sorted(p for p in useful if p >= 1):
            if pixels * vectors < 4 and most * vectors >= 4:
                continue
            for outer in (True, False):
                tile = Tile(pixels, vectors, outer)
                if tile not in out:
                    out.append(tile)
    return out


def pack_weights(
    weights: np.ndarray, win: Window, group: int, lanes: int, vectors: int, dtype: str
) -> np.ndarray:
    """``[O, kh, kw, C]`` -> one vector: blocks of ``vectors`` output vectors, each
    ``[run, step, vector, lane, group]``; missing channels and the end of a run are zero."""
    o = weights.shape[0]
    (rv, rh), run = win.runs
    steps = -(-run // group)
    padded_o = -(-o // lanes) * lanes
    flat = np.zeros((padded_o, rv * rh, steps * group), dtype)
    flat[:o, :, :run] = weights.reshape(o, rv * rh, run)
    v = flat.reshape(padded_o // lanes, lanes, rv * rh, steps, group)
    v = v.transpose(0, 2, 3, 1, 4)  # [vector, run, step, lane, group]
    parts = [
        v[i : i + vectors].transpose(1, 2, 0, 3, 4).ravel() for i in range(0, v.shape[0], vectors)
    ]
    return np.ascontiguousarray(np.concatenate(parts))


@dataclass(frozen=True)
class Outgoing:
    """How the sums of a layer leave, per output channel (padded to whole vectors), int32 rows.

    table: ``[rows, padded channels]``: bias, multiplier, rounding half, right shift, then left
    shift and rounding mask where ``left`` and ``masked`` say so. wide: the right shift has to be
    computed in 64 bits.
    """

    table: np.ndarray
    left: bool
    masked: bool
    wide: bool
    zero_point: int
    limits: tuple[int, int]
    dtype: str

    @property
    def padded(self) -> int:
        return int(self.table.shape[1])

    @property
    def rounds(self) -> bool:
        """Some channel's shift to the right is above 0."""
        return bool(np.any(self.table[3]))


def outgoing(
    node: Node, graph: Graph, target: CpuTarget, x_offset: int, channel_axis: int = 0
) -> Outgoing:
    """Bias with zero points folded in, and multipliers, of an int8 layer.

    ``sum (x - zp) w = sum (x + offset) w - (zp + offset) sum w``, modulo 2**32 as the kernels.
    """
    x, w, out = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1]), graph.outs(node)[0]
    bias_t: Tensor | None = graph.ins(node)[2] if len(node.inputs) > 2 else None
    assert x.quant and w.quant and out.quant and w.data is not None
    channels = w.shape[channel_axis]
    wz = w.data.astype(np.int64) - (w.quant.zp if w.quant.scale.size == 1 else 0)
    others = tuple(i for i in range(w.data.ndim) if i != channel_axis)
    bias = np.zeros(channels, np.int64)
    if bias_t is not None and bias_t.data is not None:
        bias = bias_t.data.ravel().astype(np.int64)
    worst = np.abs(wz).sum(axis=others) * 255 + np.abs(bias)
    folded = bias - (x.quant.zp + x_offset) * wz.sum(axis=others)
    mult, shift = nm.conv_multipliers(x.quant.s, w.quant.scale, out.quant.s, channels)
    right, left = np.maximum(-shift, 0), np.maximum(shift, 0)
    half = (np.int64(1) << right) >> 1
    # what the rounding shift sees: |sum| * 2**left * mult / 2**31, plus half
    reach = np.minimum(worst * 2.0**left, 2.0**31) * (mult / 2.0**31) + half
    masked = bool(np.any(right == 0)) and bool(np.any(right > 0))
    rows = [folded.astype(np.int32), mult.astype(np.int32), half, right]
    if np.any(left):
        rows.append(left)
    if masked:
        rows.append(-(right > 0).astype(np.int64))
    lanes = target.lanes
    table = np.zeros((len(rows), -(-channels // lanes) * lanes), np.int32)
    for i, r in enumerate(rows):
        table[i, :channels] = np.asarray(r).astype(np.int32)
    return Outgoing(
        table,
        bool(np.any(left)),
        masked,
        bool(np.any(reach >= 2.0**31 - 2)),
        out.quant.zp,
        nm.activation_range(node.attrs["activation"], out.quant, out.dtype),
        out.dtype,
    )
