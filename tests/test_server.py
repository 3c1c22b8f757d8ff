"""x86-64 servers, the interpreters' engines, and the choice among engines, on this machine."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from engine_case import changed, compile_with, data_for, float_net, int8_net, random_net
from netgen import random_inputs

from edgekit import api, engines, tolerance
from edgekit.artifact import Artifact
from edgekit.data import Dataset
from edgekit.devices.registry import open_device
from edgekit.errors import DeviceError, InputError, UnsupportedError
from edgekit.graph import reference
from edgekit.graph.ir import Graph
from edgekit.targets import get_backend, get_target
from edgekit.targets.base import CompileOptions, EngineInfo
from edgekit.verify import verify
from edgekit_targets.litert import with_half_weights
from edgekit_targets.server import config

BACKEND = get_backend("server")
ENGINES = ["c", "onnxruntime", "litert", "litert-fp16", "onnxruntime-int8", "litert-int8", "tvm",
           "tvm-int8"]  # fmt: skip
X86 = platform.machine().lower() in ("x86_64", "amd64")
pytestmark = pytest.mark.skipif(not X86, reason="the family runs on x86-64, which this is not")
HOST = "x86-64-host"


def run_on_host(artifact: Artifact, xs: list[np.ndarray]) -> list[np.ndarray]:
    with open_device("host") as d:
        return list(BACKEND.run(artifact, d, xs).outputs)


# -- target files ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x86-64-avx2", "x86-64-avx512-vnni", "x86-64-amx", HOST])
def test_every_file_is_usable(name: str) -> None:
    target = get_target(name)
    assert target.family == "server" and BACKEND.default_device(target) == "host"
    infos = BACKEND.engines(target)
    assert [e.name for e in infos] == ENGINES
    assert [e.exact for e in infos] == [True] + [False] * 5 + [True] * 2
    assert {e.name: e.int8_form_of for e in infos if e.int8_form_of} == {
        "onnxruntime-int8": "onnxruntime", "litert-int8": "litert", "tvm-int8": "tvm"}  # fmt: skip


@pytest.mark.parametrize(
    ("section", "value", "words"),
    [
        ("toolchain", {"cpu": "pentium"}, "pentium"),
        ("toolchain", {"cpu": "x86_64_v4"}, "'avx512f', which the core"),
        ("config", {"fast": True}, "config"),
    ],
)
def test_wrong_sections_are_named(section: str, value: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match="x86-64-avx2") as caught:
        BACKEND.engines(changed("x86-64-avx2", **{section: value}))
    assert words in str(caught.value)


def test_a_host_without_the_features_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    artifact = compile_with(tmp_path / "out", int8_net(), "x86-64-avx512-vnni", "litert")
    monkeypatch.setattr(
        "edgekit_targets.server.backend.host_flags", lambda: frozenset({"avx2", "fma"})
    )
    xs = random_inputs(artifact.graph, np.random.default_rng(0), 1)
    with pytest.raises(DeviceError, match=r"lacks .*avx512_vnni.*x86-64-host"):
        run_on_host(artifact, xs)


def test_the_host_says_what_it_has() -> None:
    assert "sse4_2" in config.host_flags()


# -- the interpreters --------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["onnxruntime", "litert", "litert-fp16"])
@pytest.mark.parametrize("seed", [3, 11])
def test_float_models_keep_their_tolerance(engine: str, seed: int, tmp_path: Path) -> None:
    graph = random_net(seed, int8=False)
    xs = random_inputs(graph, np.random.default_rng(5), 6)
    want = reference.run(graph, xs)[graph.outputs[0]]
    artifact = compile_with(tmp_path / "out", graph, HOST, engine)
    (got,) = run_on_host(artifact, xs)
    assert got.dtype == np.float32 and got.shape == want.shape
    precision = artifact.details["precision"]
    assert precision == ("float16" if engine == "litert-fp16" else "float32")
    found = tolerance.judge(graph, precision, [want], [got], False)
    assert found["passed"], found
    if engine == "litert-fp16":
        assert found["error"] > 1e-7, "float16 weights make a difference"


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
@pytest.mark.parametrize("seed", [3, 7])
def test_int8_models_keep_their_tolerance(engine: str, seed: int, tmp_path: Path) -> None:
    graph = random_net(seed, int8=True)
    xs = random_inputs(graph, np.random.default_rng(5), 16)
    want = reference.run(graph, xs)[graph.outputs[0]]
    (got,) = run_on_host(compile_with(tmp_path / "out", graph, HOST, engine), xs)
    assert got.dtype == np.int8 and got.shape == want.shape
    assert np.sqrt(np.mean((got.astype(float) - want) ** 2)) / 255 < 0.03


def test_half_weights_halve_the_file() -> None:
    from edgekit.formats import tflite

    graph = float_net()
    half = with_half_weights(graph)
    weights = [t for t in half.tensors.values() if t.is_const and t.dtype == "float16"]
    assert len(weights) == 4 and all(len(t.shape) > 1 for t in weights)
    saved = len(tflite.write_bytes(graph)) - len(tflite.write_bytes(half))
    assert saved > 0.5 * sum(t.nbytes for t in weights)
    assert all(t.dtype != "float16" for t in graph.tensors.values()), (
        "the graph itself is as it was"
    )


def test_profiles_are_measured_with_one_thread(tmp_path: Path) -> None:
    artifact = compile_with(tmp_path / "out", int8_net(), HOST, "litert")
    assert artifact.manifest["tools"] == {"ai-edge-litert": version("ai-edge-litert")}
    with open_device("host") as d:
        profile = BACKEND.profile(artifact, d)
    assert profile.kind == "measured" and profile.latency_ms is not None
    assert 0 < profile.details["latency_ms_min"] <= profile.latency_ms < 1000
    assert profile.details["threads"] == 1 and profile.details["repeats"] >= 20
    assert profile.instructions is None


def test_int8_is_verified_by_its_tolerance_and_bytes_are_counted_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = int8_net()
    artifact = compile_with(tmp_path / "out", graph, HOST, "litert")
    rng = np.random.default_rng(0)
    data = Dataset.of(rng.normal(0, 1, (40, 8, 8, 3)).astype(np.float32))
    with open_device("host") as d:
        document = verify(artifact, BACKEND, d, data)
        criterion = document["criterion"]
        assert document["passed"] and criterion["precision"] == "int8"
        assert criterion["error"] <= criterion["error_limit"] == 0.03
        assert criterion["argmax_agreement"] >= criterion["argmax_limit"]
        strict = {"int8": tolerance.Tolerance(error=0.0, argmax=1.0)}
        monkeypatch.setattr(tolerance, "TOLERANCES", strict)
        document = verify(artifact, BACKEND, d, data)
    assert document["passed"] == (document["mismatched_bytes"] == 0)


def test_judging_finds_wrong_outputs() -> None:
    graph, same = float_net(), np.eye(5, dtype=np.float32)
    assert tolerance.judge(graph, "float32", [same], [same], False)["passed"]
    off = same + np.float32(1e-3)
    assert not tolerance.judge(graph, "float32", [same], [off], False)["passed"]
    assert tolerance.judge(graph, "float16", [same], [off], False)["passed"]
    swapped = tolerance.judge(graph, "float16", [same], [same[::-1].copy()], False)
    assert swapped["argmax_agreement"] == pytest.approx(0.2) and not swapped["passed"]
    broken = tolerance.judge(graph, "float16", [same], [same * np.nan], False)
    assert broken["error"] is None and not broken["passed"]
    bytes_ = (np.eye(5) * 200 - 100).astype(np.int8)
    noisy = tolerance.judge(int8_net(), "int8", [bytes_], [bytes_ + np.int8(20)], False)
    assert noisy["error"] == pytest.approx(20 / 255) and not noisy["passed"]


def test_quantized_models_are_refused_by_the_float16_engine(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="float16 weights are for float models"):
        api.compile(int8_net(), HOST, tmp_path / "a", options=CompileOptions(engine="litert-fp16"))
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "onnxruntime" else real(name, *a),
    )
    info = {e.name: e for e in BACKEND.engines(get_target(HOST))}["onnxruntime"]
    assert not info.usable and info.why_not == (
        "the Python package onnxruntime is missing: pip install onnxruntime")  # fmt: skip
    with pytest.raises(InputError, match="'onnxruntime' cannot be used on this machine"):
        api.compile(float_net(), HOST, Path("never"), options=CompileOptions(engine="onnxruntime"))


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ([], 2, "usage"),
        (["time", "missing.bin", "3"], 2, "missing.bin"),
        (["run", "short.bin", "out.bin"], 2, "inside a sample"),
        (["run", "in.bin", "out.bin"], 3, ""),
    ],
)
def test_the_runner_says_what_is_wrong(
    args: list[str], code: int, words: str, tmp_path: Path
) -> None:
    artifact = compile_with(tmp_path / "out", int8_net(), HOST, "litert")
    folder = artifact.path
    (folder / "short.bin").write_bytes(b"123")
    (folder / "in.bin").write_bytes(bytes(8 * 8 * 3))
    (folder / "model.tflite").write_bytes(b"garbage")
    done = subprocess.run(
        [sys.executable, "interpret.py", *args], cwd=folder, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code and "Traceback" not in done.stderr
    assert done.stdout.startswith("error=") and words in done.stdout


# -- engine c ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_c_gives_the_reference_bytes(seed: int | None, tmp_path: Path) -> None:
    graph = int8_net() if seed is None else random_net(seed, int8=True)
    xs = random_inputs(graph, np.random.default_rng(5), 6)
    (got,) = run_on_host(compile_with(tmp_path / "out", graph, HOST, "c"), xs)
    assert np.array_equal(got, reference.run(graph, xs)[graph.outputs[0]])


@pytest.mark.slow
def test_c_uses_the_features_of_the_file(tmp_path: Path) -> None:
    def registers(target: str) -> bool:
        artifact = compile_with(tmp_path / target, int8_net(), target, "c")
        from capstone import CS_ARCH_X86, CS_MODE_64, Cs
        from elftools.elf.elffile import ELFFile

        with artifact.file("runner").open("rb") as f:
            text = ELFFile(f).get_section_by_name(".text")
            code, base = text.data(), text["sh_addr"]
        disassembler = Cs(CS_ARCH_X86, CS_MODE_64)
        disassembler.skipdata = True
        return any("ymm" in i.op_str for i in disassembler.disasm(code, base))

    assert registers("x86-64-avx2"), "AVX2 code has 256-bit registers"


# -- auto --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("int8", [True, False], ids=["int8", "float"])
def test_auto_keeps_the_fastest_verified_engine(int8: bool, tmp_path: Path) -> None:
    graph = int8_net() if int8 else float_net()
    document = api.deploy(graph, HOST, data_for(graph), tmp_path / "out")
    rows = document["engines"]
    assert [e["name"] for e in rows] == ENGINES
    for e in rows:
        assert set(e) >= {"name", "supported", "verified", "total", "kind", "reason"}
        assert e["verified"] or e["reason"]
        assert (e["total"] is None) == (e["kind"] is None)
    good = [e for e in rows if e["verified"] and e["reason"] is None]
    kept = min(good, key=lambda e: e["total"]["latency_ms"])
    assert document["engine"] == kept["name"]
    assert document["profile"]["total"] == kept["total"] and document["verify"]["passed"]
    by_name = {e["name"]: e for e in rows}
    assert by_name["c"]["verified"] and by_name["c"]["exact"]
    if int8:
        assert by_name["litert-int8"]["reason"].startswith("the model is int8 already")
        assert not by_name["litert-fp16"]["supported"]
    else:
        assert by_name["litert-fp16"]["precision"] == "float16"
    artifact = Artifact.open(tmp_path / "out")
    assert artifact.engine == document["engine"]
    assert artifact.result("engines") == {"engines": rows, "kept": document["engine"]}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_naming_an_engine_tries_no_other(tmp_path: Path) -> None:
    graph = float_net()
    document = api.deploy(
        graph, HOST, data_for(graph), tmp_path / "out", options=CompileOptions(engine="litert")
    )
    (row,) = document["engines"]
    assert row["name"] == "litert" and row["verified"] and row["precision"] == "float32"


def test_compile_takes_the_first_engine_that_can(tmp_path: Path) -> None:
    assert api.compile(float_net(), HOST, tmp_path / "a").engine == "onnxruntime"
    assert engines.first_usable(BACKEND, get_target(HOST), int8_net(), False) == "c"
    assert engines.first_usable(BACKEND, get_target(HOST), float_net(), True) == "c"


def _row(name: str, latency: float | None, instructions: int | None = None) -> engines.Row:
    total = {"latency_ms": latency, "cycles": None, "instructions": instructions}
    return engines.Row(EngineInfo(name, True), True, profile={"total": total})


def test_engines_are_sorted_by_what_is_known() -> None:
    rows = [_row("none", None), _row("count", None, 5), _row("slow", 2.0), _row("fast", 1.0)]
    assert [r.info.name for r in sorted(rows, key=lambda r: r.cost)] == [
        "fast", "slow", "count", "none"]  # fmt: skip


def test_int8_that_loses_accuracy_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The int8 form answers with other classes than the float model: it stays in the table."""
    graph = float_net()
    data = data_for(graph, 40)
    out = reference.run(graph, list(data.x.values()))[graph.outputs[0]]
    labelled = Dataset(data.x, out.argmax(1), "made here")
    real = engines.verify

    def worse(artifact: Artifact, *args: object) -> dict[str, object]:
        document = real(artifact, *args)  # type: ignore[arg-type]
        if artifact.source is not None:
            document["accuracy"] = document["reference_accuracy"] - 0.05
        return document

    monkeypatch.setattr(engines, "verify", worse)
    monkeypatch.setattr(
        BACKEND, "engines", lambda t: [BACKEND.engine(n).info(t) for n in ("litert", "litert-int8")]
    )
    document = api.deploy(graph, HOST, labelled, tmp_path / "out")
    rows = {e["name"]: e for e in document["engines"]}
    assert document["engine"] == "litert"
    assert (
        rows["litert-int8"]["verified"]
        and "loses 5.0 points of accuracy against the float" in rows["litert-int8"]["reason"]
    )


