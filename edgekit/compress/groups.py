"""Which channels have to go together: dependency analysis for structured pruning.

Channels of tensors that must have the same number of entries are tied into classes (by the same rules
as dead-channel elimination, :mod:`.dead`): through elementwise operators, depthwise convolutions,
pooling, concatenation, splits, flattening; all channels of one group of a grouped convolution; all
features of one attention head (:mod:`.heads`). A class is a *unit*: it goes as a whole. Units that pass
through the same tensors form a *group*, the thing that budgets, granularity and recipes speak of.
"Every layer of the group" in the sense of Fang et al., DepGraph, CVPR 2023.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgekit.compress.dead import Classes, plain_weights, rewrite_node, tie_node
from edgekit.compress.heads import find_heads
from edgekit.compress.intervals import Interval, channels_of
from edgekit.compress.slicing import slice_channels
from edgekit.errors import InputError
from edgekit.graph.ir import Graph, Node

MIXING = ("CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
#: Prefix of the metadata that says which channels of the original a tensor still has.
KEPT = "channels:"


@dataclass(frozen=True)
class Group:
    """Units that can be cut, all through the same tensors.

    name: the node that makes the first tensor, in graph order. tensors: name -> int array ``[units,
    channels a unit]``.
    producers, readers: nodes that compute these channels, that mix them. kind: "channels", "groups"
    (of a grouped convolution) or "heads".
    """

    name: str
    tensors: Mapping[str, np.ndarray]
    producers: tuple[str, ...]
    readers: tuple[str, ...]
    kind: str = "channels"
    axes: Mapping[str, int] = field(default_factory=dict)

    @property
    def units(self) -> int:
        return len(next(iter(self.tensors.values())))


@dataclass(frozen=True)
class Groups:
    """All groups of a graph. pinned: tensor -> why its channels cannot be cut (those of no group)."""

    graph: Graph
    groups: tuple[Group, ...]
    pinned: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def get(self, name: str) -> Group:
        """The group of a tensor or of the node that makes it; InputError when it cannot be cut."""
        tensor = {n.name: n.outputs[0] for n in self.graph.nodes}.get(name, name)
        for g in self.groups:
            if name == g.name or tensor in g.tensors:
                return g
        if tensor in self.pinned:
            raise InputError(f"the channels of '{name}' cannot be cut: {self.pinned[tensor]}")
        known = ", ".join(g.name for g in self.groups) or "none"
        raise InputError(f"there is no channel group '{name}'; the groups are {known}")


def is_grouped(node: Node, g: Graph) -> bool:
    """A CONV_2D whose output channels see only some of the input channels."""
    return (
        node.type == "CONV_2D" and g.tensor(node.inputs[0]).shape[3] != g.tensor(node.inputs[1]).shape[3]
    )  # fmt: skip


def _tie_grouped(node: Node, g: Graph, classes: Classes) -> bool:
    """All channels of a group, in and out, are one."""
    x, y = g.tensor(node.inputs[0]), g.tensor(node.outputs[0])
    w = g.tensor(node.inputs[1])
    if x.is_const or not plain_weights(node, g) or x.shape[3] % w.shape[3]:
        return False
    count = x.shape[3] // w.shape[3]
    for j in range(count):
        first = classes.slot(x.name, j * w.shape[3])
        for c in range(w.shape[3]):
            classes.tie(first, classes.slot(x.name, j * w.shape[3] + c))
        for c in range(y.shape[3] // count):
            classes.tie(first, classes.slot(y.name, j * (y.shape[3] // count) + c))
    return True


def find_groups(graph: Graph) -> Groups:
    """The channel groups of a float graph, in the order of their first tensors."""
    classes = Classes(graph)
    why: dict[int, str] = {}

    def pin(name: str, reason: str) -> None:
        t = graph.tensor(name)
        if not t.is_const:
            for c in range(channels_of(t)):
                why.setdefault(classes.slot(name, c), reason)
            classes.pin(t)

    for name in graph.inputs:
        pin(name, "it is an input of the network")
    for name in graph.outputs:
        pin(name, "it is an output of the network")
    for node in graph.nodes:
        fits = (_tie_grouped if is_grouped(node, graph) else tie_node)(node, graph, classes)
        if not fits:
            for t in (*node.inputs, *node.outputs):
                if t is not None:
                    pin(t, f"node '{node.name}' ({node.type}) ties them to their neighbours")
    found = _collect(graph, classes, why)
    return Groups(graph, (*found.groups, *_heads(graph, found)), found.pinned)


def _heads(graph: Graph, found: Groups) -> list[Group]:
    """Attention heads: their channels are tied to their neighbours by the reshape, and so are pinned as
    channels; as whole heads they can go where only layers that mix channels read them."""
    readers, out = graph.consumers(), []
    for h in find_heads(graph):
        merged = list(h.tensors)[-1]
        reads = readers[merged]
        plain = all(plain_weights(graph.node(p), graph) for p in h.producers)
        if merged in graph.outputs or not plain or not reads:
            continue
        if not all(r.type == "FULLY_CONNECTED" and plain_weights(r, graph) for r in reads):
            continue
        read = tuple(r.name for r in reads)
        out.append(Group(h.producers[0], h.tensors, h.producers, read, "heads", h.axes))
    return out


def _collect(graph: Graph, classes: Classes, why: dict[int, str]) -> Groups:
    order = [*graph.inputs, *(o for n in graph.nodes for o in n.outputs)]
    members: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    reasons: dict[int, str] = {}
    for slot, reason in why.items():
        reasons.setdefault(classes.find(slot), reason)
    pinned: dict[str, str] = {}
    for name in order:
        t = graph.tensor(name)
        if t.is_const or not t.shape:
            continue
        for c, root in enumerate(classes.roots(t)):
            if classes.pinned[root]:
                pinned.setdefault(name, reasons.get(int(root), "they reach what cannot be cut"))
            else:
                members[int(root)][name].append(c)
    alike: dict[tuple[tuple[str, int], ...], list[dict[str, list[int]]]] = defaultdict(list)
    for unit in members.values():
        alike[tuple((n, len(cs)) for n, cs in unit.items())].append(unit)
    producers, readers = graph.producers(), graph.consumers()
    groups = []
    for units in alike.values():
        tensors = {n: np.array([u[n] for u in units], np.int64) for n in units[0]}
        made = tuple(dict.fromkeys(
            p.name for n in tensors if (p := producers.get(n)) is not None
            and (p.type in MIXING or p.type == "DEPTHWISE_CONV_2D")
        ))  # fmt: skip
        mixes = [r for n in tensors for r in readers[n] if r.type in MIXING]
        read = tuple(dict.fromkeys(r.name for r in mixes))
        grouped = any(is_grouped(r, graph) for r in mixes)
        first = next(iter(tensors))
        name = producers[first].name if first in producers else first
        groups.append(Group(name, tensors, made, read, "groups" if grouped else "channels"))
    names: dict[str, int] = {}
    unique = []
    for gr in groups:  # a split or concatenated tensor has several groups: number them
        k = names[gr.name] = names.get(gr.name, 0) + 1
        unique.append(gr if k == 1 else replace(gr, name=f"{gr.name}#{k}"))
    return Groups(graph, tuple(unique), pinned)


# -- cutting ---------------------------------------------------------------------------------------


def tensor_masks(groups: Groups, keep: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """bool ``[channels]`` by tensor, from bool ``[units]`` by group name (absent: all kept)."""
    graph = groups.graph
    masks = {
        t.name: np.ones(channels_of(t), bool)
        for t in graph.tensors.values()
        if not t.is_const and t.shape
    }
    for group in groups:
        chosen = keep.get(group.name)
        if chosen is None:
            continue
        for name, channels in group.tensors.items():
            masks[name][channels[~chosen].reshape(-1)] = False
    empty = [n for n, m in masks.items() if not m.any()]
    if empty:
        raise InputError(
            f"nothing would be left of '{empty[0]}'; keep at least one of its channels"
        )
    return masks


def cut(
    groups: Groups, keep: Mapping[str, np.ndarray], means: Mapping[str, np.ndarray] | None = None
) -> Graph:
    """The graph without the units that ``keep`` leaves out (bool ``[units]`` by group name).

    means: tensor -> float ``[channels]``: what a removed channel is taken to be in the biases of its
    readers (its mean over samples); without it, zero. The metadata of the result says which channels of
    the tensors are left (:func:`kept_channels`).
    """
    graph = groups.graph
    masks = tensor_masks(groups, keep)
    bounds: dict[str, Interval] = {}
    for name, mask in masks.items():
        value = np.zeros(len(mask)) if means is None else means.get(name, np.zeros(len(mask)))
        bounds[name] = Interval(value, value)
    out = graph.copy()
    out.nodes = [_cut_node(n, graph, out, masks, bounds) for n in graph.nodes]
    for group in groups:
        left = int(keep[group.name].sum()) if group.name in keep else group.units
        for name, axis in group.axes.items():
            t = graph.tensor(name)
            shape = (*t.shape[:axis], left, *t.shape[axis + 1 :])
            out.tensors[name] = t.with_(shape=shape)
            out.nodes = [
                n.with_attrs(new_shape=shape) if n.type == "RESHAPE" and name in n.outputs else n
                for n in out.nodes
            ]
    for name, mask in masks.items():
        if not mask.all():
            t = graph.tensor(name)
            out.tensors[name] = t.with_(shape=(*t.shape[:-1], int(mask.sum())))
            channels = kept_channels(graph, name)[mask]
            out.metadata[KEPT + name] = " ".join(map(str, channels))
    out.prune()
    return out.validate()


def _cut_node(
    node: Node, g: Graph, out: Graph, masks: dict[str, np.ndarray], bounds: dict[str, Interval]
) -> Node:
    if not is_grouped(node, g):
        return rewrite_node(node, g, out, masks, bounds)
    mask = masks[node.outputs[0]]
    if mask.all():
        return node
    inputs = [node.inputs[0]]
    for name in node.inputs[1:]:
        inputs.append(
            None if name is None else out.add_tensor(slice_channels(g.tensor(name), mask, 0)).name
        )
    return node.with_(inputs=tuple(inputs))


def kept_channels(graph: Graph, tensor: str) -> np.ndarray:
    """Which channels of the original network's tensor of that name this one has, in order."""
    text = graph.metadata.get(KEPT + tensor)
    if text is None:
        return np.arange(channels_of(graph.tensor(tensor)))
    return np.array([int(c) for c in text.split()], np.int64)


