"""Our MobileNetV2 as a model: shape, size, determinism, and values that stay alive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit import api
from edgekit.graph import reference
from edgekit.graph.ir import Graph

FILE = Path(__file__).resolve().parent.parent / "models" / "mobilenet_v2.py"
pytest.importorskip("torch", reason="torch is not installed: pip install 'edgekit[torch]'")


@pytest.fixture(scope="module")
def small() -> Graph:
    return api.load(f"{FILE}:small")


@pytest.mark.slow
def test_its_size_is_that_of_the_paper(small: Graph) -> None:
    """3,504,872 parameters: what torchvision documents for its MobileNetV2 of width 1.0."""
    from edgekit_models import mobilenet_v2

    assert sum(p.numel() for p in mobilenet_v2.network().parameters()) == 3_504_872
    d = api.inspect(small)
    assert d["macs"] == 10_666_928 and d["unsupported"] == []
    assert d["inputs"][0]["shape"] == [1, 96, 96, 3]


@pytest.mark.slow
def test_the_seed_fixes_the_weights() -> None:
    from edgekit_models import mobilenet_v2

    (a, _), (b, _) = mobilenet_v2.small(), mobilenet_v2.small()
    other = b.state_dict()
    assert all(np.array_equal(v.numpy(), other[k].numpy()) for k, v in a.state_dict().items())
    assert not a.training


@pytest.mark.slow
def test_values_neither_die_out_nor_explode(small: Graph) -> None:
    x = np.random.default_rng(0).normal(0, 1, (2, 96, 96, 3)).astype(np.float32)
    values = reference.run(small, [x], keep="all")
    for name, v in values.items():
        if v.dtype == np.float32 and small.tensor(name).data is None:
            assert 1e-3 < float(v.std()) < 1e3, name
    (out,) = (values[o] for o in small.outputs)
    assert out.shape == (2, 10) and not np.allclose(out[0], out[1])
