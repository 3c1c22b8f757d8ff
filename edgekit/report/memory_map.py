"""The arena drawn: which bytes hold what while the layers run, and what memory is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.graph.ir import Graph
from edgekit.report.text import number, rows, short, size, whole

WIDTH, HEIGHT = 1040, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 12, 14, 44
_GLYPH = 7.0  #: width of a character of the map's labels, in the drawing's units


@dataclass(frozen=True)
class Box:
    """A buffer: a rectangle over the layers during which it is alive (x) and its bytes (y)."""

    x: float
    y: float
    w: float
    h: float
    kind: str  #: ``scratch``, ``input``, ``output`` or ``activation``
    label: str
    title: str
    first: int
    last: int


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class ArenaMap:
    """The drawing, in its own units (``WIDTH`` by ``HEIGHT``)."""

    boxes: tuple[Box, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    left: float
    right: float
    top: float
    bottom: float
    peak: tuple[float, float] | None  #: x and width of the layer that needs the most
    width: float = WIDTH
    height: float = HEIGHT


@dataclass(frozen=True)
class Part:
    name: str
    bytes: int
    note: str
    share: float  #: of what is used


@dataclass(frozen=True)
class Usage:
    """A kind of memory: what is used, of how much, and by what."""

    name: str
    used: int
    available: int | None
    parts: tuple[Part, ...]

    @property
    def share(self) -> float | None:
        return self.used / self.available if self.available else None


def arena_map(memory: Mapping[str, Any], graph: Graph) -> ArenaMap | None:
    """Geometry of the arena's map, or None when the artifact says nothing about buffers."""
    arena = whole(memory.get("arena_bytes")) or 0
    buffers = [b for b in rows(memory.get("buffers")) if _placed(b)]
    if arena <= 0 or not buffers:
        return None
    steps = len(graph.nodes) + 2  # one column before the first layer, one after the last
    left, right = float(_LEFT), float(WIDTH - _RIGHT)
    top, bottom = float(_TOP), float(HEIGHT - _BOTTOM)
    column, scale = (right - left) / steps, (bottom - top) / arena
    maker = {o: n.name for n in graph.nodes for o in n.outputs}
    peak = None
    for step, node in enumerate(graph.nodes):
        if node.name == memory.get("peak_node"):
            peak = (left + column * (step + 1), column)
    every = max(1, -(-len(graph.nodes) // 40))
    return ArenaMap(
        boxes=tuple(_box(b, graph, maker, left, bottom, column, scale) for b in buffers),
        x_ticks=tuple(
            Tick(left + column * (i + 1.5), str(i))
            for i in range(len(graph.nodes))
            if i % every == 0
        ),
        y_ticks=tuple(Tick(bottom - arena * k / 4 * scale, size(arena * k // 4)) for k in range(5)),
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        peak=peak,
    )


def _placed(b: Mapping[str, Any]) -> bool:
    return all(whole(b.get(k)) is not None for k in ("offset", "bytes", "first", "last"))


def _box(
    b: Mapping[str, Any],
    graph: Graph,
    maker: Mapping[str, str],
    left: float,
    bottom: float,
    column: float,
    scale: float,
) -> Box:
    first, last = int(b["first"]), int(b["last"])
    offset, nbytes = int(b["offset"]), int(b["bytes"])
    last_step = len(graph.nodes)
    first, last = max(-1, min(first, last_step)), max(-1, min(last, last_step))
    name = str(b.get("name", ""))
    held = b.get("tensors")
    tensors = [str(t) for t in held] if isinstance(held, list) and held else [name]
    if name.startswith("scratch:"):
        kind, label = "scratch", f"scratch of {name.removeprefix('scratch:')}"
    elif any(t in graph.inputs for t in tensors):
        kind, label = "input", "input"
    elif any(t in graph.outputs for t in tensors):
        kind, label = "output", "output"
    else:
        kind, label = "activation", maker.get(tensors[0], name)
    w, h = column * (last - first + 1), nbytes * scale
    fits = int((w - 10) / _GLYPH)
    drawn = short(label, fits) if kind != "scratch" else "scratch" if fits >= 7 else ""
    whose = " and, in place, ".join(dict.fromkeys(maker.get(t, t) for t in tensors))
    title = (
        f"{label if kind == 'scratch' else 'output of ' + whose if kind != 'input' else 'model input'}"
        f": {number(nbytes)} bytes at offset {number(offset)}, alive {_during(first, last, last_step)}"
    )
    return Box(
        x=left + column * (first + 1),
        y=bottom - (offset + nbytes) * scale,
        w=w,
        h=h,
        kind=kind,
        label=drawn if fits >= 5 and h >= 13 else "",
        title=title if len(title) <= 400 else f"{title[:400]}…",
        first=first,
        last=last,
    )


def _during(first: int, last: int, end: int) -> str:
    begin = "from before the first layer" if first < 0 else f"from layer {first}"
    finish = "until after the last layer" if last >= end else f"to layer {last}"
    return f"{begin} {finish}"


def usages(memory: Mapping[str, Any], profiled: Mapping[str, Any] | None) -> list[Usage]:
    """Flash and RAM of the artifact; the stack's high-water mark only from a profile."""
    m = {**memory, **(profiled or {})}

    def get(key: str) -> int:
        return whole(m.get(key)) or 0

    weights = get("weights_bytes")
    flash = [
        ("weights and biases", weights, "packed for the kernels"),
        ("other constants", max(0, get("constants_bytes") - weights), "tables, descriptors"),
        ("code", get("code_bytes"), "kernels, model, start-up"),
    ]
    scratch = min(get("scratch_bytes"), get("arena_bytes"))
    note = (
        f"activations and scratch ({number(scratch)} bytes at most)" if scratch else "activations"
    )
    ram = [
        ("arena", get("arena_bytes"), note),
        ("data and bss", get("data_bss_bytes"), "outside the arena"),
        ("stack", get("stack_bytes"), "high-water mark of one inference"),
    ]
    static = get("static_ram_bytes") or get("arena_bytes")
    ram_used = whole(m.get("ram_bytes")) or static + get("stack_bytes")
    return [
        _usage("Flash", get("flash_bytes"), whole(m.get("flash_available")), flash),
        _usage("RAM", ram_used, whole(m.get("ram_available")), ram),
    ]


def _usage(
    name: str, used: int, available: int | None, parts: Sequence[tuple[str, int, str]]
) -> Usage:
    known = sum(n for _, n, _ in parts)
    listed = [*parts]
    if used > known:
        listed.append(("other", used - known, "alignment, and what is not broken down"))
    whole_ = max(used, known, 1)
    return Usage(
        name,
        used,
        available or None,
        tuple(Part(what, n, note, n / whole_) for what, n, note in listed if n > 0),
    )
