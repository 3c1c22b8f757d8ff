"""What a strategy is given, and what it gives back.

A strategy proposes one point at a time. A proposal is a function of the seed, the ordinal and the trials so
far, and of nothing else: a study that was killed goes on to the same result, and several processes
may ask at the same time (they see each other's running trials).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from edgekit.search import metrics
from edgekit.search.costs import Estimator
from edgekit.search.metrics import QUALITY, Budget
from edgekit.search.space import Point, Space
from edgekit.search.trial import Trial, best


@dataclass(frozen=True)
class Ask:
    """A request for the next point.

    ordinal: of the trial; total: trials the study will have. history: settled trials by ordinal; running:
    those somebody works on. estimator: prices points in ``metric``, which the search drives down. scores:
    base -> importance of the units by group. objectives, budgets: what decides, in terms of ``metric``
    (a MACs-driven search has MACs in place of the device's costs). optuna, frozen: the study and the
    trial, for Optuna's samplers.
    """

    ordinal: int
    total: int
    seed: int
    space: Space
    history: Sequence[Trial]
    running: Sequence[Trial]
    estimator: Estimator
    scores: Callable[[int], Mapping[str, np.ndarray]]
    metric: str
    objectives: Sequence[str]
    budgets: Sequence[Budget]
    optuna: Any = None
    frozen: Any = None

    @property
    def rng(self) -> np.random.Generator:
        """The same numbers for the same trial of the same study."""
        return np.random.default_rng([self.seed, 1 + self.ordinal])

    def tried(self) -> set[tuple[tuple[str, Any], ...]]:
        return {key(t.point) for t in (*self.history, *self.running)}

    def best(self, base: int | None = None) -> Trial | None:
        mine = [t for t in self.history if base is None or self.space.base_of(t.point) == base]
        return best(mine, self.objectives, self.budgets)

    @property
    def quality_budget(self) -> bool:
        return any(b.metric in QUALITY for b in self.budgets)

    @property
    def cost_budget(self) -> float | None:
        """The limit of the cost that is driven down, if there is one."""
        limits = [b.limit for b in self.budgets if b.metric == self.metric and b.op == "<="]
        return min(limits) if limits else None

    @property
    def seeks(self) -> str:
        """``cost``: least cost at enough quality; ``quality``: most quality at little enough cost;
        ``front``: neither is limited."""
        first = self.objectives[0]
        if first not in QUALITY and self.quality_budget:
            return "cost"
        if first in QUALITY and self.cost_budget is not None:
            return "quality"
        return "cost" if self.quality_budget else "front"

    def cost(self, trial: Trial) -> float | None:
        return trial.value(self.metric)


@dataclass(frozen=True)
class Proposal:
    """tag: JSON-ready notes of the strategy, which it finds in the history again."""

    point: Point
    tag: Mapping[str, Any] = field(default_factory=dict)


class Strategy(Protocol):
    """name: as on the command line. control: it only shows what the others are worth."""

    name: str
    control: bool

    def propose(self, ask: Ask) -> Proposal: ...


def key(point: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(point.items()))


def uncut_first(ask: Ask) -> Proposal | None:
    """The first trials are the networks as they are: what everything is compared with, and the
    first samples of what their layers cost."""
    if ask.ordinal < len(ask.space.bases):
        return Proposal(ask.space.full(ask.ordinal), {"as": "uncut"})
    return None


def fresh(ask: Ask, point: Point, rng: np.random.Generator) -> Point:
    """The point, or one step away from it in a random direction where it was tried before."""
    tried = ask.tried()
    dims = ask.space.dimensions(ask.space.base_of(point))
    for _ in range(64):
        if key(point) not in tried:
            return point
        d = dims[int(rng.integers(len(dims)))]
        if d.name == "base":
            continue
        at = d.index(point[d.name])
        to = (
            at + (1 if rng.random() < 0.5 else -1)
            if d.ordered
            else int(rng.integers(len(d.values)))
        )
        point = {**point, d.name: d.values[min(max(to, 0), len(d.values) - 1)]}
    return point


def neighbour(ask: Ask, start: Trial, rng: np.random.Generator) -> Point:
    """An exchange near a good trial: a dimension one or two steps down, and half of the time (always
    when quality is sought) another one up; the cheapest to price of a few that fit."""
    dims = [d for d in ask.space.dimensions(ask.space.base_of(start.point)) if d.name != "base"]
    tried = ask.tried()
    now = ask.cost(start)
    limit = ask.cost_budget if ask.seeks == "quality" else now
    point = dict(start.point)
    for _ in range(24):
        point = dict(start.point)
        down = dims[int(rng.integers(len(dims)))]
        up = dims[int(rng.integers(len(dims)))]
        steps = [(down, -1 - int(rng.random() < 0.3))]
        if ask.seeks == "quality" or rng.random() < 0.5:
            steps.append((up, 1))
        if ask.seeks == "quality" and rng.random() < 0.5:
            steps = steps[1:]
        for d, step in steps:
            if not d.ordered:
                point[d.name] = d.values[int(rng.integers(len(d.values)))]
            else:
                at = min(max(d.index(point[d.name]) + step, 0), len(d.values) - 1)
                point[d.name] = d.values[at]
        if key(point) in tried:
            continue
        priced = ask.estimator.estimate(point)
        if priced is None or limit is None or priced.value <= limit * (1 + 1e-9):
            return point
    return fresh(ask, point, rng)


def floor_share(ask: Ask, base: int) -> float:
    """The least share of a base's cost that its widths can reach."""
    costs = ask.estimator.layers[base]
    if costs is None:
        return 1.0
    least = np.array([o[0] for o in ask.space.levels(base)], np.int64)
    return float(costs(least[None])[0]) / costs.total


def loss_of(ask: Ask, trial: Trial) -> float:
    """What a trial lost in quality, as a number that falls smoothly: its distance to the original."""
    d = trial.value("distance")
    return metrics.WORST if d is None else float(d)
