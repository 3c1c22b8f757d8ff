"""64-bit Arm application processors on QEMU's user-mode emulation."""

from __future__ import annotations

import dataclasses
import filecmp
import platform
import sys
from pathlib import Path

import numpy as np
import pytest
from engine_case import (
    changed,
    compile_with,
    data_for,
    float_net,
    int8_net,
    needs_cc,
    needs_plugins,
    needs_qemu,
    random_net,
)
from netgen import random_inputs

from edgekit import api, tolerance
from edgekit.artifact import Artifact
from edgekit.devices import aarch64, aarch64_python
from edgekit.devices.base import RunRequest
from edgekit.devices.registry import list_transports, open_device
from edgekit.errors import DeviceError, InputError, ToolchainError
from edgekit.graph import reference
from edgekit.graph.ir import Graph
from edgekit.targets import get_backend, get_target
from edgekit.targets.base import CompileOptions

BACKEND = get_backend("arm_cpu")
TARGETS = [
    "raspberry-pi-3", "cortex-a53", "cortex-a55", "raspberry-pi-4", "cortex-a72", "raspberry-pi-5",
    "cortex-a76", "pixel-6", "galaxy-s23",
]  # fmt: skip


@pytest.fixture(scope="module")
def a53(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return compile_with(tmp_path_factory.mktemp("a53") / "out", int8_net(), "cortex-a53", "c")


def check_bytes(artifact: Artifact, device: str = "virtual:aarch64") -> None:
    graph = artifact.graph
    xs = random_inputs(graph, np.random.default_rng(5), 4)
    want = reference.run(graph, xs)
    with open_device(device, target=artifact.target) as d:
        got = BACKEND.run(artifact, d, xs)
    for name, y in zip(graph.outputs, got.outputs, strict=True):
        assert y.dtype == want[name].dtype and np.array_equal(y, want[name])


# -- target files ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_every_file_is_a_64_bit_arm_with_a_pinned_core(name: str) -> None:
    target = get_target(name)
    assert target.family == "arm_cpu" and target.has("neon") and target.core.clock_hz > 1e9
    assert target.virtual["cpu"] in aarch64.CPUS and target.virtual["cpu"] != "max"
    assert [e.name for e in BACKEND.engines(target)] == [
        "c", "litert", "litert-fp16", "litert-int8", "tvm", "tvm-int8"]  # fmt: skip
    assert [e.name for e in BACKEND.engines(target) if e.exact] == ["c", "tvm", "tvm-int8"]
    assert target.memory_size("cache") > 0 and target.memory_size("dram") >= 1 << 30


@pytest.mark.parametrize(
    ("section", "value", "words"),
    [
        ("toolchain", {"cpu": "cortex_a99"}, "cortex_a99"),
        ("toolchain", {"cpu": "cortex_a53", "triple": "arm-linux-gnueabihf"}, "triple"),
        ("toolchain", {"cpu": "cortex_a76"}, "'lse'"),
        ("virtual", {"cpu": "max"}, "'max' is not emulated"),
        ("virtual", {}, "cpu"),
        ("config", {"fast": True}, "config"),
    ],
)
def test_wrong_sections_are_named(section: str, value: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match="cortex-a53") as caught:
        BACKEND.engines(changed("cortex-a53", **{section: value}))
    assert words in str(caught.value)


def test_unknown_and_unemulated_features_are_refused() -> None:
    core = get_target("cortex-a76").core.model_dump()
    with pytest.raises(InputError, match="'mmx' is no ISA feature"):
        BACKEND.engines(changed("cortex-a76", cores=[{**core, "features": ["neon", "mmx"]}]))
    with pytest.raises(InputError, match="virtual cpu cortex-a72 does not execute"):
        BACKEND.engines(changed("cortex-a76", virtual={"cpu": "cortex-a72"}))


# -- the device --------------------------------------------------------------------------------


def test_the_transport_lists_its_devices() -> None:
    found = {t.name: t for t in list_transports()}["qemu-user"]
    assert "virtual:aarch64" in found.devices and "virtual:cortex-a76" in found.devices
    assert found.usable == (aarch64.why_unusable() is None)


def test_without_qemu_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aarch64.shutil, "which", lambda _name: None)
    with pytest.raises(ToolchainError, match="apt-get install qemu-user"):
        open_device("virtual:aarch64")
    info = {t.name: t for t in list_transports()}["qemu-user"]
    assert not info.usable and "qemu-aarch64 is missing" in str(info.why_not)


@needs_qemu
@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF" + bytes(80)])
def test_only_static_arm_programs_are_taken(content: bytes) -> None:
    with open_device("virtual:aarch64") as d:
        d.push_bytes(content, "p")
        with pytest.raises(InputError, match="statically linked aarch64"):
            d.run(RunRequest("p"))


