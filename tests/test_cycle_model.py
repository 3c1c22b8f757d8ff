"""Cycles of a layer as a function of its widths, learned from several profiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train_case import digits

from edgekit.compress import cost as cost_module
from edgekit.compress.allocate import levels
from edgekit.compress.cost import Cost, LayerCycles, fitted, fitted_cycles
from edgekit.compress.groups import MIXING, find_groups
from edgekit.targets.registry import get_target

part = st.one_of(st.just(0.0), st.floats(1e3, 1e6))


@settings(max_examples=40, deadline=None)
@given(st.tuples(part, part, part, part), st.integers(0, 1000))
def test_a_law_of_this_form_is_found(law: tuple[float, ...], seed: int) -> None:
    if sum(law) == 0.0:
        return
    rng = np.random.default_rng(seed)
    i, o = np.concatenate([[1.0], rng.integers(1, 9, 11) / 8]), rng.integers(1, 9, 12) / 8
    parts = np.stack([np.ones(12), i, o, i * o], 1)
    cycles = parts @ np.array(law)
    found = fitted(np.stack([i, o, cycles], 1))
    got = parts @ np.array([found.constant, found.by_in, found.by_out, found.by_both])
    assert min(found.constant, found.by_in, found.by_out, found.by_both) >= 0
    np.testing.assert_allclose(got, cycles, rtol=0.05)
    noisy = fitted(np.stack([i, o, cycles * rng.uniform(0.99, 1.01, 12)], 1))
    got = parts @ np.array([noisy.constant, noisy.by_in, noisy.by_out, noisy.by_both])
    np.testing.assert_allclose(got, cycles, rtol=0.1)


def test_one_profile_gives_its_own_cycles() -> None:
    found = fitted(np.array([[1.0, 1.0, 500.0]]))
    assert found.constant + found.by_in + found.by_out + found.by_both == pytest.approx(500.0)
    nothing = fitted(np.array([[1.0, 1.0, 0.0], [0.5, 0.5, 0.0]]))
    assert nothing.constant == nothing.by_both == 0.0


def test_costs_follow_the_widths() -> None:
    groups = find_groups(digits())
    nodes = [n.name for n in groups.graph.nodes]
    cost = Cost(groups, "cycles", {n: LayerCycles(1.0, 2.0, 4.0, 8.0) for n in nodes})
    full = np.array([g.units for g in groups])
    assert cost.total == pytest.approx(15.0 * len(nodes))
    kept = np.maximum(1, full // 2)
    by_hand = 0.0
    for node in groups.graph.nodes:
        i, o = cost.shares(kept, node)
        if node.type not in ("CONV_2D", "FULLY_CONNECTED"):
            i = o  # one width only
        by_hand += 1.0 + 2.0 * i + 4.0 * o + 8.0 * i * o ** (node.type in MIXING)
    assert cost(kept[None])[0] == pytest.approx(by_hand)


def test_the_model_is_learned_on_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """Profiles of other widths; the device is played by a law of the same form."""
    groups = find_groups(digits())
    truth = Cost(groups, "macs")

    def profile(graph, target, inputs, optimize):  # type: ignore[no-untyped-def]
        from edgekit.graph.ops import macs

        assert optimize == "speed"
        return {n.name: 100.0 + 3.0 * macs(n, graph) for n in graph.nodes}

    monkeypatch.setattr(cost_module, "layer_cycles", profile)
    options = [levels(g, 4) for g in groups]
    learned = fitted_cycles(
        groups, get_target("cortex-m4"), [], options, 6, optimize="speed", seed=1
    )
    model = Cost(groups, "cycles", learned)
    for share in (1.0, 0.5):
        kept = np.array([o[int(share * (len(o) - 1))] for o in options])
        expected = 100.0 * len(groups.graph.nodes) + 3.0 * truth(kept[None])[0]
        assert model(kept[None])[0] == pytest.approx(expected, rel=0.05)
