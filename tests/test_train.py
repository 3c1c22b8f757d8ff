"""The trainer: function kept, repeatable, resumable after a kill, errors in one sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netgen import dead_network
from train_case import accuracy_of, damaged, digits, unlabelled

from edgekit.data import Dataset
from edgekit.errors import InputError
from edgekit.formats import ekg
from edgekit.graph.ir import Graph
from edgekit.graph.reference import run

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from edgekit.compress.recipe import apply, parse  # noqa: E402
from edgekit.compress.steps import StepContext  # noqa: E402
from edgekit.compress.train.batches import Batches, TrainData  # noqa: E402
from edgekit.compress.train.distill import distill, fine_tune  # noqa: E402
from edgekit.compress.train.objectives import CrossEntropy, Distillation  # noqa: E402
from edgekit.compress.train.options import TrainOptions  # noqa: E402
from edgekit.compress.train.trainer import Diverged, choose_precision, train  # noqa: E402

SHORT = TrainOptions(steps=12, batch=32, checkpoint_every=4)


def same(a: Graph, b: Graph) -> bool:
    return ekg.write_bytes(a) == ekg.write_bytes(b)


# -- what goes in comes out ------------------------------------------------------------------------


def test_no_steps_give_the_constants_back_exactly() -> None:
    g = digits()
    out = train(
        g, unlabelled(), Distillation(g, [g]), TrainOptions(steps=0, batch_norm=False)
    ).graph
    for t in g.constants():
        np.testing.assert_array_equal(out.tensor(t.name).data, t.data)
    assert [n.type for n in out.nodes] == [n.type for n in g.nodes]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_batch_norm_put_in_and_folded_keeps_the_function(seed: int) -> None:
    rng = np.random.default_rng(seed)
    g = dead_network(rng, 0.2)
    x = rng.normal(0, 40.0, (40, *g.tensor("x").shape[1:])).astype(np.float32)
    out = train(g, TrainData((x,)), Distillation(g, [g]), TrainOptions(steps=0)).graph
    want, got = run(g, [x])[g.outputs[0]], run(out, [x])[out.outputs[0]]
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-4)


def test_the_given_graph_is_not_changed() -> None:
    g = digits()
    before = ekg.write_bytes(g)
    train(g, unlabelled(), Distillation(g, [g]), SHORT)
    assert ekg.write_bytes(g) == before


# -- training works --------------------------------------------------------------------------------


def test_distillation_without_labels_repairs_a_damaged_network() -> None:
    g, bad = digits(), damaged(digits(), 0.5)
    assert accuracy_of(bad) < 0.6
    out = distill(bad, g, unlabelled(), TrainOptions(steps=100, batch=64, lr=4e-3)).graph
    assert accuracy_of(out) > 0.93


@pytest.mark.slow
def test_fine_tuning_with_labels_repairs_a_damaged_network() -> None:
    from edgekit_models.train_digits import data

    x, y, _, _ = data()
    bad = damaged(digits(), 0.5)
    out = fine_tune(bad, TrainData((x,), y), TrainOptions(steps=100, batch=64, lr=4e-3)).graph
    assert accuracy_of(out) > 0.93


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_learning_rate_does_not_depend_on_the_input_unit(optimizer: str) -> None:
    """The same network for inputs 100 times as large trains the same way."""
    g, x = digits(), unlabelled().inputs[0]
    bad = damaged(g, 0.4)

    def scaled(graph: Graph) -> Graph:
        out = graph.copy()
        w = out.tensor(out.nodes[0].inputs[1])
        assert w.data is not None
        out.tensors[w.name] = w.with_(data=w.data / np.float32(100))
        return out

    rate = {"adamw": 2e-3, "sgd": 0.02}[optimizer]
    options = TrainOptions(steps=20, batch=32, lr=rate, optimizer=optimizer)  # type: ignore[arg-type]
    a = train(bad, TrainData((x,)), Distillation(bad, [g]), options)
    b = train(scaled(bad), TrainData((x * 100,)), Distillation(scaled(bad), [scaled(g)]), options)
    np.testing.assert_allclose([v for _, v in b.loss], [v for _, v in a.loss], rtol=0.02)


def test_the_loss_reaches_every_kind_of_head() -> None:
    """Regression: a network without SOFTMAX learns its teacher's values."""
    rng = np.random.default_rng(3)
    g = dead_network(rng, 0.0)
    logits = g.nodes[-1].inputs[0]
    assert logits is not None
    g.outputs = (logits,)
    g.prune()
    x = rng.normal(0, 1, (64, *g.tensor("x").shape[1:])).astype(np.float32)
    bad = damaged(g, 0.3)
    loss = distill(bad, g, TrainData((x,)), TrainOptions(steps=60, batch=32, lr=5e-3)).loss
    assert loss[-1][1] < 0.5 * loss[0][1]


# -- repeatable and resumable ----------------------------------------------------------------------


def test_same_seed_same_bits_other_seed_other_bits() -> None:
    g, bad = digits(), damaged(digits(), 0.3)
    options = replace(SHORT, augment=("flip", "crop", "mixup"))
    a, b = (distill(bad, g, unlabelled(), options).graph for _ in range(2))
    assert same(a, b)
    assert not same(a, distill(bad, g, unlabelled(), replace(options, seed=1)).graph)


