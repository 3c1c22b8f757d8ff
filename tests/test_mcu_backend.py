"""The microcontroller backend, end to end on virtual devices and on this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from mcu_case import compile_to, samples, small_net
from netgen import dead_network, quantized

from edgekit.artifact import Artifact
from edgekit.devices.base import RunRequest
from edgekit.devices.registry import open_device
from edgekit.errors import (
    DeviceError,
    DoesNotFitError,
    InputError,
    ToolchainError,
    UnsupportedError,
)
from edgekit.formats import load
from edgekit.graph import reference
from edgekit.graph.ir import Graph, QuantParams, Tensor
from edgekit.targets import get_backend, get_target
from edgekit.targets.base import CompileOptions
from edgekit.targets.schema import Target
from edgekit_targets.mcu import profile, toolchain
from edgekit_targets.mcu import project as mcu_project

BACKEND = get_backend("mcu")
HAS_QEMU = shutil.which("qemu-system-arm") is not None
HAS_GCC = shutil.which("arm-none-eabi-gcc") is not None
needs_qemu = pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-arm is not installed")
needs_gcc = pytest.mark.skipif(not HAS_GCC, reason="arm-none-eabi-gcc is not installed")


@pytest.fixture(scope="module")
def m4(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return compile_to(tmp_path_factory.mktemp("m4") / "out", small_net(), "cortex-m4")


def check_bytes(artifact: Artifact, n: int = 5, device: str | None = None) -> None:
    graph = artifact.graph
    xs = samples(graph, n)
    want = reference.run(graph, xs)
    with open_device(device or BACKEND.default_device(artifact.target)) as d:
        got = BACKEND.run(artifact, d, xs)
    for name, y in zip(graph.outputs, got.outputs, strict=True):
        assert y.dtype == want[name].dtype and np.array_equal(y, want[name])


def variant_of(target: Target, **changes: object) -> Target:
    return Target.model_validate({**target.model_dump(), **changes})


@pytest.mark.parametrize(
    "target",
    [
        "cortex-m0plus",
        pytest.param("cortex-m3", marks=pytest.mark.slow),
        "cortex-m4",
        pytest.param("cortex-m7", marks=pytest.mark.slow),
        "cortex-m33",
        pytest.param("cortex-m55", marks=needs_qemu),
        pytest.param("nucleo-f746zg", marks=pytest.mark.slow),
        "host",
    ],
)
def test_every_core_gives_the_reference_bytes(target: str, tmp_path: Path) -> None:
    check_bytes(compile_to(tmp_path / "out", small_net(), target))


@needs_gcc
@pytest.mark.parametrize(
    "target",
    [
        "cortex-m4",
        pytest.param("cortex-m0plus", marks=pytest.mark.slow),
        pytest.param("cortex-m33", marks=pytest.mark.slow),
        pytest.param("cortex-m55", marks=[pytest.mark.slow, needs_qemu]),
    ],
)
def test_gcc_gives_them_too(target: str, tmp_path: Path) -> None:
    artifact = compile_to(tmp_path / "out", small_net(), target, toolchain="gcc")
    assert list(artifact.manifest["tools"]) == ["gcc"]
    check_bytes(artifact)


@pytest.mark.parametrize("optimize", ["size", "ram"])
def test_every_preference_gives_them_too(m4: Artifact, optimize: str, tmp_path: Path) -> None:
    artifact = compile_to(tmp_path / "out", small_net(), optimize=optimize)
    check_bytes(artifact)
    key = {"size": "flash_bytes", "ram": "arena_bytes"}[optimize]
    assert artifact.manifest["memory"][key] <= m4.manifest["memory"][key]


@needs_qemu
def test_the_same_firmware_runs_on_qemu(m4: Artifact) -> None:
    check_bytes(m4, device="virtual:cortex-m4@qemu")


def test_two_compilations_give_the_same_bytes(tmp_path: Path) -> None:
    def digests(folder: Path) -> dict[str, str]:
        compile_to(folder, small_net())
        return {
            str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }

    (tmp_path / "elsewhere").mkdir()
    assert digests(tmp_path / "a") == digests(tmp_path / "elsewhere" / "b_longer_name")


def test_layers_are_traced(m4: Artifact) -> None:
    graph = m4.graph
    xs = samples(graph, 3)
    want = reference.run(graph, xs, keep="all")
    with open_device("virtual:cortex-m4") as d:
        got = BACKEND.run(m4, d, xs, trace_layers=True)
    assert len(got.layers) == 3
    for k, layers in enumerate(got.layers):
        assert list(layers) == [o for n in graph.nodes for o in n.outputs]
        for name, value in layers.items():
            assert np.array_equal(value.reshape(-1), want[name][k].reshape(-1)), name
    assert np.array_equal(got.outputs[0], want[graph.outputs[0]])


def test_profile_counts_every_layer(m4: Artifact) -> None:
    with open_device("virtual:cortex-m4") as d:
        result = BACKEND.profile(m4, d)
        again = BACKEND.profile(m4, d, samples(m4.graph, 2, seed=5))
    assert result.kind == "simulated"
    assert result.kinds == {
        "instructions": "simulated",
        "cycles": "estimated",
        "latency_ms": "estimated",
    }
    assert result.instructions is not None and result.cycles is not None
    layers = sum(la.instructions or 0 for la in result.layers)
    assert 0 <= result.instructions - layers < 60, "only the call itself lies outside of layers"
    assert sum(la.cycles or 0 for la in result.layers) == pytest.approx(result.cycles, rel=0.02)
    assert [la.op for la in result.layers] == [n.type for n in m4.graph.nodes]
    by_op = {la.op: la for la in result.layers}
    assert by_op["RESHAPE"].instructions == 0
    assert by_op["CONV_2D"].macs > 0
    clock = m4.target.core.clock_hz
    assert result.latency_ms == pytest.approx(1e3 * result.cycles / clock)
    assert again.instructions == pytest.approx(result.instructions, rel=0.05)
    assert result.to_json()["total"]["instructions"] == result.instructions


def test_memory_adds_up(m4: Artifact) -> None:
    with open_device("virtual:cortex-m4") as d:
        memory = BACKEND.profile(m4, d).memory
    assert memory["flash_bytes"] == memory["code_bytes"] + memory["constants_bytes"]
    assert memory["constants_bytes"] >= memory["weights_bytes"]
    assert (
        memory["ram_bytes"]
        == memory["arena_bytes"] + memory["data_bss_bytes"] + memory["stack_bytes"]
    )
    assert 64 < memory["stack_bytes"] < 1024
    sizes = mcu_project.read_sizes(m4.file("firmware.elf"))
    assert sizes.flash == memory["flash_bytes"]
    buffers = m4.manifest["memory"]["buffers"]
    assert max(b["offset"] + b["bytes"] for b in buffers) == memory["arena_bytes"]


def test_a_board_scales_the_cores_cycles(m4: Artifact) -> None:
    """The generic M4 stands for a board with slow flash; the bare core takes fewer cycles."""
    bare = variant_of(m4.target, name="bare", timing={"table": "m4"})
    other = Artifact(m4.path, {**m4.manifest, "target": bare.model_dump(mode="json")})
    with open_device("virtual:cortex-m4") as d:
        slow, fast = BACKEND.profile(m4, d), BACKEND.profile(other, d)
    assert slow.instructions == fast.instructions
    assert slow.cycles is not None and fast.cycles is not None
    assert slow.cycles == pytest.approx(1.3 * fast.cycles, rel=1e-3)
    assert (slow.details["cycle_scale"], fast.details["cycle_scale"]) == (1.3, 1.0)


def test_the_host_is_measured(tmp_path: Path) -> None:
    artifact = compile_to(tmp_path / "out", small_net(), "host")
    with open_device("host") as d:
        result = BACKEND.profile(artifact, d)
    assert result.kind == "measured" and set(result.kinds.values()) == {"measured"}
    assert result.instructions is None and result.cycles is None
    assert result.latency_ms is not None and 0 < result.latency_ms < 1000
    assert all(la.time_ms is not None and la.time_ms >= 0 for la in result.layers)
    assert max(la.time_ms or 0 for la in result.layers) > 0


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flash", "ram", "told"),
    [
        (1 << 20, 2500, r"at least .* bytes of flash .*bytes of RAM \(cortex-m4 has 2,500: too"),
        (800, 1 << 20, r"at least .* bytes of flash \(cortex-m4 has 800: too little\) and"),
        (4000, 1 << 20, r"it needs \d+,\d+ bytes of flash \(cortex-m4 has 4,000: too little\)"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_numbers(
    flash: int, ram: int, told: str, tmp_path: Path
) -> None:
    target = variant_of(
        get_target("cortex-m4"),
        memories=[
            {"name": "flash", "role": "flash", "base": 0, "size": flash},
            {"name": "ram", "role": "ram", "base": 0x20000000, "size": ram},
        ],
    )
    with pytest.raises(DoesNotFitError, match=told):
        compile_to(tmp_path / "out", small_net(), target)


def test_nodes_without_a_kernel_are_named(tmp_path: Path) -> None:
    g = Graph("float", {k: Tensor(k, (1, 4), "float32") for k in "xy"}, [], ("x",), ("y",))
    g.add_node("TANH", ["x"], ["y"], name="t1")
    target = get_target("cortex-m4")
    (missing,) = BACKEND.supports(g, target, "c")
    assert (missing.node, missing.op) == ("t1", "TANH")
    with pytest.raises(UnsupportedError, match=r"cortex-m4 cannot take node 't1' \(TANH\)"):
        compile_to(tmp_path / "out", g)


def test_unknown_engines_and_options_are_refused(tmp_path: Path) -> None:
    g, t = small_net(), get_target("cortex-m4")
    with pytest.raises(InputError, match="no engine 'tvm'; it has: c"):
        BACKEND.compile(g, t, tmp_path, CompileOptions(engine="tvm"))
    with pytest.raises(InputError, match="no option 'speedup'"):
        BACKEND.compile(g, t, tmp_path, CompileOptions(extra={"speedup": 2}))
    with pytest.raises(ToolchainError, match="there are auto, zig, gcc and best"):
        BACKEND.compile(g, t, tmp_path, CompileOptions(extra={"toolchain": "icc"}))
    assert not list(tmp_path.iterdir())


def test_missing_compilers_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(toolchain, "zig_program", lambda: None)
    monkeypatch.setattr(toolchain.shutil, "which", lambda _name: None)
    for target, what in [("cortex-m4", "pip install ziglang"), ("host", "apt install gcc")]:
        (engine,) = BACKEND.engines(get_target(target))
        assert not engine.usable and what in str(engine.why_not)
        with pytest.raises(ToolchainError, match=what):
            BACKEND.compile(small_net(), get_target(target), tmp_path, CompileOptions())
    with pytest.raises(ToolchainError, match="apt install gcc-arm-none-eabi"):
        options = CompileOptions(extra={"toolchain": "gcc"})
        BACKEND.compile(small_net(), get_target("cortex-m4"), tmp_path, options)


def test_a_compilers_error_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.c").write_text("int f(void) {\n  return missing;\n}\n")
    compiler = toolchain.host_compiler()
    with pytest.raises(ToolchainError, match=r"compiling bad.c failed: bad.c:2.*missing") as e:
        compiler.compile(tmp_path, [toolchain.Unit("bad.c", "bad.o")], (), "speed")
    assert "\n" not in str(e.value)
    assert "return missing" in e.value.log  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", ["cortex-m0plus", "cortex-m4"])
def test_floats_at_the_border_work_without_an_fpu(target: str, tmp_path: Path) -> None:
    """QUANTIZE and DEQUANTIZE: the one use of software floating point, brought by zig itself."""
    q = QuantParams.per_tensor(0.05, 3)
    g = Graph("border", {k: Tensor(k, (1, 40), "float32") for k in "xy"}, [], ("x",), ("y",))
    g.tensors["i"] = Tensor("i", (1, 40), "int8", q)
    g.add_node("QUANTIZE", ["x"], ["i"])
    g.add_node("DEQUANTIZE", ["i"], ["y"])
    artifact = compile_to(tmp_path / "out", g.validate(), target)
    check_bytes(artifact)


def test_wrong_inputs_are_refused(m4: Artifact) -> None:
    x = samples(m4.graph, 2)[0]
    with open_device("virtual:cortex-m4") as d:
        for bad, told in [
            ([x.astype(np.float32)], "takes int8; float32"),
            ([x[:, :4]], r"takes arrays of shape \[8, 8, 3\]"),
            ([x[0]], "samples along a first axis"),
            ([x, x], "has 1 inputs; 2 were given"),
        ]:
            with pytest.raises(InputError, match=told):
                BACKEND.run(m4, d, bad)


def test_the_test_program_says_what_is_wrong(m4: Artifact) -> None:
    with open_device("virtual:cortex-m4") as d:
        d.push(m4.file("firmware.elf"), "f.elf")
        d.push_bytes(b"\0" * 100, "short.bin")
        for args, words in [
            (("run", "short.bin", "o.bin"), "ends inside a sample"),
            (("run", "none.bin", "o.bin"), "cannot open the input"),
            (("trace", "short.bin", "o.bin"), "without EDGEKIT_TRACE"),
            (("dance", "short.bin", "o.bin"), "usage"),
            ((), "usage"),
        ]:
            result = d.run(RunRequest("f.elf", args))
            assert result.exit_code == 2 and words in result.stdout


@needs_qemu
def test_a_fault_is_reported_with_its_address(tmp_path: Path) -> None:
    """A kernel that runs wild: the firmware's own fault handler says where, on real exceptions."""
    artifact = compile_to(tmp_path / "out", small_net())
    work = tmp_path / "work"
    shutil.copytree(artifact.path, work)
    model = work / "src/edgekit_model.c"
    text = model.read_text("utf-8")
    wild = "  *(volatile uint32_t *)0xF0000000u = 1;\n  return 0;\n}\n\nvoid *edgekit_model_input"
    assert "  return 0;\n}\n\nvoid *edgekit_model_input" in text
    model.write_text(text.replace("  return 0;\n}\n\nvoid *edgekit_model_input", wild), "utf-8")
    from edgekit_targets.mcu.config import parse
    from edgekit_targets.mcu.memory import Plan

    target = parse(artifact.target)
    assert target.toolchain is not None
    sources = [n for n in artifact.manifest["files"] if n.endswith(".c") and "runtime" not in n]
    built = mcu_project.Project((), tuple(sources))
    plan = Plan(8192, 8192, (), {}, {}, {})
    compiler = toolchain.arm_compiler(target.toolchain)
    mcu_project.build_firmware(work, built, plan, 4096, target, compiler, "speed")
    with open_device("virtual:cortex-m4@qemu") as d:
        d.push(work / "firmware.elf", "f.elf")
        d.push_bytes(samples(small_net(), 1)[0].tobytes(), "in.bin")
        with pytest.raises(
            DeviceError, match=r"code 4: fault, exception 03 at pc 0000[0-9a-f]{4}$"
        ):
            profile.execute(d, "f.elf", ("run", "in.bin", "out.bin"))


