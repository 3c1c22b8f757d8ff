"""Structured pruning: channel groups cut out, so that the network really is smaller.

Which units of a group go is decided by importance (:mod:`.importance`), how many of each group by the
allocation (:mod:`.allocate`). One-shot, or iteratively with the importance taken anew and a repair after
each round. Every result is a plain graph with fewer channels; nothing is masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np

from edgekit.compress import allocate
from edgekit.compress.cost import (
    Cost,
    Measure,
    Optimize,
    fitted_cycles,
    granularity,
    layer_cycles,
)
from edgekit.compress.counted import layer_grids
from edgekit.compress.execute import distance, is_classifier, says
from edgekit.compress.groups import Groups, cut, find_groups
from edgekit.compress.importance import NEEDS_DATA, Importance, scores
from edgekit.compress.repair import repair as fit
from edgekit.compress.steps import Count, Share, StepContext, Within, step
from edgekit.errors import InputError
from edgekit.graph.ir import Graph

Repair = Literal["none", "bias", "affine", "least_squares"]
Allocation = Literal["global", "uniform", "sensitivity", "measured"]

#: Widths at which a group's damage is measured.
_MEASURED = 6
#: Samples, and output positions a layer is fitted on, while damages are measured.
_QUICK_SAMPLES, _QUICK_ROWS, _QUICK_RIDGE = 1000, 30_000, 1e-2
#: Steps in which allocation "measured" comes down to its budget.
_STEPS = 6


def strongest(score: np.ndarray, count: int) -> np.ndarray:
    """bool ``[units]``: the ``count`` largest; the earlier unit where two are equal."""
    keep = np.zeros(len(score), bool)
    keep[np.argsort(-score, kind="stable")[:count]] = True
    return keep


def keep_masks(
    groups: Groups, score: Mapping[str, np.ndarray], kept: np.ndarray
) -> dict[str, np.ndarray]:
    """bool ``[units]`` by group name: the most important ``kept[i]`` units of every group."""
    return {g.name: strongest(score[g.name], int(k)) for g, k in zip(groups, kept, strict=True)}


def budget_of(
    macs: float | None, parameters: float | None, cycles: float | None
) -> tuple[Measure, float] | None:
    """The one budget that is given; InputError for several."""
    given: list[tuple[Measure, float | None]] = [
        ("macs", macs), ("parameters", parameters), ("cycles", cycles)
    ]  # fmt: skip
    some: list[tuple[Measure, float]] = [(n, v) for n, v in given if v is not None]
    if len(some) > 1:
        raise InputError(
            f"budgets are given for {' and '.join(n for n, _ in some)}; accepted is one of them"
        )
    return some[0] if some else None


def cost_of(
    groups: Groups,
    ctx: StepContext,
    measure: Measure,
    multiple: int | None = None,
    options: Sequence[np.ndarray] = (),
    profiles: int = 1,
    optimize: Optimize = "speed",
) -> Cost:
    """The cost model; where the measure is cycles, the network is profiled on the target. With one
    profile its layers are counted at other widths where the target can (always with their fastest
    kernels); with several (of widths among ``options``) each layer's cycles are fitted."""
    if measure != "cycles":
        return Cost(groups, measure)
    if ctx.target is None:
        raise InputError("a budget of cycles needs a target; give one with --target")
    graph = groups.graph
    inputs = ctx.inputs(graph, "a budget of cycles", 32)
    if profiles > 1:
        fits = fitted_cycles(groups, ctx.target, inputs, options, profiles, optimize=optimize,
                             seed=ctx.seed, progress=ctx.progress)  # fmt: skip
        return Cost(groups, "cycles", fits)
    ctx.progress("profiling the network on the target")
    cycles = layer_cycles(graph, ctx.target, inputs, optimize)
    m = granularity(ctx.target, multiple)
    grids = {}
    if optimize == "speed":
        grids = layer_grids(graph, ctx.target, inputs, m, cycles, ctx.progress)
    ctx.note(counted_layers=sorted(grids))
    return Cost(groups, "cycles", cycles, grids)


