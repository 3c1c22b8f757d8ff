"""The int8 form of a float network without data: right in its operators, shapes, types and in what
kernels look at (which values are never negative), made up in its scales and weights.

What integer kernels cost hardly depends on the values they compute. So weights are drawn once for
every shape and shared, and activations get the ranges that such weights would give them: two networks
with a layer of one shape have the very same layer here.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from edgekit.graph.ir import Graph, Node, Tensor

#: Values beyond so many standard deviations are rare.
_PEAK = 4.0
_ONE_SIDED = frozenset({"RELU", "RELU6"})
_WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"})


def integer_form(graph: Graph) -> Graph:
    """graph: float. The int8 graph that quantizing it would give, but for scales and weights."""
    from edgekit.compress.ptq import lowered, with_ranges

    g = _with_drawn_weights(lowered(graph))
    return with_ranges(g, ranges(g))


@lru_cache(maxsize=4096)
def _drawn(shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(repr((shape, fan_in)).encode()))
    data = rng.normal(0, np.sqrt(2.0 / max(1, fan_in)), shape).astype(np.float32)
    data.flags.writeable = False
    return data


def _with_drawn_weights(graph: Graph) -> Graph:
    g = graph.copy()
    for node in g.nodes:
        if node.type not in _WEIGHTED:
            continue
        for index, name in enumerate(node.inputs[1:]):
            t = g.tensors.get(name or "")
            if t is None or t.data is None or not t.is_float:
                continue
            if index:
                data = np.zeros(t.shape, np.float32)
            else:
                channels = t.shape[3 if node.type == "DEPTHWISE_CONV_2D" else 0]
                data = _drawn(t.shape, t.elements // channels)
            g.tensors[t.name] = t.with_(data=data.astype(t.dtype, copy=False))
    return g


def ranges(graph: Graph) -> dict[str, tuple[float, float]]:
    """(least, largest) value of every float activation, from the sizes that values grow to."""
    found: dict[str, tuple[float, float]] = {}
    for name in graph.inputs:
        found[name] = (-_PEAK, _PEAK)
    for node in graph.nodes:
        lo, hi = _range(node, graph, found)
        for o in node.outputs:
            found[o] = (lo, hi)
    return {n: r for n, r in found.items() if graph.tensor(n).is_float}


def _of(t: Tensor, found: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    if t.data is not None:
        return (float(t.data.min()), float(t.data.max())) if t.elements else (0.0, 0.0)
    return found.get(t.name, (-_PEAK, _PEAK))


def _range(
    node: Node, graph: Graph, found: Mapping[str, tuple[float, float]]
) -> tuple[float, float]:
    ins = [_of(t, found) for t in graph.ins(node) if t is not None]
    lo, hi = ins[0] if ins else (-_PEAK, _PEAK)
    size = max(-lo, hi, 1e-3)
    kind = node.type
    if kind in _WEIGHTED:
        lo, hi = -_PEAK, _PEAK
    elif kind in ("ADD", "SUB"):
        lo, hi = (ins[0][0] + ins[1][0], ins[0][1] + ins[1][1]) if kind == "ADD" else (-size, size)
        lo, hi = 0.8 * lo, 0.8 * hi
    elif kind in ("MUL", "SQUARED_DIFFERENCE", "BATCH_MATMUL", "DIV", "LAYER_NORM"):
        lo, hi = (0.0, _PEAK) if kind == "SQUARED_DIFFERENCE" else (-_PEAK, _PEAK)
    elif kind == "SUM":
        lo, hi = 8.0 * lo, 8.0 * hi
    elif kind == "MEAN":
        lo, hi = 0.4 * lo, 0.4 * hi
    elif kind in ("LOGISTIC", "SOFTMAX"):
        lo, hi = 0.0, 1.0
    elif kind == "TANH":
        lo, hi = -1.0, 1.0
    elif kind in ("HARD_SWISH", "GELU"):
        lo = max(lo, -0.4)
    elif kind in ("LEAKY_RELU", "PRELU"):
        lo = 0.2 * lo
    elif kind in ("EXP", "RSQRT", "SQRT", "ABS"):
        lo, hi = 0.0, size
    elif kind in ("CONCATENATION", "MAXIMUM", "MINIMUM"):
        lo, hi = min(r[0] for r in ins), max(r[1] for r in ins)
    activation = kind if kind.startswith("RELU") else node.attr("activation", "NONE")
    if activation in _ONE_SIDED:
        lo = 0.0
        hi = min(hi, 6.0) if activation == "RELU6" else hi
    elif activation == "RELU_N1_TO_1":
        lo, hi = max(lo, -1.0), min(hi, 1.0)
    return min(lo, 0.0), max(hi, 1e-3)
