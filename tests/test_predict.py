"""Latency models: what is fitted, what is kept, what is predicted, and what a measurement corrects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import api
from edgekit.errors import InputError
from edgekit.graph.ir import Graph
from edgekit.profile import table as tables
from edgekit.profile.calibrate import calibrate, load
from edgekit.profile.design import designed, joined
from edgekit.profile.estimator import TablePredictor, shape_digest
from edgekit.profile.fit import fit, fit_totals, nnls
from edgekit.profile.networks import Builder
from edgekit.profile.predictor import Predictor, load_predictor
from edgekit.profile.shapes import integer_form
from edgekit.profile.terms import Dims, dims_of


def small_network(channels: int = 8, seed: int = 0) -> Graph:
    b = Builder(np.random.default_rng(seed), "small")
    x = b.conv(b.input(12, 12, 3), channels, 3, 2)
    y = b.conv(b.depthwise(x), channels, 1)
    x = b.add(x, y)
    return b.finish(b.softmax(b.dense(b.mean(x), 5)))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path


# -- fitting -----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_nnls_meets_the_conditions_of_the_optimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(20, 6)), rng.normal(size=20)
    x = nnls(a, b)
    slope = a.T @ (a @ x - b)
    assert (x >= 0).all()
    assert (slope >= -1e-7).all()
    assert abs(slope @ x) < 1e-7


def _loops(rng: np.random.Generator) -> Dims:
    o, k = int(rng.integers(1, 64)), int(rng.integers(1, 256))
    return Dims(counts={"1": 1, "o": o, "mac": o * k, "never": 0.0, "o/4": -(-o // 4)})


def test_known_loops_are_found_exactly() -> None:
    rng = np.random.default_rng(0)
    dims = [_loops(rng) for _ in range(30)]
    values = [120 + 7 * d.counts["o"] + 1.5 * d.counts["mac"] for d in dims]  # type: ignore[index]
    model = fit(dims, values)
    assert model.error < 1e-6
    unseen = _loops(rng)
    assert unseen.counts is not None
    expected = 120 + 7 * unseen.counts["o"] + 1.5 * unseen.counts["mac"]
    assert model.cost(unseen) == pytest.approx(expected, rel=1e-6)


def test_the_error_is_that_of_layers_left_out() -> None:
    rng = np.random.default_rng(1)
    dims = [_loops(rng) for _ in range(200)]
    noise = np.exp(rng.normal(0, 0.1, 200))
    values = [n * (500 + 2 * d.counts["mac"]) for n, d in zip(noise, dims, strict=True)]  # type: ignore[index]
    model = fit(dims, values)
    # 90 % of a normal distribution lie within 1.64 sigma
    assert 0.12 < model.error < 0.25
    assert 0.04 < model.median < 0.1


def test_layers_are_found_in_sums() -> None:
    rng = np.random.default_rng(2)
    totals = []
    for _ in range(40):
        parts = [("a", Dims(counts={"n": float(rng.integers(1, 50))})) for _ in range(3)]
        parts += [("b", Dims(counts={"m": float(rng.integers(1, 50))})) for _ in range(2)]
        cost = sum(3 * d.value(("n", "", "")) + 11 * d.value(("m", "", "")) for _, d in parts)
        totals.append(([*parts, ("network", Dims(counts={"1": 1.0}))], cost + 40))
    models = fit_totals(totals)
    assert models["a"].weights == pytest.approx((3.0,), rel=1e-6)
    assert models["b"].weights == pytest.approx((11.0,), rel=1e-6)
    assert models["network"].weights == pytest.approx((40.0,), rel=1e-6)


# -- shapes ------------------------------------------------------------------------------------


def test_designed_layers_are_always_the_same_and_stand_side_by_side() -> None:
    first, second = designed(quick=True), designed(quick=True)
    assert [shape_digest(g) for g in first] == [shape_digest(g) for g in second]
    whole = joined([integer_form(g) for g in first])
    assert len(whole.nodes) >= len(first)
    assert len(whole.inputs) == sum(len(g.inputs) for g in first)


def test_integer_form_has_the_operators_of_the_quantized_network() -> None:
    from edgekit.compress import QuantizeOptions, quantize

    graph = small_network()
    x = np.random.default_rng(0).normal(0, 1, (4, 12, 12, 3)).astype(np.float32)
    real = quantize(graph, [x], QuantizeOptions(observer="minmax"))
    shaped = integer_form(graph)

    def described(g: Graph) -> list[Any]:
        return [
            (n.type, [(t.shape, t.dtype) for t in (*g.ins(n), *g.outs(n)) if t is not None])
            for n in g.nodes
        ]

    assert described(shaped) == described(real)
    # weights play no part: two networks of the same shapes are the same one here
    assert shape_digest(shaped) == shape_digest(integer_form(small_network(seed=9)))
    assert shape_digest(shaped) != shape_digest(integer_form(small_network(channels=12)))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30), st.integers(1, 30), st.integers(1, 5), st.integers(1, 5),
    st.integers(1, 3), st.sampled_from(["SAME", "VALID"]),
)  # fmt: skip
def test_taps_inside_are_counted_as_by_hand(
    h: int, w: int, kh: int, kw: int, stride: int, padding: str
) -> None:
    from edgekit.graph import numerics as nm
    from edgekit_targets.mcu import loops

    if padding == "VALID" and (h < kh or w < kw):
        return
    b = Builder(np.random.default_rng(0), "window")
    graph = b.finish(b.conv(b.input(h, w, 4), 4, (kh, kw), stride, "NONE", padding))
    node = graph.nodes[0]
    pads, (oh, ow) = nm.conv_padding((h, w), (kh, kw), (stride, stride), padding, (1, 1))
    inside = sum(
        0 <= oy * stride - pads[0] + y < h and 0 <= ox * stride - pads[2] + x < w
        for oy in range(oh) for ox in range(ow) for y in range(kh) for x in range(kw)
    )  # fmt: skip
    found = loops.window(node, graph)
    assert int(found.rows.sum() * found.columns.sum()) == inside
    assert dims_of(node, graph).places["taps inside"] * kh * kw == pytest.approx(inside)


# -- the whole way, on the virtual Cortex-M4 ---------------------------------------------------


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Calibrated with a few layers; the cache is the module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        calibrate("cortex-m4", quick=True)
        yield load_predictor("cortex-m4", optimize="balanced")


@pytest.mark.slow
def test_calibrated_predicted_measured_corrected(predictor: TablePredictor, tmp_path: Path) -> None:
    assert isinstance(predictor, Predictor)
    graph = integer_form(small_network(channels=20))
    before = predictor.predict(graph)
    assert before.kind == "estimated" and before.unit == "cycles"
    assert {la.name for la in before.layers} == {n.name for n in graph.nodes}
    document = api.profile(api.compile(graph, "cortex-m4", tmp_path / "a", simplify=False))
    measured = document["total"]["cycles"]
    # a few layers an operator do not make a good table, but the right order of things
    assert before.value == pytest.approx(measured, rel=0.35)
    assert before.memory["ram_bytes"] == pytest.approx(document["memory"]["ram_bytes"], rel=0.5)
    assert before.memory["flash_bytes"] == pytest.approx(document["memory"]["flash_bytes"], rel=0.5)
    table = predictor.table_id
    assert predictor.correct(graph, document) == pytest.approx(before.value / measured - 1.0)
    assert predictor.table_id != table
    after = predictor.predict(graph)
    assert after.value == measured
    assert "table" in {la.by for la in after.layers}
    predictor.save()
    again = load("cortex-m4")
    assert again.predict(graph).value == measured


@pytest.mark.slow
def test_predict_on_the_command_line(
    predictor: TablePredictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from edgekit.cli import app
    from edgekit.formats import ekg

    model = tmp_path / "model.ekg"
    model.write_bytes(ekg.write_bytes(integer_form(small_network(channels=9))))
    runner = CliRunner()
    done = runner.invoke(app, ["predict", str(model), "--target", "cortex-m4", "--json"])
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    total = document["total"]
    assert document["kind"] == "estimated"
    assert total["cycles"] > total["error"] > 0
    assert total["latency_ms"] == pytest.approx(1e3 * total["cycles"] / 120e6, rel=0.01)
    shown = runner.invoke(app, ["predict", str(model), "--target", "cortex-m4"])
    assert shown.exit_code == 0 and "±" in shown.stdout


def test_without_calibration_the_command_to_run_is_named(cache: Path) -> None:
    with pytest.raises(InputError, match=r"run 'edgekit calibrate --target cortex-m4 --device"):
        load_predictor("cortex-m4")


def test_refused(cache: Path) -> None:
    with pytest.raises(InputError, match="has no engine 'tvm'"):
        load_predictor("cortex-m4", engine="tvm")
    with pytest.raises(InputError, match="known are balanced, speed, size, ram"):
        load_predictor("cortex-m4", optimize="fast")
    with pytest.raises(InputError, match="is not known"):
        calibrate("cortex-m44")


def test_a_damaged_table_is_no_table(cache: Path) -> None:
    path = tables.path_of("cortex-m4", "virtual:cortex-m4", "c", "balanced")
    for text in ("", "{", "[]", '{"format": 1}', '{"format": 99}'):
        path.write_text(text)
        assert tables.read(path) is None
        with pytest.raises(InputError, match="was not calibrated"):
            load_predictor("cortex-m4")


# -- configs -----------------------------------------------------------------------------------


def test_configs_refuses_before_it_compiles(cache: Path) -> None:
    from edgekit.data import Dataset

    data = Dataset.of(np.zeros((2, 12, 12, 3), np.float32))
    for targets, prefer, message in (
        (["cortex-m4", "cortex-m44"], "latency", "is not known"),
        ([" "], "latency", "no target is named"),
        (["cortex-m4"], "beauty", "known are latency, flash, ram"),
    ):
        with pytest.raises(InputError, match=message):
            api.configs(small_network(), targets, data, prefer=prefer)


@pytest.mark.slow
def test_configs_of_two_targets(cache: Path) -> None:
    from edgekit.data import Dataset

    rng = np.random.default_rng(0)
    data = Dataset.of(rng.normal(0, 1, (8, 12, 12, 3)).astype(np.float32), rng.integers(0, 5, 8))
    document = api.configs(small_network(), ["cortex-m0plus", "host"], data)
    assert [r["target"] for r in document["configs"]] == ["cortex-m0plus", "host"]
    for row in document["configs"]:
        assert row["fits"] is True
        assert 0.0 <= row["agreement"] <= 1.0
        assert row["quantization"].startswith("int8, per channel")
        times = [r["latency_ms"] for r in document["tried"][row["target"]] if r["fits"]]
        assert row["latency_ms"] == min(times)
    assert document["configs"][0]["kind"] == "estimated"
    assert document["configs"][1]["kind"] == "measured"


def test_a_surprise_is_learned(cache: Path) -> None:
    from edgekit.profile.family import Measurement, Sample

    rng = np.random.default_rng(3)
    dims = [_loops(rng) for _ in range(40)]
    samples = [
        Sample("k", d, 100 + 2 * d.value(("mac", "", "")), f"{i}") for i, d in enumerate(dims)
    ]
    made = tables.made(
        Measurement(samples, "cycles", "estimated", {"tool": "1"}),
        target="t", device="d", engine="c", variant="balanced", fingerprint="f", seconds=1.0,
    )  # fmt: skip
    again = made.with_samples([Sample("k", dims[0], 1.001 * samples[0].value, "0")], {})
    assert again.id != made.id and again.values["k", "0"] == 1.001 * samples[0].value
    assert again.models["k"] is made.models["k"]  # a thousandth off is no news
    far = Dims(counts={"1": 1, "o": 3.0, "mac": 3e6})
    other = made.with_samples([Sample("k", far, 3 * 2 * 3e6, "far")], {"net": 5.0})
    assert other.models["k"] is not made.models["k"]
    assert other.values["k", "far"] == 3 * 2 * 3e6
    tables.save(other)
    read = tables.read(tables.path_of("t", "d", "c", "balanced"))
    assert read is not None and read.id == other.id
    assert read.models["k"] == other.models["k"]
    # what another process saved in the meantime is kept
    tables.save(made.with_samples([], {"elsewhere": 7.0}))
    both = tables.read(tables.path_of("t", "d", "c", "balanced"))
    assert both is not None and both.networks == {"net": 5.0, "elsewhere": 7.0}


def test_devices_with_a_clock_are_read_by_layer() -> None:
    from edgekit.errors import UnsupportedError
    from edgekit.profile.whole import WholeNetworks
    from edgekit.targets import registry

    target = registry.get_target("host")
    model = WholeNetworks(registry.get_backend(target.family))
    graph = integer_form(small_network())
    apart = model.take_apart(graph, target, "c", "balanced", lambda *_: 1.0, {})
    assert [p.node for p in apart.parts] == [n.name for n in graph.nodes]
    first, second = graph.nodes[:2]
    document = {
        "layers": [
            {"name": first.name, "time_ms": 0.25},
            {"name": first.name, "time_ms": 0.5},  # a node in two stamps: both are its cost
            {"name": second.name, "time_ms": None},
        ]
    }
    samples = model.read_profile(graph, target, "c", "balanced", document, "ms")
    assert [(s.kernel, s.value, s.key) for s in samples] == [
        ("CONV_2D first", 0.75, apart.parts[0].key)
    ]
    with pytest.raises(UnsupportedError, match="cannot take node"):
        model.take_apart(small_network(), target, "c", "balanced", lambda *_: 1.0, {})