# -- the reference models -----------------------------------------------------------------------

#: flash, RAM, instructions that a Cortex-M4 may take at most (TFLM with CMSIS-NN takes more).
LIMITS = {
    "ic_resnet8_int8": (110_000, 54_000, 45_000_000),
    "kws_dscnn_int8": (55_000, 22_000, 14_000_000),
    "ad_fcae_int8": (300_000, 2_500, 900_000),
}


@pytest.mark.parametrize("model", LIMITS)
def test_reference_models_on_the_cortex_m4(model: str, shared: Path, tmp_path: Path) -> None:
    graph = load(shared / "zoo" / f"{model}.tflite")
    artifact = compile_to(tmp_path / "out", graph)
    check_bytes(artifact, n=3)
    with open_device("virtual:cortex-m4") as d:
        result = BACKEND.profile(artifact, d)
    flash, ram, instructions = LIMITS[model]
    assert result.memory["flash_bytes"] <= flash
    assert result.memory["ram_bytes"] <= ram
    assert result.instructions is not None and result.instructions <= instructions


@pytest.mark.slow
def test_mobilenet_is_refused_for_the_cortex_m4_with_both_numbers(
    shared: Path, tmp_path: Path
) -> None:
    graph = load(shared / "zoo" / "mobilenet_v2_1.0_224_int8.tflite")
    told = (
        r"at least 3,\d{3},\d{3} bytes of flash \(cortex-m4 has 2,097,152: too little\) and "
        r"1,\d{3},\d{3} bytes of RAM \(cortex-m4 has 655,360: too little\)"
    )
    with pytest.raises(DoesNotFitError, match=told):
        compile_to(tmp_path / "out", graph)