class _Stop(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_resumed_run_gives_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    g, bad = digits(), damaged(digits(), 0.3)
    options = replace(SHORT, optimizer=optimizer, lr=0.01, augment=("crop",))
    whole = distill(bad, g, unlabelled(), options)

    from edgekit.compress.train import trainer

    calls = 0
    original = trainer._Run._step

    def stops(self, step, device):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls == 8:
            raise _Stop
        return original(self, step, device)

    trainer._Run._step = stops  # type: ignore[method-assign]
    try:
        with pytest.raises(_Stop):
            distill(bad, g, unlabelled(), options, work=tmp_path)
    finally:
        trainer._Run._step = original  # type: ignore[method-assign]
    resumed = distill(bad, g, unlabelled(), options, work=tmp_path)
    assert resumed.resumed == 4
    assert same(resumed.graph, whole.graph) and resumed.loss == whole.loss
    again = distill(bad, g, unlabelled(), options, work=tmp_path)  # finished: at once
    assert again.resumed == 12 and same(again.graph, whole.graph)
    other = distill(bad, g, unlabelled(), replace(options, lr=0.02), work=tmp_path)
    assert other.resumed == 0


def test_averaged_weights_resume_too(tmp_path: Path) -> None:
    g, bad = digits(), damaged(digits(), 0.3)
    options = replace(SHORT, lr=0.01, average=0.9, variants=2)
    whole = distill(bad, g, unlabelled(), options)
    last = distill(bad, g, unlabelled(), replace(options, average=0.0))
    assert not same(whole.graph, last.graph)

    from edgekit.compress.train import trainer

    class Stops(trainer.Extension):
        def after_step(self, module, step, optimizer):  # type: ignore[no-untyped-def]
            if step == 7 and not (tmp_path / "stopped").exists():
                (tmp_path / "stopped").touch()
                raise _Stop

    for _ in range(2):
        goal = Distillation(bad, [g])
        try:
            run = train(bad, unlabelled(), goal, options, extensions=[Stops()], work=tmp_path)
        except _Stop:
            continue
    assert run.resumed == 4 and same(run.graph, whole.graph)


def test_batches_repeat_and_the_teacher_is_asked_once_about_each(tmp_path: Path) -> None:
    g, bad, data = digits(), damaged(digits(), 0.3), unlabelled()
    options = replace(SHORT, steps=20, batch=48, lr=0.01, augment=("crop", "mixup"), variants=2)
    batches = Batches(data, options)
    assert batches.cycle == 9  # 400 samples in batches of 48
    a, b, c = (batches.at(k, torch.device("cpu")) for k in (1, 10, 2))
    assert a.number == b.number == 1 and torch.equal(a.inputs[0], b.inputs[0])
    assert not torch.equal(a.inputs[0], c.inputs[0])

    asked: list[int | None] = []

    class Counted(Distillation):
        def _ask(self, batch):  # type: ignore[no-untyped-def]
            asked.append(batch.number)
            return super()._ask(batch)

    kept = train(bad, data, Counted(bad, [g]), options, work=tmp_path)
    assert sorted(asked) == list(range(9))  # type: ignore[type-var]
    (file,) = tmp_path.glob("taught-*.npz")
    plain = train(bad, data, Distillation(bad, [g]), replace(options, variants=0))
    assert not same(kept.graph, plain.graph)

    asked.clear()  # a second student of the same batches: nothing is left to ask
    other = damaged(g, 0.2, seed=1)
    second = train(other, data, Counted(other, [g]), options, work=tmp_path)
    assert not asked
    assert same(second.graph, distill(other, g, data, options).graph)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / file.name).write_bytes(file.read_bytes()[:100])  # damaged: asked again
    third = train(other, data, Counted(other, [g]), options, work=elsewhere)
    assert sorted(asked) == list(range(9)) and same(third.graph, second.graph)  # type: ignore[type-var]


