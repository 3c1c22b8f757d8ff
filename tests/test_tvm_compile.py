"""Compiled models against the reference, on the host and on the virtual aarch64; needs TVM."""

from __future__ import annotations

import platform
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import opgen
import pytest
import tvm_case

from edgekit import formats
from edgekit.errors import DeviceError, ToolchainError, UnsupportedError
from edgekit.graph import reference
from edgekit.graph.ir import QuantParams, Tensor
from edgekit_targets.tvm_ import build, check, isa, runner, tune, worker

pytestmark = pytest.mark.slow

V4 = ["avx512f", "avx512bw", "avx512vl", "avx512dq"]
X86 = {
    "avx512vnni": isa.x86_64([*V4, "avx512vnni"]),
    "avx512": isa.x86_64(V4),
    "avxvnni": isa.x86_64(["avx2", "fma", "avxvnni"]),
    "avx2": isa.x86_64(["avx2", "fma"]),
    "sse": isa.x86_64([]),
}
ARM = {"cortex-a76": isa.aarch64("cortex-a76"), "cortex-a53": isa.aarch64("cortex-a53")}
LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
FLOAT = (*LINEAR, "BATCH_MATMUL", "ADD", "MUL", "MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN")


@pytest.fixture(autouse=True)
def _tvm() -> None:
    tvm_case.needs_tvm()


def _runnable(target: isa.CpuTarget) -> None:
    """Skip where neither this CPU nor an emulator can run the target's code."""
    if target.arch != platform.machine():
        if shutil.which(f"qemu-{target.arch}-static") is None or runner.sysroot() is None:
            pytest.skip(f"qemu-{target.arch}-static or its C library is not installed")
        return
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").replace("_", "")
    needed = {512: "avx512vl", 256: "avx2"}.get(target.bits, "")
    extra = [f.lstrip("+") for f in target.features]
    if any(f not in flags for f in (needed, *extra)):
        pytest.skip(f"this CPU lacks {needed} {' '.join(extra)}")


def _check(cases: list[tvm_case.Case], target: isa.CpuTarget, folder: Path) -> None:
    assert cases
    for k in range(0, len(cases), 40):
        graph, x = tvm_case.merge(cases[k : k + 40])
        build.compile_model(graph, target, folder)
        got = runner.run(folder, graph, target, x)
        assert tvm_case.mismatches(graph, got, reference.run(graph, x)) == []


@pytest.mark.parametrize("name", X86)
def test_linear_layers_are_exact_with_every_x86_dot_product(name: str, tmp_path: Path) -> None:
    target = X86[name]
    _runnable(target)
    cases = [c for op in LINEAR for c in tvm_case.supported_cases(op, range(12), target)]
    _check(cases, target, tmp_path)


@pytest.mark.parametrize("name", ["host", *ARM])
def test_every_operator_is_exact(name: str, tmp_path: Path) -> None:
    target = isa.host() if name == "host" else ARM[name]
    _runnable(target)
    cases = [
        c for op in sorted(opgen.CASES) for c in tvm_case.supported_cases(op, range(3), target)
    ]
    assert len({g.nodes[0].type for g, _ in cases}) >= 35
    _check(cases, target, tmp_path)


def test_float_operators(tmp_path: Path) -> None:
    target = isa.host()
    cases = [c for op in FLOAT for c in tvm_case.supported_cases(op, range(4), target, "float32")]
    _check(cases, target, tmp_path)


