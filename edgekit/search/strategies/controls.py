"""Controls: what a search without a model of anything finds with the same trials."""

from __future__ import annotations

import numpy as np

from edgekit.search.strategies.base import Ask, Proposal, fresh, uncut_first


class Random:
    """Every dimension at random, each value alike."""

    name = "random"
    control = True

    def propose(self, ask: Ask) -> Proposal:
        if (first := uncut_first(ask)) is not None:
            return first
        rng = ask.rng
        return Proposal(fresh(ask, ask.space.random(rng), rng), {"as": "random"})


def van_der_corput(n: int) -> float:
    """The n-th number of a sequence in [0, 1) whose every beginning is spread evenly."""
    value, part = 0.0, 0.5
    while n:
        value += part * (n & 1)
        n >>= 1
        part /= 2
    return value


class Uniform:
    """The same share of every group, from all of it to the least, more and more finely."""

    name = "uniform"
    control = True

    def propose(self, ask: Ask) -> Proposal:
        if (first := uncut_first(ask)) is not None:
            return first
        bases = len(ask.space.bases)
        n = ask.ordinal - bases
        base = n % bases
        share = 1.0 - van_der_corput(n // bases + 1)
        levels = ask.space.levels(base)
        least = max(float(o[0]) / float(o[-1]) for o in levels) if levels else 1.0
        share = least + (1 - least) * share
        widths = [int(o[np.argmin(np.abs(o - share * o[-1]))]) for o in levels]
        return Proposal(ask.space.with_widths(base, widths), {"as": f"uniform {share:.3f}"})
