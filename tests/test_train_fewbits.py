"""Ternary and binary weights: what they become, training that makes up for it, the board's bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train_case import accuracy_of, digits, held_out, unlabelled

from edgekit.compress.ptq import QuantizeOptions
from edgekit.data import Dataset, model_inputs
from edgekit.errors import InputError
from edgekit.graph.ir import Graph
from edgekit.graph.reference import run

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from edgekit.compress.train.fewbits import KINDS, few_bits, few_values  # noqa: E402
from edgekit.compress.train.objectives import Distillation  # noqa: E402
from edgekit.compress.train.options import TrainOptions  # noqa: E402


def trained(kind: str, steps: int, **more: object) -> Graph:
    g = digits()
    q, _ = few_bits(g, lambda h: Distillation(h, [g]), unlabelled(), kind,  # type: ignore[arg-type]
                    TrainOptions(steps=steps, batch=32, lr=1e-3),
                    quantize=QuantizeOptions("minmax"), **more)  # type: ignore[arg-type]  # fmt: skip
    return q


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 60), st.sampled_from(KINDS))
def test_values_are_few_and_the_scale_is_the_best_one(seed: int, c: int, n: int, kind: str) -> None:
    rows = torch.from_numpy(np.random.default_rng(seed).normal(size=(c, n)))
    codes, scale = few_values(rows, kind)  # type: ignore[arg-type]
    most = {"ternary": 3, "binary": 2, "dorefa": 4, "abc": 3}[kind]
    assert len(torch.unique(codes)) <= most and codes.abs().max() <= 127
    assert (codes == torch.round(codes)).all() and (scale > 0).all()
    if kind in ("ternary", "binary"):  # mean magnitudes are least squares for these codes
        loss = [((rows - codes * scale * f) ** 2).sum(1) for f in (1.0, 0.98, 1.02)]
        assert (loss[0] <= loss[1] + 1e-12).all() and (loss[0] <= loss[2] + 1e-12).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ternary", "binary"])
def test_training_recovers_what_the_values_lost(kind: str) -> None:
    q = trained(kind, 150)
    assert accuracy_of(q) > accuracy_of(trained(kind, 0)) + 0.2
    assert accuracy_of(q) > 0.85
    few = [n for n in q.nodes if n.type == "CONV_2D"][1:]
    for n in few:
        data = q.tensor(n.inputs[1]).data
        assert data is not None and len(np.unique(data)) <= 3


def test_untrained_networks_have_the_oracles_bytes() -> None:
    from oracle import graph_to_tflm

    images, _ = held_out()
    for kind in KINDS:
        q = trained(kind, 0)
        x = model_inputs(q, Dataset.of(images[:4]))
        np.testing.assert_array_equal(run(q, x)[q.outputs[0]], graph_to_tflm(q, x)[0])


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="would be accepted"):
        trained("septenary", 0)
    with pytest.raises(InputError, match="no layer"):
        trained("binary", 0, layers=["nothing"])
