"""Recipes: what is accepted, what is refused in one sentence, resuming."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from edgekit.compress import recipe as recipes
from edgekit.compress.steps import StepContext, get_step, step_names
from edgekit.data import Dataset
from edgekit.errors import InputError
from edgekit.formats import load
from edgekit.graph.reference import run
from tests.netgen import dead_network

BAD = [
    ([], "mapping"),
    ({"steps": []}, "no list of steps"),
    ({"version": 2, "steps": [{"step": "simplify"}]}, "version 2"),
    ({"seed": -1, "steps": [{"step": "simplify"}]}, "seed -1"),
    ({"stages": [], "steps": [{"step": "simplify"}]}, "'stages'"),
    ({"steps": [{"step": "shrink"}]}, "no step 'shrink'"),
    ({"steps": [{"stop": "simplify"}]}, "entry 1"),
    ({"steps": [{"step": "simplify", "hard": True}]}, "no option 'hard'"),
    ({"steps": [{"step": "simplify", "dead_channels": "yes"}]}, "true or false"),
    ({"steps": [{"step": "quantize", "percentile": 10}]}, "[50, 100]"),
    ({"steps": [{"step": "quantize", "percentile": float("nan")}]}, "finite"),
    ({"steps": [{"step": "quantize", "samples": 0}]}, "[1, inf]"),
    ({"steps": [{"step": "quantize", "samples": 1.5}]}, "whole number"),
    ({"steps": [{"step": "quantize", "observer": "best"}]}, "'best'"),
]


@pytest.mark.parametrize(("document", "word"), BAD)
def test_bad_recipes_are_one_sentence(document: object, word: str) -> None:
    with pytest.raises(InputError) as e:
        recipes.parse(document)
    assert word in str(e.value) and "\n" not in str(e.value)


def test_files(tmp_path: Path) -> None:
    document = {"seed": 3, "steps": [{"step": "simplify", "dead_channels": False}]}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(document))
    (tmp_path / "r.json").write_text(json.dumps(document))
    a, b = recipes.read(tmp_path / "r.yaml"), recipes.read(tmp_path / "r.json")
    assert a == b and recipes.parse(a.to_json()) == a and a.seed == 3
    (tmp_path / "bad.yaml").write_text("steps: [\n")
    with pytest.raises(InputError, match="not valid YAML"):
        recipes.read(tmp_path / "bad.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        recipes.read(tmp_path / "none.yaml")


def test_every_step_says_what_it_does() -> None:
    for name in step_names():
        assert get_step(name).about.endswith((".", ":")), name


def _context(graph_input: tuple[int, ...], work: Path | None = None) -> StepContext:
    x = np.random.default_rng(0).normal(0, 1, (16, *graph_input[1:])).astype(np.float32)
    return StepContext(data=Dataset.of(x), work=work)


def test_apply_logs_and_resumes(tmp_path: Path) -> None:
    g = dead_network(np.random.default_rng(1), 0.3)
    recipe = recipes.parse(
        {"steps": [{"step": "simplify"}, {"step": "quantize", "observer": "minmax"}]}
    )
    ctx = _context(g.tensor(g.inputs[0]).shape, tmp_path)
    done = recipes.apply(recipe, g, ctx)
    assert [e["step"] for e in ctx.log] == ["simplify", "quantize"]
    assert ctx.log[0]["after"]["macs"] <= ctx.log[0]["before"]["macs"]
    assert done.is_quantized

    (tmp_path / "after-002.ekg").unlink()  # as if the second step had never ended
    state = json.loads((tmp_path / "state.json").read_text())
    state["done"], state["log"] = 1, state["log"][:1]
    (tmp_path / "state.json").write_text(json.dumps(state))
    lines: list[str] = []
    again = _context(g.tensor(g.inputs[0]).shape, tmp_path)
    again.progress = lines.append
    resumed = recipes.apply(recipe, g, again)
    assert "resuming after step 1 of 2" in lines[0]
    assert [e["step"] for e in again.log] == ["simplify", "quantize"]
    x = np.zeros((1, *g.tensor(g.inputs[0]).shape[1:]), np.int8)
    assert np.array_equal(*(run(n, [x])[n.outputs[0]] for n in (done, resumed)))
    assert load(tmp_path / "after-002.ekg").is_quantized

    with pytest.raises(InputError, match="another recipe"):
        other = recipes.parse({"steps": [{"step": "simplify"}]})
        recipes.apply(other, g, _context(g.tensor(g.inputs[0]).shape, tmp_path))


def test_a_step_without_its_data_says_so() -> None:
    g = dead_network(np.random.default_rng(1), 0.0)
    recipe = recipes.parse({"steps": [{"step": "quantize"}]})
    with pytest.raises(
        InputError, match=r"step 1 \('quantize'\) of recipe: quantize needs samples"
    ):
        recipes.apply(recipe, g, StepContext())