def forget_origin(graph: Graph) -> Graph:
    """The graph without the record of its original's channels (before it is written to a file)."""
    out = graph.copy()
    out.metadata = {k: v for k, v in graph.metadata.items() if not k.startswith(KEPT)}
    return out


def zeroed(groups: Groups, keep: Mapping[str, np.ndarray]) -> Graph:
    """The same shapes, with the weights and biases of removed units set to zero where they are made:
    what a training step with a gradual schedule trains between two cuts."""
    graph = groups.graph.copy()
    masks = tensor_masks(groups, keep)
    for node in groups.graph.nodes:
        if node.type not in (*MIXING, "DEPTHWISE_CONV_2D") or masks[node.outputs[0]].all():
            continue
        mask = masks[node.outputs[0]]
        for i, name in enumerate(node.inputs[1:3]):
            if name is None:
                continue
            t = graph.tensor(name)
            assert t.data is not None
            axis = 3 if node.type == "DEPTHWISE_CONV_2D" and i == 0 else 0
            shape = [-1 if a == axis else 1 for a in range(t.data.ndim)]
            new = graph.add_const(name, (t.data * mask.reshape(shape)).astype(t.dtype)).name
            graph.nodes = [
                n.with_(inputs=tuple(new if j == i + 1 else v for j, v in enumerate(n.inputs)))
                if n.name == node.name
                else n
                for n in graph.nodes
            ]
    graph.prune()
    return graph.validate()


def total_units(groups: Sequence[Group]) -> int:
    return sum(g.units for g in groups)