@pytest.mark.slow
def test_mobilenet_runs_on_the_host(shared: Path, tmp_path: Path) -> None:
    graph = load(shared / "zoo" / "mobilenet_v2_1.0_224_int8.tflite")
    check_bytes(compile_to(tmp_path / "out", graph, "host"), n=3)


def test_results_of_many_inputs_and_outputs_keep_their_order(tmp_path: Path) -> None:
    """Two inputs, three outputs, one of them an intermediate value that must survive."""
    graph = small_net().copy()
    conv = next(n for n in graph.nodes if n.type == "CONV_2D")
    x = graph.tensor(graph.inputs[0])
    add_in = graph.tensor(conv.outputs[0])
    graph.tensors["second"] = dataclasses.replace(add_in, name="second", data=None)
    first_add = next(i for i, n in enumerate(graph.nodes) if n.type == "ADD")
    node = graph.nodes[first_add]
    graph.nodes[first_add] = node.with_(inputs=(node.inputs[0], "second"))
    graph.inputs = (x.name, "second")
    graph.outputs = (*graph.outputs, conv.outputs[0], x.name)
    graph.prune()
    artifact = compile_to(tmp_path / "out", graph.validate())
    check_bytes(artifact)
    xs = samples(graph, 2)
    want = reference.run(graph, xs)
    with open_device("virtual:cortex-m4") as d:
        got = BACKEND.run(artifact, d, xs, trace_layers=True)
    for name, y in zip(graph.outputs, got.outputs, strict=True):
        assert np.array_equal(y, want[name])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_random_networks(seed: int, tmp_path: Path) -> None:
    """Concatenation, padding, odd shapes, hard swish, mean: whatever the generator draws."""
    rng = np.random.default_rng(1000 + seed)
    graph = quantized(dead_network(rng, 0.3), rng)
    targets = ["cortex-m4", "cortex-m0plus", "host"] + (["cortex-m55"] if HAS_QEMU else [])
    for target in targets:
        check_bytes(compile_to(tmp_path / target, graph, target))
