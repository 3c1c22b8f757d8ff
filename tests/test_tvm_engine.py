"""Engine ``tvm`` through the verbs: what can be said without TVM, then host and virtual aarch64."""

from __future__ import annotations

import filecmp
import json
import platform
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tvm_case
from engine_case import changed, compile_with, data_for, float_net, int8_net, needs_qemu, random_net
from netgen import random_inputs

from edgekit import api, engines, tolerance
from edgekit.artifact import Artifact
from edgekit.cli import main
from edgekit.devices import aarch64
from edgekit.devices.base import RunRequest
from edgekit.devices.registry import open_device
from edgekit.errors import InputError, ToolchainError, UnsupportedError
from edgekit.formats import save
from edgekit.graph import reference
from edgekit.graph.ir import Graph
from edgekit.targets import get_backend, get_target
from edgekit.targets.base import CompileOptions, EngineInfo, Tunes
from edgekit_targets import tvm_engine
from edgekit_targets.tvm_ import check, isa
from edgekit_targets.tvm_.records import Records

X86 = platform.machine().lower() in ("x86_64", "amd64")
HOST = "x86-64-host"
needs_x86 = pytest.mark.skipif(not X86, reason="the family runs on x86-64, which this is not")
needs_libraries = pytest.mark.skipif(
    aarch64.find_libraries() is None, reason="no C library of 64-bit Arm (libc6-arm64-cross)"
)
TVM = CompileOptions(engine="tvm")


@pytest.fixture(autouse=True)
def _own_records(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's tuning records, or leaves any there."""
    place = tmp_path_factory.mktemp("records") / "tvm.sqlite3"
    monkeypatch.setattr("edgekit_targets.tvm_.records.default_path", lambda: place)


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({}, "pip install 'edgekit[tvm]'"),
        ({"apache-tvm": check.TESTED_TVM, "apache-tvm-ffi": "0.1.15.post2"}, "known to crash"),
        ({"apache-tvm": "0.26.0", "apache-tvm-ffi": check.TESTED_FFI}, "apache-tvm 0.26.0"),
    ],
)
def test_versions_that_crash_are_one_sentence_and_exit_2(
    versions: dict[str, str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(check, "metadata", SimpleNamespace(
        version=version, PackageNotFoundError=metadata.PackageNotFoundError))  # fmt: skip
    info = {e.name: e for e in get_backend("arm_cpu").engines(get_target("pixel-6"))}["tvm"]
    assert not info.usable and words in str(info.why_not)
    save(int8_net(), tmp_path / "m.tflite")
    for verb in ("compile", "tune"):
        out = ["-o", str(tmp_path / "out")] if verb == "compile" else []
        with pytest.raises(SystemExit) as ended:
            main([verb, str(tmp_path / "m.tflite"), "--target", "pixel-6", "--engine", "tvm", *out])
        said = capsys.readouterr().err.strip().splitlines()
        assert ended.value.code == 2 and words in said[-1] and said[-1].startswith("edgekit: ")
    assert [p.name for p in tmp_path.iterdir()] == ["m.tflite"]


def test_without_zig_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "why_not", lambda: None)
    monkeypatch.setattr("edgekit_targets.mcu.toolchain.zig_program", lambda: None)
    info = {e.name: e for e in get_backend("arm_cpu").engines(get_target("pixel-6"))}["tvm"]
    assert not info.usable and "pip install ziglang" in str(info.why_not)


def test_nodes_are_named_with_their_reason(tmp_path: Path) -> None:
    import opgen

    tvm_case.needs_tvm()
    graph, _ = opgen.conv_2d(np.random.default_rng(0), "int16")
    (row,) = get_backend("arm_cpu").supports(graph, get_target("pixel-6"), "tvm")
    assert row.op == "CONV_2D" and "int16" in row.reason
    with pytest.raises(UnsupportedError, match=r"'tvm'.*node 'op' \(CONV_2D\): int16"):
        api.compile(graph, "pixel-6", tmp_path / "out", options=TVM)
    with pytest.raises(InputError, match="no option 'toolchain'"):
        api.compile(int8_net(), "pixel-6", tmp_path / "out",
                    options=CompileOptions("tvm", extra={"toolchain": "zig"}))  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("target", "cpu", "dot"),
    [
        ("raspberry-pi-3", "cortex-a53", "widen"),
        ("cortex-a55", "cortex-a55", "sdot"),
        ("raspberry-pi-4", "cortex-a72", "widen"),
        ("raspberry-pi-5", "cortex-a76", "sdot"),
        ("pixel-6", "cortex-x1", "sdot"),
        ("x86-64-avx2", "x86-64-v3", "pmaddwd"),
        ("x86-64-avx512-vnni", "x86-64-v4", "vnni"),
    ],
)
def test_code_is_generated_for_the_cpu_of_the_file(target: str, cpu: str, dot: str) -> None:
    resolved = get_target(target)
    engine = get_backend(resolved.family).engine("tvm")  # type: ignore[attr-defined]
    code = engine._code(resolved)
    assert (code.cpu, code.dot_name) == (cpu, dot)


