"""Training steps whose masks are over channels, so that what they find is cut out and runs faster.

``gradual-channels``: the cubic schedule of Zhu & Gupta, "To prune, or not to prune", 2017, with whole
channel groups: each stage cuts a little and trains a little. ``sparse-channels``: methods for sparse
training from scratch that score weights, with a unit's score the sum over the weights that make it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from edgekit.compress import allocate
from edgekit.compress.cost import granularity
from edgekit.compress.groups import Groups, cut, find_groups
from edgekit.compress.importance import Importance
from edgekit.compress.prune import Repair, budget_of, cost_of, keep_masks, prune
from edgekit.compress.steps import Count, Share, StepContext, step
from edgekit.compress.train.options import Augmentation, TrainOptions
from edgekit.compress.train.steps import Rate, _goal, facts, float_graph, options_of, training_data
from edgekit.errors import InputError
from edgekit.graph.ir import Graph


def cubic(share: float, stage: int, stages: int) -> float:
    """What is left after a stage (1-based): down to ``share``, fast first."""
    return share + (1.0 - share) * (1.0 - stage / stages) ** 3


@step("gradual-channels", cites="Zhu & Gupta 2017; Li et al., ICLR 2017")
def gradual_channels(
    graph: Graph,
    ctx: StepContext,
    *,
    macs: Share | None = None,
    cycles: Share | None = None,
    stages: Count = 5,
    importance: Importance = "fisher",
    repair: Repair = "least_squares",
    multiple: Count | None = None,
    samples: Count = 1000,
    labels: bool = False,
    steps: Count | None = None,
    epochs: Rate | None = None,
    batch: Count = 128,
    lr: Rate = 2e-3,
    augment: list[Augmentation] = [],  # noqa: B006 - read only
    training: dict[str, Any] | None = None,
) -> Graph:
    """Cut channel groups in stages along a cubic schedule and train between the cuts.

    macs, cycles: share that is left at the end, of MACs or (with a target) estimated cycles. steps: of all
    training; the last stage gets two shares of them. labels: cross-entropy; else the original teaches."""
    from edgekit.compress.train.trainer import train

    budget = budget_of(macs, None, cycles)
    if budget is None:
        raise InputError("gradual-channels needs a budget; accepted are macs and cycles (shares)")
    what = "gradual-channels"
    data = training_data(float_graph(graph, what), ctx, what, labels)
    options = options_of(ctx, len(data), steps, epochs, batch, lr, augment, training)
    goal = _goal(ctx, graph, labels)
    measure, share = budget
    groups = find_groups(graph)
    if not len(groups):
        raise InputError(f"model '{graph.name}' has no channels that can be cut")
    cost = cost_of(groups, ctx, measure, multiple)
    left, run = 1.0, None
    widths: dict[str, dict[str, int]] = {}
    for k in range(1, stages + 1):
        inner = replace(ctx, log=[{}], original=ctx.original or graph)
        graph = prune(
            graph, inner, importance=importance, repair=repair, multiple=multiple, samples=samples,
            repair_samples=2000, rows=50_000,
            **{measure: min(1.0, cubic(share, k, stages) / left)},  # type: ignore[arg-type]
        )  # fmt: skip
        for name, w in inner.log[-1]["widths"].items():
            widths.setdefault(name, {"before": w["before"]})["after"] = w["after"]
        left = cost.share(np.array([widths[g.name]["after"] for g in groups], np.int64))
        part = replace(options, steps=max(1, options.steps * (1 + (k == stages)) // (stages + 1)),
                       seed=options.seed + k)  # fmt: skip
        run = train(graph, data, goal(graph), part, work=ctx.work, name=f"{what} {k}",
                    progress=ctx.progress)  # fmt: skip
        graph = run.graph
    ctx.note(**facts(run, options), widths=widths)
    return graph


@step(
    "sparse-channels",
    cites="SNIP: Lee et al., ICLR 2019; variational dropout: Molchanov et al., ICML 2017; "
    "Liu et al., Rethinking the Value of Network Pruning, ICLR 2019",
)
def sparse_channels(
    graph: Graph,
    ctx: StepContext,
    *,
    method: Literal["snip", "variational", "random"],
    macs: Share | None = None,
    cycles: Share | None = None,
    multiple: Count | None = None,
    fresh: bool = True,
    labels: bool = False,
    steps: Count | None = None,
    epochs: Rate | None = None,
    batch: Count = 128,
    lr: Rate = 4e-3,
    augment: list[Augmentation] = [],  # noqa: B006 - read only
    training: dict[str, Any] | None = None,
) -> Graph:
    """Find a smaller network from fresh weights (or the given ones), cut it out and train it.

    snip: units by connection sensitivity, before training. variational: half of the steps with variational
    dropout, units by what is not noise in them. random: the control."""
    from edgekit.compress.train.init import reinitialize
    from edgekit.compress.train.trainer import train

    budget = budget_of(macs, None, cycles)
    if budget is None:
        raise InputError("sparse-channels needs a budget; accepted are macs and cycles (shares)")
    what = "sparse-channels"
    data = training_data(float_graph(graph, what), ctx, what, labels)
    options = options_of(ctx, len(data), steps, epochs, batch, lr, augment, training)
    start = reinitialize(graph, data.inputs, options.seed) if fresh else graph
    goal = _goal(ctx, graph, labels)
    if method == "variational":
        options = replace(options, steps=max(1, options.steps // 2))
    start, weights = _weight_scores(start, method, goal, data, options, ctx)
    groups = find_groups(start)
    if not len(groups):
        raise InputError(f"model '{graph.name}' has no channels that can be cut")
    scores = unit_scores(groups, weights)
    measure, share = budget
    cost = cost_of(groups, ctx, measure, multiple)
    levels = [allocate.levels(g, granularity(ctx.target, multiple), 0.1) for g in groups]
    allocate.check_reachable(cost, levels, share)
    kept = allocate.by_rank(cost, levels, [scores[g.name] for g in groups], share)
    small = cut(groups, keep_masks(groups, scores, kept))
    run = train(small, data, goal(small), options, work=ctx.work, name=f"{what} {method}",
                progress=ctx.progress)  # fmt: skip
    ctx.note(**facts(run, options), widths={
        g.name: {"before": g.units, "after": int(k)} for g, k in zip(groups, kept, strict=True)
    })  # fmt: skip
    return run.graph


def _weight_scores(
    start: Graph, method: str, goal: Any, data: Any, options: TrainOptions, ctx: StepContext
) -> tuple[Graph, dict[str, np.ndarray]]:
    """The graph to cut (trained, for variational), and a score of each weight."""
    from edgekit.compress.train.masks import maskable

    if method == "snip":
        from edgekit.compress.train.sparse.snip import sensitivities

        return start, sensitivities(start, data, goal(start), seed=options.seed, ends=True)
    if method == "random":
        return start, {
            n: ctx.rng(i).random(start.tensor(n).shape)
            for i, n in enumerate(maskable(start, ends=True))
        }
    from edgekit.compress.train.sparse.variational import variational_dropout

    found = variational_dropout(start, goal(start), data, options, keep=1.0, work=ctx.work,
                                progress=ctx.progress)  # fmt: skip
    return found.graph, found.signal


def unit_scores(groups: Groups, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Score of each unit: the sum over the weights that make its channels, relative to the mean unit of its
    group. Layers without scores do not count; a group of none scores one everywhere."""
    from edgekit.compress.train.module import WEIGHT_AXIS

    graph, out = groups.graph, {}
    for g in groups:
        total = np.zeros(g.units)
        for node in graph.nodes:
            if node.outputs[0] not in g.tensors or node.type not in WEIGHT_AXIS:
                continue
            score = weights.get(node.inputs[1] or "")
            if score is None:
                continue
            axis = WEIGHT_AXIS[node.type]
            channel = score.sum(axis=tuple(a for a in range(score.ndim) if a != axis))
            total += channel[g.tensors[node.outputs[0]]].sum(axis=1)
        out[g.name] = total / total.mean() if total.mean() > 0 else np.ones(g.units)
    return out