def plan(
    graph: Graph,
    ctx: StepContext,
    *,
    importance: Importance = "l2",
    measure: Measure = "macs",
    budget: float | None = None,
    layers: Mapping[str, float] | None = None,
    allocation: Allocation = "global",
    multiple: int | None = None,
    exclude: list[str] | None = None,
    smallest: float = 0.1,
    repair: Repair = "none",
    samples: int = 1000,
    realised: float | None = None,
    profiles: int = 1,
    optimize: Optimize = "speed",
) -> tuple[Groups, dict[str, np.ndarray]]:
    """Groups, and the units each keeps (bool ``[units]`` by group name), without cutting anything: what
    a gradual schedule needs at each of its stages (:func:`.groups.zeroed`, :func:`.groups.cut`)."""
    if realised is not None and (
        measure != "cycles" or allocation not in ("global", "sensitivity")
    ):
        raise InputError(
            "'realised' is given; it takes a budget of cycles with allocation 'global' or 'sensitivity'"
        )
    groups = find_groups(graph)
    if not len(groups):
        raise InputError(f"model '{graph.name}' has no channels that can be cut")
    fixed = {groups.get(n).name: share for n, share in (layers or {}).items()}
    kept_whole = {groups.get(n).name for n in exclude or ()}
    m = granularity(ctx.target, multiple)
    options = []
    for g in groups:
        o = allocate.levels(g, m, smallest)
        if g.name in kept_whole:
            o = o[-1:]
        elif g.name in fixed:
            every = allocate.levels(g, m)
            o = every[[int(np.argmin(np.abs(every - fixed[g.name] * g.units)))]]
        options.append(o)
    score = scores(groups, ctx, importance, samples)
    if budget is None:
        kept = np.array([o[-1] for o in options], np.int64)
        return groups, keep_masks(groups, score, kept)
    cost = cost_of(groups, ctx, measure, multiple, options, profiles, optimize)
    allocate.check_reachable(cost, options, budget)
    ordered = [score[g.name] for g in groups]
    allowed = None if realised is None else runs_faster(groups, cost, realised)
    if allocation == "uniform":
        kept = allocate.uniform(cost, options, budget)
    elif allocation == "global" and (importance == "surgeon" or allowed is not None):
        # surgeon's scores are losses in one unit, so the best widths for their sum can be searched
        sums = [np.concatenate([[0.0], np.cumsum(np.sort(s))]) for s in ordered]
        tables = [
            {int(k): float(t[g.units - k]) for k in o}
            for g, o, t in zip(groups, options, sums, strict=True)
        ]
        kept = allocate.by_damage(cost, options, tables, budget, allowed)
    elif allocation == "global":
        kept = allocate.by_rank(cost, options, ordered, budget)
    elif allocation == "measured":
        kept = descend(groups, ctx, score, options, cost, budget, repair)
    else:
        damage = damages(groups, ctx, score, options, repair)
        kept = allocate.by_damage(cost, options, damage, budget, allowed)
    return groups, keep_masks(groups, score, kept)


def runs_faster(groups: Groups, cost: Cost, realised: float) -> allocate.Allowed:
    """Widths whose speed-up (by ``cost``) is at least ``realised`` of their reduction in MACs."""
    macs = Cost(groups, "macs")
    factor = realised * macs.total / cost.total * (1 - 1e-9)
    return lambda kept: macs(kept) >= factor * cost(kept)


