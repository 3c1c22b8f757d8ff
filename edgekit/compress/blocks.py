"""Zeros that a kernel can skip: blocks of four consecutive weights of an output channel.

Block magnitude pruning (Narang et al., "Block-Sparse Recurrent Neural Networks", 2017; one shot, by L2
norm, here): the weakest blocks of each layer, or of all of them together, become zero. Blocks follow the
order in which kernels read weights, ``[O][kh][kw][I]`` (``kernels/include/ek_sparse.h``), so that
microcontrollers store and multiply only the others. Quantization keeps zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np

from edgekit.compress.share import weight_tensors
from edgekit.compress.steps import StepContext, Within, step
from edgekit.errors import InputError
from edgekit.graph.ir import Graph

#: Operators whose sparse kernels there are, and the smallest layers worth it.
_TYPES = ("CONV_2D", "FULLY_CONNECTED")
SMALL = 512


def block_norms(w: np.ndarray, block: int = 4) -> np.ndarray:
    """L2 norms ``[O, blocks]`` of ``[O, ...]`` weights in rows of ``block`` consecutive ones."""
    rows = w.reshape(w.shape[0], -1).astype(np.float64)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % block)))
    return np.sqrt((rows.reshape(len(rows), -1, block) ** 2).sum(axis=2))


def sparsify_blocks(
    graph: Graph,
    zeros: float,
    *,
    scope: Literal["global", "layer"] = "layer",
    layers: Sequence[str] | None = None,
    block: int = 4,
) -> tuple[Graph, dict[str, float]]:
    """``graph`` with a share ``zeros`` of its blocks zero, and each layer's share of zero blocks.

    Convolutions and dense layers of :data:`SMALL` float weights or more, or those named. global: norms
    are compared relative to each layer's own. InputError where there is no such layer.
    """
    kinds = {n.name: n.type for n in graph.nodes}
    found = [
        (name, t)
        for name, t in weight_tensors(graph, layers)
        if kinds[name] in _TYPES and (layers is not None or t.elements >= SMALL)
    ]
    if not found:
        raise InputError(
            f"'{graph.name}' has no convolution or dense layer of {SMALL} float weights or more"
        )
    norms = []
    for _, t in found:
        assert t.data is not None
        n = block_norms(t.data, block)
        norms.append(n / max(float(np.sqrt((n**2).mean())), 1e-30) if scope == "global" else n)
    together = np.concatenate([n.reshape(-1) for n in norms])
    out, made = graph.copy(), {}
    for (name, t), n in zip(found, norms, strict=True):
        assert t.data is not None
        values = together if scope == "global" else n.reshape(-1)
        count = round(zeros * len(values))
        cut = -np.inf if count <= 0 else float(np.partition(values, count - 1)[count - 1])
        rows = t.data.reshape(t.shape[0], -1)
        gone = np.repeat(n <= cut, block, axis=1)[:, : rows.shape[1]]
        out.tensors[t.name] = t.with_(data=np.where(gone, 0, rows).reshape(t.shape).astype(t.dtype))
        made[name] = float((n <= cut).mean())
    return out.validate(), made


@step("sparsify-blocks", cites="Narang et al., Block-Sparse Recurrent Neural Networks, 2017")
def sparsify_blocks_step(
    graph: Graph,
    ctx: StepContext,
    *,
    zeros: Annotated[float, Within(0, 1, open_high=True)],
    scope: Literal["global", "layer"] = "layer",
    layers: list[str] | None = None,
) -> Graph:
    """Set the weakest blocks of four weights to zero: what the sparse kernels skip."""
    out, made = sparsify_blocks(graph, zeros, scope=scope, layers=layers)
    ctx.note(zero_blocks=made)
    return out
