"""The drawings of a study's page as values: where every mark lies. The template only writes them down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.report import text
from edgekit.search.metrics import better

WIDTH, HEIGHT = 720.0, 360.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 70.0, 20.0, 16.0, 44.0


@dataclass(frozen=True)
class Mark:
    """A trial in a drawing. look: complete, stopped, failed, and front or winner besides."""

    trial: int
    x: float
    y: float
    look: str
    title: str


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Plot:
    """marks: later ones over earlier ones. path: the front's staircase, or the diagonal. limits: lines of
    the budgets: (x1, y1, x2, y2, words)."""

    marks: Sequence[Mark]
    xticks: Sequence[Tick]
    yticks: Sequence[Tick]
    xtitle: str
    ytitle: str
    path: str = ""
    limits: Sequence[tuple[float, float, float, float, str]] = ()
    width: float = WIDTH
    height: float = HEIGHT
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM


@dataclass(frozen=True)
class Axis:
    name: str
    x: float
    low: str
    high: str


@dataclass(frozen=True)
class Line:
    trial: int
    path: str
    look: str
    title: str


@dataclass(frozen=True)
class Parallel:
    axes: Sequence[Axis]
    lines: Sequence[Line]
    width: float
    height: float
    top: float
    bottom: float


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    raw = span / count
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9) * step
    return [first + i * step for i in range(int((high - first) / step + 1e-9) + 1)]


class _Scale:
    def __init__(self, values: Sequence[float], a: float, b: float) -> None:
        low, high = min(values, default=0.0), max(values, default=1.0)
        pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        self.low, self.high, self.a, self.b = low - pad, high + pad, a, b

    def __call__(self, v: float) -> float:
        return round(self.a + (v - self.low) / (self.high - self.low) * (self.b - self.a), 2)

    def ticks(self) -> list[Tick]:
        return [Tick(self(t), text.compact(t)) for t in nice_ticks(self.low, self.high)]


def look(trial: Any, front: set[int], winner: int | None) -> str:
    words = [trial.state]
    if trial.number in front:
        words.append("front")
    if trial.number == winner:
        words.append("winner")
    return " ".join(words)


def words(trial: Any, metrics: Sequence[str]) -> str:
    """What is shown when a trial is pointed at."""
    figures = []
    for m in metrics:
        if (v := trial.value(m)) is not None:
            guess = trial.kinds.get(m) == "estimated" and not trial.measured
            figures.append(f"{m} {text.compact(v)}{' (predicted)' if guess else ''}")
    return f"trial {trial.number}: {', '.join(figures) or trial.why or trial.state}"


def pareto_plot(study: Any, names: Sequence[str]) -> Plot | None:
    """Quality over cost of every trial; what was not measured is where it was predicted."""
    quality, cost = study.axes()
    front = {t.number for t in study.front()}
    winner = None if study.winner is None else study.winner.number
    shown = [t for t in study.trials if t.value(quality) is not None and t.value(cost) is not None]
    if not shown:
        return None
    x = _Scale([t.value(cost) for t in shown], _LEFT, WIDTH - _RIGHT)
    y = _Scale([t.value(quality) for t in shown], HEIGHT - _BOTTOM, _TOP)
    order = {"stopped": 0, "failed": 0, "complete": 1}
    shown.sort(key=lambda t: (order.get(t.state, 0), t.number in front, t.number == winner))
    marks = [
        Mark(
            t.number, x(t.value(cost)), y(t.value(quality)), look(t, front, winner), words(t, names)
        )
        for t in shown
    ]
    steps = sorted(study.front(), key=lambda t: t.value(cost))
    path, before = "", None
    for t in steps:
        px, py = x(t.value(cost)), y(t.value(quality))
        path += f"M{px},{py}" if before is None else f" L{px},{before} L{px},{py}"
        before = py
    limits = []
    for b in study.plan.budgets:
        if b.metric == cost and x.low < b.limit < x.high:
            limits.append((x(b.limit), _TOP, x(b.limit), HEIGHT - _BOTTOM, str(b)))
        if b.metric == quality and y.low < b.limit < y.high:
            limits.append((_LEFT, y(b.limit), WIDTH - _RIGHT, y(b.limit), str(b)))
    return Plot(marks, x.ticks(), y.ticks(), cost, quality, path, limits)


def timeline(study: Any, names: Sequence[str]) -> Plot | None:
    """The cost over time, trial by trial, and the best so far."""
    _, cost = study.axes()
    front = {t.number for t in study.front()}
    winner = None if study.winner is None else study.winner.number
    shown = [t for t in study.trials if t.value(cost) is not None and t.finished is not None]
    if not shown:
        return None
    shown.sort(key=lambda t: t.finished)
    x = _Scale([0.0, *(t.finished for t in shown)], _LEFT, WIDTH - _RIGHT)
    y = _Scale([t.value(cost) for t in shown], HEIGHT - _BOTTOM, _TOP)
    marks = [Mark(t.number, x(t.finished), y(t.value(cost)), look(t, front, winner), words(t, names))
             for t in shown]  # fmt: skip
    from edgekit.search.trial import rank

    path, best = "", None
    for t in shown:
        if not t.measured:
            continue
        here = (rank(t, study.plan.objectives, study.plan.budgets), t)
        if best is None or here[0] < best[0]:
            px, py = x(t.finished), y(t.value(cost))
            path += f"M{px},{py}" if best is None else f" L{px},{y(best[1].value(cost))} L{px},{py}"
            best = here
    if best is not None:
        path += f" L{WIDTH - _RIGHT},{y(best[1].value(cost))}"
    return Plot(marks, x.ticks(), y.ticks(), "seconds since the study began", cost, path)


def predicted_plot(study: Any, names: Sequence[str]) -> Plot | None:
    """Predicted against measured cost; the diagonal is a right prediction."""
    metric = study.plan.metric
    front = {t.number for t in study.front()}
    winner = None if study.winner is None else study.winner.number
    shown = [t for t in study.trials if t.off is not None and t.predicted and t.value(metric)]
    if not shown:
        return None
    values = [v for t in shown for v in (t.value(metric), t.predicted["value"])]
    x, y = _Scale(values, _LEFT, WIDTH - _RIGHT), _Scale(values, HEIGHT - _BOTTOM, _TOP)
    marks = [
        Mark(t.number, x(t.predicted["value"]), y(t.value(metric)), look(t, front, winner),
             f"trial {t.number}: predicted {text.compact(t.predicted['value'])}, measured "
             f"{text.compact(t.value(metric))} ({100 * t.off:+.1f} %)")
        for t in shown
    ]  # fmt: skip
    diagonal = f"M{x(x.low)},{y(y.low)} L{x(x.high)},{y(y.high)}"
    return Plot(marks, x.ticks(), y.ticks(), f"predicted {metric}", f"measured {metric}", diagonal)


def parallel(study: Any, names: Sequence[str], most: int = 200) -> Parallel | None:
    """Every measured trial as a line through its choices and its figures."""
    front = {t.number for t in study.front()}
    winner = None if study.winner is None else study.winner.number
    shown = [t for t in study.trials if t.measured][-most:]
    columns: list[tuple[str, list[float | None]]] = []
    keys = list(dict.fromkeys(k for t in study.trials for k in t.point))
    for k in keys:
        values = [t.point.get(k) for t in shown]
        if all(v is None or isinstance(v, (int, float)) for v in values):
            columns.append((k, [None if v is None else float(v) for v in values]))
        else:
            kinds = sorted({str(v) for v in values})
            columns.append((k, [float(kinds.index(str(v))) for v in values]))
    columns += [(m, [t.value(m) for t in shown]) for m in names]
    columns = [(k, v) for k, v in columns if len({x for x in v if x is not None}) > 1 or k in names]
    if not shown or len(columns) < 2:
        return None
    top, bottom, gap = 60.0, 300.0, 104.0
    axes, at = [], []
    for i, (k, values) in enumerate(columns):
        known = [v for v in values if v is not None]
        low, high = min(known, default=0.0), max(known, default=1.0)
        up = better(k) < 0 if k in names else False  # the better end of every figure is on top
        x = 70.0 + i * gap
        axes.append(
            Axis(k, x, text.compact(high if up else low), text.compact(low if up else high))
        )
        span = high - low or 1.0
        at.append([
            None if v is None
            else round(bottom - (((high - v) if up else (v - low)) / span if high > low else 0.5)
                       * (bottom - top), 2)
            for v in values
        ])  # fmt: skip
    lines = []
    for j, t in enumerate(shown):
        points = [f"{a.x:g},{ys[j]}" for a, ys in zip(axes, at, strict=True) if ys[j] is not None]
        lines.append(
            Line(t.number, "M" + " L".join(points), look(t, front, winner), words(t, names))
        )
    lines.sort(key=lambda li: ("front" in li.look, "winner" in li.look))
    return Parallel(axes, lines, 140.0 + (len(columns) - 1) * gap, 330.0, top, bottom)
