"""The roofline plot: how much arithmetic a layer does for each byte it touches, and how fast.

After Williams, Waterman, Patterson, "Roofline: an insightful visual performance model for multicore
architectures", CACM 52(4), 2009. The roofs are those of the instruction set and the data bus (kind
``estimated``): no board reaches them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.report.layers import Column, Layer
from edgekit.report.text import clean, number
from edgekit.targets.schema import Target

WIDTH, HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 16, 52
_LABELS = 16  #: points that get a number; all have a tooltip


@dataclass(frozen=True)
class Roof:
    """macs_per_cycle: int8 multiply-accumulates of one core; bytes_per_cycle: its data bus."""

    macs_per_cycle: float
    bytes_per_cycle: float
    why: str


def roof_of(target: Target) -> Roof | None:
    """The core's peak, from its instruction set; None where it is not a microcontroller."""
    core = target.core
    if target.family == "npu" or not core.name.startswith("cortex-m"):  # the core only assists
        return None
    wide = core.name in ("cortex-m7", "cortex-m55", "cortex-m85")
    bus = 8.0 if wide else 4.0
    if target.has("mve"):
        return Roof(8.0, bus, "Helium VMLADAVA.S8: 16 MACs in two cycles")
    if target.has("dsp"):
        return Roof(2.0, bus, "SMLAD: two MACs a cycle")
    if core.isa.startswith("armv7"):
        return Roof(0.5, bus, "MLA: one MAC in two cycles")
    if core.isa.startswith("armv6"):
        return Roof(0.5, bus, "MULS and ADDS: one MAC in two cycles")
    return Roof(1.0, bus, "MLA: one MAC a cycle")


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    r: float
    index: int
    label: str
    title: str


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Plot:
    points: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    roof_path: str  #: SVG polyline points, or ""
    roof_label: tuple[float, float, str] | None
    y_title: str
    left: float
    right: float
    top: float
    bottom: float
    width: float = WIDTH
    height: float = HEIGHT


class _Axis:
    """A logarithmic axis from ``low`` to ``high`` onto ``begin`` to ``end``."""

    def __init__(self, low: float, high: float, begin: float, end: float) -> None:
        self.low, self.high = math.log10(low), math.log10(high)
        self.begin, self.end = begin, end

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 2)

    def ticks(self) -> tuple[Tick, ...]:
        steps = (1, 2, 5) if self.high - self.low <= 3.2 else (1,)
        found = []
        for exponent in range(math.floor(self.low), math.ceil(self.high) + 1):
            for m in steps:
                value = m * 10.0**exponent
                if self.low <= math.log10(value) <= self.high:
                    found.append(Tick(self(value), f"{value:g}"))
        return tuple(found)


_Y = {
    "cycles": "MACs per cycle",
    "time_ms": "MACs per nanosecond",
    "instructions": "MACs per instruction",
}


def plot(layers: Sequence[Layer], column: Column | None, target: Target) -> Plot | None:
    """Geometry of the plot, or None where no layer has MACs, bytes and a cost."""
    if column is None:
        return None
    unit = 1e-6 if column.key == "time_ms" else 1.0
    known = [
        (la, la.macs / la.bytes_moved, speed * unit, la.cost(column.key) or 0.0)
        for la in layers
        if la.bytes_moved and (speed := la.macs_per(column.key)) is not None
    ]
    if not known:
        return None
    roof = roof_of(target) if column.key == "cycles" else None
    xs, ys = [k[1] for k in known], [k[2] for k in known]
    if roof is not None:
        xs.append(roof.macs_per_cycle / roof.bytes_per_cycle)
        ys.append(roof.macs_per_cycle)
    left, right = float(_LEFT), float(WIDTH - _RIGHT)
    top, bottom = float(_TOP), float(HEIGHT - _BOTTOM)
    ax = _Axis(min(xs) / 1.8, max(xs) * 1.8, left, right)
    ay = _Axis(min(ys) / 1.8, max(ys) * 1.8, bottom, top)
    total = sum(k[3] for k in known) or 1.0
    biggest = sorted(known, key=lambda k: (-k[3], k[0].index))[:_LABELS]
    named = {k[0].index for k in biggest}
    points = []
    for la, x, y, cost in known:
        text = (
            f"layer {la.index}, {la.name}: {number(x)} MACs a byte, {number(y, 3)} {_Y[column.key]}"
        )
        if roof is not None:
            limit = min(roof.macs_per_cycle, roof.bytes_per_cycle * x)
            text += f", {100 * y / limit:.0f} % of the roof above it"
        points.append(
            Point(
                ax(x),
                ay(y),
                round(7 + 11 * math.sqrt(cost / total), 2),
                la.index,
                str(la.index) if la.index in named else "",
                clean(text),
            )
        )
    path, roof_label = _draw_roof(roof, ax, ay, max(xs) * 1.8, min(ys) / 1.8, min(xs))
    return Plot(
        # Large points first, so that none hides a small one.
        points=tuple(sorted(points, key=lambda p: (-p.r, p.index))),
        x_ticks=ax.ticks(),
        y_ticks=ay.ticks(),
        roof_path=path,
        roof_label=roof_label,
        y_title=_Y[column.key],
        left=left,
        right=right,
        top=top,
        bottom=bottom,
    )


def _draw_roof(
    roof: Roof | None, ax: _Axis, ay: _Axis, x_high: float, y_low: float, x_min: float
) -> tuple[str, tuple[float, float, str] | None]:
    if roof is None:
        return "", None
    ridge = roof.macs_per_cycle / roof.bytes_per_cycle
    start = max(y_low / roof.bytes_per_cycle, x_min / 1.8)
    corners = [
        (start, roof.bytes_per_cycle * start),
        (ridge, roof.macs_per_cycle),
        (x_high, roof.macs_per_cycle),
    ]
    path = " ".join(f"{ax(x)},{ay(y)}" for x, y in corners)
    return path, (ax(x_high) - 6, ay(roof.macs_per_cycle) - 7, roof.why)
