"""Counted layers, pruning held to a realised speed-up, CP, and the sparse methods that redistribute."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netgen import Net, random_inputs

from edgekit.compress import allocate
from edgekit.compress.cost import Cost
from edgekit.compress.counted import Grid, count_layers, widths_of
from edgekit.compress.cp import decompose
from edgekit.compress.groups import find_groups
from edgekit.compress.prune import runs_faster
from edgekit.compress.ptq import quantize
from edgekit.compress.recipe import run_step
from edgekit.compress.share import n_of_m
from edgekit.compress.simplify import total_macs
from edgekit.compress.steps import StepContext
from edgekit.data import Dataset
from edgekit.errors import InputError
from edgekit.graph.ir import Graph
from edgekit.graph.ops import macs
from edgekit.graph.reference import run as forward


def stack() -> Graph:
    """Three convolutions of 16, 24, 16 channels on 8x8, and a dense layer."""
    net = Net(np.random.default_rng(5), (1, 8, 8, 3), "stack")
    x, rng, width = "x", np.random.default_rng(6), 3
    for channels in (16, 24, 16):
        w = net.const("w", rng.normal(0, (2 / (9 * width)) ** 0.5, (channels, 3, 3, width)))
        b = net.const("b", rng.normal(0, 0.1, channels))
        x = net.op("CONV_2D", [x, w, b], stride=(1, 1), dilation=(1, 1), padding="SAME",
                   activation="RELU")  # fmt: skip
        width = channels
    x = net.op("MEAN", [x], axes=(1, 2), keep_dims=False)
    w = net.const("w", rng.normal(0, 0.2, (10, width)))
    x = net.op("FULLY_CONNECTED", [x, w, None], activation="NONE", keep_num_dims=False)
    return net.finish(x)


# -- counted layers --------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.sampled_from([4, 8, 16]))
def test_widths_are_multiples_up_to_the_full_one(full: int, multiple: int) -> None:
    found = widths_of(full, multiple)
    assert found[-1] == full and found == sorted(set(found))
    assert all(w % multiple == 0 for w in found[:-1])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_a_bilinear_cost_is_interpolated_exactly(seed: int) -> None:
    a, b, c, d = np.random.default_rng(seed).uniform(0, 100, 4)
    ins, outs = np.array([4, 12, 32]), np.array([4, 20, 24, 64])
    grid = Grid(ins, outs, a + b * ins[:, None] + c * outs + d * ins[:, None] * outs)
    i, o = np.meshgrid(np.arange(4, 33), np.arange(4, 65), indexing="ij")
    np.testing.assert_allclose(grid(i, o), a + b * i + c * o + d * i * o, rtol=1e-9)


def test_layers_are_cut_and_counted_one_by_one() -> None:
    g = stack()
    x = random_inputs(g, np.random.default_rng(0), 8)
    integer = quantize(g, x)

    def count(bag: Graph) -> dict[str, float]:
        bag.validate()
        assert len({t for n in bag.nodes for t in n.outputs}) == len(bag.nodes)
        return {n.name: float(macs(n, bag)) + 1000.0 for n in bag.nodes}

    grids = count_layers(integer, count, 4, [n.name for n in integer.nodes])
    convs = [n.name for n in g.nodes if n.type == "CONV_2D"]
    assert set(convs) <= set(grids)
    for name in convs:
        node = integer.node(name)
        assert grids[name].full == macs(node, integer) + 1000.0
    assert len(grids[convs[0]].ins) == 1  # the image keeps its channels
    groups = find_groups(g)
    cost = Cost(groups, "cycles", {n: v.full for n, v in grids.items()}, grids)
    kept = np.array([4, 8, 12])
    per_layer = [64 * 9 * a * b + 1000 for a, b in ((3, 4), (4, 8), (8, 12))]
    assert float(cost(kept[None])[0]) == pytest.approx(sum(per_layer) + 10 * 12 + 1000)
    assert count_layers(integer, lambda bag: {}, 4, convs) == {}


def test_allocation_is_held_to_a_realised_speed_up() -> None:
    """Cutting the middle layer saves MACs but no cycles here; held to it, the others are cut."""
    g = stack()
    groups = find_groups(g)
    names = [n.name for n in g.nodes if n.type in ("CONV_2D", "FULLY_CONNECTED")]
    cost = Cost(groups, "cycles", dict(zip(names, (900.0, 10.0, 10.0, 80.0), strict=True)))
    levels = [allocate.levels(x, 4) for x in groups]
    damage = [{int(k): (x.units - int(k)) * w for k in o}
              for x, o, w in zip(groups, levels, (1.0, 0.01, 0.01), strict=True)]  # fmt: skip
    allowed = runs_faster(groups, cost, 0.85)
    for shape in (allocate._all, allocate._exchange):
        tables = [allocate._interpolated(o, d) for o, d in zip(levels, damage, strict=True)]
        kept = shape(cost, levels, tables, 0.5, allowed)
        assert cost.share(kept) <= 0.5
        assert Cost(groups).share(kept) >= 0.85 * cost.share(kept) - 1e-9
    with pytest.raises(InputError, match="realised"):
        allocate.by_damage(cost, levels, damage, 0.5, lambda k: np.zeros(k.shape[:-1], bool))
    ctx = StepContext(data=Dataset.of(random_inputs(g, np.random.default_rng(0), 8)))
    with pytest.raises(InputError, match="takes a budget of cycles"):
        run_step("prune", g, ctx, macs=0.5, realised=0.9)


@pytest.mark.slow
def test_estimated_cycles_are_those_of_the_compiled_network(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from edgekit import api
    from edgekit.compress.groups import cut
    from edgekit.compress.prune import cost_of
    from edgekit.targets.base import CompileOptions
    from edgekit.targets.registry import get_target

    g = stack()
    x = random_inputs(g, np.random.default_rng(0), 32)
    ctx = StepContext(data=Dataset.of(x), target=get_target("cortex-m4"))
    groups = find_groups(g)
    cost = cost_of(groups, ctx, "cycles")
    kept = np.array([8, 12, 8])
    small = cut(groups, {x.name: np.arange(x.units) < k for x, k in zip(groups, kept, strict=True)})
    options = CompileOptions(optimize="speed")
    artifact = api.compile(small, "cortex-m4", tmp_path / "a", data=ctx.data, options=options)
    real = api.profile(artifact)["total"]["cycles"]
    assert abs(float(cost(kept[None])[0]) / real - 1) < 0.05
    p = run_step("prune", g, ctx, importance="l2", cycles=0.7, realised=0.6)
    artifact = api.compile(p, "cortex-m4", tmp_path / "b", data=ctx.data, options=options)
    share = api.profile(artifact)["total"]["cycles"] / cost.total
    assert share < 0.73 and total_macs(p) / total_macs(g) > 0.59 * share


# -- CP --------------------------------------------------------------------------------------------


def test_cp_is_exact_at_the_rank_of_the_weights() -> None:
    rng = np.random.default_rng(1)
    a, b, c = rng.normal(size=(16, 4)), rng.normal(size=(9, 4)), rng.normal(size=(12, 4))
    w = np.einsum("or,kr,cr->okc", a, b, c).reshape(16, 3, 3, 12)
    f = decompose(w, 4)
    assert f.lost < 1e-4
    net = Net(rng, (1, 9, 7, 12))
    y = net.op("CONV_2D", ["x", net.const("w", w), net.const("b", rng.normal(0, 0.1, 16))],
               stride=(2, 2), dilation=(1, 1), padding="SAME", activation="RELU")  # fmt: skip
    g, ctx = net.finish(y), StepContext()
    p = run_step("factorize", g, ctx, form="cp", energy=0.999)
    assert [n.type for n in p.nodes] == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"]
    x = random_inputs(g, rng, 4)
    want, got = (forward(n, x)[n.outputs[0]] for n in (g, p))
    assert np.abs(want - got).max() < 0.05 * np.abs(want).max()
    lost = [decompose(rng.normal(size=(8, 3, 3, 8)), r).lost for r in (4, 16, 40)]
    assert lost[0] > lost[1] > lost[2]


# -- N:M -------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([(1, 4), (2, 4), (4, 8)]))
def test_n_of_m_keeps_the_largest_of_every_block(seed: int, pattern: tuple[int, int]) -> None:
    n, m = pattern
    w = np.random.default_rng(seed).normal(size=(3, 2, 2, 3 * m)).astype(np.float32)
    out = n_of_m(w, n, m).reshape(-1, m)
    assert ((out != 0).sum(axis=1) == n).all()
    blocks = np.abs(w.reshape(-1, m))
    for row, kept in zip(blocks, out != 0, strict=True):
        assert row[kept].min() >= row[~kept].max()


def test_patterns_of_zeros() -> None:
    g, ctx = stack(), StepContext()
    out = run_step("sparsify", g, ctx, pattern=[2, 4])
    shares = list(ctx.log[0]["zeros"].values())
    assert shares[0] == 0.0 and shares[1:] == [0.5] * 3  # three channels of the image: left alone
    assert total_macs(out) == total_macs(g)
    for options, word in (({}, "one of zeros"), ({"zeros": 0.5, "pattern": [1, 2]}, "one of zeros"),
                          ({"pattern": [4, 2]}, "n < m")):  # fmt: skip
        with pytest.raises(InputError, match=word):
            run_step("sparsify", g, StepContext(), **options)


# -- sparse methods --------------------------------------------------------------------------------

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from train_case import accuracy_of, digits, unlabelled  # noqa: E402

from edgekit.compress.train.channel_steps import cubic, unit_scores  # noqa: E402
from edgekit.compress.train.init import reinitialize  # noqa: E402
from edgekit.compress.train.masks import masked  # noqa: E402
from edgekit.compress.train.objectives import CrossEntropy, Distillation  # noqa: E402
from edgekit.compress.train.options import TrainOptions  # noqa: E402
from edgekit.compress.train.sparse.dynamic import erdos_renyi  # noqa: E402
from edgekit.compress.train.sparse.redistribute import Redistributing, apportion  # noqa: E402
from edgekit.compress.train.sparse.variational import (  # noqa: E402
    divergence,
    variational_dropout,
)
from edgekit.compress.train.trainer import train  # noqa: E402


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 50)), min_size=1, max_size=8),
       st.integers(0, 300))  # fmt: skip
def test_shares_add_up_and_fit(layers: list[tuple[float, int]], total: int) -> None:
    weights, room = np.array([w for w, _ in layers]), np.array([r for _, r in layers])
    out = apportion(weights, total, room)
    assert (out >= 0).all() and (out <= room).all() and out.sum() == min(total, room.sum())


@pytest.mark.parametrize("method", ["momentum", "dsr"])
def test_layers_exchange_weights_and_the_total_stays(method: str) -> None:
    g = digits()
    start = erdos_renyi(g, 0.3, 1)
    fresh = masked(reinitialize(g, list(unlabelled().inputs)), start)
    moving = Redistributing(start, 40, method=method, every=8)  # type: ignore[arg-type]
    options = TrainOptions(steps=40, batch=32, lr=5e-3)
    run = train(fresh, unlabelled(), Distillation(g, [g]), options, extensions=[moving])
    after = moving.kept()
    assert sum(m.sum() for m in after.values()) == sum(m.sum() for m in start.values())
    assert any(after[n].sum() != start[n].sum() for n in start)
    for n in start:
        np.testing.assert_array_equal(np.asarray(run.graph.tensor(n).data)[~after[n]], 0)
    with pytest.raises(InputError, match="share"):
        Redistributing(start, 40, share=1.5)


def test_divergence_falls_with_noise_and_vanishes() -> None:
    at = divergence(torch.tensor([-8.0, -2.0, 0.0, 3.0, 12.0]))
    assert bool((at[:-1] > at[1:]).all()) and float(at[-1]) < 1e-4
    # far below it is -log(sigma / |theta|) up to a constant
    assert float(divergence(torch.tensor(-8.0)) - divergence(torch.tensor(-6.0))) == pytest.approx(
        1, abs=0.01
    )


def _teaching(features: int = 20, told: int = 4) -> tuple[Graph, object]:
    """One dense layer 20 -> 3 whose labels depend on the first four features only, and data."""
    from edgekit.compress.train.batches import TrainData

    rng = np.random.default_rng(2)
    x = rng.normal(size=(600, features)).astype(np.float32)
    y = (x[:, :told] @ rng.normal(size=(told, 3))).argmax(1)
    net = Net(rng, (1, features), "told")
    w = net.const("w", rng.normal(0, 0.3, (3, features)))
    return net.finish(net.op("FULLY_CONNECTED", ["x", w, net.const("b", np.zeros(3))],
                             activation="NONE", keep_num_dims=False)), TrainData((x,), y)  # fmt: skip


def test_variational_dropout_finds_what_does_not_matter() -> None:
    g, data = _teaching()
    options = TrainOptions(steps=300, batch=128, lr=1e-2)
    found = variational_dropout(g, CrossEntropy(g), data, options)  # type: ignore[arg-type]
    (mask,) = found.masks.values()
    assert mask[:, :4].mean() > 0.7 and mask[:, 4:].mean() < 0.35
    assert 0.5 < found.noise < 0.95
    again = variational_dropout(g, CrossEntropy(g), data, options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(next(iter(again.masks.values())), mask)


def test_cubic_schedule_and_unit_scores() -> None:
    shares = [cubic(0.4, k, 5) for k in range(6)]
    assert shares[0] == 1.0 and shares[5] == pytest.approx(0.4)
    assert all(
        a - b > c - d
        for a, b, c, d in zip(shares, shares[1:], shares[1:], shares[2:], strict=False)
    )
    g = stack()
    groups = find_groups(g)
    node = next(n for n in g.nodes if n.type == "CONV_2D")
    score = np.zeros(g.tensor(node.inputs[1]).shape)
    score[3] = 1.0
    found = unit_scores(groups, {node.inputs[1] or "": score})
    assert found[node.name].argmax() == 3 and found[node.name].mean() == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "options"),
    [("gradual-channels", {"labels": True}), ("sparse-channels", {"method": "snip"}),
     ("sparse-channels", {"method": "variational", "labels": True})],
)  # fmt: skip
def test_channels_found_while_training_are_cut_out(step: str, options: dict) -> None:  # type: ignore[type-arg]
    from edgekit_models.train_digits import data

    x, y, _, _ = data()
    g, ctx = digits(), StepContext(data=Dataset({"x": x}, y, "digits"))
    out = run_step(step, g, ctx, macs=0.5, steps=250, **options)
    assert 0.3 < total_macs(out) / total_macs(g) <= 0.5
    assert accuracy_of(out) > 0.85
    with pytest.raises(InputError, match="needs a budget"):
        run_step(step, g, ctx, steps=1, **options)
