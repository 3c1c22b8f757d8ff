"""Optuna's samplers over the joint space: TPE (Bergstra et al., NIPS 2011; constraints: Gardner et al.,
2014) and NSGA-II (Deb et al., 2002).

A sampler is made anew for every trial, seeded by study and ordinal, and sees the finished trials in
the storage: what it proposes depends on nothing else. The first trials are knapsacks, so that it
starts from good ones.
"""

from __future__ import annotations

from typing import Any

from edgekit.search.ledger import distribution
from edgekit.search.space import Dimension, Point
from edgekit.search.strategies.base import Ask, Proposal, fresh, uncut_first
from edgekit.search.strategies.knapsack import Knapsack


class _Sampled:
    name = ""
    control = False

    def sampler(self, ask: Ask) -> Any:
        raise NotImplementedError

    def propose(self, ask: Ask) -> Proposal:
        if (first := uncut_first(ask)) is not None:
            return first
        start = Knapsack()
        n = ask.ordinal - len(ask.space.bases)
        sweep = min(12, max(4, ask.total // 6))
        if n < sweep:
            return start._sweep(ask, n, sweep, ask.rng)
        sampler = self.sampler(ask)
        known = sampler.infer_relative_search_space(ask.optuna, ask.frozen)
        relative = sampler.sample_relative(ask.optuna, ask.frozen, known)

        def draw(d: Dimension) -> Any:
            index = relative.get(d.name)
            if index is None:
                index = sampler.sample_independent(ask.optuna, ask.frozen, d.name, distribution(d))
            return d.values[int(index)]

        point: Point = {d.name: draw(d) for d in ask.space.shared}
        base = ask.space.base_of(point)
        point |= {d.name: draw(d) for d in ask.space.bases[base].dimensions}
        return Proposal(fresh(ask, point, ask.rng), {"as": self.name})


class Tpe(_Sampled):
    """Tree-structured Parzen estimators, all dimensions together."""

    name = "tpe"

    def sampler(self, ask: Ask) -> Any:
        from optuna.samplers import TPESampler

        seed = int(ask.rng.integers(2**31))
        several = len(ask.space.bases) > 1
        return TPESampler(seed=seed, n_startup_trials=4, multivariate=True, group=several,
                          constant_liar=True, warn_independent_sampling=False)  # fmt: skip


class Nsga2(_Sampled):
    """A genetic algorithm with non-dominated sorting."""

    name = "nsga2"

    def sampler(self, ask: Ask) -> Any:
        from optuna.samplers import NSGAIISampler

        size = int(min(50, max(6, ask.total // 6)))
        return NSGAIISampler(seed=int(ask.rng.integers(2**31)), population_size=size)
