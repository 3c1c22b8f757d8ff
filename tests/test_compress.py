"""Factorization, weight sharing, sparsity, and the two commands on the digits network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import api
from edgekit.cli import main
from edgekit.compress import total_macs
from edgekit.compress.execute import compare, forward, log_softmax
from edgekit.compress.recipe import run_step
from edgekit.compress.share import assign, huffman_bits, kmeans, sizes
from edgekit.compress.steps import StepContext
from edgekit.data import Dataset
from edgekit.errors import InputError
from edgekit.graph import Graph
from edgekit.graph.reference import run
from tests.netgen import Net, random_inputs

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "models" / "digits.tflite"
DATA = f"{ROOT / 'models' / 'digits.npz'}:calibration_x"
VAL = f"{ROOT / 'models' / 'digits.npz'}:val_x,val_y"


def _low_rank(stride: int = 1, padding: object = "SAME") -> Graph:
    """A k x k convolution of rank 4 in its channels and its space, a 1x1 of rank 4, a dense of rank 4."""
    rng = np.random.default_rng(7)
    net = Net(rng, (1, 9, 7, 12), "lowrank")
    tall, wide = rng.normal(0, 0.3, (3, 12, 4)), rng.normal(0, 0.3, (4, 3, 16))
    w = np.einsum("acr,rbo->oabc", tall, wide)
    x = net.op("CONV_2D", ["x", net.const("w", w), net.const("b", rng.normal(0, 0.1, 16))],
               stride=(stride, stride), dilation=(1, 1), padding=padding, activation="RELU")  # fmt: skip
    w = (rng.normal(0, 0.3, (20, 4)) @ rng.normal(0, 0.3, (4, 16)))[:, None, None]
    x = net.op("CONV_2D", [x, net.const("w", w), net.const("b", rng.normal(0, 0.1, 20))],
               stride=(1, 1), dilation=(1, 1), padding="VALID", activation="NONE")  # fmt: skip
    x = net.op("RESHAPE", [x], new_shape=(1, net.g.tensor(x).elements))
    n = net.g.tensor(x).elements
    w = rng.normal(0, 0.1, (24, 4)) @ rng.normal(0, 0.1, (4, n))
    x = net.op("FULLY_CONNECTED", [x, net.const("w", w), net.const("b", rng.normal(0, 0.1, 24))],
               activation="NONE", keep_num_dims=False)  # fmt: skip
    return net.finish(x)


@pytest.mark.parametrize(("stride", "padding"), [(1, "SAME"), (2, "SAME"), (2, (1, 0, 2, 1))])
@pytest.mark.parametrize("with_data", [False, True])
def test_low_rank_layers_factorize_exactly(stride: int, padding: object, with_data: bool) -> None:
    g = _low_rank(stride, padding)
    x = random_inputs(g, np.random.default_rng(0), 30)
    ctx = StepContext(data=Dataset.of(x) if with_data else None)
    p = run_step("factorize", g, ctx, form="auto", energy=0.99999999)
    assert {v["form"] for v in ctx.log[0]["layers"].values()} >= {"svd"}
    assert len(ctx.log[0]["layers"]) == 3 and total_macs(p) < 0.75 * total_macs(g)
    a, b = (run(n, x)[n.outputs[0]] for n in (g, p))
    assert np.allclose(a, b, atol=1e-3 * float(np.abs(a).max()))


def test_tucker_is_exact_where_the_channels_are_low_rank() -> None:
    rng = np.random.default_rng(3)
    net = Net(rng, (1, 8, 8, 16))
    core = rng.normal(0, 0.2, (4, 3, 3, 4))
    w = np.einsum("rijs,or,cs->oijc", core, rng.normal(0, 1, (16, 4)), rng.normal(0, 1, (16, 4)))
    y = net.op("CONV_2D", ["x", net.const("w", w), None], stride=(2, 2), dilation=(1, 1),
               padding="SAME", activation="NONE")  # fmt: skip
    g = net.finish(y)
    ctx = StepContext()
    p = run_step("factorize", g, ctx, form="tucker", macs=0.8)
    assert ctx.log[0]["layers"]["conv_2d"]["form"] == "tucker" and len(p.nodes) == 3
    x = random_inputs(g, rng, 4)
    a, b = (forward(n, x)[n.outputs[0]] for n in (g, p))
    if min(ctx.log[0]["layers"]["conv_2d"]["ranks"]) >= 4:
        assert np.allclose(a, b, atol=1e-3)
    repaired = run_step(
        "factorize", g, StepContext(data=Dataset.of(random_inputs(g, rng, 50))), form="tucker",
        macs=0.3, repair="least_squares",
    )  # fmt: skip
    assert total_macs(repaired) <= 0.3 * total_macs(g)
    for options, word in (
        ({"macs": 0.001}, "cannot be met"),
        ({}, "one of energy and macs"),
        ({"macs": 0.5, "layers": ["dense"]}, "'dense' cannot be factorized"),
    ):
        with pytest.raises(InputError, match=word):
            run_step("factorize", g, StepContext(), **options)


@given(st.integers(0, 2**31 - 1), st.integers(2, 40))
@settings(max_examples=30, deadline=None)
def test_codebooks(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    w = rng.normal(0, 1, int(rng.integers(1, 400)))
    w[rng.random(len(w)) < 0.3] = 0.0
    book = kmeans(w, k)
    shared = assign(w, book)
    assert 1 <= len(np.unique(shared)) <= max(k, len(np.unique(book))) and len(book) <= k
    assert np.all(shared[w == 0] == 0)  # what was pruned stays pruned
    s = sizes(shared.astype(np.float32))
    assert s["distinct"] == len(np.unique(shared)) and s["codebook_bytes"] <= s["plain_bytes"]
    counts = np.unique(shared, return_counts=True)[1]
    p = counts / counts.sum()
    entropy = float(-(p * np.log2(p)).sum() * len(w))
    assert entropy - 1e-6 <= huffman_bits(counts) <= entropy + len(w)  # Shannon's bounds


def test_deep_compression_as_one_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "r.json"
    steps = [{"step": "sparsify", "zeros": 0.3, "scope": "layer"},
             {"step": "reestimate"}, {"step": "share", "values": 32}]  # fmt: skip
    recipe.write_text(json.dumps({"steps": steps}))
    report = api.compress(DIGITS, recipe, tmp_path / "o.ekg", data=DATA, val=VAL)
    total = report["steps"][-1]["sizes"]["total"]
    assert 0.28 < total["zeros"] / total["weights"] < 0.32  # the mask survives the sharing
    assert total["huffman_bytes"] < total["codebook_bytes"] < 0.25 * total["plain_bytes"]
    assert report["quality"]["difference"] > -0.1


def test_paired_comparison() -> None:
    z = log_softmax(np.array([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [2, 0, 0]]))
    other = z[[0, 1, 0, 3]]
    c = compare(z, other, np.array([0, 1, 2, 1]), True)
    assert (c.agreement, c.before, c.accuracy, c.difference) == (0.75, 0.75, 0.5, -0.25)
    assert c.error == pytest.approx(np.std([0, 0, -1, 0], ddof=1) / 2)
    assert compare(z, z, None, True).distance == 0


RECIPE = """
version: 1
seed: 1
steps:
  - {step: prune, importance: IMPORTANCE, macs: 0.7, allocation: ALLOCATION, multiple: 2,
     repair: least_squares}
