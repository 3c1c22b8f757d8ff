"""The generator of random networks that benchmarks use."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def random_networks() -> ModuleType:
    path = ROOT / "benchmarks" / "random_networks.py"
    spec = importlib.util.spec_from_file_location("random_networks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_seed_is_a_network_and_another_seed_another(random_networks: ModuleType) -> None:
    from edgekit.graph.ir import Graph

    def content(g: Graph) -> list[object]:
        return [
            g.name,
            [(n.type, n.inputs, n.outputs, sorted(n.attrs.items())) for n in g.nodes],
            [(t.name, t.shape, None if t.data is None else t.data.tobytes()) for t in g.tensors.values()],
        ]  # fmt: skip

    first = [content(random_networks.network(seed)) for seed in range(7)]
    assert first == [content(random_networks.network(seed)) for seed in range(7)]
    assert len({repr(c) for c in first}) == 7


def test_networks_are_int8_of_many_operators_and_small(random_networks: ModuleType) -> None:
    graphs = [random_networks.network(seed) for seed in range(28)]
    for graph in graphs:
        assert not any(t.is_float for t in graph.tensors.values())
        activations = [t for t in graph.tensors.values() if not t.is_const]
        assert max(t.nbytes for t in activations) <= 2 * random_networks.MOST_BYTES
    assert len({n.type for g in graphs for n in g.nodes}) >= 12
    assert {g.name.rpartition("_")[2] for g in graphs} == set(random_networks.FAMILIES)
    # not all of it is dead: the outputs depend on the inputs
    from edgekit.graph.reference import run

    x = np.random.default_rng(0).integers(-128, 128, (4, *graphs[0].tensor("x").shape[1:]), np.int8)
    assert len(np.unique(run(graphs[0], [x])[graphs[0].outputs[0]], axis=0)) > 1