def test_float_functions(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    x = Tensor("x", (1, 4, 6, 17), "float32")
    attrs = {"LEAKY_RELU": {"alpha": 0.1}, "SOFTMAX": {"beta": 1.0}}
    unary = "LOGISTIC TANH RELU RELU6 RELU_N1_TO_1 HARD_SWISH ABS EXP NEG LEAKY_RELU SOFTMAX"
    graphs = [opgen.single(op, [x], attrs.get(op, {}), "float32", None) for op in unary.split()]
    for approximate in (False, True):
        graphs.append(opgen.single("GELU", [x], {"approximate": approximate}, "float32", None))
    for op in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
        how = {"size": (9, 5), "align_corners": False, "half_pixel_centers": True}
        graphs.append(opgen.single(op, [x], how, "float32", None))
    alpha = Tensor("alpha", (17,), "float32", data=rng.normal(size=17).astype(np.float32))
    graphs.append(opgen.single("PRELU", [x, alpha], {}, "float32", None))
    norm = [x, alpha, alpha.with_(name="beta")]
    graphs.append(opgen.single("LAYER_NORM", norm, {"epsilon": 1e-5}, "float32", None))
    graphs.append(opgen.single("QUANTIZE", [x], {}, "int8", QuantParams.per_tensor(0.02, -3)))
    graphs.append(
        opgen.single(
            "PAD",
            [x],
            {"paddings": ((0, 0), (1, 2), (0, 3), (0, 0)), "value": 0.5},
            "float32",
            None,
        )
    )
    cases = [(g, [rng.normal(size=(2, 4, 6, 17)).astype(np.float32)]) for g in graphs]
    _check(cases, isa.host(), tmp_path)


def _model(shared: Path, name: str):
    graph = formats.load(shared / "zoo" / f"{name}.tflite")
    rng = np.random.default_rng(7)
    inputs = []
    for i in graph.inputs:
        t = graph.tensor(i)
        shape = (2, *t.shape[1:])
        if t.is_float:
            inputs.append(rng.standard_normal(shape).astype(np.float32))
        else:
            info = np.iinfo(t.dtype)
            inputs.append(rng.integers(info.min, info.max + 1, shape).astype(t.dtype))
    return graph, inputs


@pytest.mark.parametrize(
    "name", ["ic_resnet8_int8", "kws_dscnn_int8", "ad_fcae_int8", "mobilenet_v2_1.0_224_int8"]
)
@pytest.mark.parametrize("where", ["host", *ARM])
def test_int8_networks_are_the_oracles_bytes(
    name: str, where: str, shared: Path, tmp_path: Path
) -> None:
    """On real silicon and on the virtual aarch64; and the dot products are in the assembly."""
    import oracle

    target = isa.host() if where == "host" else ARM[where]
    _runnable(target)
    graph, x = _model(shared, name)
    built = build.compile_model(graph, target, tmp_path, assembly=True)
    got = runner.run(tmp_path, graph, target, x)
    tflm = oracle.run_tflm((shared / "zoo" / f"{name}.tflite").read_bytes(), x, arena=16 << 20)
    for a, b in zip(got, tflm, strict=True):
        assert np.array_equal(a.ravel(), np.asarray(b).ravel())
    wanted = {"vnni": "vpdpbusd", "sdot": "sdot", "pmaddwd": "vpmaddwd"}.get(target.dot.name)
    if wanted:
        assert built.instructions[wanted] >= len(built.tasks)
    assert set(built.untuned) == set(built.tasks)  # no records were given: marked, every one


def test_float_network(shared: Path, tmp_path: Path) -> None:
    graph, x = _model(shared, "ic_resnet8_float")
    build.compile_model(graph, isa.host(), tmp_path)
    got = runner.run(tmp_path, graph, isa.host(), x)
    assert tvm_case.mismatches(graph, got, reference.run(graph, x)) == []


def test_a_trace_has_every_layer(shared: Path, tmp_path: Path) -> None:
    graph, x = _model(shared, "kws_dscnn_int8")
    built = build.compile_model(graph, isa.host(), tmp_path)
    got = runner.trace(tmp_path, graph, built.plan, isa.host(), x)
    want = reference.run(graph, x, keep="all")
    assert len(got) == len(x[0])
    for k, layers in enumerate(got):
        assert list(layers) == [o for n in graph.nodes for o in n.outputs]
        for name, value in layers.items():
            assert np.array_equal(value.ravel(), want[name][k].ravel()), name


def test_times_cover_the_layers(shared: Path, tmp_path: Path) -> None:
    graph, x = _model(shared, "ic_resnet8_int8")
    built = build.compile_model(graph, isa.host(), tmp_path)
    total = runner.time_model(tmp_path, graph, isa.host(), x, 20)
    layers = runner.time_layers(tmp_path, graph, isa.host(), x, 20)
    assert len(total) == 20 and min(total) > 0
    functions = {row["function"] for row in built.plan if "function" in row}
    assert functions <= set(layers)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    graph, _ = opgen.conv_2d(np.random.default_rng(5))
    for name in ("a", "b"):
        build.compile_model(graph, ARM["cortex-a76"], tmp_path / name)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert "model.so" in files and "runner" in files
    for name in files:
        a, b = ((tmp_path / d / name).read_bytes() for d in "ab")
        assert a == b, name
        if name in ("model.so", "runner"):
            assert not re.search(rb"/(tmp|home|root|work)/", a), name


def _tiled_conv() -> tvm_case.Case:
    """A convolution that the vector kernels take, with a choice of tiles."""
    for seed in range(100):
        graph, x = opgen.conv_2d(np.random.default_rng(seed))
        if any(len(t) >= 8 for t in tune.tasks_of(graph, isa.host()).values()):
            return graph, x
    raise AssertionError("no random convolution has eight candidate tiles")


def test_every_candidate_tile_is_exact(tmp_path: Path) -> None:
    graph, x = _tiled_conv()
    target = isa.host()
    want = reference.run(graph, x)[graph.outputs[0]]
    ((key, tiles),) = tune.tasks_of(graph, target).items()
    build.build_runner(target, tmp_path)
    (tmp_path / "runner").chmod(0o755)
    (tmp_path / "model.io").write_text(build.describe(graph))
    for tile in tiles[:12]:
        build.compile_library(graph, target, tmp_path / "model.so", tiles={key: tile.to_json()})
        assert np.array_equal(runner.run(tmp_path, graph, target, x)[0], want), tile


def test_refusals_leave_nothing_behind(tmp_path: Path) -> None:
    graph, _ = opgen.conv_2d(np.random.default_rng(0), "int16")
    with pytest.raises(UnsupportedError, match="int16") as e:
        build.compile_model(graph, isa.host(), tmp_path / "out")
    assert e.value.unsupported[0][1] == "CONV_2D"
    good, _ = opgen.conv_2d(np.random.default_rng(3))
    with pytest.raises(ToolchainError, match="longer than"):
        build.compile_model(good, isa.host(), tmp_path / "out", timeout_s=0.05)
    bad_cpu = isa.CpuTarget("nonsense-linux-gnu", "x", dot_name="widen")
    with pytest.raises(ToolchainError) as failed:
        build.compile_model(good, bad_cpu, tmp_path / "out")
    assert "\n" not in str(failed.value)
    assert not (tmp_path / "out").exists()


def test_a_crash_of_the_worker_is_one_sentence(tmp_path: Path, monkeypatch) -> None:
    import subprocess

    def crash(*a, **k):
        return subprocess.CompletedProcess(a, -signal.SIGSEGV, b"", b"Segmentation fault\n")

    monkeypatch.setattr(worker.subprocess, "run", crash)
    with pytest.raises(ToolchainError, match=r"crashed \(signal 11\)"):
        worker.call({"do": "compile"}, tmp_path)


def test_broken_models_and_inputs_are_reported_by_the_runner(tmp_path: Path) -> None:
    graph, x = opgen.conv_2d(np.random.default_rng(3))
    build.compile_model(graph, isa.host(), tmp_path)
    data = (tmp_path / "model.so").read_bytes()
    with pytest.raises(DeviceError, match="inside a sample"):
        _short(tmp_path)
    (tmp_path / "model.so").write_bytes(b"no library at all" * 100)
    with pytest.raises(DeviceError, match="cannot load the model"):
        runner.run(tmp_path, graph, isa.host(), x)
    (tmp_path / "model.so").write_bytes(data[: len(data) // 2])  # the dynamic linker may crash
    with pytest.raises(DeviceError, match="tvm runner failed"):
        runner.run(tmp_path, graph, isa.host(), x)


def _short(folder: Path) -> None:
    source = folder / "short.bin"
    source.write_bytes(b"x")
    runner._run(folder, isa.host(), ["run", str(source), str(folder / "o")], "model", 60)


def test_versions_are_on_record(tmp_path: Path) -> None:
    graph, _ = opgen.conv_2d(np.random.default_rng(3))
    built = build.compile_model(graph, isa.host(), tmp_path)
    assert built.tools == check.tools() and set(built.tools) == {"apache-tvm", "apache-tvm-ffi"}


def test_float_depthwise_borders_need_no_copy(tmp_path: Path) -> None:
    """Whole vectors of channels: taps outside of the input are left out, row by row."""
    rng = np.random.default_rng(0)
    cases = []
    for shape, kernel, stride, padding, dilation in (
        ((8, 9, 32), (3, 3), 2, "SAME", 1),
        ((5, 5, 48), (5, 5), 1, "SAME", 1),
        ((1, 3, 16), (3, 3), 2, "SAME", 1),
        ((2, 2, 16), (3, 3), 1, (1, 1, 1, 1), 1),
        ((9, 9, 16), (3, 3), 1, (2, 2, 2, 2), 2),
        ((6, 6, 16), (1, 3), 1, "SAME", 1),
    ):
        c = shape[2]
        x = Tensor("x", (1, *shape), "float32")
        weights = rng.normal(size=(1, *kernel, c)).astype(np.float32)
        w = Tensor("w", weights.shape, "float32", data=weights)
        b = Tensor("b", (c,), "float32", data=rng.normal(size=c).astype(np.float32))
        how = {"stride": (stride, stride), "padding": padding, "dilation": (dilation, dilation),
               "depth_multiplier": 1, "activation": "RELU6"}  # fmt: skip
        graph = opgen.single("DEPTHWISE_CONV_2D", [x, w, b], how, "float32", None)
        cases.append((graph, [rng.normal(size=(2, *shape)).astype(np.float32)]))
    _check(cases, isa.host(), tmp_path)