@needs_qemu
def test_programs_for_glibc_need_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aarch64, "find_libraries", lambda: None)
    program = b"\x7fELF\x02" + bytes(13) + b"\xb7\x00" + bytes(80) + b"/lib/ld-linux-aarch64.so.1"
    with open_device("virtual:aarch64") as d:
        d.push_bytes(program, "p")
        with pytest.raises(ToolchainError, match="apt-get install libc6-arm64-cross"):
            d.run(RunRequest("p"))


# -- tuning, the choice, the marks -------------------------------------------------------------


def test_engines_without_anything_to_tune_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'litert' of target 'pixel-6' has nothing to tune"):
        api.tune(int8_net(), "pixel-6", engine="litert")
    with pytest.raises(InputError, match="no engine that can be tuned"):
        api.tune(int8_net(), "cortex-m4")
    with pytest.raises(InputError, match="nothing to tune"):
        api.compile(int8_net(), HOST, tmp_path / "a", tune=2, options=CompileOptions("litert"))
    assert isinstance(get_backend("server"), Tunes) and not isinstance(get_backend("mcu"), Tunes)
    assert not list(tmp_path.iterdir())


def _row(name: str, latency: float) -> engines.Row:
    artifact = SimpleNamespace(name=name, reference=int8_net(), details={})
    profile = {"kind": "measured", "total": {"latency_ms": latency}, "details": {}}
    return engines.Row(EngineInfo(name, True), True, None, artifact, profile)  # type: ignore[arg-type]


def test_engines_that_are_close_take_turns() -> None:
    """Round after round, never one after the other; each keeps its fastest round."""
    rows = [_row("a", 1.0), _row("b", 1.1), _row("slow", 2.0)]
    order: list[str] = []

    class Backend:
        def profile(self, artifact, device, inputs):
            order.append(artifact.name)
            ms = {"a": 1.2, "b": 1.0}[artifact.name] + 0.1 * (len(order) % 3)
            document = {"kind": "measured", "total": {"latency_ms": ms}, "details": {}}
            return SimpleNamespace(to_json=lambda: document)

    graph = int8_net()
    engines.take_turns(rows, Backend(), data_for(graph), lambda _a: nullcontext())  # type: ignore[arg-type]
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"][: 2 * engines.ROUNDS]
    for row in rows[:2]:
        assert row.profile is not None
        rounds = row.profile["details"]["rounds_latency_ms"]
        assert len(rounds) == engines.ROUNDS and row.cost == (0, min(rounds))
    assert rows[2].cost == (0, 2.0), "it cannot win"
    assert min(rows, key=lambda r: r.cost).info.name == "b"


def test_one_engine_alone_is_not_timed_again() -> None:
    row = _row("a", 1.0)
    engines.take_turns([row], None, data_for(int8_net()), lambda _a: nullcontext())  # type: ignore[arg-type]
    assert row.cost == (0, 1.0)


def test_conversions_at_the_edge_do_not_make_a_network_float() -> None:
    assert tvm_engine.computes_in_float(float_net())
    assert not tvm_engine.computes_in_float(int8_net())


def test_the_report_and_the_table_say_untuned(capsys: pytest.CaptureFixture[str]) -> None:
    from edgekit import display
    from edgekit.report.remarks import _of_tuning

    (remark,) = _of_tuning({"untuned": 3, "tunable": 5})
    assert remark.level == "warn" and "3 of 5 kernels" in remark.text
    assert not list(_of_tuning({"untuned": 0, "tunable": 5})) and not list(_of_tuning({}))
    row = {"name": "tvm", "precision": "int8", "verified": True, "exact": True, "kind": "measured",
           "total": {"latency_ms": 1.0, "instructions": None}, "reason": None, "untuned": 3}  # fmt: skip
    display.engines({"engine": "tvm", "engines": [row]})
    assert "kept (3 kernels untuned)" in " ".join(capsys.readouterr().out.split())


