"""Codebooks of integer weights: the best there are, kept by files, read by the kernels."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.compress.codebook import SMALL, best_values, codebook
from edgekit.compress.steps import StepContext, get_step
from edgekit.errors import InputError
from edgekit.formats import load
from edgekit.graph.ir import Graph, QuantParams, Tensor

MODELS = Path(__file__).resolve().parent.parent / "models"


def error(weight: np.ndarray, book: np.ndarray) -> float:
    x = np.arange(-128, 128)
    gap = np.abs(x[:, None] - book.astype(int)[None, :]).min(axis=1)
    return float((weight * gap**2).sum())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 9))
def test_no_other_values_are_better(seed: int, values: int, used: int) -> None:
    """Against every choice of integers, for few bins close to one another."""
    rng = np.random.default_rng(seed)
    weight = np.zeros(256)
    at = 120 + rng.choice(12, used, replace=False)
    weight[at] = rng.integers(1, 50, used)
    book = best_values(weight, values)
    assert len(book) <= values
    span = range(at.min() - 128, at.max() - 127)
    best = min(
        error(weight, np.array(c)) for c in itertools.combinations(span, min(values, len(span)))
    )
    # centres are rounded for each cluster, so the split is the best there is, too
    assert error(weight, book) <= best * (1 + 1e-9) + 1e-9


def layer(rng: np.random.Generator, outputs: int) -> Graph:
    w = np.clip(np.rint(rng.normal(0, 30, (outputs, 64))), -127, 127).astype(np.int8)
    g = Graph("t", {}, [], ("x",), ("y",))
    g.tensors["x"] = Tensor("x", (1, 64), "int8", QuantParams.per_tensor(0.1, 0))
    g.tensors["y"] = Tensor("y", (1, outputs), "int8", QuantParams.per_tensor(1.0, 0))
    g.add_const("w", w, QuantParams.per_channel(rng.uniform(0.01, 0.1, outputs), 0))
    attrs = {"activation": "NONE", "keep_num_dims": False}
    g.add_node("FULLY_CONNECTED", ["x", "w"], ["y"], attrs, "dense")
    return g.validate()


def test_more_values_lose_less_and_small_layers_stay() -> None:
    rng = np.random.default_rng(2)
    g = layer(rng, 32)
    losses = []
    for values in (2, 4, 16, 64):
        out, lost = codebook(g, values)
        data = out.tensor("w").data
        assert data is not None and len(np.unique(data)) <= values
        losses.append(lost["dense"])
    assert losses == sorted(losses, reverse=True) and losses[2] < 0.02 and losses[3] < 0.002
    small = layer(rng, SMALL // 64 - 1)
    assert codebook(small, 4)[1] == {}


def test_float_models_are_refused() -> None:
    with pytest.raises(InputError, match="before it"):
        get_step("codebook").function(load(MODELS / "digits.tflite"), StepContext())


@pytest.mark.slow
def test_from_a_recipe_to_the_board(tmp_path: Path) -> None:
    """A network whose large layers have 16 values takes less flash, and no byte differs."""
    from edgekit import api
    from edgekit.targets.base import CompileOptions

    data = f"{MODELS / 'digits.npz'}:calibration_x"
    sizes = []
    for name, more in (("eight", []), ("codes", [{"step": "codebook", "values": 16}])):
        recipe, model = tmp_path / "r.json", tmp_path / f"{name}.tflite"
        recipe.write_text(json.dumps({"version": 1, "steps": [{"step": "quantize"}, *more]}))
        api.compress(MODELS / "digits.tflite", recipe, model, data=data)
        small = CompileOptions(optimize="size")
        document = api.deploy(model, "cortex-m4", data, tmp_path / name, samples=20, options=small)
        assert document["verify"]["mismatched_bytes"] == 0
        made = api.open_artifact(tmp_path / name).manifest
        sizes.append(made["memory"]["weights_bytes"])
        coded = [
            r["variant"] for r in made["plan"] if "unpacked" in r["variant"] or "w4" in r["variant"]
        ]
        assert bool(coded) == (name == "codes"), made["plan"]
    assert sizes[1] < 0.85 * sizes[0], sizes