"""


@pytest.mark.parametrize(
    ("importance", "allocation"),
    [
        ("surgeon", "global"),
        ("l2", "sensitivity"),
        pytest.param("apoz", "measured", marks=pytest.mark.slow),
    ],
)
def test_digits_without_labels_or_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], importance: str, allocation: str
) -> None:
    """A real task: 0.7 of the MACs from 200 unlabelled images; measured on others."""
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.replace("IMPORTANCE", importance).replace("ALLOCATION", allocation))
    documents = []
    for name in ("a.tflite", "b.tflite"):
        with pytest.raises(SystemExit) as e:
            main(["compress", str(DIGITS), "-r", str(recipe), "--data", DATA, "--val", VAL,
                  "-o", str(tmp_path / name), "--device", "cpu", "--json"])  # fmt: skip
        assert e.value.code == 0
        documents.append(json.loads(capsys.readouterr().out))
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()
    d = documents[0]
    assert d["after"]["macs"] <= 0.7 * d["before"]["macs"]
    assert total_macs(api.load(tmp_path / "a.tflite")) == d["after"]["macs"]
    q = d["quality"]
    assert not q["fitted_on_these"] and q["samples"] == 360
    assert q["difference"] >= -0.06 and q["standard_error"] < 0.02
    assert json.loads((tmp_path / "a.report.json").read_text())["steps"][0]["step"] == "prune"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.report.json", "a.tflite", "b.report.json", "b.tflite", "r.yaml"
    ]  # fmt: skip


@pytest.mark.slow
def test_cycles_as_the_budget(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "steps:\n- {step: prune, importance: surgeon, cycles: 0.7, repair: least_squares}\n"
    )
    report = api.compress(
        DIGITS, recipe, tmp_path / "o.tflite", data=DATA, val=VAL, target="cortex-m4"
    )
    cycles = []
    for i, model in enumerate((DIGITS, tmp_path / "o.tflite")):
        api.compile(model, "cortex-m4", tmp_path / str(i), data=DATA)
        cycles.append(api.profile(tmp_path / str(i))["total"]["cycles"])
    assert cycles[1] < 0.85 * cycles[0]
    assert report["quality"]["difference"] > -0.1


def test_sensitivity(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        main(
            ["sensitivity", str(DIGITS), "--data", DATA, "--val", VAL, "--device", "cpu", "--json"]
        )
    assert e.value.code == 0
    d = json.loads(capsys.readouterr().out)
    assert {r["method"] for r in d["rows"]} >= {
        "prune",
        "prune+repair",
        "share",
        "sparsify",
        "int4",
    }
    assert d["measured_on"] == "val" and d["labels"] and d["samples"] == 360
    for r in d["rows"]:
        assert r["distance"] >= -1e-9 and r["accuracy_before"] == d["rows"][0]["accuracy_before"]
        assert r["macs_saved"] >= 0
    repaired = {(r["where"], r["setting"]): r for r in d["rows"] if r["method"] == "prune+repair"}
    plain = [r for r in d["rows"] if r["method"] == "prune"]
    better = [repaired[r["where"], r["setting"]]["distance"] <= r["distance"] for r in plain]
    assert np.mean(better) > 0.7


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["compress", str(DIGITS), "-r", "none.yaml", "-o", "x.ekg"], "cannot be read"),
        (["compress", str(DIGITS), "-r", "r.yaml", "-o", "x.bin"], ".ekg, .tflite, .onnx"),
        (["compress", str(DIGITS), "-r", "r.yaml", "-o", "x.ekg", "--device", "tpu"], "'tpu'"),
        (["compress", str(DIGITS), "-r", "r.yaml", "-o", "x.ekg", "-t", "z80"], "z80"),
        (["sensitivity", str(DIGITS), "--data", DATA, "--method", "magic"], "'magic'"),
        (["sensitivity", str(DIGITS), "--data", DATA, "--importance", "x"], "'x'"),
    ],
)
def test_commands_refuse_in_one_sentence(
    arguments: list[str], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text("steps: [{step: share}]\n")
    with pytest.raises(SystemExit) as e:
        main(arguments)
    err = capsys.readouterr().err.strip()
    assert e.value.code == 2 and word in err and "internal error" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["r.yaml"]