# -- on the host -------------------------------------------------------------------------------


def _check_bytes(artifact: Artifact, device: str) -> None:
    graph, backend = artifact.graph, get_backend(artifact.target.family)
    xs = random_inputs(graph, np.random.default_rng(5), 4)
    want = reference.run(graph, xs, keep="all")
    with open_device(device, target=artifact.target) as d:
        got = backend.run(artifact, d, xs, trace_layers=True)
    for name, y in zip(graph.outputs, got.outputs, strict=True):
        assert y.dtype == want[name].dtype and np.array_equal(y, want[name])
    assert len(got.layers) == 4
    for k, values in enumerate(got.layers):
        assert list(values) == [o for n in graph.nodes for o in n.outputs]
        for name, value in values.items():
            assert np.array_equal(value.ravel(), want[name][k].ravel()), name


def _mnemonics(library: Path, arm: bool) -> set[str]:
    from capstone import CS_ARCH_ARM64, CS_ARCH_X86, CS_MODE_64, CS_MODE_ARM, Cs
    from elftools.elf.elffile import ELFFile

    with library.open("rb") as f:
        text = ELFFile(f).get_section_by_name(".text")
        code, base = text.data(), text["sh_addr"]
    d = Cs(CS_ARCH_ARM64, CS_MODE_ARM) if arm else Cs(CS_ARCH_X86, CS_MODE_64)
    d.skipdata = True
    return {i.mnemonic for i in d.disasm(code, base)}


@needs_x86
@pytest.mark.slow
def test_the_host_gives_the_reference_bytes_and_times_layers(tmp_path: Path) -> None:
    tvm_case.needs_tvm()
    artifact = compile_with(tmp_path / "out", int8_net(), HOST, "tvm")
    assert {"model.so", "model.io", "runner", "libtvm_runtime.so", "libtvm_ffi.so"} <= set(
        artifact.manifest["files"]
    )
    assert artifact.details["exact"] and artifact.details["untuned"] == 4
    _check_bytes(artifact, "host")
    with open_device("host") as d:
        profile = get_backend("server").profile(artifact, d)
    assert profile.kind == "measured" and profile.latency_ms is not None
    assert [la.op for la in profile.layers] == [n.type for n in artifact.graph.nodes]
    spent = {la.name: la.time_ms for la in profile.layers}
    assert all(t is not None and t >= 0 for t in spent.values()) and sum(spent.values()) > 0  # type: ignore[arg-type]
    assert profile.details["untuned"] == 4 and profile.tools["apache-tvm"] == check.TESTED_TVM


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "instruction"), [("x86-64-avx512-vnni", "vpdpbusd"), ("cortex-a76", "sdot")]
)
def test_integers_are_multiplied_by_dot_products(
    target: str, instruction: str, tmp_path: Path
) -> None:
    tvm_case.needs_tvm()
    artifact = compile_with(tmp_path / "a", int8_net(), target, "tvm")
    arm = get_target(target).family == "arm_cpu"
    assert instruction in _mnemonics(artifact.file("model.so"), arm)
    other = compile_with(tmp_path / "b", int8_net(), target, "tvm")
    names = list(artifact.manifest["files"])
    assert filecmp.cmpfiles(artifact.path, other.path, names, shallow=False)[0] == names
    for name in ("model.so", "runner"):
        data = artifact.file(name).read_bytes()
        assert not any(p in data for p in (b"/tmp/", b"/home/", b"site-packages")), name


@needs_x86
@pytest.mark.slow
def test_floats_keep_their_tolerance(tmp_path: Path) -> None:
    tvm_case.needs_tvm()
    graph = random_net(3, int8=False)
    artifact = compile_with(tmp_path / "out", graph, HOST, "tvm")
    assert artifact.details["exact"] is False and artifact.details["precision"] == "float32"
    xs = random_inputs(graph, np.random.default_rng(5), 6)
    want = reference.run(graph, xs)[graph.outputs[0]]
    with open_device("host") as d:
        (got,) = get_backend("server").run(artifact, d, xs).outputs
    found = tolerance.judge(graph, "float32", [want], [got], False)
    assert found["passed"], found


