"""How much each unit of a channel group matters: one number a unit, larger is more important.

=============== ======================================================================= ==============
name            what it is                                                              needs
=============== ======================================================================= ==============
l1, l2          norm of the filters (Li et al., ICLR 2017)                              -
bn              batch-norm scale times deviation (Liu et al., Network Slimming, 2017)   separate BN
geometric       distance to the other filters (He et al., FPGM, CVPR 2019)              -
random          the control                                                             -
taylor          abs of activation times gradient (Molchanov et al., 2017)               samples, torch
fisher          squared gradient of a channel gate (Theis et al., 2018; Liu et al.,     samples, torch
                Group Fisher, ICML 2021)
apoz            share of activations that are not zero (Hu et al., 2016)                samples
reconstruction  energy that the next layers receive from the channel: E[x^2] times      samples
                squared weights (after He et al., ICCV 2017; Luo et al., ThiNet, 2017)
surgeon         loss after the least-squares repair of its readers (:mod:`.surgeon`)    samples
=============== ======================================================================= ==============

Gradients are of the cross-entropy with the labels; without labels, with labels drawn from what the
network itself says (the true Fisher: at its own labels the plain gradient of the KL vanishes), or, for
networks that are no classifiers, of the squared error to an output with unit noise added.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from edgekit.compress.execute import BATCH, Walker, affordable, is_classifier, logits_graph
from edgekit.compress.groups import Group, Groups, is_grouped
from edgekit.compress.intervals import channels_of
from edgekit.compress.steps import StepContext
from edgekit.errors import InputError
from edgekit.graph.ir import Graph, Node, Tensor

Importance = Literal[
    "l1", "l2", "bn", "geometric", "random", "taylor", "fisher", "apoz", "reconstruction", "surgeon"
]
NAMES: tuple[str, ...] = get_args(Importance)
NEEDS_DATA = frozenset({"taylor", "fisher", "apoz", "reconstruction", "surgeon"})


def scores(
    groups: Groups, ctx: StepContext, importance: Importance, samples: int | None = 1000
) -> dict[str, np.ndarray]:
    """float ``[units]`` by group name. samples: how many of the context's are used."""
    if importance == "random":
        rng = ctx.rng(17)
        return {g.name: rng.random(g.units) for g in groups}
    if importance in ("l1", "l2", "geometric"):
        return {g.name: _from_filters(groups.graph, g, importance) for g in groups}
    if importance == "bn":
        return {g.name: _from_batch_norm(groups.graph, g) for g in groups}
    if importance in ("taylor", "fisher"):
        return _from_gradients(groups, ctx, importance, samples)
    if importance == "surgeon":
        from edgekit.compress.surgeon import surgeon_scores

        return surgeon_scores(groups, ctx, samples)
    return _from_activations(groups, ctx, importance, samples)


# -- from the weights ------------------------------------------------------------------------------


def filters(graph: Graph, node: Node) -> np.ndarray:
    """The weights that make each output channel: ``[channels, weights]``."""
    w = graph.tensor(node.inputs[1]).data
    assert w is not None
    if node.type == "DEPTHWISE_CONV_2D":
        return w.reshape(-1, w.shape[3]).T
    return w.reshape(w.shape[0], -1)


def _from_filters(graph: Graph, group: Group, importance: str) -> np.ndarray:
    """Mean over the producing layers of each layer's score relative to its own mean."""
    total = np.zeros(group.units)
    nodes = [graph.node(p) for p in group.producers]
    if not nodes:  # made by no layer of its own (a split input): what its readers weigh it with
        return _from_readers(graph, group)
    for node in nodes:
        f = filters(graph, node).astype(np.float64)
        if importance == "l1":
            s = np.abs(f).sum(axis=1)
        elif importance == "l2":
            s = np.sqrt((f**2).sum(axis=1))
        else:
            square = (f**2).sum(axis=1)
            d = square[:, None] + square[None] - 2 * f @ f.T
            s = np.sqrt(np.maximum(d, 0)).sum(axis=1)
        total += _per_unit(s / max(s.mean(), 1e-30), group.tensors[node.outputs[0]])
    return total / len(nodes)


