"""Sparse training: masks hold, schedules end where they say, tickets beat their controls' start."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train_case import accuracy_of, damaged, digits, unlabelled

from edgekit.data import Dataset
from edgekit.errors import InputError
from edgekit.formats import ekg

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from edgekit.compress.recipe import apply, parse  # noqa: E402
from edgekit.compress.simplify import total_macs  # noqa: E402
from edgekit.compress.steps import StepContext  # noqa: E402
from edgekit.compress.train.batches import TrainData  # noqa: E402
from edgekit.compress.train.distill import distill, mutual, snapshots  # noqa: E402
from edgekit.compress.train.init import reinitialize  # noqa: E402
from edgekit.compress.train.masks import (  # noqa: E402
    Masks,
    lamp,
    largest,
    maskable,
    masked,
    sparsity,
    zeros_of,
)
from edgekit.compress.train.objectives import CrossEntropy, Distillation  # noqa: E402
from edgekit.compress.train.options import TrainOptions  # noqa: E402
from edgekit.compress.train.sparse.dynamic import Dynamic, erdos_renyi  # noqa: E402
from edgekit.compress.train.sparse.early_bird import early_bird  # noqa: E402
from edgekit.compress.train.sparse.gradual import Gradual  # noqa: E402
from edgekit.compress.train.sparse.lottery import lottery  # noqa: E402
from edgekit.compress.train.sparse.snip import snip  # noqa: E402
from edgekit.compress.train.trainer import train  # noqa: E402


def labelled() -> TrainData:
    from edgekit_models.train_digits import data

    x, y, _, _ = data()
    return TrainData((x,), y)


# -- masks -----------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1.0), st.booleans())
def test_masks_keep_the_asked_share(seed: int, keep: float, per_layer: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = {k: rng.random((int(rng.integers(1, 9)), int(rng.integers(1, 30)))) for k in "abc"}
    masks = largest(scores, keep, per_layer=per_layer)
    total, kept = sum(v.size for v in scores.values()), sum(int(m.sum()) for m in masks.values())
    assert abs(kept - keep * total) <= 3.5
    for k, m in masks.items():
        assert m.any()
        if m.sum() > 1 and not m.all():
            assert scores[k][m].min() >= scores[k][~m].max()


def test_lamp_ranks_within_a_layer_by_magnitude_and_ignores_scale() -> None:
    w = np.random.default_rng(0).normal(size=(6, 7))
    s = lamp(w)
    assert (np.argsort(s.ravel()) == np.argsort(np.abs(w).ravel())).all()
    np.testing.assert_allclose(lamp(1000 * w), s)
    assert s.max() == 1.0


@pytest.mark.parametrize("batch_norm", [True, False])
def test_zeros_stay_zero_through_distillation(batch_norm: bool) -> None:
    g = digits()
    scores = {n: lamp(np.asarray(g.tensor(n).data)) for n in maskable(g)}
    masks = largest(scores, 0.3)
    sparse = masked(g, masks)
    options = TrainOptions(steps=30, batch=32, batch_norm=batch_norm)
    out = distill(sparse, g, unlabelled(), options).graph
    for name, mask in masks.items():
        np.testing.assert_array_equal(np.asarray(out.tensor(name).data)[~mask], 0)
    assert set(zeros_of(out)) == set(masks)
    free = distill(sparse, g, unlabelled(), options, keep_zeros=False).graph
    assert sparsity(free) < 0.1


@pytest.mark.slow
def test_gradual_masks_close_on_schedule_and_the_network_survives() -> None:
    g, steps = digits(), 120
    gradual = Gradual(g, steps, 0.3, end=0.7)
    shares = [gradual.share(s) for s in range(steps + 1)]
    assert shares[0] == 1.0 and abs(shares[-1] - 0.3) < 1e-9
    assert all(a >= b for a, b in itertools.pairwise(shares))
    assert shares[42] - shares[84] < shares[0] - shares[42]  # fast first, slowly at the end
    run = train(g, unlabelled(), Distillation(g, [g]), TrainOptions(steps=steps, batch=64, lr=3e-3),
                extensions=[gradual])  # fmt: skip
    names = maskable(g)
    kept = sum(int(np.count_nonzero(run.graph.tensor(n).data)) for n in names)
    assert abs(kept / sum(g.tensor(n).elements for n in names) - 0.3) < 0.01
    assert accuracy_of(run.graph) > 0.9
    one_shot = masked(g, largest({n: lamp(np.asarray(g.tensor(n).data)) for n in names}, 0.3))
    assert accuracy_of(one_shot) < accuracy_of(run.graph)


# -- dynamic ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("grow", ["gradient", "random"])
def test_moving_masks_move_and_keep_their_number(grow: str) -> None:
    g = digits()
    start = erdos_renyi(g, 0.2, 1)
    total = sum(m.size for m in start.values())
    assert abs(sum(int(m.sum()) for m in start.values()) / total - 0.2) < 0.02
    fresh = masked(reinitialize(g, list(unlabelled().inputs)), start)
    moving = Dynamic(start, 60, grow=grow, every=10)  # type: ignore[arg-type]
    run = train(fresh, unlabelled(), Distillation(g, [g]), TrainOptions(steps=60, batch=32, lr=5e-3),
                extensions=[moving])  # fmt: skip
    after = moving.kept()
    for n, mask in start.items():
        assert after[n].sum() == mask.sum()
        np.testing.assert_array_equal(np.asarray(run.graph.tensor(n).data)[~after[n]], 0)
    assert any((after[n] != start[n]).any() for n in start)


def test_a_resumed_sparse_run_gives_the_same_bits(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Masks, their gradients and what the optimizer forgets are in the checkpoint."""
    from edgekit.compress.train import trainer

    g = digits()
    start = erdos_renyi(g, 0.3)
    fresh = masked(reinitialize(g, list(unlabelled().inputs)), start)
    options = TrainOptions(steps=24, batch=32, lr=5e-3, checkpoint_every=5)

    def once(work):  # type: ignore[no-untyped-def]
        return train(fresh, unlabelled(), Distillation(g, [g]), options, work=work,
                     extensions=[Dynamic(start, 24, every=3, until=0.9)])  # fmt: skip

    whole = once(None)
    original, calls = trainer._Run._step, 0

    def stops(self, step, device):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        return original(self, step, device)

    trainer._Run._step = stops  # type: ignore[method-assign]
    try:
        with pytest.raises(KeyboardInterrupt):
            once(tmp_path)
    finally:
        trainer._Run._step = original  # type: ignore[method-assign]
    resumed = once(tmp_path)
    assert resumed.resumed == 10
    assert ekg.write_bytes(resumed.graph) == ekg.write_bytes(whole.graph)


