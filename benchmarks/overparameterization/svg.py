"""Line charts as SVG text, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7a4fa3", "#b8860b", "#4a4a4a", "#0f9b8e", "#a23b72")
_W, _H, _LEFT, _TOP, _RIGHT, _BOTTOM = 760, 440, 70, 44, 230, 52


@dataclass(frozen=True)
class Series:
    """One line. style: "line", "points" or "both". band: half widths of the error bars of y."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "both"
    colour: int = 0
    dashed: bool = False
    band: Sequence[float] | None = None


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers in [low, high]."""
    if log:
        found = [
            m * 10.0**e
            for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for m in (1, 2, 5)
        ]
        return [v for v in found if low * 0.999 <= v <= high * 1.001]
    raw = (high - low) / 6 or 1.0
    base = 10.0 ** math.floor(math.log10(raw))
    step = min((m * base for m in (1, 2, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]


def chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    log_x: bool = False,
    log_y: bool = False,
    y_range: tuple[float, float] | None = None,
    mark_x: tuple[float, str] | None = None,
) -> str:
    """The chart as an SVG document. Points outside ``y_range`` are clipped; mark_x: a vertical line."""
    xs = [v for s in series for v in s.x]
    ys = [v for s in series for v in s.y if math.isfinite(v)]
    x0, x1 = min(xs), max(xs)
    y0, y1 = y_range or (min(ys), max(ys))
    if not log_y and y_range is None:
        pad = 0.05 * (y1 - y0 or 1.0)
        y0, y1 = y0 - pad, y1 + pad

    def place(v: float, low: float, high: float, log: bool) -> float:
        if log:
            v, low, high = math.log10(max(v, low * 1e-6)), math.log10(low), math.log10(high)
        return (v - low) / ((high - low) or 1.0)

    def px(v: float) -> float:
        return round(_LEFT + place(v, x0, x1, log_x) * (_W - _LEFT - _RIGHT), 1)

    def py(v: float) -> float:
        return round(_H - _BOTTOM - place(v, y0, y1, log_y) * (_H - _TOP - _BOTTOM), 1)

    right, floor = _W - _RIGHT, _H - _BOTTOM
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_W} {_H}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_W}" height="{_H}" fill="white"/>',
        f'<clipPath id="c"><rect x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" '
        f'height="{floor - _TOP}"/></clipPath>',
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>',
    ]
    for v in ticks(x0, x1, log_x):
        out.append(f'<path d="M{px(v)} {_TOP}V{floor}" stroke="#e4e4e4"/>'
                   f'<text x="{px(v)}" y="{floor + 18}" text-anchor="middle">{v:g}</text>')  # fmt: skip
    for v in ticks(y0, y1, log_y):
        out.append(f'<path d="M{_LEFT} {py(v)}H{right}" stroke="#e4e4e4"/>'
                   f'<text x="{_LEFT - 8}" y="{py(v) + 4}" text-anchor="end">{v:g}</text>')  # fmt: skip
    out.append(f'<path d="M{_LEFT} {_TOP}V{floor}H{right}" fill="none" stroke="#555"/>')
    if mark_x is not None:
        out.append(f'<path d="M{px(mark_x[0])} {_TOP}V{floor}" stroke="#999" stroke-dasharray="2 3"/>'
                   f'<text x="{px(mark_x[0]) + 4}" y="{_TOP + 12}" fill="#777">'
                   f"{escape(mark_x[1])}</text>")  # fmt: skip
    for k, s in enumerate(series):
        colour = COLOURS[s.colour % len(COLOURS)]
        points = [(px(a), py(b)) for a, b in zip(s.x, s.y, strict=True) if math.isfinite(b)]
        dash = ' stroke-dasharray="6 4"' if s.dashed else ""
        if s.style in ("line", "both") and points:
            path = "M" + "L".join(f"{a} {b}" for a, b in points)
            out.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dash} '
                       'clip-path="url(#c)"/>')  # fmt: skip
        if s.style in ("points", "both"):
            out += [f'<circle cx="{a}" cy="{b}" r="3.2" fill="{colour}" clip-path="url(#c)"/>'
                    for a, b in points]  # fmt: skip
        for a, b, half in zip(s.x, s.y, s.band or (), strict=False):
            if not math.isfinite(half):
                continue
            out.append(f'<path d="M{px(a)} {py(b - half)}V{py(b + half)}" stroke="{colour}" '
                       'clip-path="url(#c)"/>')  # fmt: skip
        if not s.name:
            continue
        y = _TOP + 10 + 18 * k
        mark = (f'<circle cx="{right + 26}" cy="{y}" r="3.2" fill="{colour}"/>'
                if s.style != "line" else "")  # fmt: skip
        line = (f'<path d="M{right + 14} {y}h24" stroke="{colour}" stroke-width="1.8"{dash}/>'
                if s.style != "points" else "")  # fmt: skip
        out.append(f'{line}{mark}<text x="{right + 44}" y="{y + 4}">{escape(s.name)}</text>')
    out.append(f'<text x="{(_LEFT + right) / 2}" y="{_H - 12}" text-anchor="middle">'
               f"{escape(x_label)}</text>")  # fmt: skip
    middle = (_TOP + floor) / 2
    out.append(f'<text x="18" y="{middle}" text-anchor="middle" transform="rotate(-90 18 {middle})">'
               f"{escape(y_label)}</text></svg>\n")  # fmt: skip
    return "\n".join(out)


def write(path: Path, text: str) -> None:
    """Beside first, then in place."""
    temp = path.with_name(f".{path.name}.tmp")
    temp.write_text(text, encoding="utf-8")
    temp.replace(path)