def test_when_nothing_can_be_used_every_reason_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        BACKEND,
        "engines",
        lambda _t: [EngineInfo("c", False, "no zig"), EngineInfo("litert", False, "no litert")],
    )
    graph = float_net()
    with pytest.raises(InputError, match="c: no zig; litert: no litert"):
        api.deploy(graph, HOST, data_for(graph), tmp_path / "out")
    assert not list(tmp_path.iterdir())


# -- the command line --------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_line_shows_the_criterion(tmp_path: Path) -> None:
    from edgekit.formats import save

    graph = int8_net()
    save(graph, tmp_path / "m.tflite")
    np.savez(tmp_path / "d.npz", x=next(iter(data_for(graph).x.values())))
    base = [sys.executable, "-m", "edgekit.cli"]
    done = subprocess.run(
        [*base, "deploy", "m.tflite", "--target", HOST, "--engine", "litert", "--data", "d.npz:x",
         "-o", "out"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "int8 tolerance" in done.stdout, done.stderr
    done = subprocess.run(
        [*base, "verify", "out", "--data", "d.npz:x", "--json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout)["criterion"]["exact"] is False


def test_engines_share_the_oracles_outputs(tmp_path: Path) -> None:
    graph: Graph = int8_net()
    artifact = compile_with(tmp_path / "out", graph, HOST, "litert")
    known: dict[str, tuple[list[np.ndarray], str]] = {}
    with open_device("host") as d:
        first = verify(artifact, BACKEND, d, data_for(graph), None, known)
        ((key, (outputs, _)),) = known.items()
        known[key] = (outputs, "from the cache")
        second = verify(artifact, BACKEND, d, data_for(graph), None, known)
    assert first["oracle"] != second["oracle"] == "from the cache"
    assert first["mismatched_bytes"] == second["mismatched_bytes"]
