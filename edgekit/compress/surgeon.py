"""Importance after repair: what a unit's removal costs once its readers are refitted without it.

The optimal brain surgeon (Hassibi and Stork, 1993) for whole units, as in Kurtic et al., ZipLM (NeurIPS
2023): a layer that reads a unit through the weights ``W_u`` and whose inputs have the second moment ``H``
loses ``tr(F W_u (H^-1)_uu^-1 W_u')`` when the unit goes and the rest of its weights are least-squares
refitted. Units go one by one, the least costly first, each time with ``W`` and ``H^-1`` of what is left, so
that of two units that carry the same thing only one is free. ``F`` weighs the outputs of the layers by the
expected squared gradient of the network's own predictions (its Fisher information), which makes the costs
of different layers comparable: nats of KL divergence, to second order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.compress.execute import BATCH, Walker, affordable, is_classifier, logits_graph
from edgekit.compress.groups import Group, Groups, is_grouped
from edgekit.compress.repair import design_rows, exposed
from edgekit.compress.steps import StepContext
from edgekit.errors import InputError
from edgekit.graph.ir import Graph, Tensor

#: Output positions that a layer's second moment is taken from, and its ridge.
_ROWS, _RIDGE = 30_000, 1e-3


def surgeon_scores(groups: Groups, ctx: StepContext, samples: int | None) -> dict[str, np.ndarray]:
    """float ``[units]`` by group name: in the order in which units would go; the sum over those that go
    is what the repaired network loses by it."""
    graph = groups.graph
    inputs = ctx.inputs(graph, "importance 'surgeon'", samples, at_least=2)
    readers = [
        n.name
        for n in graph.nodes
        if n.type in ("CONV_2D", "FULLY_CONNECTED") and not is_grouped(n, graph)
        and any(n.name in g.readers for g in groups)
    ]  # fmt: skip
    weigh = output_fisher(graph, readers, inputs, ctx)
    parts: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {g.name: [] for g in groups}
    walk = Walker(graph, affordable(graph, inputs), ctx.device)
    rng = ctx.rng(29)
    while (node := walk.node) is not None:
        if node.name in readers:
            x = walk.values[node.inputs[0] or ""]
            shape = (len(x), *graph.tensor(node.outputs[0]).shape[1:])
            design, _ = design_rows(node, graph, x, shape, _ROWS, rng)
            inverse = _inverse(design.reshape(len(design), -1))
            w = graph.tensor(node.inputs[1]).data
            assert w is not None
            flat = w.reshape(w.shape[0], -1).astype(np.float64) * np.sqrt(weigh[node.name])[:, None]
            for g in groups:
                source = node.inputs[0] or ""
                if node.name in g.readers and source in g.tensors:
                    channels = g.tensors[source]
                    taps = np.arange(design.shape[1])[:, None] * design.shape[2]
                    columns = (taps[None] + channels[:, None, :]).reshape(g.units, -1)
                    parts[g.name].append((flat.copy(), inverse.copy(), columns))
        walk.step()
    return {g.name: _one_by_one(g, parts.pop(g.name)) for g in groups}


def _inverse(x: np.ndarray) -> np.ndarray:
    """Inverse of the centred second moment with a ridge; ``[D, D]``, float64."""
    x = (x - x.mean(axis=0, dtype=np.float64)).astype(np.float32)
    h = np.zeros((x.shape[1], x.shape[1]))
    for i in range(0, len(x), 8192):
        h += x[i : i + 8192].T @ x[i : i + 8192]
    h /= len(x)
    ridge = _RIDGE * max(float(np.trace(h)) / len(h), 1e-12)
    return np.linalg.inv(h + ridge * np.eye(len(h)))


def _one_by_one(
    group: Group, readers: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> np.ndarray:
    score = np.zeros(group.units)
    left, spent = np.ones(group.units, bool), 0.0
    for _ in range(group.units):
        units = np.flatnonzero(left)
        cost = np.zeros(len(units))
        for w, inverse, columns in readers:
            c = columns[units]
            block = np.linalg.inv(inverse[c[:, :, None], c[:, None, :]])
            weights = w[:, c]  # [O, units, k]
            cost += np.einsum("ouk,ukl,oul->u", weights, block, weights, optimize=True)
        best = int(units[int(np.argmin(cost))])
        spent = max(spent, float(cost.min()))
        score[best] = spent
        left[best] = False
        for w, inverse, columns in readers:
            c = columns[best]
            rows = inverse[c]
            solved = np.linalg.solve(rows[:, c], rows)
            w -= w[:, c] @ solved
            inverse -= rows.T @ solved
            w[:, c] = 0.0
            inverse[c], inverse[:, c] = 0.0, 0.0
            inverse[c, c] = 1.0
    return score


def output_fisher(
    graph: Graph, nodes: Sequence[str], inputs: Sequence[np.ndarray], ctx: StepContext
) -> dict[str, np.ndarray]:
    """By node: ``[O]``, expected squared gradient of the log-likelihood of the network's own predictions
    with respect to each output channel before its activation, summed over positions; ones without
    torch."""
    try:
        import torch
        import torch.nn.functional as F
    except ImportError:
        return {n: np.ones(graph.tensor(graph.node(n).outputs[0]).shape[-1]) for n in nodes}
    g, gates = _shifted(exposed(logits_graph(graph)[0]), nodes)
    module: Any = g.to_torch().to(ctx.device).eval()
    classes = is_classifier(graph)
    generator = torch.Generator().manual_seed(int(ctx.rng(31).integers(2**31)))
    total = {n: np.zeros(graph.tensor(graph.node(n).outputs[0]).shape[-1]) for n in gates}
    count = min(len(inputs[0]), 1000)
    for i in range(0, count, BATCH):
        batch = [torch.from_numpy(np.ascontiguousarray(a[i : i + BATCH])) for a in inputs]
        n = min(len(batch[0]), count - i)
        batch = [b[:n].to(ctx.device) for b in batch]
        zeros = [
            torch.zeros((n, *g.tensor(t).shape[1:]), device=ctx.device, requires_grad=True)
            for t in gates.values()
        ]
        out = module(*batch, *zeros)
        out = (out[0] if isinstance(out, tuple) else out).reshape(n, -1)
        if classes:
            p = torch.softmax(out.detach().cpu(), 1)
            y = torch.multinomial(p, 1, generator=generator)[:, 0].to(ctx.device)
            loss = F.cross_entropy(out, y, reduction="sum")
        else:
            loss = (out * torch.randn(out.shape, generator=generator).to(ctx.device)).sum()
        for name, grad in zip(gates, torch.autograd.grad(loss, zeros), strict=True):
            flat = grad.reshape(-1, grad.shape[-1]).double()
            total[name] += (flat**2).sum(dim=0).cpu().numpy() / count
    if not all(np.all(np.isfinite(v)) for v in total.values()):
        raise InputError("importance 'surgeon' met gradients that are not finite")
    return total


def _shifted(graph: Graph, nodes: Sequence[str]) -> tuple[Graph, dict[str, str]]:
    """The graph with an input added to the output of each of the nodes: node -> that input."""
    g = graph.copy()
    gates = {}
    for name in nodes:
        if all(n.name != name for n in g.nodes):
            continue
        at = [n.name for n in g.nodes].index(name)
        node = g.nodes[at]
        t = g.tensor(node.outputs[0])
        raw = g.add_tensor(t.with_(name=f"{t.name} unshifted"))
        shift = g.add_tensor(Tensor(f"shift of {t.name}", t.shape, "float32"))
        g.nodes[at] = node.with_(outputs=(raw.name,))
        add = g.add_node("ADD", [raw.name, shift.name], [t.name], {"activation": "NONE"})
        g.nodes.insert(at + 1, g.nodes.pop())
        assert add.name
        g.inputs = (*g.inputs, shift.name)
        gates[name] = shift.name
    return g.validate(), gates