# -- at initialization, tickets --------------------------------------------------------------------


@pytest.mark.slow
def test_snip_finds_better_weights_than_chance() -> None:
    g, data = digits(), labelled()
    fresh = reinitialize(g, list(data.inputs), 3)
    goal = CrossEntropy(fresh)
    found = snip(fresh, data, goal, 0.05)
    # chance: the same number of weights in each layer, at random places
    rng = np.random.default_rng(0)
    chance = {n: rng.permutation(m.ravel()).reshape(m.shape) for n, m in found.items()}
    options = TrainOptions(steps=60, batch=64, lr=8e-3)
    a, b = (train(masked(fresh, m), data, goal, options, extensions=[Masks(m)]).loss[-10:]
            for m in (found, chance))  # fmt: skip
    assert np.mean([v for _, v in a]) < np.mean([v for _, v in b])


@pytest.mark.slow
@pytest.mark.parametrize("rewind", ["start", "early", "learning-rate", "fresh"])
def test_lottery_tickets(rewind: str) -> None:
    data = labelled()
    initial = reinitialize(digits(), list(data.inputs), 1)
    options = TrainOptions(steps=40, batch=64, lr=8e-3)
    ticket = lottery(initial, CrossEntropy, data, options, keep=0.25, rounds=2, rewind=rewind)  # type: ignore[arg-type]
    kept = sum(int(m.sum()) for m in ticket.masks.values())
    assert abs(kept / sum(m.size for m in ticket.masks.values()) - 0.25) < 0.01
    for n, mask in ticket.masks.items():
        for graph in (ticket.graph, ticket.start):
            np.testing.assert_array_equal(np.asarray(graph.tensor(n).data)[~mask], 0)
        start, first = np.asarray(ticket.start.tensor(n).data), np.asarray(initial.tensor(n).data)
        assert np.array_equal(start[mask], first[mask]) == (rewind == "start")
    assert accuracy_of(ticket.graph) > 0.3


