"""Attention heads as units of pruning (Michel et al., Are Sixteen Heads Really Better than One?, 2019).

What is recognised: dense layers make queries, keys and values ``[1, T, H * D]``; each is reshaped to
``[1, T, H, D]`` and transposed; BATCH_MATMUL, elementwise operators with constants that know no heads and
SOFTMAX lie between; the result is transposed back, reshaped to ``[1, T, H * D]`` and read. A head is D
features of each of these dense layers and D columns of what reads them. Queries, keys and values of one
fused dense layer are not recognised: their channels stay whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.graph.ir import Graph, Node

_THROUGH = frozenset({"SOFTMAX", "BATCH_MATMUL", "MUL", "DIV", "ADD", "SUB", "LOGISTIC"})


@dataclass(frozen=True)
class Heads:
    """tensors: last-axis channels of each head, int ``[H, D]``, by tensor. axes: tensor -> the axis that
    counts heads, for those between. producers: the dense layers."""

    tensors: dict[str, np.ndarray]
    axes: dict[str, int]
    producers: tuple[str, ...]


def find_heads(graph: Graph) -> list[Heads]:
    """Every attention whose heads can be cut, in graph order."""
    producers = graph.producers()
    found = []
    for node in graph.nodes:
        if node.type == "RESHAPE":
            heads = _behind(graph, producers, node)
            if heads is not None:
                found.append(heads)
    return found


def _behind(graph: Graph, producers: dict[str, Node], merge: Node) -> Heads | None:
    """The attention that ends in this RESHAPE from ``[1, T, H, D]`` to ``[1, T, H * D]``, or None."""
    x, y = graph.tensor(merge.inputs[0]), graph.tensor(merge.outputs[0])
    if len(x.shape) != 4 or x.is_const or y.shape != (*x.shape[:2], x.shape[2] * x.shape[3]):
        return None
    count, readers = x.shape[2], graph.consumers()
    axes: dict[str, int] = {}
    dense: dict[str, int] = {}
    inside = {merge.name}
    stack = [(x.name, 2)]
    products = 0
    while stack:
        name, axis = stack.pop()
        if name in axes:
            if axes[name] != axis:
                return None
            continue
        axes[name] = axis
        node = producers.get(name)
        if node is None or name in graph.outputs:
            return None
        inside.add(node.name)
        source = graph.tensor(node.inputs[0])
        if node.type == "TRANSPOSE":
            stack.append((source.name, int(node.attrs["perm"][axis])))
        elif node.type == "RESHAPE":  # the split into heads
            t = graph.tensor(name)
            whole = (*t.shape[:2], t.shape[2] * t.shape[3]) if len(t.shape) == 4 else ()
            maker = producers.get(source.name)
            if axis != 2 or source.shape != whole or maker is None:
                return None
            if maker.type != "FULLY_CONNECTED" or source.name in graph.outputs:
                return None
            dense[source.name] = t.shape[3]
        elif node.type in _THROUGH:
            if node.type in ("SOFTMAX",) and axis == len(source.shape) - 1:
                return None
            if node.type == "BATCH_MATMUL":
                products += 1
                if axis >= len(graph.tensor(name).shape) - 2:
                    return None
            for i in graph.ins(node):
                if i is None or (
                    i.is_const and not _headless(i.shape, graph.tensor(name).shape, axis)
                ):
                    return None
                if not i.is_const:
                    if len(i.shape) != len(graph.tensor(name).shape):
                        return None
                    stack.append((i.name, axis))
        else:
            return None
    used = {r.name for t in (*axes, *dense) for r in readers[t]}
    if products < 2 or not dense or not used <= inside:
        return None
    tensors = {n: np.arange(count * d).reshape(count, d) for n, d in sorted(dense.items())}
    tensors[y.name] = np.arange(y.shape[-1]).reshape(count, -1)
    makers = tuple(n.name for n in graph.nodes if n.outputs[0] in dense)
    return Heads(tensors, axes, makers)


def _headless(constant: tuple[int, ...], shape: tuple[int, ...], axis: int) -> bool:
    """A constant that is broadcast along the axis of the heads."""
    place = axis - (len(shape) - len(constant))
    return place < 0 or constant[place] == 1
