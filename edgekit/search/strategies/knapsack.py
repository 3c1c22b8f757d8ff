"""Knapsack over channel groups: the most importance that fits into a cost.

After Shen et al., HALP (NeurIPS 2022; latency-saliency knapsack): every group has a table of what keeping
k units is worth and every combination of widths a cost on the device. Three things close the loop: the
cost is the device's (:mod:`edgekit.search.costs`, corrected by every measurement); what groups are worth
is fitted again to the damage that the trials really showed; and around the best trial, exchanges of
single steps are tried.

The damage model is ``sum_g s_g(k_g) (a_g + b_g r_g^2)``: ``s_g`` the importance that goes with all but
``k_g`` units (with importance ``surgeon`` the loss after the repair, to second order), ``r_g`` units gone
over units kept, since a group that is cut to the bone loses more than the sum of its units. ``a_g`` and
``b_g`` are fitted to the trials' distances: non-negative ridge regression on relative errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgekit.search.costs import LayerCosts
from edgekit.search.strategies.base import (
    Ask,
    Proposal,
    floor_share,
    fresh,
    neighbour,
    uncut_first,
)
from edgekit.search.trial import Trial, pareto, total_violation

#: Combinations of widths that are all looked at.
_GRID = 1_500_000
#: Pull of ``a_g`` towards their common scale, and how far proposals stray from the model.
_RIDGE, _STRAY = 3.0, 0.2
#: Exchanges of which the most promising one is tried.
_EXCHANGES = 5
_SMALLEST_SHARE = 0.12


def basis(ask: Ask, base: int) -> list[np.ndarray]:
    """By group: ``[2, levels]``: importance lost, and the same times the squared ratio of units gone to
    units kept; 0 at full width."""
    scores, tables = ask.scores(base), []
    for g, o in zip(ask.space.bases[base].groups, ask.space.levels(base), strict=True):
        lost = np.concatenate([[0.0], np.cumsum(np.sort(np.maximum(scores[g.name], 0.0)))])
        first = lost[g.units - o]
        tables.append(np.stack([first, first * ((g.units - o) / o) ** 2]))
    return tables


def fit(ask: Ask, base: int, tables: Sequence[np.ndarray]) -> np.ndarray:
    """``[groups, 2]``: ``a_g`` and ``b_g`` of the damage model, from the trials so far."""
    count = len(tables)
    plain = [
        t for t in ask.history
        if ask.space.base_of(t.point) == base and t.value("distance") is not None
        and all(v == 1.0 for k, v in t.point.items() if "rank:" in k)
    ]  # fmt: skip
    start = np.stack([np.ones(count), np.zeros(count)], axis=1)
    if not plain or not count:
        return start
    levels = ask.space.levels(base)
    widths = np.stack([ask.space.widths(t.point) for t in plain])
    x = np.stack(
        [[np.interp(widths[:, g], levels[g], tables[g][i]) for i in (0, 1)] for g in range(count)]
    )  # [groups, 2, trials]
    y = np.array([float(t.value("distance") or 0.0) for t in plain])
    total = x[:, 0].sum(axis=0)
    uncut = y[total <= 0]
    y = np.maximum(y - (float(uncut.min()) if len(uncut) else 0.0), 0.0)[total > 0]
    x, total = x[:, :, total > 0], total[total > 0]
    scale = float(np.median(y / total)) if len(y) >= 3 else 0.0
    if not scale > 0:
        return start
    weight = 1.0 / (y + 0.2 * float(np.median(y)) + 1e-9)
    design = (x * scale * weight).reshape(2 * count, -1).T
    wanted = start.reshape(-1)
    pull = np.tile([_RIDGE, 1e-6], count)
    gram = design.T @ design + np.diag(pull)
    right = design.T @ (y * weight) + pull * wanted
    found = wanted.copy()
    least = np.tile([0.05, 0.0], count)
    for _ in range(200):  # coordinate descent: nothing becomes negative
        for j in range(len(found)):
            found[j] = max(least[j], found[j] + (right[j] - gram[j] @ found) / gram[j, j])
    return found.reshape(count, 2) * scale


def damage_tables(ask: Ask, base: int) -> list[np.ndarray]:
    """By group: damage at each of its levels, as fitted; falls with every unit that is kept."""
    tables = basis(ask, base)
    return [c @ t for c, t in zip(fit(ask, base, tables), tables, strict=True)]


def solve(
    costs: LayerCosts, levels: Sequence[np.ndarray], tables: Sequence[np.ndarray], limit: float
) -> np.ndarray:
    """The widths with the least sum of damages whose cost is within ``limit`` (the narrowest, where
    none is)."""
    if math.prod(len(o) for o in levels) <= _GRID:
        cost = costs.grid(levels)
        damage = np.zeros(cost.shape, np.float32)
        for g, t in enumerate(tables):
            damage += t.astype(np.float32).reshape(
                [-1 if i == g else 1 for i in range(len(levels))]
            )
        damage[cost > limit * (1 + 1e-9)] = np.inf
        at = int(np.argmin(damage))
        if not np.isfinite(damage.reshape(-1)[at]):
            at = int(np.argmin(cost))
        place = np.unravel_index(at, cost.shape)
        return np.array([o[i] for o, i in zip(levels, place, strict=True)], np.int64)
    return _greedy(costs, levels, tables, limit)


def _greedy(
    costs: LayerCosts, levels: Sequence[np.ndarray], tables: Sequence[np.ndarray], limit: float
) -> np.ndarray:
    """From full width the step with the least damage for what it saves, until the limit is kept; then
    whatever still fits is widened, most damage undone a cost first."""
    at = np.array([len(o) - 1 for o in levels])

    def widths(a: np.ndarray) -> np.ndarray:
        return np.array([o[i] for o, i in zip(levels, a, strict=True)], np.int64)

    now = float(costs(widths(at)[None])[0])
    while now > limit * (1 + 1e-9):
        groups = [g for g in range(len(at)) if at[g] > 0]
        if not groups:
            break
        trials = np.stack([widths(at - (np.arange(len(at)) == g)) for g in groups])
        saved = np.maximum(now - costs(trials), 1e-12)
        harm = np.array([tables[g][at[g] - 1] - tables[g][at[g]] for g in groups])
        g = groups[int(np.argmin(harm / np.minimum(saved, now - limit)))]
        at[g] -= 1
        now = float(costs(widths(at)[None])[0])
    while True:
        groups = [g for g in range(len(at)) if at[g] + 1 < len(levels[g])]
        if not groups:
            break
        trials = np.stack([widths(at + (np.arange(len(at)) == g)) for g in groups])
        then = costs(trials)
        won = np.array([tables[g][at[g]] - tables[g][at[g] + 1] for g in groups])
        ratio = np.where(then <= limit, won / np.maximum(then - now, 1e-12), -1.0)
        k = int(np.argmax(ratio))
        if ratio[k] <= 0:
            break
        at[groups[k]] += 1
        now = float(then[k])
    return widths(at)


class Knapsack:
    """A sweep over costs first; then knapsacks near where the best trial is, and exchanges around it."""

    name = "knapsack"
    control = False

    def propose(self, ask: Ask) -> Proposal:
        if (first := uncut_first(ask)) is not None:
            return first
        rng = ask.rng
        n = ask.ordinal - len(ask.space.bases)
        sweep = min(16, max(5, ask.total // 8)) * len(ask.space.bases)
        if n < sweep:
            return self._sweep(ask, n, sweep, rng)
        start = self._start(ask, rng)
        if start is None:
            return self._sweep(ask, n % sweep, sweep, rng, stray=_STRAY)
        if (n - sweep) % 2:
            return self._exchange(ask, start, rng)
        return self._near(ask, start, rng)

    def _exchange(self, ask: Ask, start: Trial, rng: np.random.Generator) -> Proposal:
        """Of a few exchanges around ``start`` the one that the damage model likes best."""
        points = [neighbour(ask, start, rng) for _ in range(_EXCHANGES)]
        base = ask.space.base_of(start.point)
        levels, tables = ask.space.levels(base), damage_tables(ask, base)
        harm = []
        for p in points:
            widths = ask.space.widths(p)
            damage = sum(
                float(np.interp(k, o, t)) for k, o, t in zip(widths, levels, tables, strict=True)
            )
            harm.append(damage * float(np.exp(_STRAY * rng.standard_normal())))
        return Proposal(points[int(np.argmin(harm))], {"as": "exchange", "of": start.number})

    def point(
        self, ask: Ask, base: int, limit: float, rng: np.random.Generator, stray: float
    ) -> Proposal:
        """The knapsack of a base within ``limit``, in the unit of the layer costs."""
        costs = ask.estimator.layers[base]
        if costs is None:
            return Proposal(fresh(ask, ask.space.full(base), rng), {"as": "random"})
        tables = damage_tables(ask, base)
        levels, tried = ask.space.levels(base), {tuple(sorted(k)) for k in ask.tried()}
        widths = ask.space.widths(ask.space.full(base))
        for attempt in range(8):
            noise = np.exp(stray * (1 + attempt) / 2 * rng.standard_normal(len(tables)))
            varied = [t * w for t, w in zip(tables, noise, strict=True)]
            widths = solve(costs, levels, varied, limit)
            point = ask.space.with_widths(base, widths.tolist(), self._rest(ask, base))
            if tuple(sorted(point.items())) not in tried:
                return Proposal(point, {"as": "knapsack", "share": round(limit / costs.total, 4)})
            stray = max(stray, 0.1)
        point = ask.space.with_widths(base, widths.tolist(), self._rest(ask, base))
        return Proposal(fresh(ask, point, rng), {"as": "knapsack, moved"})

    def _rest(self, ask: Ask, base: int) -> dict[str, int | float | str]:
        """Dimensions without a cost model: as in the best trial so far."""
        point = ask.space.full(base)
        found = ask.best(base)
        if found is not None:
            point |= {k: v for k, v in found.point.items() if "channels:" not in k}
        return point

    def _sweep(
        self, ask: Ask, n: int, sweep: int, rng: np.random.Generator, stray: float = 0.0
    ) -> Proposal:
        bases = len(ask.space.bases)
        base, k = n % bases, n // bases
        costs = ask.estimator.layers[base]
        if costs is None:
            return self.point(ask, base, 0.0, rng, stray)
        low = max(floor_share(ask, base), _SMALLEST_SHARE)
        count = max(2, sweep // bases)
        top = 0.95
        if ask.cost_budget is not None and ask.estimator.factor > 0 and ask.seeks == "quality":
            top = min(top, ask.cost_budget / ask.estimator.factor / costs.total)
            low = min(low, top) if low > top else max(low, 0.5 * top)
        share = top * (low / top) ** (k / (count - 1))
        return self.point(ask, base, share * costs.total, rng, stray)

    def _start(self, ask: Ask, rng: np.random.Generator) -> Trial | None:
        """The best trial, or one of the front where the front is what is sought."""
        if ask.seeks == "front":
            found = pareto(ask.history, ask.objectives)
            return found[int(rng.integers(len(found)))] if found else None
        return ask.best()

    def _near(self, ask: Ask, start: Trial, rng: np.random.Generator) -> Proposal:
        """A knapsack at a cost near the start's: below it where cost is sought, at the limit where
        quality is, in the widest gap of the front otherwise."""
        base = ask.space.base_of(start.point)
        factor = ask.estimator.factor or 1.0
        now = ask.cost(start)
        if now is None:
            return Proposal(neighbour(ask, start, rng), {"as": "exchange", "of": start.number})
        if ask.seeks == "quality":
            assert ask.cost_budget is not None
            goal = ask.cost_budget * (1 - 0.06 * float(rng.random()) - ask.estimator.error * 0.5)
        elif ask.seeks == "cost":
            over = total_violation(ask.budgets, start.values) > 0
            goal = now * (1 + 0.3 * float(rng.random()) if over else 1 - 0.08 * float(rng.random()))
        else:
            goal = self._gap(ask, now, rng)
        return self.point(ask, base, goal / factor, rng, _STRAY)

    def _gap(self, ask: Ask, now: float, rng: np.random.Generator) -> float:
        known = sorted(c for t in pareto(ask.history, ask.objectives) if (c := ask.cost(t)))
        if len(known) < 2:
            return now * (0.7 + 0.5 * float(rng.random()))
        gaps = np.diff(np.log(known))
        i = int(np.argmax(gaps * (0.5 + rng.random(len(gaps)))))
        return float(math.exp(math.log(known[i]) + gaps[i] * (0.25 + 0.5 * rng.random())))