@pytest.mark.slow
def test_early_bird_masks_settle_and_are_cut_out() -> None:
    data = labelled()
    initial = reinitialize(digits(), list(data.inputs), 1)
    options = TrainOptions(steps=300, batch=64, lr=8e-3)
    bird = early_bird(initial, CrossEntropy(initial), data, options, keep=0.5, every=10, bound=0.1,
                      multiple=4)  # fmt: skip
    assert bird.step is not None and bird.step < 300
    assert total_macs(bird.graph) < 0.6 * total_macs(initial)
    for mask in bird.masks.values():
        assert mask.sum() % 4 == 0 and mask.any()


# -- teachers --------------------------------------------------------------------------------------


def test_snapshots_are_different_networks_that_work() -> None:
    g, bad = digits(), damaged(digits(), 0.3)
    found = snapshots(bad, Distillation(bad, [g]), unlabelled(),
                      TrainOptions(steps=90, batch=32, lr=5e-3), cycles=3)  # fmt: skip
    assert len({ekg.write_bytes(f) for f in found}) == 3
    assert all(accuracy_of(f) > 0.9 for f in found)


@pytest.mark.slow
def test_students_of_each_other_learn() -> None:
    data = labelled()
    a, b = (reinitialize(digits(), list(data.inputs), seed) for seed in (1, 2))
    out = mutual(a, b, data, TrainOptions(steps=80, batch=64, lr=8e-3)).graph
    assert accuracy_of(out) > 0.85


@pytest.mark.slow
def test_feature_hints_through_a_learned_map() -> None:
    """Student and teacher share tensor names and differ in width."""
    from edgekit.compress.groups import cut, find_groups

    g = digits()
    groups = find_groups(g)
    rng = np.random.default_rng(0)
    small = cut(groups, {x.name: rng.permutation(np.arange(x.units) % 2 == 0) for x in groups})
    goal = Distillation(small, [g], hints="feature")
    assert len(goal.maps) > 0
    run = train(small, unlabelled(), goal, TrainOptions(steps=60, batch=32, lr=5e-3))
    assert run.loss[-1][1] < 0.5 * run.loss[0][1]
    with pytest.raises(InputError, match="'nothing' is no activation"):
        Distillation(small, [g], hints="feature", hint_tensors=["nothing"])


# -- as steps --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sparse_steps_of_a_recipe() -> None:
    data = labelled()
    common = {"steps": 8, "batch": 16}
    for step in (
        {"step": "gradual-magnitude", "keep": 0.3},
        {"step": "sparse-train", "method": "snip", "keep": 0.3, "labels": True},
        {"step": "sparse-train", "method": "rigl", "keep": 0.3, "every": 2},
        {"step": "sparse-train", "method": "set", "keep": 0.3, "every": 2},
        {"step": "sparse-train", "method": "random", "keep": 0.3},
        {"step": "lottery", "keep": 0.3, "rounds": 1},
    ):
        ctx = StepContext(data=Dataset.of(data.inputs[0], data.labels))
        out = apply(parse({"steps": [{**step, **common}]}), digits(), ctx)
        assert sparsity(out) > 0.5
        assert ctx.log[0]["sparsity"] == pytest.approx(sparsity(out))


def test_impossible_shares_are_refused() -> None:
    g = digits()
    for make in (
        lambda: Gradual(g, 10, 0.0),
        lambda: erdos_renyi(g, 1.5),
        lambda: largest({"a": np.ones(3)}, -1),
        lambda: Gradual(g, 10, 0.5, begin=0.9, end=0.1),
    ):
        with pytest.raises(InputError, match="accepted"):
            make()
    with pytest.raises(InputError, match="is needed"):
        bad = Masks({maskable(g)[0]: np.ones((2, 2), bool)})
        train(
            g,
            unlabelled(),
            Distillation(g, [g]),
            replace(TrainOptions(), steps=1),
            extensions=[bad],
        )
