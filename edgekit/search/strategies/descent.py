"""NetAdapt (Yang et al., ECCV 2018): step by step down in cost.

In each step every group alone is cut by enough to pay for the step, on the cost table; each of these is a
trial (repaired and compared), and the one that loses least for what it saves is where the next step starts.
When the accuracy is spent, what is left of the trials goes into exchanges around the best one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.search.metrics import QUALITY
from edgekit.search.strategies.base import (
    Ask,
    Proposal,
    floor_share,
    fresh,
    loss_of,
    neighbour,
    uncut_first,
)
from edgekit.search.trial import Trial

#: Least and most of the cost that one step takes away.
_LEAST, _MOST = 0.02, 0.2
#: The descent ends where an accuracy budget is missed by so much, relative to it.
_ENOUGH = 2.0


@dataclass(frozen=True)
class _State:
    """widths: where the step starts. loss, cost: of that network. step: its number."""

    widths: np.ndarray
    loss: float
    cost: float
    step: int
    over: float


class NetAdapt:
    """Greedy descent on the cost table, from the first base network."""

    name = "netadapt"
    control = False

    def propose(self, ask: Ask) -> Proposal:
        if (first := uncut_first(ask)) is not None:
            return first
        rng = ask.rng
        base = self._base(ask)
        costs = ask.estimator.layers[base]
        state = None if costs is None else self._state(ask, base)
        if costs is not None and state is not None and state.over < _ENOUGH:
            levels = ask.space.levels(base)
            limit = state.cost * (1 - self._ratio(ask, base))
            done = {
                t.tag.get("group") for t in (*ask.history, *ask.running)
                if t.tag.get("step") == state.step and t.tag.get("base", 0) == base
            }  # fmt: skip
            for g, group in enumerate(ask.space.bases[base].groups):
                if group.name in done or state.widths[g] == levels[g][0]:
                    continue
                for k in reversed([int(k) for k in levels[g] if k < state.widths[g]]):
                    widths = state.widths.copy()
                    widths[g] = k
                    if float(costs(widths[None])[0]) <= limit or k == levels[g][0]:
                        tag = {"as": "step", "step": state.step, "group": group.name, "base": base}
                        return Proposal(ask.space.with_widths(base, widths.tolist()), tag)
        start = ask.best()
        if start is not None:
            return Proposal(neighbour(ask, start, rng), {"as": "exchange", "of": start.number})
        return Proposal(fresh(ask, ask.space.random(rng), rng), {"as": "random"})

    def _base(self, ask: Ask) -> int:
        """Bases take turns of whole steps."""
        bases = len(ask.space.bases)
        if bases == 1:
            return 0
        per = max(1, sum(len(b.groups) for b in ask.space.bases) // bases)
        return ((ask.ordinal - bases) // per) % bases

    def _ratio(self, ask: Ask, base: int) -> float:
        """Share of the cost that a step takes away, so that the trials last to the goal."""
        groups = max(1, len(ask.space.bases[base].groups))
        steps = max(1.0, 0.8 * ask.total / groups / len(ask.space.bases))
        goal = max(floor_share(ask, base), 0.25)
        costs = ask.estimator.layers[base]
        if ask.cost_budget is not None and costs is not None and ask.estimator.factor > 0:
            goal = max(goal, min(0.95, 0.9 * ask.cost_budget / ask.estimator.factor / costs.total))
        return float(min(_MOST, max(_LEAST, 1 - math.exp(math.log(goal) / steps))))

    def _state(self, ask: Ask, base: int) -> _State | None:
        """Where the descent stands: the best of each finished step, one after the other."""
        costs = ask.estimator.layers[base]
        assert costs is not None
        levels = ask.space.levels(base)
        at = np.array([o[-1] for o in levels], np.int64)
        loss, over, step = 0.0, 0.0, 0
        while True:
            cost = float(costs(at[None])[0])
            mine = [
                t for t in ask.history if t.tag.get("step") == step and t.tag.get("base", 0) == base
            ]
            open_ = [t for t in ask.running if t.tag.get("step") == step]
            movable = sum(int(at[g] > levels[g][0]) for g in range(len(at)))
            if movable == 0:
                return None
            if len(mine) + len(open_) < movable or not mine:
                return _State(at, loss, cost, step, over)
            chosen = self._choose(ask, costs, mine, cost)
            if chosen is None:
                return None
            at = ask.space.widths(chosen.point)
            loss = loss_of(ask, chosen)
            over = max((b.violation(chosen.value(b.metric)) for b in ask.budgets
                        if b.metric in QUALITY), default=0.0)  # fmt: skip
            step += 1

    def _choose(self, ask: Ask, costs: object, mine: Sequence[Trial], now: float) -> Trial | None:
        from edgekit.search.costs import LayerCosts

        assert isinstance(costs, LayerCosts)
        known = [t for t in mine if t.state != "failed" and t.value("distance") is not None]

        def worth(t: Trial) -> tuple[float, int]:
            saved = now - float(costs(ask.space.widths(t.point)[None])[0])
            return loss_of(ask, t) / max(saved, 1e-9 * now), t.ordinal

        return min(known, key=worth, default=None)
