"""What the cost of a layer is made of: counts of a kernel's loops, as products of a few units.

A kernel is a nest of loops: over places (pixels, runs of pixels, tiles), over blocks of output
channels, over blocks of inputs. What it costs is a sum of products of how often each level runs; which
blocks it uses is not known here, so every usual block size is a candidate, rounded up as a kernel's
trip counts are. :mod:`.fit` finds out which of them a kernel's measurements are made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from edgekit.graph.ir import Graph, Node

#: Operators with a window; for the others only sizes matter.
_WINDOWED = frozenset(
    {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "MAX_POOL_2D", "AVERAGE_POOL_2D"}
)
Units = Mapping[str, float]
Term = tuple[str, str, str]


@dataclass(frozen=True)
class Dims:
    """What a layer's cost may depend on. places, outs, ins: units of the three levels of the nest, by
    name; every product of one of each is a term. counts: where the backend knows the loops of its
    kernel (see :class:`edgekit.profile.family.LatencyModel`), how often they run: then these are the
    terms."""

    places: Units = field(default_factory=dict)
    outs: Units = field(default_factory=dict)
    ins: Units = field(default_factory=dict)
    counts: Units | None = None

    def value(self, term: Term) -> float:
        """The term's count; what this layer does not have counts nothing."""
        if self.counts is not None:
            return self.counts.get(term[0], 0.0)
        p, o, i = term
        return self.places.get(p, 0.0) * self.outs.get(o, 0.0) * self.ins.get(i, 0.0)

    def to_json(self) -> list[dict[str, float]]:
        if self.counts is not None:
            return [{k: v for k, v in self.counts.items() if v}]
        return [{k: v for k, v in u.items() if v} for u in (self.places, self.outs, self.ins)]

    @staticmethod
    def from_json(units: list[dict[str, float]]) -> Dims:
        return Dims(counts=units[0]) if len(units) == 1 else Dims(*units)


def terms_of(dims: Sequence[Dims]) -> list[Term]:
    """All terms that any of the layers has."""
    if any(d.counts is not None for d in dims):
        return [(n, "", "") for n in dict.fromkeys(n for d in dims for n in d.counts or ())]
    places = dict.fromkeys(p for d in dims for p in d.places)
    outs = dict.fromkeys(o for d in dims for o in d.outs)
    ins = dict.fromkeys(i for d in dims for i in d.ins)
    return [(p, o, i) for p in places for o in outs for i in ins]


def _up(n: int, block: int) -> int:
    return -(-n // block)


def dims_of(node: Node, graph: Graph) -> Dims:
    """The units of a layer whose kernel's loops are not known."""
    if node.type in _WINDOWED:
        return _windowed(node, graph)
    if node.type == "FULLY_CONNECTED":
        return _dense(node, graph)
    return _other(node, graph)


def _channels(n: int, blocks: tuple[int, ...], name: str) -> dict[str, float]:
    return {"1": 1.0, name: float(n)} | {f"{name}/{b}": float(_up(n, b)) for b in blocks}


def _windowed(node: Node, graph: Graph) -> Dims:
    x, y = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    ih, iw = x.shape[1:3]
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
    places = {
        "1": 1,
        "rows": oh,
        "pixels": pixels,
        "pixels/2": _up(pixels, 2),
        "pixels/4": _up(pixels, 4),
        "runs/2": oh * _up(ow, 2),
        "runs/4": oh * _up(ow, 4),
        "runs/8": oh * _up(ow, 8),
        "tiles2": _up(oh, 2) * _up(ow, 2),
        "border": pixels - whole,
        "in pixels": ih * iw,
        "row taps": sum(rows) * ow / kh,
        "taps inside": sum(rows) * sum(columns) / (kh * kw),
    }
    k = kh * kw * depth
    ins = {
        "1": 1,
        "k": k,
        "k/4": _up(k, 4),
        "k/16": _up(k, 16),
        "taps": kh * kw,
        "kh": kh,
        "kh run/4": kh * _up(kw * depth, 4),
        "kh run/16": kh * _up(kw * depth, 16),
        "c": depth,
        "odd": 0.0 if depth % 4 == 0 else k,
    }
    outs = _channels(o, (2, 4, 8, 16), "o")
    return Dims(
        {n: float(v) for n, v in places.items()}, outs, {n: float(v) for n, v in ins.items()}
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


def _inside(
    inputs: int, outputs: int, kernel: int, stride: int, dilation: int, before: int
) -> list[int]:
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
    return Dims({"1": 1.0, "rows": float(rows)}, outs, ins)


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
    return Dims(places, outs, ins)
