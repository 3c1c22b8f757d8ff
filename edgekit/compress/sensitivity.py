"""What each method costs and saves, layer by layer and group by group.

Every row changes one thing in the network, repairs nothing or what the method says, and runs it on the
same samples: distance to the original's outputs (KL of a classifier, else relative squared error), the
paired difference in accuracy where there are labels, and what is saved in MACs, bytes of weights (int8)
and, with a target, estimated cycles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np

from edgekit.compress.cost import Cost, layer_cycles
from edgekit.compress.execute import compare, is_classifier, says
from edgekit.compress.factorize import factorize
from edgekit.compress.groups import Groups, cut, find_groups
from edgekit.compress.importance import Importance, scores
from edgekit.compress.prune import granularity, strongest
from edgekit.compress.repair import repair as fit
from edgekit.compress.share import share, sizes, sparsify, weight_tensors
from edgekit.compress.simplify import total_macs, total_parameters
from edgekit.compress.steps import StepContext
from edgekit.errors import InputError
from edgekit.graph.ir import Graph

Method = Literal["prune", "prune+repair", "factorize", "share", "sparsify", "int4"]
METHODS: tuple[str, ...] = get_args(Method)

SHARES = (0.75, 0.5, 0.25)
ENERGIES = (0.95, 0.8)
VALUES = (16, 4)
ZEROS = (0.5, 0.8)


def sensitivity(
    graph: Graph,
    ctx: StepContext,
    *,
    methods: Sequence[str] = METHODS,
    importance: Importance = "l2",
    samples: int = 500,
) -> dict[str, Any]:
    """The document of ``edgekit sensitivity``; the samples measured are ``ctx.val`` where given, else
    those of ``ctx.data`` (which importance and repair use)."""
    for m in methods:
        if m not in METHODS:
            raise InputError(f"there is no method '{m}'; known are {', '.join(METHODS)}")
    ctx.need_data("sensitivity", at_least=2)
    measured = replace(ctx, data=ctx.val or ctx.data)
    inputs = measured.inputs(graph, "sensitivity", samples)
    labels = measured.labels(graph, samples)
    classes = is_classifier(graph)
    reference = says(graph, inputs, ctx.device)
    groups = find_groups(graph)
    cycles = None
    if ctx.target is not None:
        ctx.progress("profiling the network on the target")
        cycles = layer_cycles(graph, ctx.target, ctx.inputs(graph, "sensitivity", 32))
    before = {"macs": total_macs(graph), "parameters": total_parameters(graph)}
    rows: list[dict[str, Any]] = []
    for method, where, setting, changed, extra in _changes(graph, groups, ctx, methods, importance):
        ctx.progress(f"measuring {method}: '{where}'")
        said = says(changed, inputs, ctx.device)
        row = {
            "method": method,
            "where": where,
            "setting": setting,
            **compare(reference, said, labels, classes).to_json(),
            "macs_saved": before["macs"] - total_macs(changed),
            "bytes_saved": before["parameters"] - total_parameters(changed),
            "cycles_saved": None,
            **extra,
        }
        if cycles is not None and method.startswith("prune"):
            cost = Cost(groups, "cycles", cycles)
            kept = np.array([g.units for g in groups], np.int64)
            at = [g.name for g in groups].index(where)
            kept[at] = extra["units_after"]
            row["cycles_saved"] = cost.total - float(cost(kept[None])[0])
        rows.append(row)
    return {
        "model": graph.name,
        "samples": len(inputs[0]),
        "labels": labels is not None,
        "measured_on": "val" if ctx.val is not None else "data",
        "distance": "kl" if classes else "relative squared error",
        "target": None if ctx.target is None else ctx.target.name,
        "cycles_kind": "estimated",
        **before,
        "cycles": None if cycles is None else sum(cycles.values()),
        "groups": [
            {"name": g.name, "units": g.units, "kind": g.kind, "producers": list(g.producers),
             "readers": list(g.readers)}
            for g in groups
        ],
        "rows": rows,
    }  # fmt: skip


_Change = tuple[str, str, str, Graph, dict[str, Any]]


def _changes(
    graph: Graph, groups: Groups, ctx: StepContext, methods: Sequence[str], importance: Importance
) -> Iterator[_Change]:
    pruning = [m for m in methods if m.startswith("prune")]
    if pruning and len(groups):
        score = scores(groups, ctx, importance)
        m = granularity(ctx.target)
        few = ctx.inputs(graph, "sensitivity", 300, at_least=2)
        for g in groups:
            done = set()
            for part in SHARES:
                count = max(1, min(g.units, round(part * g.units / m) * m or round(part * g.units)))
                if count == g.units or count in done:
                    continue
                done.add(count)
                pruned = cut(groups, {g.name: strongest(score[g.name], count)})
                extra = {"units": g.units, "units_after": count}
                for method in pruning:
                    result = pruned
                    if method == "prune+repair":
                        only = {*g.readers, *g.producers}
                        result = fit(
                            pruned,
                            graph,
                            few,
                            rows=12_000,
                            only=only,
                            seed=ctx.seed,
                            device=ctx.device,
                        )
                    yield method, g.name, f"{count} of {g.units}", result, extra
    for name, t in weight_tensors(graph):
        quiet = replace(ctx, log=[])
        plain = t.elements
        if "factorize" in methods:
            for energy in ENERGIES:
                try:
                    changed = factorize(graph, quiet, energy=energy, layers=[name], samples=200)
                except InputError:
                    break
                if len(changed.nodes) > len(graph.nodes):
                    yield "factorize", name, f"energy {energy:g}", changed, {}
        if "share" in methods:
            for values in VALUES:
                changed = share(graph, quiet, values=values, layers=[name])
                saved = plain - sizes(_weights(changed, name), 1)["codebook_bytes"]
                yield "share", name, f"{values} values", changed, {"bytes_saved": saved}
        if "sparsify" in methods:
            for zeros in ZEROS:
                changed = sparsify(graph, quiet, zeros=zeros, layers=[name])
                yield "sparsify", name, f"{zeros:g} zeros", changed, {}
        if "int4" in methods:
            yield "int4", name, "per channel", _rounded(graph, name, 7), {"bytes_saved": plain // 2}


def _weights(graph: Graph, node: str) -> np.ndarray:
    data = graph.tensor(graph.node(node).inputs[1]).data
    assert data is not None
    return data


def _rounded(graph: Graph, node: str, most: int) -> Graph:
    """One layer's weights rounded to integers in [-most, most] times a scale an output channel."""
    g = graph.copy()
    t = g.tensor(g.node(node).inputs[1])
    assert t.data is not None
    axis = 3 if g.node(node).type == "DEPTHWISE_CONV_2D" else 0
    rest = tuple(a for a in range(t.data.ndim) if a != axis)
    scale = np.maximum(np.abs(t.data).max(axis=rest, keepdims=True) / most, 1e-30)
    g.tensors[t.name] = t.with_(data=(np.round(t.data / scale) * scale).astype(t.dtype))
    return g
