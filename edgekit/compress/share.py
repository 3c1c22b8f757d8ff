"""Weight sharing and unstructured sparsity: fewer distinct weights, and how many bytes they take.

*share* (Han et al., Deep Compression, ICLR 2016): k-means of each layer's weights; afterwards the tensor
holds at most k distinct values, which is all the state there is (a training step can keep the sharing by
keeping equal weights equal). *sparsify*: the smallest weights become zero; the mask is the zeros.

Sizes are reported three ways for every layer: plain, codebook (k values and packed indices: what a kernel
with a table would read from flash) and Huffman-coded (what a download would be; a kernel cannot run from
it). Zeros count as a value like any other in the Huffman code. No kernel here runs from a codebook, so a
shared network is neither smaller in flash nor faster until one does; the figures say what it could be.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np

from edgekit.compress.steps import Count, StepContext, Within, step
from edgekit.errors import InputError
from edgekit.graph.ir import Graph, Tensor

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")


def weight_tensors(graph: Graph, layers: Sequence[str] | None = None) -> list[tuple[str, Tensor]]:
    """(node name, weights) of the layers with constant float weights, each tensor once."""
    found: dict[str, tuple[str, Tensor]] = {}
    for n in graph.nodes:
        if n.type not in WEIGHTED or (layers is not None and n.name not in layers):
            continue
        t = graph.tensor(n.inputs[1])
        if t.is_const and t.is_float:
            found.setdefault(t.name, (n.name, t))
    for name in layers or ():
        if name not in {n for n, _ in found.values()}:
            raise InputError(f"'{name}' is no layer with float weights of its own")
    return list(found.values())


def kmeans(values: np.ndarray, k: int, iterations: int = 50) -> np.ndarray:
    """Codebook (ascending, at most ``k``) of a vector: Lloyd's algorithm in one dimension, from
    linearly spaced centres (Deep Compression's start: large weights keep one) and from quantiles; the
    nearer one is taken. Zero stays a centre where zeros are there, so that pruned weights stay pruned."""
    v = np.sort(values.reshape(-1).astype(np.float64))
    zero = bool((v == 0).any())
    unique = np.unique(v)
    if len(unique) <= k:
        return unique
    live = v[v != 0] if zero else v
    k = k - 1 if zero else k
    if k < 1:
        return np.array([0.0])
    starts = (
        np.linspace(live[0], live[-1], k),
        np.unique(np.quantile(live, (np.arange(k) + 0.5) / k)),
    )
    found = [_lloyd(live, c, iterations) for c in starts]
    centres = min(found, key=lambda c: float(((c[nearest(live, c)] - live) ** 2).sum()))
    return np.unique(np.concatenate([centres, [0.0]])) if zero else np.unique(centres)


def _lloyd(live: np.ndarray, centres: np.ndarray, iterations: int) -> np.ndarray:
    """Lloyd's algorithm on sorted values."""
    total = np.concatenate([[0.0], np.cumsum(live)])
    for _ in range(iterations):
        edges = np.searchsorted(live, (centres[:-1] + centres[1:]) / 2)
        bounds = np.concatenate([[0], edges, [len(live)]])
        count = np.diff(bounds)
        sums = total[bounds[1:]] - total[bounds[:-1]]
        new = np.where(count > 0, sums / np.maximum(count, 1), centres)
        if np.array_equal(new, centres):
            break
        centres = new
    return np.unique(centres)


def nearest(values: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Index of the nearest codebook entry, the shape of ``values``."""
    if len(codebook) == 1:
        return np.zeros(values.shape, np.int64)
    return np.searchsorted((codebook[:-1] + codebook[1:]) / 2, values)


def assign(values: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """The values at their nearest codebook entries; exact zeros stay zero where the codebook has it."""
    out = codebook[nearest(values, codebook)]
    if (codebook == 0).any():
        out = np.where(values == 0, 0.0, out)
    return out


def huffman_bits(counts: np.ndarray) -> int:
    """Total bits of a Huffman code for symbols with these counts (one symbol alone: a bit each)."""
    heap = [int(c) for c in counts if c > 0]
    if len(heap) == 1:
        return heap[0]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        a, b = heapq.heappop(heap), heapq.heappop(heap)
        total += a + b
        heapq.heappush(heap, a + b)
    return total


def sizes(weights: np.ndarray, value_bytes: int = 4) -> dict[str, Any]:
    """How many bytes a tensor takes: ``plain``, ``codebook`` (values and packed indices), ``huffman``
    (values, code lengths and the coded stream), and what it holds (``distinct``, ``zeros``)."""
    values, counts = np.unique(weights.reshape(-1), return_counts=True)
    n, k = weights.size, len(values)
    table = k * value_bytes
    bits = max(1, math.ceil(math.log2(k))) if k > 1 else 1
    return {
        "weights": int(n),
        "distinct": int(k),
        "zeros": int(counts[values == 0].sum()) if k else 0,
        "plain_bytes": int(n * value_bytes),
        "codebook_bytes": int(min(table + math.ceil(n * bits / 8), n * value_bytes)),
        "huffman_bytes": int(min(table + k + math.ceil(huffman_bits(counts) / 8), n * value_bytes)),
    }


def size_report(graph: Graph) -> dict[str, Any]:
    """:func:`sizes` of every layer's weights, and their sums."""
    layers = {
        name: sizes(t.data, np.dtype(t.dtype).itemsize)
        for name, t in weight_tensors(graph)
        if t.data is not None
    }
    keys = ("weights", "zeros", "plain_bytes", "codebook_bytes", "huffman_bytes")
    return {"layers": layers, "total": {k: sum(v[k] for v in layers.values()) for k in keys}}


@step("share", cites="Han et al., Deep Compression, ICLR 2016")
def share(
    graph: Graph,
    ctx: StepContext,
    *,
    values: Annotated[int, Within(2, 4096)] = 16,
    values_dense: Annotated[int, Within(2, 4096)] | None = None,
    layers: list[str] | None = None,
) -> Graph:
    """Cluster each layer's weights (k-means) to a codebook of ``values`` entries (``values_dense`` for
    dense layers)."""
    g = graph.copy()
    kinds = {n.name: n.type for n in graph.nodes}
    error: dict[str, float] = {}
    for name, t in weight_tensors(graph, layers):
        assert t.data is not None
        dense = kinds[name] == "FULLY_CONNECTED" and values_dense is not None
        book = kmeans(t.data, int(values_dense) if dense and values_dense else values)
        data = assign(t.data.astype(np.float64), book.astype(t.dtype)).astype(t.dtype)
        error[name] = float(((data - t.data) ** 2).sum() / max(float((t.data**2).sum()), 1e-30))
        g.tensors[t.name] = t.with_(data=data)
    ctx.note(sizes=size_report(g), energy_lost=error)
    return g.validate()


@step(
    "sparsify",
    cites="Han et al., NIPS 2015; Zhu and Gupta, 2017 (global magnitude); N:M: Mishra et al., 2021",
)
def sparsify(
    graph: Graph,
    ctx: StepContext,
    *,
    zeros: Annotated[float, Within(0, 1, open_high=True)] | None = None,
    pattern: list[Count] | None = None,
    scope: Literal["global", "layer"] = "global",
    layers: list[str] | None = None,
) -> Graph:
    """Set the smallest weights to zero, a share of each layer's or of all together; shapes stay, so this
    saves nothing until a coder or a sparse kernel uses it.

    pattern: [n, m] instead of a share: the n largest of every m neighbours along the input channels stay
    (layers whose channels are not a multiple of m are left as they are)."""
    if (zeros is None) == (pattern is None):
        raise InputError("sparsify takes one of zeros (a share) and pattern ([n, m])")
    g = graph.copy()
    tensors = weight_tensors(graph, layers)
    if pattern is not None:
        if len(pattern) != 2 or not pattern[0] < pattern[1]:
            raise InputError(f"sparsify has the pattern {pattern}; accepted is [n, m] with n < m")
        kept = {}
        for name, t in tensors:
            assert t.data is not None
            data = n_of_m(t.data, *pattern) if t.shape[-1] % pattern[1] == 0 else t.data
            kept[name] = float((data == 0).mean())
            g.tensors[t.name] = t.with_(data=data)
        ctx.note(sizes=size_report(g), zeros=kept)
        return g.validate()
    assert zeros is not None
    magnitude = []
    for _, t in tensors:
        assert t.data is not None
        a = np.abs(t.data.astype(np.float64))
        # globally, magnitudes are compared relative to each layer's own
        magnitude.append(a if scope == "layer" else a / max(float(np.sqrt((a**2).mean())), 1e-30))
    limit = (
        _threshold(np.concatenate([m.reshape(-1) for m in magnitude]), zeros) if tensors else 0.0
    )
    made = {}
    for (name, t), m in zip(tensors, magnitude, strict=True):
        assert t.data is not None
        cut = limit if scope == "global" else _threshold(m.reshape(-1), zeros)
        data = np.where(m < cut, 0, t.data).astype(t.dtype)
        made[name] = float((data == 0).mean())
        g.tensors[t.name] = t.with_(data=data)
    ctx.note(sizes=size_report(g), zeros=made)
    return g.validate()


def n_of_m(weights: np.ndarray, n: int, m: int) -> np.ndarray:
    """The ``n`` largest of every ``m`` neighbours along the last axis, the others zero; the earlier one
    where two are equal."""
    blocks = weights.reshape(-1, m)
    order = np.argsort(-np.abs(blocks), axis=1, kind="stable")
    mask = np.zeros(blocks.shape, bool)
    np.put_along_axis(mask, order[:, :n], True, axis=1)
    return np.where(mask, blocks, 0).astype(weights.dtype).reshape(weights.shape)


def _threshold(values: np.ndarray, share: float) -> float:
    """What ``share`` of the values are below."""
    count = round(share * len(values))
    if count <= 0:
        return 0.0
    if count >= len(values):
        return math.inf
    return float(np.partition(values, count)[count])
