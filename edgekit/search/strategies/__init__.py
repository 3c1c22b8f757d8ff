"""Strategies by name: what to try next. Every one sees predicted costs first and measured ones after."""

from __future__ import annotations

from edgekit.errors import InputError
from edgekit.search.strategies.base import Ask, Proposal, Strategy

#: In the order of the command line's help.
NAMES = ("knapsack", "netadapt", "tpe", "nsga2", "random", "uniform", "macs")


def get_strategy(name: str) -> Strategy:
    """The strategy of that name; InputError naming the known ones. ``macs`` is the knapsack with MACs as
    its only cost: what a search does that has no device."""
    from edgekit.search.strategies.controls import Random, Uniform
    from edgekit.search.strategies.descent import NetAdapt
    from edgekit.search.strategies.knapsack import Knapsack
    from edgekit.search.strategies.sampled import Nsga2, Tpe

    known: dict[str, type] = {
        "knapsack": Knapsack, "netadapt": NetAdapt, "tpe": Tpe, "nsga2": Nsga2,
        "random": Random, "uniform": Uniform, "macs": Knapsack,
    }  # fmt: skip
    if name not in known:
        raise InputError(f"strategy '{name}' is unknown; known are {', '.join(NAMES)}")
    made: Strategy = known[name]()
    return made


__all__ = ["NAMES", "Ask", "Proposal", "Strategy", "get_strategy"]
