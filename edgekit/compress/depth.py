"""Depth pruning: whole residual branches dropped, where the sum they are added to can do without.

A block is an ADD of a tensor and of something computed from that tensor alone; without the branch the
sum is the tensor itself (and its activation). Which blocks go is measured: what the network says without
each of them, for the cost that it saves (in the manner of Veit et al., NIPS 2016; Shortened LLaMA and
ShortGPT, 2024, for transformers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from edgekit.compress.execute import distance, is_classifier, says
from edgekit.compress.repair import repair as fit
from edgekit.compress.simplify import total_macs
from edgekit.compress.steps import Count, Share, StepContext, Within, step
from edgekit.errors import InputError
from edgekit.graph.ir import Graph, Node


@dataclass(frozen=True)
class Block:
    """A residual branch. name: its ADD. entry: the tensor that skips it. nodes: only in the branch."""

    name: str
    entry: str
    nodes: tuple[str, ...]


def find_blocks(graph: Graph) -> list[Block]:
    """The residual branches whose removal leaves a valid graph, in graph order."""
    producers, readers = graph.producers(), graph.consumers()
    found = []
    for node in graph.nodes:
        if node.type != "ADD" or len(set(node.inputs)) != 2:
            continue
        a, b = (i or "" for i in node.inputs)
        if graph.tensor(a).is_const or graph.tensor(b).is_const:
            continue
        if graph.tensor(a).shape != graph.tensor(b).shape:
            continue
        for entry, branch in ((a, b), (b, a)):
            nodes = _between(graph, producers, entry, branch)
            if nodes is None or not nodes:
                continue
            inside = {n.name for n in nodes}
            alone = all(
                r.name in inside or r.name == node.name
                for n in nodes for o in n.outputs for r in readers[o]
            ) and not any(o in graph.outputs for n in nodes for o in n.outputs)  # fmt: skip
            if alone:
                order = tuple(n.name for n in graph.nodes if n.name in inside)
                found.append(Block(node.name, entry, order))
                break
    return found


def _between(
    graph: Graph, producers: dict[str, Node], entry: str, branch: str
) -> list[Node] | None:
    """Nodes that compute ``branch`` from ``entry`` and constants alone; None if it needs more."""
    nodes: dict[str, Node] = {}
    stack = [branch]
    while stack:
        name = stack.pop()
        if name == entry or graph.tensor(name).is_const:
            continue
        node = producers.get(name)
        if node is None:
            return None
        if node.name not in nodes:
            nodes[node.name] = node
            stack.extend(i for i in node.inputs if i is not None)
    return list(nodes.values())


def drop(graph: Graph, block: Block) -> Graph:
    """The graph without a residual branch."""
    g = graph.copy()
    add = graph.node(block.name)
    act = add.attr("activation", "NONE")
    out = add.outputs[0]
    if act == "NONE":
        shape = g.tensor(out).shape
        stand_in = Node(add.name, "RESHAPE", (block.entry,), (out,), {"new_shape": shape})
    else:
        stand_in = Node(add.name, act, (block.entry,), (out,), {})
    g.nodes = [stand_in if n.name == add.name else n for n in g.nodes]
    g.prune()
    return g.validate()


@step("drop_blocks", cites="Veit et al., NIPS 2016 (measured one by one)")
def drop_blocks(
    graph: Graph,
    ctx: StepContext,
    *,
    blocks: list[str] | None = None,
    count: Count | None = None,
    macs: Share | None = None,
    repair: Literal["none", "bias", "affine", "least_squares"] = "none",
    samples: Count = 500,
    ridge: Annotated[float, Within(0)] = 1e-3,
) -> Graph:
    """Drop whole residual branches: named ones, a number of them, or until a share of the MACs is left;
    those first whose absence changes the outputs least for what it saves (needs samples)."""
    if sum(v is not None for v in (blocks, count, macs)) != 1:
        raise InputError("drop_blocks takes one of blocks, count and macs")
    known = find_blocks(graph)
    names = ", ".join(b.name for b in known) or "none"
    before = graph
    gone: list[str] = []
    if blocks is not None:
        for name in blocks:
            block = next((b for b in find_blocks(graph) if b.name == name), None)
            if block is None:
                raise InputError(
                    f"'{name}' is no residual branch that can go; accepted are {names}"
                )
            graph = drop(graph, block)
            gone.append(name)
    else:
        inputs = ctx.inputs(graph, "drop_blocks", samples)
        reference, classes = says(ctx.original or graph, inputs, ctx.device), is_classifier(graph)
        goal = 0.0 if macs is None else macs * total_macs(graph)
        while (count is not None and len(gone) < count) or (
            macs is not None and total_macs(graph) > goal
        ):
            rest = find_blocks(graph)
            if not rest:
                raise InputError(
                    f"the budget of drop_blocks cannot be met: the residual branches ({names}) are "
                    f"all gone, and {total_macs(graph) / max(1, total_macs(before)):.3f} of the MACs remain"
                )
            trials = []
            for i, b in enumerate(rest):
                ctx.progress(f"measuring blocks: without '{b.name}'")
                g = drop(graph, b)
                harm = float(distance(reference, says(g, inputs, ctx.device), classes).mean())
                saved = total_macs(graph) - total_macs(g)
                trials.append((harm / max(saved, 1) if macs is not None else harm, i, b.name, g))
            _, _, name, graph = min(trials, key=lambda t: t[:2])
            gone.append(name)
    ctx.note(dropped=gone)
    if repair != "none":
        graph = fit(
            graph, ctx.original or before, ctx.inputs(graph, "repair", samples, at_least=2),
            method=repair, ridge=ridge, seed=ctx.seed, device=ctx.device, progress=ctx.progress,
        )  # fmt: skip
    return graph