def _from_readers(graph: Graph, group: Group) -> np.ndarray:
    total = np.zeros(group.units)
    for name in group.readers:
        node = graph.node(name)
        w = graph.tensor(node.inputs[1]).data
        x = node.inputs[0] or ""
        if w is not None and x in group.tensors and not is_grouped(node, graph):
            columns = np.abs(w.reshape(-1, channels_of(graph.tensor(x)))).sum(axis=0)
            total += _per_unit(columns, group.tensors[x])
    return total


def _per_unit(channels: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.asarray(channels[index].sum(axis=1))


def _from_batch_norm(graph: Graph, group: Group) -> np.ndarray:
    """|scale| of the per-channel multiplication that follows each producer."""
    consumers = graph.consumers()
    total, found = np.zeros(group.units), 0
    for name in group.producers:
        out = graph.node(name).outputs[0]
        for node in consumers[out]:
            if node.type != "MUL":
                continue
            scale = next((t for t in graph.ins(node) if t is not None and t.is_const), None)
            if (
                scale is None
                or scale.data is None
                or channels_of(scale) != channels_of(graph.tensor(out))
            ):
                continue  # fmt: skip
            spread = np.sqrt((filters(graph, graph.node(name)).astype(np.float64) ** 2).sum(axis=1))
            s = np.abs(scale.data.reshape(-1)) * spread
            total += _per_unit(s / max(s.mean(), 1e-30), group.tensors[out])
            found += 1
    if not found:
        raise InputError(
            f"importance 'bn' needs a batch norm after '{group.name}', and there is none (it was folded "
            "into the weights); accepted are l1, l2, geometric, taylor, fisher, apoz, reconstruction"
        )
    return total / found


# -- from gradients --------------------------------------------------------------------------------


def _gated(graph: Graph, tensors: list[str]) -> Graph:
    """Every node that reads one of ``tensors`` reads it times a gate, which is a new input."""
    g = graph.copy()
    for name in tensors:
        t = graph.tensor(name)
        gate = g.add_tensor(
            Tensor(f"gate of {name}", (*[1] * (len(t.shape) - 1), t.shape[-1]), "float32")
        )
        out = g.add_tensor(t.with_(name=f"gated {name}"))
        users = [i for i, n in enumerate(g.nodes) if name in n.inputs]
        for i in users:
            n = g.nodes[i]
            g.nodes[i] = n.with_(inputs=tuple(out.name if v == name else v for v in n.inputs))
        node = g.add_node("MUL", [name, gate.name], [out.name], {"activation": "NONE"})
        g.nodes.insert(users[0], g.nodes.pop())
        assert node.name
        g.inputs = (*g.inputs, gate.name)
    return g.validate()


def _from_gradients(
    groups: Groups, ctx: StepContext, importance: str, samples: int | None
) -> dict[str, np.ndarray]:
    try:
        import torch
        import torch.nn.functional as F
    except ImportError:
        raise InputError(
            f"importance '{importance}' needs torch, which is not installed; "
            "accepted without it are l1, l2, geometric, apoz, reconstruction, random"
        ) from None
    graph = groups.graph
    inputs = ctx.inputs(graph, f"importance '{importance}'", samples, at_least=2)
    labels = ctx.labels(graph, samples)
    classes = is_classifier(graph)
    readers = {r for g in groups for r in g.readers}
    read = {graph.node(r).inputs[0] for r in readers}
    gates = [t for t in dict.fromkeys(n for g in groups for n in g.tensors) if t in read]
    g = _gated(logits_graph(graph)[0], gates)
    module: Any = g.to_torch().to(ctx.device).eval()
    generator = torch.Generator().manual_seed(int(ctx.rng(23).integers(2**31)))
    total = {gr.name: np.zeros(gr.units) for gr in groups}
    count = len(inputs[0])
    for i in range(0, count, BATCH):
        batch = [
            torch.from_numpy(np.ascontiguousarray(a[i : i + BATCH])).to(ctx.device) for a in inputs
        ]
        n = len(batch[0])
        ones = [
            torch.ones(
                (n, *g.tensor(f"gate of {t}").shape[1:]), device=ctx.device, requires_grad=True
            )
            for t in gates
        ]
        out = module(*batch, *ones)
        out = (out[0] if isinstance(out, tuple) else out).reshape(n, -1)
        if classes and labels is not None:
            y = torch.from_numpy(labels[i : i + BATCH].astype(np.int64)).to(ctx.device)
            loss = F.cross_entropy(out, y, reduction="sum")
        elif classes:
            p = torch.softmax(out.detach().cpu(), 1)
            y = torch.multinomial(p, 1, generator=generator)[:, 0].to(ctx.device)
            loss = F.cross_entropy(out, y, reduction="sum")
        else:
            noise = torch.randn(out.shape, generator=generator).to(ctx.device)
            loss = (out * noise).sum()
        grads = torch.autograd.grad(loss, ones)
        by_gate = {
            t: gr.reshape(n, -1).double().cpu().numpy() for t, gr in zip(gates, grads, strict=True)
        }
        for gr in groups:
            s = np.zeros((n, gr.units))
            for name, channels in gr.tensors.items():
                if name in by_gate:
                    s += by_gate[name][:, channels].sum(axis=2)
            total[gr.name] += (np.abs(s) if importance == "taylor" else s**2).sum(axis=0)
    if not all(np.all(np.isfinite(v)) for v in total.values()):
        raise InputError(f"importance '{importance}' met gradients that are not finite")
    return {name: v / count for name, v in total.items()}


# -- from activations ------------------------------------------------------------------------------


def _from_activations(
    groups: Groups, ctx: StepContext, importance: str, samples: int | None
) -> dict[str, np.ndarray]:
    graph = groups.graph
    inputs = ctx.inputs(graph, f"importance '{importance}'", samples)
    wanted = {n for g in groups for n in g.tensors}
    statistic: dict[str, np.ndarray] = {}
    walk = Walker(graph, affordable(graph, inputs), ctx.device)
    while walk.node is not None:
        names = walk.node.outputs
        walk.step(hold=names)
        for n in names:
            if n in wanted:
                v = walk.values[n].reshape(-1, channels_of(graph.tensor(n))).astype(np.float64)
                statistic[n] = (
                    (v != 0).mean(axis=0) if importance == "apoz" else (v**2).mean(axis=0)
                )
            if n not in walk._last:
                walk.values.pop(n, None)
    out = {}
    for g in groups:
        total = np.zeros(g.units)
        if importance == "apoz":
            for n in g.tensors:
                total += statistic[n][g.tensors[n]].mean(axis=1) / len(g.tensors)
        else:
            total = _energy(graph, g, statistic)
        out[g.name] = total
    return out


def _energy(graph: Graph, group: Group, mean_square: dict[str, np.ndarray]) -> np.ndarray:
    total = np.zeros(group.units)
    for name in group.readers:
        node = graph.node(name)
        x = node.inputs[0] or ""
        w = graph.tensor(node.inputs[1]).data
        if x not in group.tensors or w is None:
            continue
        c = channels_of(graph.tensor(x))
        square = w.astype(np.float64) ** 2
        if is_grouped(node, graph):
            per = c // w.shape[3]
            weight = np.concatenate(
                [square[j * (len(w) // per) : (j + 1) * (len(w) // per)].sum(axis=(0, 1, 2))
                 for j in range(per)]
            )  # fmt: skip
        else:
            weight = square.reshape(-1, c).sum(axis=0)
        energy = weight * mean_square[x]
        total += _per_unit(energy / max(energy.mean(), 1e-30), group.tensors[x])
    return total
