"""Blocks of zeros: as many as asked for, the weakest ones, kept by quantization."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from netgen import Net, quantized

from edgekit.compress.blocks import block_norms, sparsify_blocks
from edgekit.errors import InputError
from edgekit.graph.ir import Graph
from edgekit_targets.mcu.variants.sparse import is_sparse, zero_blocks

MODELS = Path(__file__).resolve().parent.parent / "models"


def network() -> Graph:
    net = Net(np.random.default_rng(5), (1, 6, 6, 8))
    x = net.conv("x", 16, k=3)
    return net.finish(net.dense(net.conv(x, 32, k=1), 10))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_weakest_blocks_go_and_integers_keep_them(scope: str) -> None:
    g = network()
    out, made = sparsify_blocks(g, 0.75, scope=scope)  # type: ignore[arg-type]
    assert len(made) == 3
    total = gone = 0
    for n in out.nodes:
        if n.type not in ("CONV_2D", "FULLY_CONNECTED"):
            continue
        before, after = g.tensor(n.inputs[1]).data, out.tensor(n.inputs[1]).data
        assert before is not None and after is not None
        norms, left = block_norms(before), block_norms(after) > 0
        if scope == "layer":
            assert norms[left].min() >= norms[~left].max()
            assert abs((~left).mean() - 0.75) < 0.02
        total, gone = total + left.size, gone + int((~left).sum())
    assert abs(gone / total - 0.75) < 0.02
    q = quantized(out, np.random.default_rng(1))
    for n in q.nodes:
        if n.type in ("CONV_2D", "FULLY_CONNECTED"):
            w = q.tensor(n.inputs[1]).data
            assert w is not None
            share = zero_blocks(w.reshape(w.shape[0], -1))
            assert share >= made[n.name] - 1e-9
            assert is_sparse(n, q) == (share >= 0.3)


def test_no_layer_is_large_enough() -> None:
    net = Net(np.random.default_rng(5), (1, 4, 4, 2))
    with pytest.raises(InputError, match="512"):
        sparsify_blocks(net.finish(net.conv("x", 3)), 0.5)


def test_nothing_asked_for_changes_nothing() -> None:
    g = network()
    out, made = sparsify_blocks(g, 0.0)
    assert set(made.values()) == {0.0}
    for name, t in g.tensors.items():
        if t.data is not None:
            np.testing.assert_array_equal(t.data, out.tensor(name).data)
