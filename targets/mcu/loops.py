"""How often the loops of a kernel run for a layer: what a latency model of the kernel is fitted to.

One function a kernel (or a family of kernels with one body), written after the C source of the same
name: a count for every loop body, call and branch that costs something. The costs themselves are not
here; :mod:`edgekit.profile` finds them in measurements, and for a kernel that is not listed makes do
with products of the layer's dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node

from .contract import KernelCall

Counts = dict[str, float]


@dataclass(frozen=True)
class Window:
    """A layer with a window. rows, columns: by output row or column, taps that lie inside the input;
    first_column: of those, the first; clamp: an activation that cuts the int8 range short."""

    ih: int
    iw: int
    c: int
    oh: int
    ow: int
    o: int
    kh: int
    kw: int
    sh: int
    sw: int
    dw: int
    top: int
    left: int
    rows: np.ndarray
    columns: np.ndarray
    first_column: np.ndarray
    linear: bool
    clamp: bool

    @property
    def pixels(self) -> int:
        return self.oh * self.ow


def window(node: Node, graph: Graph) -> Window:
    x, y, a = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0]), node.attrs
    _, ih, iw, c = x.shape
    _, oh, ow, o = y.shape
    if "filter" in a:
        kh, kw = a["filter"]
    else:
        kh, kw = graph.tensor(node.inputs[1]).shape[1:3]
    (sh, sw), (dh, dw) = a["stride"], a.get("dilation", (1, 1))
    pads, _ = nm.conv_padding((ih, iw), (kh, kw), a["stride"], a["padding"], (dh, dw))
    rows, _ = _inside(ih, oh, kh, sh, dh, pads[0])
    columns, first = _inside(iw, ow, kw, sw, dw, pads[2])
    linear = y.quant is None or y.quant.zp != -128
    clamp = False
    if y.quant is not None and y.dtype == "int8":
        clamp = nm.activation_range(a.get("activation", "NONE"), y.quant, "int8") != (-128, 127)
    return Window(
        ih, iw, c, oh, ow, o, kh, kw, sh, sw, dw, pads[0], pads[2], rows, columns, first, linear,
        clamp,
    )  # fmt: skip


def _inside(
    inputs: int, outputs: int, kernel: int, stride: int, dilation: int, before: int
) -> tuple[np.ndarray, np.ndarray]:
    start = np.arange(outputs) * stride - before
    first = np.minimum(np.maximum(-(start // dilation), 0), kernel)
    last = np.minimum((inputs - 1 - start) // dilation, kernel - 1)
    return np.maximum(last - first + 1, 0), first


def _up(n: int, block: int) -> int:
    return -(-n // block)


def _split(
    n: np.ndarray | int, weight: np.ndarray | float = 1.0, block: int = 4
) -> tuple[float, float]:
    """(whole blocks, what is left over) of runs of n, each as often as ``weight`` says."""
    n = np.asarray(n)
    return float(np.sum(n // block * weight)), float(np.sum(n % block * weight))


def _memset(counts: Counts, n: int, times: float) -> None:
    if n and times:
        _add(counts, "set", times)
        _add(counts, "set 16", times * (n // 16))
        _add(counts, "set 4", times * (n % 16 // 4))
        _add(counts, "set 1", times * (n % 4 if n >= 8 else n))


def _add(counts: Counts, name: str, value: float) -> None:
    counts[name] = counts.get(name, 0.0) + float(value)


# -- CONV_2D by im2col: ek_dsp_conv.h ------------------------------------------------------------


def im2col(node: Node, graph: Graph, call: KernelCall) -> Counts:
    w = window(node, graph)
    weights = graph.tensor(node.inputs[1])
    c, kh, kw = w.c, w.kh, w.kw
    if node.type == "DEPTHWISE_CONV_2D":
        c = 1
    k = kh * kw * c
    blocks = _up(k, 4)
    groups, full, left = _up(w.pixels, 4), w.pixels // 4, w.pixels % 4
    columns = 4 * groups
    counts: Counts = {"1": 1, "groups": groups, "columns": columns, "column rows": columns * kh}
    # the columns beyond the last pixel repeat the pixel before it in the code's order
    weight = np.ones((w.oh, w.ow))
    if left:
        weight[-1, -1] += 4 - left
    rows = w.rows
    inside = rows[:, None] * weight  # rows of the window inside, by pixel
    outside = (kh - rows)[:, None] * weight
    n = w.columns  # taps of a row inside, by output column
    by_column = inside.sum(axis=0)
    cut_left = by_column[w.first_column > 0].sum()
    cut_right = by_column[w.first_column + n < kw].sum()
    missing = float((by_column * (kw - n)).sum())
    counts |= {"inside rows": float(inside.sum()), "outside rows": float(outside.sum())}
    if w.dw != 1:
        counts |= {"taps": float(by_column.sum() * kw)}
        counts["tap blocks"] = float(by_column.sum() * kw * _up(c, 4))
    elif c % 4 == 0:
        whole, rest = _split(n * (c // 4), by_column)
        counts |= {"cuts": float(cut_left + cut_right), "widen 4": whole, "widen": rest}
        counts["fill"] = missing * (c // 4) + float(outside.sum()) * kw * (c // 4)
    else:
        whole, rest = _split(n * c, by_column)
        counts |= {"copy 4": whole, "copy": rest}
        _memset(counts, kw * c, float(outside.sum() + by_column[n < kw].sum()))
        whole, rest = _split(blocks, columns)
        counts |= {"widen 4": whole, "widen": rest, "last": columns}
    channels = int(call.details.get("channels", weights.shape[0]))  # type: ignore[call-overload]
    fast = int(call.details.get("fast_requant", channels))  # type: ignore[call-overload]
    pairs = _up(w.o, 2)
    quick = 0 if w.clamp else (w.o // 2 if fast >= channels else min(fast // 2, w.o // 2))
    counts |= {
        "calls": full * (quick > 0),
        "pairs": full * quick,
        "pairs linear": full * quick * w.linear,
        "mac 4": full * quick * (blocks // 4),
        "mac": full * quick * (blocks % 4),
    }
    rest_calls = full * (pairs - quick) + (pairs if left else 0)
    counts |= {
        "rest calls": full * (2 * quick < w.o) + (left > 0),
        "rest": rest_calls,
        "rest 4": rest_calls * (blocks // 4),
        "rest 1": rest_calls * (blocks % 4),
        "rest stores": full * (w.o - 2 * quick) + left * w.o,
        "rest general": (full + 0.25 * left) * max(0, channels - fast) * 4.0,
    }
    return counts


# -- CONV_2D by rows: ek_dsp_rows.h, ek_dsp_triples.h ----------------------------------------------


def rows(node: Node, graph: Graph, call: KernelCall) -> Counts:
    w = window(node, graph)
    words = _up(w.kw * w.c, 4)
    copy = bool(call.details.get("copy"))
    blocks, pairs, n = w.kh * words, w.o // 2, w.pixels
    triples, left = n // 3, n % 3
    runs = triples + (1 if n > 3 and left else left)
    singles = (left if n > 3 else 3 * left) if left else 0
    counts: Counts = {
        "1": 1,
        "triples": triples,
        "wraps": float(w.oh),
        "column rows": triples * w.kh,
        "column words 2": triples * w.kh * (words // 2),
        "column word": triples * w.kh * (words % 2),
        "singles": singles,
        "single rows": singles * w.kh,
        "single words": singles * w.kh * words,
        "shift": float(2 * blocks if left and n > 3 else 0),
        "runs": runs,
        "pairs": runs * pairs,
        "turns 8": runs * pairs * (blocks // 8),
        "blocks": runs * pairs * blocks,
        "partial": runs * pairs * (blocks % 8 > 0),
    }
    if copy:
        height = (w.oh - 1) * w.sh + w.kh
        pitch = ((w.ow - 1) * w.sw + w.kw) * w.c
        size = height * pitch + 4
        _memset(counts, size, 1)
        width = min(w.iw * w.c, pitch - w.left * w.c)
        lines = min(w.ih, height - w.top)
        counts |= {"lines": lines, "line 16": lines * (width // 16), "line 1": lines * (width % 16)}
        aligned = (pitch % 4 == 0) and (w.iw * w.c % 4 == 0)
        counts["line bytes"] = lines * width * (not aligned)
    return counts


# -- CONV_2D by tiles: tiles_driver_dsp.c ----------------------------------------------------------


def tiles(node: Node, graph: Graph, call: KernelCall) -> Counts:
    w = window(node, graph)
    form = str(call.details["form"])
    tile = 4 if form == "winograd_f4" else 2
    step, size, streams, positions = {
        "winograd_f4": (4, 6, 36, 36), "winograd_f2": (2, 4, 16, 16), "polyphase": (4, 5, 25, 9)
    }[form]  # fmt: skip
    c4 = _up(w.c, 4)
    across, down = _up(w.ow, tile), _up(w.oh, tile)
    total = across * down
    groups, pairs = _up(total, 4), _up(w.o, 2)
    passes = _up(groups, int(call.details.get("groups", 1)))  # type: ignore[call-overload]
    runs = 0
    inner = outer = 0
    cut_runs = 0
    for first in range(0, total, 4):
        at, last = first, min(first + 4, total)
        while at < last:
            n = min(last - at, across - at % across)
            start = at % across * step - w.left
            columns = (n - 1) * step + size
            low = min(max(-start, 0), columns)
            high = max(min(w.iw - start, columns), low)
            inner, outer = inner + high - low, outer + columns - (high - low)
            cut_runs += high - low < columns
            runs, at = runs + 1, at + n
    cut = total - (w.oh // tile) * (w.ow // tile)
    cut_groups = sum(
        any(
            (t // across + 1) * tile > w.oh or (t % across + 1) * tile > w.ow
            for t in range(first, min(first + 4, total))
        )
        for first in range(0, total, 4)
    )
    channels = int(call.details.get("channels", w.o))  # type: ignore[call-overload]
    slow = channels - int(call.details.get("fast_requant", channels))  # type: ignore[call-overload]
    blocks = 2 * c4 - 1
    counts: Counts = {
        "1": 1,
        "groups": groups,
        "runs": runs,
        "cut runs": cut_runs,
        "outside": outer,
        "run channels": runs * c4,
        "columns": inner * c4,
        "row tiles": total * c4,
        "outputs": groups * pairs,
        "mac": groups * pairs * streams * 2 * c4,
        "mac 8": groups * pairs * positions * (blocks // 8),
        "stores": groups * w.o,
        "tiles": total * (w.o - slow),
        "tiles linear": total * (w.o - slow) * w.linear,
        "slow tiles": total * slow,
        "cut groups": cut_groups * pairs,
        "cut tiles": cut * pairs,
        "cut pixels": (w.pixels - (w.oh // tile * tile) * (w.ow // tile * tile)) * w.o,
        "cut rows": (cut - (w.oh % tile > 0) * across) * tile * pairs,
        "clamp": w.pixels * w.o * w.clamp,
    }
    if "lean" in call.variant:
        counts |= {"weights": passes * w.o, "weight channels": passes * w.o * c4, "passes": passes}
    _memset(counts, w.iw * 4 * c4, 1)
    if w.c % 4:
        _memset(counts, size * w.iw * 4 * c4, 1)
        tile_rows = min(groups * 4, down)
        reads = sum(
            min(w.ih, r * step - w.top + size) - max(0, r * step - w.top) for r in range(tile_rows)
        )
        # a group that goes on in the next row of tiles comes back to none
        counts |= {"copies": reads, "copy pixels": reads * w.iw, "copy": reads * w.iw * c4}
        counts["copy small"] = reads * w.iw * (w.c < 4)
    return counts


# -- DEPTHWISE_CONV_2D: ek_dsp_depthwise_body.h, depthwise_s8_pairs_dsp.c ----------------------------


def depthwise_3x3(node: Node, graph: Graph, call: KernelCall) -> Counts:
    w = window(node, graph)
    plane = 12 * (w.ow + 2)
    room = 0 if "lean" in call.variant else 4096
    group = max(4, min(room // plane // 4 * 4, _up(w.c, 4) * 4))
    groups = _up(w.c, group)
    steps = _up(w.oh, 2)
    edges = w.left == 1 and w.iw == w.ow and w.ow >= 4
    turns = w.ow // 2 - (2 if edges else 0)
    read = min(w.iw, w.ow + 2 - w.left)
    fours = sum(min(group, w.c - g) // 4 for g in range(0, w.c, group))
    tail = w.c % 4
    tails = sum(min(group, w.c - g) % 4 > 0 for g in range(0, w.c, group))
    also = (steps + 1) // 2 if steps else 0
    counts: Counts = {
        "1": 1,
        "groups": groups,
        "steps": groups * steps,
        "reads": groups * (steps + 1),
        "fours": fours * (steps + 1),
        "four pixels": fours * (steps + 1) * read,
        "also": fours * also * read,
        "tails": tails * (steps + 1),
        "tail channels": tail * (steps + 1),
        "tail pixels": tail * (steps + 1) * read,
        "channels": w.c * steps,
        "turns": w.c * steps * turns,
        "some turns": w.c * steps * (turns > 0),
        "odd": w.c * steps * (w.ow % 2),
        "edges": w.c * steps * edges,
    }
    _memset(counts, w.iw * w.c, 1)
    if not edges:
        _memset(counts, group * plane, 1)
    if "compact" in call.variant:
        counts["table"] = w.c
    return counts


def depthwise_pairs(node: Node, graph: Graph, call: KernelCall) -> Counts:
    w = window(node, graph)
    taps = w.kh * w.kw
    pairs = _up(taps, 2)
    channels = int(call.details.get("channels", w.c))  # type: ignore[call-overload]
    fast = int(call.details.get("fast_requant", channels))  # type: ignore[call-overload]
    fours = 0 if w.clamp else (w.c if fast >= channels else min(fast, w.c)) // 4
    rest = w.c - 4 * fours
    between = (w.columns == w.kw) & (np.arange(w.ow) * w.sw - w.left >= 0)
    moving = between & np.concatenate([[False], between[:-1]])
    counts: Counts = {
        "1": 1,
        "rows": w.oh,
        "pixels": w.pixels,
        "moves": w.oh * int(moving.sum()),
        "move taps": float(w.rows.sum()) * w.kw * int(moving.sum()),
        "finds": w.oh * int((~moving).sum()),
        "find rows": w.oh * w.kh * int((~moving).sum()),
        "find taps": w.oh * taps * int((~moving).sum()),
        "pixel calls": w.pixels * (fours > 0),
        "pixel fives": w.pixels * (fours > 0) * (pairs // 5),
        "fours": w.pixels * fours,
        "fives": w.pixels * fours * (pairs // 5),
        "pairs": w.pixels * fours * (pairs % 5),
        "rest calls": w.pixels * (rest > 0),
        "rest": w.pixels * rest,
        "rest pairs": w.pixels * rest * pairs,
        "general": w.pixels * max(0, channels - fast),
    }
    _memset(counts, _up(w.c, 4) * 4, 1)
    return counts


# -- FULLY_CONNECTED: ek_dsp_fc.h, fully_connected_s8_fives_dsp.c ------------------------------------


def dense(node: Node, graph: Graph, call: KernelCall) -> Counts:
    weights = graph.tensor(node.inputs[1])
    o = weights.shape[0]
    k = weights.elements // o
    rows = max(1, graph.tensor(node.inputs[0]).elements // k)
    if "fives" in call.variant:
        passes, blocks = _up(o, 5), _up(k, 4)
        return {
            "1": 1,
            "rows": rows,
            "widen": rows * blocks,
            "odd": rows * (k % 4 > 0),
            "passes": rows * passes,
            "blocks": rows * passes * blocks,
            "blocks 2": rows * passes * (blocks // 2),
            "blocks 4": rows * passes * (blocks // 4),
            "last": rows * (o % 5 > 0),
        }
    eights, whole = _up(o, 8), k // 4
    per_channel = call.params is not None and ".quant_step = 1" in call.params
    return {
        "1": 1,
        "rows": rows,
        "tail": rows * (k % 4),
        "eights": rows * eights,
        "mac": rows * eights * whole,
        "mac 2": rows * eights * (whole // 2),
        "mac 4": rows * eights * (whole // 4),
        "odd eights": rows * eights * (k % 4 > 0),
        "stores": rows * o,
        "separate": rows * o * per_channel,
        "slow": rows * o * (not call.details.get("fast_requant", True)),
    }


# -- pooling ---------------------------------------------------------------------------------------


def pool(node: Node, graph: Graph, call: KernelCall) -> Counts:
    """average_pool_s8_dsp.c, average_pool_s8_ref.c and max_pool_s8_ref.c."""
    w = window(node, graph)
    taps = float(w.rows.sum() * w.columns.sum())
    lines = float(w.rows.sum() * w.ow)
    counts: Counts = {"1": 1, "rows": w.oh, "pixels": w.pixels}
    if call.variant.endswith("_dsp"):
        wide, fours, rest = w.c // 16, w.c % 16 // 4, w.c % 4
    else:
        wide, fours, rest = 0, 0, w.c
    for name, n in (("16", wide), ("4", fours), ("1", rest)):
        counts |= {f"{name}": n * w.pixels, f"{name} lines": n * lines, f"{name} taps": n * taps}
    counts["outputs"] = w.pixels * w.c
    counts["clamped"] = w.pixels * w.c * w.clamp
    # windows of an even number of columns run faster where the compiler unrolls
    counts["odd taps"] = rest * float(w.rows.sum() * (w.columns % 2).sum())
    counts["taps 4"] = rest * float(w.rows.sum() * (w.columns // 4).sum())
    return counts


# -- copies ------------------------------------------------------------------------------------------


def concat(node: Node, graph: Graph, call: KernelCall) -> Counts:
    y = graph.tensor(node.outputs[0])
    axis = int(node.attrs["axis"])
    outer = int(np.prod(y.shape[:axis], dtype=np.int64))
    counts: Counts = {"1": 1, "rows": outer}
    at = 0
    for t in graph.ins(node):
        assert t is not None
        n = t.nbytes // outer
        _add(counts, "runs", outer)
        _add(counts, "bytes", outer * n)
        if n < 16:
            _add(counts, "short", outer * n)
        else:
            aligned = at % 4 == 0 and y.nbytes // outer % 4 == 0 and n % 4 == 0
            _add(counts, "long", outer)
            _add(counts, "aligned 16" if aligned else "loose 16", outer * (n // 16))
            _add(counts, "words", outer * (n % 16 // 4))
            _add(counts, "left", outer * (n % 4))
        at += n
    return counts


def pad(node: Node, graph: Graph, call: KernelCall) -> Counts:
    x, y = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    line = x.shape[-1] * x.shape[-2] if len(x.shape) > 1 else x.elements
    lines = x.elements // max(1, line)
    return {
        "1": 1,
        "lines": lines,
        "line 16": lines * (line // 16),
        "line": lines * (line % 16),
        "out lines": y.elements // max(1, y.shape[-1] * y.shape[-2]) if len(y.shape) > 1 else 1,
        "out pixels": y.elements // y.shape[-1],
        "added": y.elements - x.elements,
        "out": y.elements,
    }


Counter = Callable[[Node, Graph, KernelCall], Counts]

_EXACT: Mapping[str, Counter] = {
    "conv2d_s8_halfword_dsp": im2col,
    "conv2d_s8_pairs_dsp": im2col,
    "conv2d_s8_wide_dsp": im2col,
    "depthwise_s8_pairs_dsp": depthwise_pairs,
    "concat_ref": concat,
    "concat_s8_lut_ref": concat,
    "pad_ref": pad,
}
_FAMILIES: tuple[tuple[str, Counter], ...] = (
    ("conv2d_s8_rows_", rows),
    ("conv2d_s8_winograd_", tiles),
    ("conv2d_s8_polyphase", tiles),
    ("depthwise_3x3_s8_", depthwise_3x3),
    ("fully_connected_s8_fives_dsp", dense),
    ("fully_connected_s8_halfword_dsp", dense),
    ("fully_connected_s8_pairs_dsp", dense),
    ("average_pool_s8_", pool),
    ("max_pool_s8_", pool),
)


def counts(node: Node, graph: Graph, call: KernelCall) -> Counts | None:
    """Loop counts of the call, by name; None: its loops are not written down here."""
    found: Any = _EXACT.get(call.variant)
    if found is None and not call.variant.endswith("_mve"):
        found = next((f for stem, f in _FAMILIES if call.variant.startswith(stem)), None)
    return None if found is None else found(node, graph, call)
