"""Cross-layer equalization (Nagel et al., "Data-Free Quantization Through Weight Equalization and
Bias Correction", ICCV 2019): two layers with only a ReLU (or nothing) between them may trade a factor
a channel, so that neither has channels of very different ranges.
"""

from __future__ import annotations

import numpy as np

from edgekit.graph.ir import Graph, Node

_OUT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
_ROUNDS = 20


def equalize(graph: Graph) -> Graph:
    """A float graph with equalized weights; computes the same function up to float rounding."""
    g = graph.copy()
    pairs = [p for p in (_pair(n, g) for n in g.nodes) if p is not None]
    if not pairs:
        return g
    arrays: dict[str, np.ndarray] = {}

    def load(name: str) -> np.ndarray:
        if name not in arrays:
            data = g.tensor(name).data
            assert data is not None
            arrays[name] = data.astype(np.float64)
        return arrays[name]

    for _ in range(_ROUNDS):
        change = 1.0
        for a, b in pairs:
            change = max(change, _equalize_pair(a, b, g, load, arrays))
        if change < 1.01:
            break
    for name, value in arrays.items():
        g.tensors[name] = g.tensor(name).with_(data=value.astype(g.tensor(name).dtype))
    return g


def _weights_used_once(node: Node, g: Graph) -> bool:
    names = [i for i in node.inputs[1:] if i is not None]
    return all(
        g.tensor(i).is_const and sum(i in n.inputs for n in g.nodes) == 1 for i in names
    ) and all(g.tensor(i).is_float for i in names)


def _pair(first: Node, g: Graph) -> tuple[Node, Node] | None:
    if first.type not in _OUT_AXIS or first.attr("activation", "NONE") not in ("NONE", "RELU"):
        return None
    readers = [n for n in g.nodes if first.outputs[0] in n.inputs]
    if first.outputs[0] in g.outputs or len(readers) != 1:
        return None
    second = readers[0]
    if second.type not in _OUT_AXIS or second.inputs[0] != first.outputs[0]:
        return None
    if not (_weights_used_once(first, g) and _weights_used_once(second, g)):
        return None
    channels = g.tensor(first.outputs[0]).shape[-1]
    w = g.tensor(second.inputs[1])
    if second.type == "DEPTHWISE_CONV_2D":
        return (first, second) if w.shape[3] == channels else None
    return (first, second) if w.shape[-1] == channels else None


def _equalize_pair(a: Node, b: Node, g: Graph, load, arrays) -> float:
    """Scale the channels between ``a`` and ``b``; the largest factor applied."""
    wa, wb = load(a.inputs[1] or ""), load(b.inputs[1] or "")
    axis = _OUT_AXIS[a.type]
    ra = np.abs(wa).max(axis=tuple(i for i in range(wa.ndim) if i != axis))
    rb = np.abs(wb).max(axis=tuple(range(wb.ndim - 1)))
    ok = (ra > 0) & (rb > 0)
    s = np.where(ok, np.sqrt(np.where(ok, ra, 1.0) / np.where(ok, rb, 1.0)), 1.0)
    shape = [1] * wa.ndim
    shape[axis] = -1
    arrays[a.inputs[1] or ""] = wa / s.reshape(shape)
    if len(a.inputs) > 2 and a.inputs[2] is not None:
        arrays[a.inputs[2]] = load(a.inputs[2]) / s
    arrays[b.inputs[1] or ""] = wb * s
    return float(np.maximum(s, 1 / s).max())
