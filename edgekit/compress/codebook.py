"""Codebooks of integer weights: few values a layer, which microcontroller kernels read through a table.

*codebook* (Han et al., Deep Compression, ICLR 2016, on the quantized weights): the int8 weights of each
layer are clustered to at most ``values`` of them, weighted by their channels' squared scales. One
dimension and 256 bins make the best clusters computable (dynamic programming: Wang and Song, Ckmeans.1d.dp,
R Journal 2011). 2, 4, 16 and 64 values take codes of 1, 2, 4 and 6 bits.

Float weights that were shared before (``share``) keep their few values only where one scale holds for the
whole layer (``quantize`` with ``per_channel: false``); this step keeps the channels' scales.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from edgekit.compress.steps import StepContext, Within, step
from edgekit.errors import InputError
from edgekit.graph.ir import Graph

_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
#: Layers with fewer weights keep them: a table saves nothing there.
SMALL = 512


def best_values(weight: np.ndarray, values: int) -> np.ndarray:
    """The ``values`` (or fewer) integers that stand for -128..127 with the least squared error.

    weight: float64 ``[256]``, how much each of them counts. Returns int8, ascending. Clusters are
    contiguous; their centres are rounded to integers, which is exact where there are enough values.
    """
    x = np.arange(-128, 128, dtype=np.float64)
    used = np.flatnonzero(weight > 0)
    if len(used) <= values:
        return x[used].astype(np.int8)
    x, w = x[used], weight[used]
    n = len(used)
    s0, s1, s2 = (np.concatenate([[0.0], np.cumsum(w * x**k)]) for k in range(3))
    i, j = np.arange(n)[:, None], np.arange(1, n + 1)[None, :]
    some = i < j
    centre = np.rint((s1[j] - s1[i]) / np.where(some, s0[j] - s0[i], 1.0)) * some
    # the error of one cluster of bins i .. j - 1 around an integer
    cost = s2[j] - s2[i] - 2 * centre * (s1[j] - s1[i]) + centre**2 * (s0[j] - s0[i])
    cost = np.where(some, cost, np.inf)
    best = cost[0]
    cuts: list[np.ndarray] = []
    for _ in range(values - 1):
        # best[j - 1]: bins 0 .. j - 1 in so many clusters; one more begins at i
        total = np.concatenate([[np.inf], best[:-1]])[:, None] + cost
        cuts.append(np.argmin(total, axis=0))
        best = np.minimum(total.min(axis=0), best)
    # back from the end, as long as a further cluster was better
    edges, at = [n], n
    for cut in reversed(cuts):
        start = int(cut[at - 1])
        if start <= 0:
            continue
        edges.append(start)
        at = start
    edges.append(0)
    edges = sorted(set(edges))
    found = [centre[a, b - 1] for a, b in itertools.pairwise(edges)]
    return np.unique(np.asarray(found)).astype(np.int8)


def codebook(
    graph: Graph, values: int, layers: Sequence[str] | None = None
) -> tuple[Graph, dict[str, float]]:
    """``graph`` with at most ``values`` different int8 weights in each layer of :data:`SMALL` weights or
    more; and the share of each such layer's energy that is lost."""
    out = graph.copy()
    lost: dict[str, float] = {}
    for n in graph.nodes:
        if n.type not in _AXIS or (layers is not None and n.name not in layers):
            continue
        t = out.tensor(n.inputs[1])
        if t.data is None or t.dtype != "int8" or t.quant is None or t.elements < SMALL:
            continue
        shape = [1] * t.data.ndim
        shape[_AXIS[n.type]] = -1
        scale = np.broadcast_to(t.quant.scale.astype(np.float64).reshape(shape), t.shape) ** 2
        wide = t.data.astype(np.int64)
        weight = np.bincount(wide.reshape(-1) + 128, scale.reshape(-1), 256)
        book = best_values(weight, values).astype(np.int64)
        nearest = np.abs(np.arange(-128, 128)[:, None] - book[None, :]).argmin(axis=1)
        data = book[nearest[wide + 128]]
        lost[n.name] = float(
            (scale * (data - wide) ** 2).sum() / max((scale * wide**2).sum(), 1e-30)
        )
        out.tensors[t.name] = t.with_(data=data.astype(np.int8))
    return out.validate(), lost


@step("codebook", cites="Han et al., Deep Compression, ICLR 2016; Wang and Song, R Journal 2011")
def codebook_step(
    graph: Graph,
    ctx: StepContext,
    *,
    values: Annotated[int, Within(2, 64)] = 16,
    layers: list[str] | None = None,
) -> Graph:
    """At most ``values`` different integer weights a layer, for kernels that read codes through a table;
    after quantization."""
    if not any(t.dtype == "int8" and t.is_const for t in graph.tensors.values()):
        raise InputError("codebook takes integer weights; put quantize, adaround or qat before it")
    out, lost = codebook(graph, values, layers)
    ctx.note(energy_lost=lost)
    return out