@pytest.mark.slow
def test_resume_after_kill_9(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from train_case import damaged, digits, unlabelled
        from edgekit.compress.train.distill import distill
        from edgekit.compress.train.options import TrainOptions
        from edgekit.formats import save
        options = TrainOptions(steps=150, batch=32, checkpoint_every=3)
        run = distill(damaged(digits(), 0.3), digits(), unlabelled(), options,
                      work=Path(sys.argv[1]))
        save(run.graph, Path(sys.argv[1]) / f"from-{run.resumed}.ekg")
        """)
    command = [sys.executable, "-c", script]
    here = str(Path(__file__).parent)
    killed = subprocess.Popen([*command, str(tmp_path / "a"), here])
    deadline = time.monotonic() + 120
    while not list((tmp_path / "a").glob("*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(30)
    assert list((tmp_path / "a").glob("*.ckpt")), "no checkpoint in 120 s"
    for name in ("a", "b"):
        subprocess.run([*command, str(tmp_path / name), here], check=True, timeout=300)
    (resumed,) = (tmp_path / "a").glob("from-*.ekg")
    assert resumed.name != "from-0.ekg", "the second run did not continue"
    assert resumed.read_bytes() == (tmp_path / "b" / "from-0.ekg").read_bytes()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    g = digits()
    distill(g, g, unlabelled(), SHORT, work=tmp_path)
    (file,) = tmp_path.glob("*.ckpt")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        distill(g, g, unlabelled(), SHORT, work=tmp_path)


# -- batches ---------------------------------------------------------------------------------------


def test_every_sample_is_seen_once_an_epoch() -> None:
    data = TrainData((np.arange(50, dtype=np.float32).reshape(50, 1),))
    batches = Batches(data, TrainOptions(batch=8))
    seen = np.concatenate([batches.indices(k) for k in range(25)])
    for epoch in range(4):
        assert sorted(seen[epoch * 50 : (epoch + 1) * 50]) == list(range(50))


def test_augmented_images_are_shifted_and_flipped_copies() -> None:
    x = np.random.default_rng(0).uniform(0, 1, (4, 16, 16, 2)).astype(np.float32)
    batches = Batches(TrainData((x,)), TrainOptions(batch=4, augment=("flip", "crop")))
    device = torch.device("cpu")
    for step in range(6):
        batch = batches.at(step, device)
        for image, k in zip(batch.inputs[0].numpy(), batch.index, strict=True):
            inner = image[4:12, 4:12]
            views = [v[i : i + 8, j : j + 8] for v in (x[k], x[k][:, ::-1])
                     for i in range(9) for j in range(9)]  # fmt: skip
            assert any(np.array_equal(inner, v) for v in views)


# -- bad input -------------------------------------------------------------------------------------


def test_a_loss_that_explodes_is_one_sentence_and_nothing_is_lost(tmp_path: Path) -> None:
    g = digits()
    options = TrainOptions(steps=60, batch=32, lr=1e12, clip=0, warmup=0.9, batch_norm=False,
                           optimizer="sgd", checkpoint_every=1)  # fmt: skip
    bad = damaged(g, 0.3)
    with pytest.raises(Diverged, match="learning rate below") as error:
        distill(bad, g, unlabelled(), options, work=tmp_path)
    assert "\n" not in str(error.value)
    left = error.value.graph
    assert left is not None
    assert all(np.isfinite(t.data).all() for t in left.constants() if t.data is not None)


def test_bad_options_and_data_are_named() -> None:
    g, data = digits(), unlabelled()
    with pytest.raises(InputError, match="needs labels"):
        train(g, data, CrossEntropy(g))
    with pytest.raises(InputError, match="10 classes"):
        train(g, TrainData(data.inputs, np.full(len(data), 10)), CrossEntropy(g))
    with pytest.raises(InputError, match="lr is -1"):
        TrainOptions(lr=-1)
    with pytest.raises(InputError, match="augment is 'rotate'"):
        TrainOptions(augment=("rotate",))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="equal numbers"):
        TrainData(data.inputs, np.zeros(3, int))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no GPU"):
            train(g, data, Distillation(g, [g]), TrainOptions(device="cuda"))


def test_small_networks_stay_in_float32() -> None:
    assert choose_precision(digits(), TrainOptions(), 32) == "float32"
    assert choose_precision(digits(), TrainOptions(precision="bfloat16"), 32) == "bfloat16"


@pytest.mark.slow
def test_bfloat16_trains() -> None:
    g, bad = digits(), damaged(digits(), 0.5)
    options = TrainOptions(steps=60, batch=32, lr=4e-3, precision="bfloat16")
    assert accuracy_of(distill(bad, g, unlabelled(), options).graph) > 0.8


# -- as steps of a recipe --------------------------------------------------------------------------


@pytest.mark.slow
def test_training_steps_of_a_recipe(tmp_path: Path) -> None:
    from edgekit_models.train_digits import data

    x, y, _, _ = data()
    common = {"steps": 6, "batch": 16}
    recipe = parse({"steps": [
        {"step": "fine-tune", **common, "label_smoothing": 0.1},
        {"step": "distill", **common, "hints": "attention", "labels": 0.3, "augment": ["crop"],
         "training": {"optimizer": "sgd"}},
        {"step": "born-again", **common},
        {"step": "snapshot-distill", **common, "cycles": 2},
        {"step": "mutual", **common},
    ]})  # fmt: skip
    ctx = StepContext(data=Dataset.of(x, y), work=tmp_path)
    out = apply(recipe, digits(), ctx)
    assert accuracy_of(out) > 0.9
    assert [e["step"] for e in ctx.log] == [s for s, _ in recipe.steps]
    assert all(e["training"]["steps"] >= 6 for e in ctx.log)


@pytest.mark.parametrize(("options", "match"), [
    ({"step": "distill", "training": {"rate": 1}}, "training option 'rate' is unknown"),
    ({"step": "fine-tune"}, "needs labels"),
])  # fmt: skip
def test_training_steps_refuse(options: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        apply(
            parse({"steps": [options]}),
            digits(),
            StepContext(data=Dataset.of(unlabelled().inputs[0])),
        )
