"""Mixed int8 and int16 activations: exact against the oracle, in files, and on the board."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from netgen import dead_network, random_inputs
from oracle import graph_to_tflm

from edgekit.compress import QuantizeOptions
from edgekit.compress.mixed import groups_of, mixed, with_int16
from edgekit.compress.ptq import Plan, planned
from edgekit.errors import InputError
from edgekit.formats import ekg, load, tflite
from edgekit.graph.reference import run

MODELS = Path(__file__).resolve().parent.parent / "models"


def plan_of(seed: int) -> tuple[Plan, np.random.Generator]:
    rng = np.random.default_rng(seed)
    g = dead_network(rng, 0.0)
    return planned(g, random_inputs(g, rng, 6), QuantizeOptions("minmax")), rng


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1))
def test_any_choice_is_what_the_oracle_computes(seed: int) -> None:
    plan, rng = plan_of(seed)
    groups = groups_of(plan)
    chosen = [t for g in groups if rng.random() < 0.5 for t in g]
    g = with_int16(plan, chosen)
    assert [g.tensor(i).dtype for i in (*g.inputs, *g.outputs)] == ["int8"] * 2
    x = random_inputs(g, rng, 3)
    want = run(g, x)[g.outputs[0]]
    np.testing.assert_array_equal(want, graph_to_tflm(g, x)[0])
    for again in (
        ekg.read_bytes(ekg.write_bytes(g)),
        tflite.read_bytes(tflite.write_bytes(g), "g"),
    ):
        np.testing.assert_array_equal(run(again, x)[again.outputs[0]], want)


def test_nothing_chosen_is_the_int8_network() -> None:
    plan, rng = plan_of(3)
    x = random_inputs(plan.integer, rng, 4)
    g = with_int16(plan, ())
    np.testing.assert_array_equal(run(g, x)[g.outputs[0]],
                                  run(plan.integer, x)[plan.integer.outputs[0]])  # fmt: skip
    assert all(t.dtype != "int16" for t in g.tensors.values())


def test_the_budget_is_kept_and_errors_fall() -> None:
    from edgekit.compress.job import float_form
    from edgekit.graph.ops import macs

    g = float_form(load(MODELS / "digits.tflite"))
    x = [np.load(MODELS / "digits.npz")["calibration_x"].astype(np.float32)]
    errors = []
    for share in (0.0, 0.3, 1.0):
        found = mixed(g, x, QuantizeOptions("minmax"), share=share)
        wide = [n for n in found.graph.nodes if found.graph.outs(n)[0].dtype == "int16"]
        total = sum(macs(n, found.graph) for n in found.graph.nodes)
        assert sum(macs(n, found.graph) for n in wide) <= share * total
        assert found.error <= found.error_int8
        errors.append(found.error)
    assert errors[2] < 0.7 * errors[0] and errors[1] <= errors[0]


def test_a_network_without_such_layers_is_refused() -> None:
    from netgen import Net

    net = Net(np.random.default_rng(0), (1, 4, 4, 2))
    g = net.finish(net.op("HARD_SWISH", ["x"]))
    with pytest.raises(InputError, match="int16"):
        mixed(g, random_inputs(g, np.random.default_rng(1), 4), QuantizeOptions("minmax"))


@pytest.mark.slow
def test_from_a_recipe_to_the_board(tmp_path: Path) -> None:
    from edgekit import api

    recipe, model = tmp_path / "r.json", tmp_path / "mixed.tflite"
    recipe.write_text(
        json.dumps({"version": 1, "steps": [{"step": "quantize-mixed", "macs": 0.5}]})
    )
    data = f"{MODELS / 'digits.npz'}:calibration_x"
    api.compress(MODELS / "digits.tflite", recipe, model, data=data)
    document = api.deploy(model, "cortex-m4", data, tmp_path / "d", samples=20)
    assert document["verify"]["mismatched_bytes"] == 0
    kernels = {row["variant"] for row in api.open_artifact(tmp_path / "d").manifest["plan"]}
    assert any("s16" in k for k in kernels), kernels
