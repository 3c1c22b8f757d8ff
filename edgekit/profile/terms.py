"""What the cost of a layer is made of: counts of a kernel's loops, as products of a few units.

A kernel is a nest of loops: over places (pixels, runs of pixels, tiles), over blocks of output
channels, over blocks of inputs. What it costs is a sum of products of how often each level runs; which
blocks it uses is not known here, so every usual block size is a candidate, rounded up as a kernel's
trip counts are. :mod:`.fit` finds out which of them a kernel's measurements are made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from edgekit.graph.ir import Graph, Node

#: Operators with a window; for the others only sizes matter.
_WINDOWED = frozenset(
    {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "MAX_POOL_2D", "AVERAGE_POOL_2D"}
)
Units = Mapping[str, float]


@dataclass(frozen=True)
class Dims:
    """What a layer's cost may depend on. places, outs, ins: units of the three levels of the nest, by
    name; every product of one of each is a term. size: of the layer, for neighbourhood."""

    places: Units
    outs: Units
    ins: Units
    size: tuple[float, ...] = field(default=())

    def value(self, term: tuple[str, str, str]) -> float:
        """The term's count; units that this layer does not have count nothing."""
        p, o, i = term
        return self.places.get(p, 0.0) * self.outs.get(o, 0.0) * self.ins.get(i, 0.0)


