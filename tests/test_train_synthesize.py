"""Inputs made from the network alone: in range, smooth, certain, and good enough to learn from."""

from __future__ import annotations

import numpy as np
import pytest
from train_case import accuracy_of, damaged, digits, unlabelled

from edgekit.errors import InputError

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from edgekit.compress.recipe import apply, parse  # noqa: E402
from edgekit.compress.steps import StepContext  # noqa: E402
from edgekit.compress.train.synthesize import (  # noqa: E402
    SynthesisOptions,
    measure,
    smooth_noise,
    synthesize,
)
from edgekit.compress.train.trainer import predict  # noqa: E402

RANGE = {"low": 0.0, "high": 16.0}


def test_smooth_noise_is_in_range_and_smooth() -> None:
    x = smooth_noise((20, 16, 16, 3), -1.0, 3.0, np.random.default_rng(0))
    assert x.min() >= -1.0 and x.max() <= 3.0 and x.dtype == np.float32
    steps = np.abs(np.diff(x, axis=1)).mean()
    far = np.abs(x[:, :8] - x[:, 8:]).mean()
    assert steps < 0.7 * far
    assert smooth_noise((5, 7), 0, 1, np.random.default_rng(0)).shape == (5, 7)


def test_the_network_is_certain_and_the_classes_even() -> None:
    g = digits()
    (x,) = synthesize(g, SynthesisOptions(samples=40, batch=40, steps=40, lr=0.06, **RANGE))
    assert x.shape == (40, 8, 8, 1) and x.min() >= 0.0 and x.max() <= 16.0
    if g.nodes[-1].type == "SOFTMAX":
        said = predict(g, [x])[0].reshape(40, -1).argmax(1)
        assert (said == np.arange(40) % 10).mean() > 0.7
    (again,) = synthesize(g, SynthesisOptions(samples=40, batch=40, steps=40, lr=0.06, **RANGE))
    np.testing.assert_array_equal(x, again)


def test_measured_statistics_draw_the_inputs_towards_them() -> None:
    g = digits()
    real = measure(g, list(unlabelled().inputs))

    def distance(x: list[np.ndarray]) -> float:
        found = measure(g, x)
        return float(np.mean([((found[k][0] - m) ** 2).mean() / (v.mean() + 1e-9)
                              for k, (m, v) in real.items()]))  # fmt: skip

    noise = synthesize(g, SynthesisOptions(samples=50, batch=50, steps=0, **RANGE))
    drawn = synthesize(
        g, SynthesisOptions(samples=50, batch=50, steps=40, **RANGE), statistics=real
    )
    assert distance(drawn) < 0.5 * distance(noise)


def test_a_bad_range_is_refused() -> None:
    with pytest.raises(InputError, match="low < high"):
        SynthesisOptions(low=1.0, high=1.0)


@pytest.mark.slow
def test_a_damaged_network_learns_without_data() -> None:
    bad = damaged(digits(), 0.5)
    recipe = parse({"steps": [{"step": "distill-data-free", **RANGE, "samples": 300, "steps": 150,
                               "batch": 64, "lr": 4e-3, "synthesis_steps": 30}]})  # fmt: skip
    out = apply(recipe, bad, StepContext(original=digits()))
    assert accuracy_of(out) > accuracy_of(bad) + 0.15