def damages(
    groups: Groups,
    ctx: StepContext,
    score: Mapping[str, np.ndarray],
    options: list[np.ndarray],
    repair: Repair,
) -> list[dict[int, float]]:
    """By group: units kept -> distance of the outputs (KL, or relative squared error) when that group
    alone is cut and its readers are repaired; for at most a handful of widths."""
    graph = groups.graph
    inputs = ctx.inputs(graph, "allocation 'sensitivity'", _QUICK_SAMPLES, at_least=2)
    teacher, classes = ctx.original or graph, is_classifier(graph)
    reference = says(teacher, inputs, ctx.device)
    now = float(distance(reference, says(graph, inputs, ctx.device), classes).mean())
    found: list[dict[int, float]] = []
    for i, (g, o) in enumerate(zip(groups, options, strict=True)):
        narrower = o[:-1]
        if len(narrower) > _MEASURED:
            pick = np.linspace(0, len(narrower) - 1, _MEASURED).round().astype(int)
            narrower = narrower[np.unique(pick)]
        table: dict[int, float] = {}
        for k in narrower:
            ctx.progress(f"measuring groups: {i + 1} of {len(groups)} ('{g.name}' at {k})")
            pruned = cut(groups, {g.name: strongest(score[g.name], int(k))})
            if repair != "none":
                only = set(g.readers) | set(g.producers)
                pruned = fit(
                    pruned, teacher, inputs, method=repair, ridge=_QUICK_RIDGE,
                    rows=_QUICK_ROWS, only=only, seed=ctx.seed, device=ctx.device,
                )  # fmt: skip
            there = says(pruned, inputs, ctx.device)
            table[int(k)] = float(distance(reference, there, classes).mean()) - now
        found.append(table)
    return found


def descend(
    groups: Groups,
    ctx: StepContext,
    score: Mapping[str, np.ndarray],
    options: list[np.ndarray],
    cost: Cost,
    budget: float,
    repair: Repair,
) -> np.ndarray:
    """Units every group keeps, found step by step: in each step every group alone is cut by enough to
    pay for the step, repaired and measured, and the cut with the least damage stays (Yang et al.,
    NetAdapt, ECCV 2018)."""
    graph = groups.graph
    inputs = ctx.inputs(graph, "allocation 'measured'", _QUICK_SAMPLES, at_least=2)
    teacher, classes = ctx.original or graph, is_classifier(graph)
    reference = says(teacher, inputs, ctx.device)
    kept = np.array([o[-1] for o in options], np.int64)
    now, goal = cost(kept[None])[0], budget * cost.total
    current, steps = graph, max(1, round(_STEPS * (1 - budget) / 0.3))
    for s in range(steps):
        limit = now - (now - goal) / (steps - s)
        trials: list[tuple[float, float, int, int, Graph]] = []
        for i, g in enumerate(groups):
            narrower = [int(k) for k in options[i] if k < kept[i]]
            for k in reversed(narrower):
                trial = kept.copy()
                trial[i] = k
                then = cost(trial[None])[0]
                if then > limit * (1 + 1e-12) and k != narrower[0]:
                    continue
                ctx.progress(f"step {s + 1} of {steps}: '{g.name}' at {k}")
                changed = _narrow(current, groups, score, kept, i, k)
                if repair != "none":
                    changed = fit(
                        changed, teacher, inputs, method=repair, ridge=_QUICK_RIDGE,
                        rows=_QUICK_ROWS, only={*g.readers, *g.producers}, seed=ctx.seed,
                        device=ctx.device,
                    )  # fmt: skip
                there = says(changed, inputs, ctx.device)
                harm = float(distance(reference, there, classes).mean())
                worth = min(1.0, (now - then) / max(now - limit, 1e-30))
                trials.append((harm / worth, -then, i, k, changed))
                break
        if not trials:
            break
        _, _, i, k, current = min(trials, key=lambda t: t[:3])
        kept[i] = k
        now = cost(kept[None])[0]
    while now > goal * (1 + 1e-12):  # the last steps were coarse, or could not pay for all
        kept = allocate.by_rank(
            cost, [o[o <= k] for o, k in zip(options, kept, strict=True)],
            [score[g.name] for g in groups], budget,
        )  # fmt: skip
        now = cost(kept[None])[0]
    return kept


def _narrow(
    current: Graph,
    groups: Groups,
    score: Mapping[str, np.ndarray],
    kept: np.ndarray,
    index: int,
    count: int,
) -> Graph:
    """``current`` (cut to ``kept``) with one group cut further."""
    g = groups.groups[index]
    was = strongest(score[g.name], int(kept[index]))
    left = strongest(score[g.name], count)[was]
    there = find_groups(current)
    return cut(there, {there.get(g.name).name: left})