def _up(n: int, block: int) -> int:
    return -(-n // block)


def dims_of(node: Node, graph: Graph, extra: Mapping[str, float] | None = None) -> Dims:
    """extra: counts that only the backend knows: names that begin with ``out.`` join ``outs``, with
    ``in.`` join ``ins``, the others ``places``."""
    if node.type in _WINDOWED:
        d = _windowed(node, graph)
    elif node.type == "FULLY_CONNECTED":
        d = _dense(node, graph)
    else:
        d = _other(node, graph)
    if not extra:
        return d
    places, outs, ins = dict(d.places), dict(d.outs), dict(d.ins)
    for name, value in extra.items():
        level, _, rest = name.rpartition(".")
        (outs if level == "out" else ins if level == "in" else places)[rest] = float(value)
    return Dims(places, outs, ins, d.size)


def _channels(n: int, blocks: tuple[int, ...], name: str) -> dict[str, float]:
    return {"1": 1.0, name: float(n)} | {f"{name}/{b}": float(_up(n, b)) for b in blocks}


def _windowed(node: Node, graph: Graph) -> Dims:
    x, y = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    _, ih, iw, c = x.shape
    _, oh, ow, o = y.shape
    if node.type in ("CONV_2D", "TRANSPOSE_CONV"):
        kh, kw, depth = graph.tensor(node.inputs[1]).shape[1:4]
    elif node.type == "DEPTHWISE_CONV_2D":
        (kh, kw), depth = graph.tensor(node.inputs[1]).shape[1:3], 1
    else:
        (kh, kw), depth = node.attrs["filter"], 1
    (sh, sw), (dh, dw) = node.attrs["stride"], node.attrs.get("dilation", (1, 1))
    pixels = oh * ow
    top, left = _before(node, (ih, iw), (oh, ow), (kh, kw))
    rows = _inside(ih, oh, kh, sh, dh, top)
    columns = _inside(iw, ow, kw, sw, dw, left)
    whole = sum(n == kh for n in rows) * sum(n == kw for n in columns)
    tiles2, tiles4 = _up(oh, 2) * _up(ow, 2), _up(oh, 4) * _up(ow, 4)
    taps = kh * kw
    places = {
        "1": 1,
        "rows": oh,
        "pixels": pixels,
        "pixels/2": _up(pixels, 2),
        "pixels/3": _up(pixels, 3),
        "pixels/4": _up(pixels, 4),
        "pixels//3": pixels // 3,
        "pixels//4": pixels // 4,
        "runs/2": oh * _up(ow, 2),
        "runs/4": oh * _up(ow, 4),
        "pairs of rows": _up(oh, 2),
        "row pairs": _up(oh, 2) * ow,
        "tiles2": tiles2,
        "tiles2/4": _up(tiles2, 4),
        "cut tiles2": tiles2 - (oh // 2) * (ow // 2),
        "tiles4": tiles4,
        "tiles4/4": _up(tiles4, 4),
        "cut tiles4": tiles4 - (oh // 4) * (ow // 4),
        "tile rows2": _up(oh, 2),
        "tile rows4": _up(oh, 4),
        "border": pixels - whole,
        "in rows": ih,
        "in pixels": ih * iw,
        "row taps": sum(rows) * ow,
        "taps inside": sum(rows) * sum(columns),
        "taps outside": pixels * taps - sum(rows) * sum(columns),
    }
    k = taps * depth
    run = kw * depth
    odd = depth % 4 != 0
    ins = {
        "1": 1,
        "k": k,
        "k/4": _up(k, 4),
        "k//16": k // 16,
        "taps": taps,
        "taps/2": _up(taps, 2),
        "kh": kh,
        "kh run/4": kh * _up(run, 4),
        "kh run//16": kh * (run // 16),
        "c/4": _up(depth, 4),
        "c//16": depth // 16,
        "odd": odd,
        "odd kh": odd * kh,
        "odd k": odd * k,
        "odd run": odd * kh * (run % 4),
        "odd c": odd * depth,
    }
    outs = _channels(o, (2, 4, 8, 16), "o") | {"o odd": float(o % 2), "o%4": float(o % 4)}
    return Dims(
        {n: float(v) for n, v in places.items()},
        outs,
        {n: float(v) for n, v in ins.items()},
        (pixels, ow, o, c, kh, kw, sh),
    )


def _before(
    node: Node, inputs: tuple[int, int], outputs: tuple[int, int], kernel: tuple[int, int]
) -> tuple[int, int]:
    """Padding above and to the left."""
    padding = node.attrs["padding"]
    if padding == "VALID" or node.type == "TRANSPOSE_CONV":
        return 0, 0
    if padding != "SAME":
        return int(padding[0]), int(padding[2])
    reach = (
        max(0, (out - 1) * s + (k - 1) * d + 1 - n)
        for n, out, k, s, d in zip(
            inputs, outputs, kernel, node.attrs["stride"], node.attrs.get("dilation", (1, 1)),
            strict=True,
        )
    )  # fmt: skip
    top, left = (r // 2 for r in reach)
    return top, left


def _inside(inputs: int, outputs: int, kernel: int, stride: int, dilation: int, before: int) -> list[int]:
    """Taps along one axis that lie inside the input, by output."""
    found = []
    for o in range(outputs):
        start = o * stride - before
        first = max(0, _up(-start, dilation))
        last = min(kernel - 1, (inputs - 1 - start) // dilation)
        found.append(max(0, last - first + 1))
    return found


def _dense(node: Node, graph: Graph) -> Dims:
    o, i = graph.tensor(node.inputs[1]).shape
    rows = graph.tensor(node.inputs[0]).elements // i
    outs = _channels(o, (2, 4, 5, 8, 16), "o")
    ins = _channels(i, (2, 4, 8, 16), "i")
    return Dims({"1": 1.0, "rows": float(rows)}, outs, ins, (rows, o, i))


def _other(node: Node, graph: Graph) -> Dims:
    """Operators that go through their elements: outer places and the last axis."""
    activations = [t for t in graph.ins(node) if t is not None and not t.is_const]
    x = activations[0] if activations else graph.tensor(node.outputs[0])
    y = graph.tensor(node.outputs[0])
    last = y.shape[-1] if y.shape else 1
    last_in = x.shape[-1] if x.shape else 1
    read = sum(t.elements for t in activations)
    places = {
        "1": 1.0,
        "outer": float(y.elements // max(1, last)),
        "outer in": float(x.elements // max(1, last_in)),
        "tensors": float(len(activations)),
        "rows": float(prod(y.shape[:-2])) if len(y.shape) > 1 else 1.0,
    }
    outs = _channels(last, (2, 4, 16), "o") | {"o in": float(last_in)}
    ins = {"1": 1.0}
    places |= {
        "elements/4": float(_up(y.elements, 4)),
        "elements/16": float(_up(y.elements, 16)),
        "read": float(read),
        "same": float(y.elements if all(t.shape == y.shape for t in activations) else 0),
    }
    return Dims(places, outs, ins, (y.elements, last, read))
