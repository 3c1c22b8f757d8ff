"""How many units every group keeps, for a budget.

*uniform*: the same share everywhere. *global*: blocks of units go in the order of importance for what
they save. *sensitivity*: the damage of cutting each group alone is measured at several widths (after the
repair that will be used), and the widths with the least sum of damages within the budget are searched:
all combinations where there are few, otherwise greedily and by exchange.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, product

import numpy as np

from edgekit.compress.cost import Cost
from edgekit.compress.groups import Group
from edgekit.errors import InputError

#: Units kept, int ``[..., groups]`` -> bool ``[...]``: whether such a network is wanted at all.
Allowed = Callable[[np.ndarray], np.ndarray]

#: Combinations that are all tried.
_EXHAUSTIVE = 3_000_000


def levels(group: Group, multiple: int, smallest: float = 0.0) -> np.ndarray:
    """Unit counts that a group may keep, ascending: those whose channels are a multiple of ``multiple``,
    and all of them; at least the share ``smallest``."""
    width = next(iter(group.tensors.values())).shape[1]
    step = multiple // math.gcd(multiple, width)
    least = max(1, math.ceil(smallest * group.units))
    counts = [k for k in range(step, group.units, step) if k >= least]
    return np.array([*counts, group.units], np.int64)


def check_reachable(cost: Cost, options: Sequence[np.ndarray], budget: float) -> None:
    """InputError when even the narrowest network is over the budget (a share of the uncut cost)."""
    least = np.array([o[0] for o in options], np.int64)
    share = cost.share(least) if len(options) else 1.0
    if share > budget:
        raise InputError(
            f"a budget of {budget:g} of the {cost.measure} cannot be met: with the fewest channels that "
            f"may be kept, {share:.3f} of them remain"
        )


def uniform(cost: Cost, options: Sequence[np.ndarray], budget: float) -> np.ndarray:
    """The largest common share that fits, each group rounded to the nearest count it may keep."""
    units = cost.units
    shares = sorted({float(k) / u for o, u in zip(options, units, strict=True) for k in o})
    middles = [(a + b) / 2 for a, b in pairwise(shares)]

    def widths(share: float) -> np.ndarray:
        return np.array(
            [o[np.argmin(np.abs(o - share * u))] for o, u in zip(options, units, strict=True)]
        )

    fitting = [w for s in (*shares, *middles) if cost.share(w := widths(s)) <= budget + 1e-12]
    if not fitting:
        return np.array([o[0] for o in options], np.int64)
    return max(fitting, key=cost.share)


def by_rank(
    cost: Cost, options: Sequence[np.ndarray], scores: Sequence[np.ndarray], budget: float
) -> np.ndarray:
    """Blocks of the least important units go first, importance divided by what their removal saves."""
    ordered = [np.concatenate([[0.0], np.cumsum(np.sort(s))]) for s in scores]
    at = [len(o) - 1 for o in options]
    kept = np.array([o[-1] for o in options], np.int64)
    now = cost(kept[None])[0]
    while now > budget * cost.total * (1 + 1e-12):
        best: tuple[float, int] | None = None
        for i, o in enumerate(options):
            if at[i] == 0:
                continue
            lower, units = o[at[i] - 1], int(cost.units[i])
            trial = kept.copy()
            trial[i] = lower
            saved = now - cost(trial[None])[0]
            harm = ordered[i][units - lower] - ordered[i][units - kept[i]]
            ratio = harm / max(saved, 1e-30)
            if best is None or ratio < best[0]:
                best = (ratio, i)
        if best is None:
            break
        i = best[1]
        at[i] -= 1
        kept[i] = options[i][at[i]]
        now = cost(kept[None])[0]
    return _fill(cost, options, kept, budget)


def _fill(cost: Cost, options: Sequence[np.ndarray], kept: np.ndarray, budget: float) -> np.ndarray:
    """Widen what still fits after the last, coarse step."""
    for i in np.argsort([-len(o) for o in options], kind="stable"):
        for k in options[i][options[i] > kept[i]]:
            trial = kept.copy()
            trial[i] = k
            if cost.share(trial) > budget + 1e-12:
                break
            kept = trial
    return kept


def by_damage(
    cost: Cost,
    options: Sequence[np.ndarray],
    damage: Sequence[Mapping[int, float]],
    budget: float,
    allowed: Allowed | None = None,
) -> np.ndarray:
    """The widths with the least sum of damages within the budget, among those that are allowed.

    damage: by group, units kept -> damage when only this group is cut; counts between measured ones are
    interpolated. All units: none. InputError when nothing that is allowed is within the budget.
    """
    tables = [_interpolated(o, d) for o, d in zip(options, damage, strict=True)]
    combinations = math.prod(len(o) for o in options)
    if combinations <= _EXHAUSTIVE:
        kept = _all(cost, options, tables, budget, allowed)
    else:
        kept = _exchange(cost, options, tables, budget, allowed)
    if allowed is not None and (
        cost.share(kept) > budget * (1 + 1e-9) or not bool(allowed(kept[None])[0])
    ):
        raise InputError(
            f"no channel counts have {budget:g} of the {cost.measure} and the asked speed-up for the MACs "
            "they save; a larger budget or a lower 'realised' would be accepted"
        )
    return kept


def _interpolated(counts: np.ndarray, damage: Mapping[int, float]) -> np.ndarray:
    known = sorted({**damage, int(counts[-1]): 0.0}.items())
    xs, ys = np.array([k for k, _ in known], float), np.array([max(v, 0.0) for _, v in known])
    ys = np.maximum.accumulate(ys[::-1])[
        ::-1
    ]  # fewer channels never harm less: noise smoothed away
    return np.interp(counts, xs, ys)


def _all(
    cost: Cost, options: Sequence[np.ndarray], tables: Sequence[np.ndarray], budget: float,
    allowed: Allowed | None,
) -> np.ndarray:  # fmt: skip
    split = max(0, len(options) - 3)  # the last three at once, the others one by one
    tail = np.array(list(product(*options[split:])), np.int64).reshape(-1, len(options) - split)
    tail_damage = np.array([sum(t) for t in product(*tables[split:])], float)
    best, best_key = np.array([o[0] for o in options], np.int64), (math.inf, math.inf)
    head_tables = [
        dict(zip(o.tolist(), t, strict=True)) for o, t in zip(options, tables, strict=True)
    ]
    for head in product(*options[:split]):
        base = sum(head_tables[i][int(k)] for i, k in enumerate(head))
        kept = np.concatenate([np.tile(np.array(head, np.int64), (len(tail), 1)), tail], axis=1)
        costs = cost(kept)
        fits = costs <= budget * cost.total * (1 + 1e-12)
        if allowed is not None:
            fits &= allowed(kept)
        total = np.where(fits, base + tail_damage, math.inf)
        i = int(np.lexsort((costs, total))[0])
        if (total[i], costs[i]) < best_key:
            best, best_key = kept[i], (float(total[i]), float(costs[i]))
    return best


def _exchange(
    cost: Cost, options: Sequence[np.ndarray], tables: Sequence[np.ndarray], budget: float,
    allowed: Allowed | None,
) -> np.ndarray:  # fmt: skip
    """Greedy descent from full width, then exchanges: one group wider, another as narrow as needed."""
    at = [len(o) - 1 for o in options]

    def widths(a: Sequence[int]) -> np.ndarray:
        return np.array([o[i] for o, i in zip(options, a, strict=True)], np.int64)

    def harm(a: Sequence[int]) -> float:
        return float(sum(t[i] for t, i in zip(tables, a, strict=True)))

    def wanted(a: Sequence[int]) -> bool:
        return allowed is None or bool(allowed(widths(a)[None])[0])

    limit = budget * cost.total * (1 + 1e-12)
    while (now := float(cost(widths(at)[None])[0])) > limit:
        moves = []
        for i in range(len(at)):
            for j in range(at[i]):
                trial = [*at[:i], j, *at[i + 1 :]]
                if not wanted(trial):
                    continue
                saved = now - float(cost(widths(trial)[None])[0])
                useful = min(saved, now - limit)
                moves.append(((tables[i][j] - tables[i][at[i]]) / max(useful, 1e-30), -j, i, j))
        if not moves:
            break
        _, _, i, j = min(moves)
        at[i] = j
    improved = True
    while improved:
        improved = False
        for i in range(len(at)):
            for up in range(at[i] + 1, len(options[i])):
                for k in range(len(at)):
                    if k == i:
                        continue
                    for down in range(at[k], -1, -1):
                        trial = list(at)
                        trial[i], trial[k] = up, down
                        if harm(trial) >= harm(at) - 1e-15:
                            break
                        if float(cost(widths(trial)[None])[0]) <= limit and wanted(trial):
                            at, improved = trial, True
                            break
    return widths(at)