@needs_x86
@pytest.mark.slow
def test_tuning_from_the_command_line_to_the_artifact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """tune, then compile: no kernel is untuned, and the plan says where each was tuned."""
    tvm_case.needs_tvm()
    graph = int8_net()
    save(graph, tmp_path / "m.tflite")
    with pytest.raises(SystemExit) as ended:
        main(["tune", str(tmp_path / "m.tflite"), "--target", HOST, "--trials", "2", "--json"])
    assert ended.value.code == 0
    captured = capsys.readouterr()
    rows = {e["name"]: e for e in json.loads(captured.out)["engines"]}
    assert rows["tvm"]["kernels"] == 4 and rows["tvm"]["failed"] == 0
    assert rows["tvm"]["kind"] == "measured" and rows["tvm"]["unit"] == "ms"
    assert 0 < rows["tvm"]["after"] <= rows["tvm"]["before"]
    assert "int8 already" in rows["tvm-int8"]["reason"]
    assert "tuning round 2 of 2" in captured.err
    assert Path(rows["tvm"]["records"]) == Records().path
    document = api.deploy(
        api.load(tmp_path / "m.tflite"),
        HOST,
        data_for(graph),
        tmp_path / "out",
        options=TVM,
        tune=2,
    )
    (row,) = document["engines"]
    assert row["verified"] and row["exact"] and row["untuned"] == 0
    plan = Artifact.open(tmp_path / "out").manifest["plan"]
    tuned = [p for p in plan if "tile" in p]
    assert len(tuned) == 4 and all(p["tuned"] and "measured" in p["tuned_on"] for p in tuned)


# -- on the virtual aarch64 --------------------------------------------------------------------


@needs_qemu
@needs_libraries
@pytest.mark.slow
@pytest.mark.parametrize("target", ["raspberry-pi-4", "raspberry-pi-5"])
def test_arm_cores_give_the_reference_bytes_and_count_layers(target: str, tmp_path: Path) -> None:
    tvm_case.needs_tvm()
    artifact = compile_with(tmp_path / "out", int8_net(), target, "tvm")
    _check_bytes(artifact, "virtual:aarch64")
    with open_device("virtual:aarch64", target=artifact.target) as d:
        profile, again = (get_backend("arm_cpu").profile(artifact, d) for _ in range(2))
        counted = d.info().details["counts_instructions"]
    assert profile.kind == "simulated" and profile.latency_ms is None
    if not counted:
        assert profile.instructions is None and "absent" in profile.details
        return
    assert profile.instructions is not None
    layers = [la.instructions for la in profile.layers]
    assert layers == [la.instructions for la in again.layers], "kernels are counted exactly"
    inside = sum(v or 0 for v in layers)
    assert 0 < inside < profile.instructions < inside + 60_000, "the rest is TVM's virtual machine"
    conv = next(la for la in profile.layers if la.op == "CONV_2D")
    assert conv.instructions is not None and conv.instructions > conv.macs / 32


@needs_qemu
@needs_libraries
@pytest.mark.slow
def test_a_virtual_device_is_tuned_by_instructions(tmp_path: Path) -> None:
    tvm_case.needs_tvm()
    with open_device("virtual:aarch64") as d:
        counted = d.info().details["counts_instructions"]
    graph: Graph = int8_net()
    if not counted:
        with pytest.raises(Exception, match="nothing to tune by"):
            api.tune(graph, "raspberry-pi-5", trials=2, engine="tvm")
        return
    document = api.tune(graph, "raspberry-pi-5", trials=2, engine="tvm")
    (row,) = document["engines"]
    assert row["kind"] == "simulated" and row["unit"] == "instructions"
    assert row["device"] == "qemu-user (cortex-a76)" and 0 < row["after"] <= row["before"]
    best = Records().best(list(_tasks(graph)))
    assert len(best) == 4 and all(b.kind == "simulated" for b in best.values())


def _tasks(graph: Graph) -> list[str]:
    from edgekit_targets.tvm_ import tune

    return list(tune.tasks_of(graph, isa.aarch64("cortex-a76")))


def test_a_wrong_cpu_is_refused() -> None:
    with pytest.raises(InputError, match="cortex_a99"):
        get_backend("arm_cpu").engines(changed("cortex-a53", toolchain={"cpu": "cortex_a99"}))