@needs_qemu
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs a program of another machine")
def test_a_program_for_this_machine_is_refused() -> None:
    with open_device("virtual:aarch64") as d:
        d.push(Path(sys.executable).resolve(), "p")
        with pytest.raises(InputError, match="machine 62"):
            d.run(RunRequest("p"))
        with pytest.raises(DeviceError, match="push it first"):
            d.run(RunRequest("nothing"))
        with pytest.raises(InputError, match="not inside"):
            d.push_bytes(b"", "../p")


@needs_qemu
def test_the_cpu_model_comes_from_the_target() -> None:
    with open_device("virtual:aarch64", target=get_target("raspberry-pi-5")) as d:
        assert d.info().details["cpu"] == "cortex-a76" and d.info().kind == "simulated"
    with open_device("virtual:aarch64") as d:
        assert d.info().details["cpu"] == "cortex-a53"


_PROGRAM = """
#include <stdint.h>
#include <string.h>
__attribute__((noinline)) int one(int n) {
  int s = 0;
  for (volatile int i = 0; i < n; i++) s += i;
  return s;
}
__attribute__((noinline)) int two(int n) {
  int s = 0;
  for (volatile int i = 0; i < n; i++) s += i;
  return s;
}
int main(int argc, char **argv) {
  if (argc > 1 && !strcmp(argv[1], "loop")) for (volatile int i = 0;; i++) { }
  if (argc > 1 && !strcmp(argv[1], "dot")) {
    __asm volatile(".arch_extension dotprod\\n sdot v0.4s, v1.16b, v2.16b" ::: "v0");
    return 7;
  }
  one(1000); two(3000);
  return 3;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edgekit_targets.mcu.toolchain import Unit, process_compiler

    folder = tmp_path_factory.mktemp("program")
    (folder / "p.c").write_text(_PROGRAM)
    compiler = process_compiler("aarch64-linux-musl", "cortex_a53")
    compiler.compile(folder, [Unit("p.c", "p.o")], (), "speed")
    compiler.link_program(folder, ["p.o"], "p")
    return folder / "p"


@needs_plugins
@needs_cc
@pytest.mark.slow
def test_instructions_are_counted_by_section_and_function(program: Path) -> None:
    with open_device("virtual:cortex-a53") as d:
        d.push(program, "p")
        request = RunRequest("p", trace=True, sections=("one", "two"))
        result, again = d.run(request), d.run(request)
    assert result.exit_code == 3 and result.trace is not None and result.trace == again.trace
    trace = result.trace
    start, one, two = trace.sections
    assert (start.name, one.name, two.name) == ("", "one", "two")
    assert trace.instructions == start.instructions + one.instructions + two.instructions
    by_name = {f.name: f for f in trace.functions}
    assert by_name["one"].calls == by_name["two"].calls == 1
    per_round = (by_name["two"].instructions - by_name["one"].instructions) / 2000
    assert per_round == int(per_round) and 4 <= per_round <= 12
    assert one.instructions - by_name["one"].instructions < 10, "main's few between the calls"
    assert trace.cycles is None and trace.core == "cortex-a53"


@needs_plugins
@needs_cc
@pytest.mark.slow
def test_budgets_and_unknown_sections(program: Path) -> None:
    with open_device("virtual:cortex-a53") as d:
        d.push(program, "p")
        with pytest.raises(DeviceError, match="within 100,000 instructions"):
            d.run(RunRequest("p", ("loop",), trace=True, max_instructions=100_000))
        with pytest.raises(InputError, match="no function 'three'"):
            d.run(RunRequest("p", trace=True, sections=("three",)))


@needs_qemu
@pytest.mark.slow
def test_hangs_and_missing_instructions_are_errors(program: Path) -> None:
    with open_device("virtual:cortex-a53") as d:
        d.push(program, "p")
        with pytest.raises(DeviceError, match="within 1 s"):
            d.run(RunRequest("p", ("loop",), timeout_s=1))
        with pytest.raises(DeviceError, match=r"illegal instruction.*it has neon"):
            d.run(RunRequest("p", ("dot",)))
    with open_device("virtual:cortex-a76") as d:
        d.push(program, "p")
        assert d.run(RunRequest("p", ("dot",))).exit_code == 7


# -- engine c ----------------------------------------------------------------------------------


@needs_qemu
@pytest.mark.slow
@pytest.mark.parametrize("target", ["cortex-a55", "cortex-a72", "galaxy-s23", "pixel-6"])
def test_every_core_gives_the_reference_bytes(target: str, tmp_path: Path) -> None:
    check_bytes(compile_with(tmp_path / "out", int8_net(), target, "c"))


@needs_qemu
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_networks_give_the_reference_bytes(seed: int, tmp_path: Path) -> None:
    check_bytes(compile_with(tmp_path / "out", random_net(seed, int8=True), "cortex-a53", "c"))


@needs_plugins
@pytest.mark.slow
def test_kernels_are_chosen_by_what_they_execute(a53: Artifact) -> None:
    assert a53.details["kernels_chosen_by"] == "measurement"
    counted = 0
    for row in a53.manifest["plan"]:
        costs = {c["variant"]: c.get("instructions") for c in row["candidates"]}
        known = [n for n in costs.values() if n is not None]
        if known and row["symbol"]:
            counted += 1
            assert costs[row["variant"]] == min(known), row["name"]
    assert counted
    assert any("_neon" in row["variant"] for row in a53.manifest["plan"])


def test_a_wrong_way_to_choose_kernels_is_named(tmp_path: Path) -> None:
    options = CompileOptions(engine="c", extra={"kernels": "guess"})
    with pytest.raises(InputError, match="measure or rank, not 'guess'"):
        BACKEND.compile(int8_net(), get_target("cortex-a76"), tmp_path, options)


@needs_qemu
@pytest.mark.slow
def test_layers_are_traced_and_counted(a53: Artifact) -> None:
    check_bytes(a53)
    graph = a53.graph
    xs = random_inputs(graph, np.random.default_rng(1), 2)
    want = reference.run(graph, xs, keep="all")
    with open_device("virtual:aarch64", target=a53.target) as d:
        layers = BACKEND.run(a53, d, xs, trace_layers=True).layers
        profile = BACKEND.profile(a53, d)
        counted = d.info().details["counts_instructions"]
    for k, values in enumerate(layers):
        for name, value in values.items():
            assert np.array_equal(value.reshape(-1), want[name][k].reshape(-1)), name
    assert profile.latency_ms is None and profile.cycles is None, "emulation has no latency"
    assert profile.kind == "simulated"
    assert [la.op for la in profile.layers] == [n.type for n in graph.nodes]
    if counted:
        conv = next(la for la in profile.layers if la.op == "CONV_2D")
        assert conv.instructions is not None and conv.instructions > conv.macs / 32
        assert profile.instructions == pytest.approx(
            sum(la.instructions or 0 for la in profile.layers), abs=100
        )
    else:
        assert profile.instructions is None and "absent" in profile.details


@needs_qemu
@pytest.mark.slow
def test_without_plugins_the_figure_is_absent(
    a53: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aarch64, "has_plugins", lambda _path: False)
    with open_device("virtual:aarch64", target=a53.target) as d:
        profile = BACKEND.profile(a53, d)
    assert (profile.instructions, profile.cycles, profile.latency_ms) == (None, None, None)
    assert all(la.instructions is None for la in profile.layers)
    assert "counts no instructions" in profile.details["absent"]


@pytest.mark.slow
def test_two_compilations_give_the_same_bytes(a53: Artifact, tmp_path: Path) -> None:
    other = compile_with(tmp_path / "elsewhere", int8_net(), "cortex-a53", "c")
    names = list(a53.manifest["files"])
    assert "runner" in names
    assert filecmp.cmpfiles(a53.path, other.path, names, shallow=False)[0] == names


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() == "aarch64", reason="this machine is an aarch64")
def test_arm_programs_do_not_run_on_another_host(a53: Artifact) -> None:
    xs = random_inputs(a53.graph, np.random.default_rng(1), 1)
    with open_device("host") as d, pytest.raises(DeviceError, match="is aarch64 and the host is"):
        BACKEND.run(a53, d, xs)


def test_models_too_large_for_the_board_are_refused(tmp_path: Path) -> None:
    from edgekit.errors import DoesNotFitError

    target = get_target("cortex-a53")
    small = dataclasses.replace(CompileOptions(), engine="c")
    tiny = changed(
        "cortex-a53",
        memories=[
            m.model_dump() | ({"size": 1024} if m.role == "dram" else {}) for m in target.memories
        ],
    )
    with pytest.raises(DoesNotFitError, match="1,024"):
        BACKEND.compile(int8_net(), tiny, tmp_path, small)


# -- engine litert -----------------------------------------------------------------------------


def test_litert_artifacts_need_a_python_to_be_emulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_AARCH64_PYTHON", str(tmp_path / "none"))
    artifact = compile_with(tmp_path / "out", int8_net(), "pixel-6", "litert")
    assert set(artifact.manifest["files"]) == {
        "model.tflite", "model.json", "interpret.py", "graph.ekg"}  # fmt: skip
    assert artifact.details["precision"] == "int8" and artifact.details["exact"] is False
    if aarch64.find_qemu():
        xs = random_inputs(artifact.graph, np.random.default_rng(1), 1)
        with open_device("virtual:aarch64") as d, pytest.raises(DeviceError, match="make it with"):
            BACKEND.run(artifact, d, xs)


@pytest.mark.parametrize("graph", [float_net(), int8_net()], ids=["float", "int8"])
def test_unknown_engines_and_options_are_refused(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no engine 'magic'; it has c, litert"):
        api.compile(graph, "pixel-6", tmp_path / "a", options=CompileOptions(engine="magic"))
    with pytest.raises(InputError, match="no option 'toolchain'"):
        api.compile(
            graph,
            "pixel-6",
            tmp_path / "b",
            options=CompileOptions(engine="litert", extra={"toolchain": "zig"}),
        )
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@needs_qemu
@pytest.mark.slow
def test_auto_keeps_the_verified_engine_and_says_why_not_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_AARCH64_PYTHON", str(tmp_path / "none"))
    graph = int8_net()
    document = api.deploy(graph, "raspberry-pi-4", data_for(graph), tmp_path / "out")
    assert document["engine"] in ("c", "tvm") and document["verify"]["mismatched_bytes"] == 0
    rows = {e["name"]: e for e in document["engines"]}
    assert rows["tvm"]["verified"] or rows["tvm"]["reason"]
    good = [e for e in rows.values() if e["verified"]]
    if all(e["total"]["instructions"] for e in good):
        kept = min(good, key=lambda e: e["total"]["instructions"])
        assert document["engine"] == kept["name"]
    assert rows["c"]["verified"] and rows["c"]["exact"] and rows["c"]["kind"] == "simulated"
    assert rows["litert"]["supported"] and not rows["litert"]["verified"]
    assert "make it with" in rows["litert"]["reason"]
    assert not rows["litert-fp16"]["supported"] and rows["litert-fp16"]["total"] is None
    assert Artifact.open(tmp_path / "out").result("engines") is not None


needs_python = pytest.mark.skipif(
    aarch64_python.find() is None,
    reason=f"no Python for the virtual device: {aarch64_python.MAKE_IT}",
)


@needs_qemu
@needs_python
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["litert", "litert-fp16"])
def test_litert_runs_on_the_virtual_device(engine: str, tmp_path: Path) -> None:
    graph = int8_net() if engine == "litert" else float_net()
    artifact = compile_with(tmp_path / "out", graph, "raspberry-pi-5", engine)
    xs = random_inputs(graph, np.random.default_rng(5), 8)
    want = reference.run(graph, xs)[graph.outputs[0]]
    with open_device("virtual:aarch64", target=artifact.target) as d:
        (got,) = BACKEND.run(artifact, d, xs).outputs
        profile = BACKEND.profile(artifact, d)
        counted = d.info().details["counts_instructions"]
    found = tolerance.judge(graph, artifact.details["precision"], [want], [got], False)
    assert found["passed"], found
    assert profile.latency_ms is None and profile.kind == "simulated"
    assert profile.tools["ai-edge-litert"] == "2.1.6"
    if counted:
        macs = sum(la.macs for la in profile.layers)
        assert profile.instructions is not None and macs / 64 < profile.instructions < 100 * macs
    else:
        assert profile.instructions is None


@needs_qemu
@needs_python
def test_scripts_have_no_sections() -> None:
    with open_device("virtual:cortex-a76") as d:
        d.push_bytes(b"import sys; print(sys.argv[1], sys.version_info[:2]); sys.exit(5)", "s.py")
        done = d.run(RunRequest("s.py", ("hello",)))
        assert done.exit_code == 5 and done.stdout == "hello (3, 11)\n"
        with pytest.raises(InputError, match="no functions"):
            d.run(RunRequest("s.py", trace=True, sections=("main",)))


def test_a_root_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEKIT_AARCH64_PYTHON", str(tmp_path / "root"))
    monkeypatch.setattr(aarch64_python.shutil, "which", lambda _name: None)
    assert aarch64_python.main() == 2
    assert "apt-get is missing" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setenv("EDGEKIT_AARCH64_PYTHON", str(tmp_path / "root"))
    monkeypatch.setattr(aarch64_python, "_PACKAGES", ("no-such-package-anywhere",))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("apt-get", "dpkg-deb"):
        (tmp_path / name).write_text("#!/bin/sh\necho E: no network >&2; exit 100\n")
        (tmp_path / name).chmod(0o755)
    assert aarch64_python.main() == 2
    assert "package lists failed: E: no network" in capsys.readouterr().err
    assert not (tmp_path / "root").exists() and not list(tmp_path.glob(".aarch64-*"))