@step(
    "prune",
    cites="Li et al., ICLR 2017; Molchanov et al., 2017; He et al., ICCV 2017 and CVPR 2019; "
    "Liu et al., 2017 and ICML 2021; Fang et al., CVPR 2023",
)
def prune(
    graph: Graph,
    ctx: StepContext,
    *,
    importance: Importance = "l2",
    macs: Share | None = None,
    parameters: Share | None = None,
    cycles: Share | None = None,
    layers: dict[str, Share] | None = None,
    allocation: Allocation = "global",
    multiple: Count | None = None,
    exclude: list[str] | None = None,
    smallest: Annotated[float, Within(0, 1)] = 0.1,
    rounds: Annotated[int, Within(1, 100)] = 1,
    repair: Repair = "none",
    samples: Count = 1000,
    repair_samples: Count = 5000,
    ridge: Annotated[float, Within(0)] = 1e-3,
    rows: Count = 100_000,
    realised: Share | None = None,
    profiles: Annotated[int, Within(1, 100)] = 1,
    optimize: Optimize = "speed",
) -> Graph:
    """Cut channel groups until a share of the MACs, parameters or cycles is left, or each layer to its
    own share.

    macs, parameters, cycles: share of the given graph's cost that may remain (cycles: estimated, on the
    context's target). layers: group or node name -> share of its units to keep. multiple: channels kept
    are multiples of this (default: the target's). smallest: least share a group keeps. rounds: cut in so
    many rounds, repaired each. repair: what is fitted after each round. realised: with a budget of
    cycles, only networks whose speed-up is at least this share of their reduction in MACs. profiles: with
    a budget of cycles, 1: the layers are counted at other widths where the target can, else scaled; more:
    so many networks of other widths are profiled and each layer's cycles fitted (8 are good). optimize:
    for what the result will be compiled.
    """
    budget = budget_of(macs, parameters, cycles)
    if budget is None and not layers:
        raise InputError(
            "no budget is given; accepted are macs, parameters, cycles (shares that may remain) or layers"
        )
    if repair != "none" or importance in NEEDS_DATA:
        ctx.need_data(f"prune with repair '{repair}' and importance '{importance}'", at_least=2)
    teacher = ctx.original or graph
    measure, share = budget or ("macs", 1.0)
    widths: dict[str, list[int]] = {}
    left = 1.0
    for r in range(rounds):
        goal = share ** ((r + 1) / rounds)
        part = {n: s ** (1 / rounds) for n, s in (layers or {}).items()}
        groups, keep = plan(
            graph, ctx, importance=importance, measure=measure,
            budget=None if budget is None else min(1.0, goal / left), layers=part,
            allocation=allocation, multiple=multiple, exclude=exclude, smallest=smallest,
            repair=repair, samples=samples, profiles=profiles, optimize=optimize,
            realised=None if realised is None else realised ** (1 / rounds),
        )  # fmt: skip
        for g in groups:
            widths.setdefault(g.name, [g.units])
            widths[g.name] = [widths[g.name][0], int(keep[g.name].sum())]
        if budget is not None:
            kept = np.array([int(keep[g.name].sum()) for g in groups])
            left *= Cost(groups, measure).share(kept) if measure != "cycles" else goal / left
        graph = cut(groups, keep)
        if repair != "none":
            inputs = ctx.inputs(graph, "repair", repair_samples, at_least=2)
            graph = fit(
                graph, teacher, inputs, method=repair, ridge=ridge, rows=rows,
                seed=ctx.seed, device=ctx.device, progress=ctx.progress,
            )  # fmt: skip
    ctx.note(
        importance=importance,
        allocation=allocation,
        multiple=granularity(ctx.target, multiple),
        widths={n: {"before": a, "after": b} for n, (a, b) in widths.items()},
    )
    return graph
