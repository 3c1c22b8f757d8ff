"""AdaRound and QAT: integer graphs that are nearer to the float network, and run bit for bit alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from netgen import dead_network, random_inputs
from train_case import accuracy_of, digits, held_out, unlabelled

from edgekit.compress.ptq import QuantizeOptions, planned, quantize
from edgekit.data import Dataset, model_inputs
from edgekit.errors import InputError
from edgekit.formats import ekg, tflite
from edgekit.graph.ir import Graph
from edgekit.graph.numerics import dequantize
from edgekit.graph.reference import run

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from edgekit.compress.recipe import apply, parse  # noqa: E402
from edgekit.compress.steps import StepContext  # noqa: E402
from edgekit.compress.train.adaround import AdaRoundOptions, adaround  # noqa: E402
from edgekit.compress.train.batches import TrainData  # noqa: E402
from edgekit.compress.train.integer import integer_layers, start_scale  # noqa: E402
from edgekit.compress.train.objectives import Distillation  # noqa: E402
from edgekit.compress.train.options import TrainOptions  # noqa: E402
from edgekit.compress.train.qat import LearnedSteps, qat, weight_bits  # noqa: E402
from edgekit.compress.train.trainer import Trained  # noqa: E402


def error(q: Graph, g: Graph) -> float:
    """Mean squared error of the outputs on held-out data, as a share of their variance."""
    x, _ = held_out()
    out = q.tensor(q.outputs[0])
    assert out.quant is not None
    got = dequantize(run(q, model_inputs(q, Dataset.of(x)))[out.name], out.quant)
    want = run(g, [x])[g.outputs[0]]
    return float(((got - want) ** 2).mean() / want.var())


def same_in_tflite(q: Graph, seed: int = 0) -> None:
    back = tflite.read_bytes(tflite.write_bytes(q), "q")
    x = random_inputs(q, np.random.default_rng(seed), 3)
    np.testing.assert_array_equal(run(q, x)[q.outputs[0]], run(back, x)[back.outputs[0]])


# -- AdaRound --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_learned_rounding_beats_nearest_at_four_bits() -> None:
    g, x = digits(), list(unlabelled().inputs)
    nearest, learned = (
        adaround(g, x, options=AdaRoundOptions(iterations=k, bits=4, first_and_last=4))
        for k in (0, 400)
    )
    assert error(learned, g) < 0.85 * error(nearest, g)
    assert accuracy_of(learned) >= accuracy_of(nearest) - 0.005
    same_in_tflite(learned)


def test_only_weights_and_biases_differ_from_post_training_quantization() -> None:
    g, x = digits(), list(unlabelled().inputs)
    options = QuantizeOptions("minmax")
    a, b = quantize(g, x, options), adaround(g, x, options, AdaRoundOptions(iterations=20))
    assert [(n.name, n.type, n.inputs, n.attrs) for n in a.nodes] == [
        (n.name, n.type, n.inputs, n.attrs) for n in b.nodes
    ]
    for name, t in a.tensors.items():
        other = b.tensor(name)
        assert (t.quant is None) == (other.quant is None) and t.dtype == other.dtype
        if not t.is_const:
            assert t.quant is None or t.quant.same_as(other.quant)
        elif t.dtype == "int8":
            assert t.data is not None and other.data is not None
            assert np.abs(t.data.astype(int) - other.data).max() <= 1  # up or down, no further


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1), st.sampled_from([4, 8]))
def test_any_network_rounds_to_valid_int8(seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    g = dead_network(rng, 0.2)
    options = AdaRoundOptions(iterations=3, bits=bits, first_and_last=bits)
    q = adaround(g, random_inputs(g, rng, 12), QuantizeOptions("minmax"), options)
    assert q.is_quantized
    same_in_tflite(q)


# -- QAT -------------------------------------------------------------------------------------------


def trained(g: Graph, steps: int, **more: object) -> tuple[Graph, Trained]:
    return qat(g, lambda h: Distillation(h, [g]), unlabelled(),
               TrainOptions(steps=steps, batch=32, lr=1e-3), **more)  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.slow
def test_training_under_four_bits_recovers_what_rounding_lost() -> None:
    g = digits()
    q, run_ = trained(g, 120, bits=4, first_and_last=4)
    losses = [v for _, v in run_.loss]
    assert np.mean(losses[-10:]) < 0.5 * losses[0]
    assert accuracy_of(q) > 0.97
    plan = planned(g, list(unlabelled().inputs), QuantizeOptions("minmax"))
    for n in integer_layers(plan):
        w = q.tensor(q.node(n.name).inputs[1]).data
        assert w is not None and np.abs(w).max() <= 7
    same_in_tflite(q)


def test_the_integer_graph_says_what_the_training_saw() -> None:
    """Fake quantization and the integer kernels: the same values but for a step here and there."""
    g, x = digits(), list(unlabelled().inputs)
    plan = planned(g, x, QuantizeOptions("minmax"))
    steps = LearnedSteps(plan, weight_bits(plan, 8))
    from edgekit.compress.train.trainer import train

    options = TrainOptions(steps=10, batch=32, lr=5e-4, batch_norm=False)
    goal = Distillation(plan.graph, [g])
    run_ = train(plan.graph, unlabelled(), goal, options, extensions=[steps])
    q = steps.integer_graph()
    images, _ = held_out()
    out = q.tensor(q.outputs[0])
    assert out.quant is not None
    got = run(q, model_inputs(q, Dataset.of(images)))[out.name].astype(np.int64)
    with torch.no_grad():
        fake = run_.module.eval()(torch.from_numpy(images)).numpy()
    want = np.rint(fake / out.quant.s) + out.quant.zp
    gap = np.abs(got - want)
    assert gap.max() <= 3 and (gap > 1).mean() < 0.02


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1))
def test_any_network_trains_to_valid_int8(seed: int) -> None:
    rng = np.random.default_rng(seed)
    g = dead_network(rng, 0.2)
    q, _ = qat(g, lambda h: Distillation(h, [g]), TrainData(tuple(random_inputs(g, rng, 12))),
               TrainOptions(steps=2, batch=4, lr=1e-3), quantize=QuantizeOptions("minmax"))  # fmt: skip
    assert q.is_quantized
    same_in_tflite(q)


def test_no_training_gives_post_training_quantization() -> None:
    """Up to bias correction, which training does not use."""
    g, x = digits(), list(unlabelled().inputs)
    options = QuantizeOptions("minmax", bias_correction=False)
    q, _ = qat(
        g, lambda h: Distillation(h, [g]), unlabelled(), TrainOptions(steps=0), quantize=options
    )
    plain = quantize(g, x, options)
    images, _ = held_out()
    a, b = (run(m, model_inputs(m, Dataset.of(images)))[m.outputs[0]] for m in (q, plain))
    assert np.abs(a.astype(int) - b).max() <= 1


def test_qat_is_repeatable() -> None:
    a, b = (trained(digits(), 5)[0] for _ in range(2))
    assert ekg.write_bytes(a) == ekg.write_bytes(b)


def test_small_bits_start_at_the_scale_of_least_error() -> None:
    g = digits()
    plan = planned(g, list(unlabelled().inputs), QuantizeOptions("minmax"))
    for n in integer_layers(plan):
        w = plan.graph.tensor(n.inputs[1]).data
        assert w is not None
        axis = {"DEPTHWISE_CONV_2D": 3}.get(n.type, 0)
        rows = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)
        s = start_scale(plan, n, 4)
        rows = rows if len(s) > 1 else rows.reshape(1, -1)

        def loss(scale: np.ndarray, rows: np.ndarray = rows) -> np.ndarray:
            q = np.clip(np.rint(rows / scale[:, None]), -7, 7) * scale[:, None]
            return ((rows - q) ** 2).sum(axis=1)

        assert (loss(s) <= loss(np.abs(rows).max(axis=1) / 7) + 1e-6).all()


@pytest.mark.slow
def test_quantization_steps_of_a_recipe() -> None:
    data = StepContext(data=Dataset.of(unlabelled().inputs[0]))
    for step in ({"step": "adaround", "iterations": 30}, {"step": "qat", "steps": 10, "bits": 4}):
        q = apply(parse({"steps": [step]}), digits(), data)
        assert q.is_quantized and accuracy_of(q) > 0.95
    with pytest.raises(InputError, match="before 'quantize'"):
        apply(parse({"steps": [{"step": "quantize"}, {"step": "distill"}]}), digits(), data)
    for bad in (lambda: AdaRoundOptions(bits=5), lambda: trained(digits(), 1, bits=3)):
        with pytest.raises(InputError, match="8 and 4 would be accepted"):
            bad()


@pytest.mark.slow
def test_trained_quantization_has_the_oracles_bytes() -> None:
    from oracle import graph_to_tflm

    q, _ = trained(digits(), 20, bits=4)
    images, _ = held_out()
    x = model_inputs(q, Dataset.of(images[:20]))
    want = graph_to_tflm(q, x)[0]
    np.testing.assert_array_equal(run(q, x)[q.outputs[0]], want)
