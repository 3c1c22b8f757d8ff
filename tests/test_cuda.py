"""NVIDIA GPUs: code generation, compilation to machine code, the launch plan, and the kernels
themselves: on a GPU where there is one (device ``cuda``), else executed thread by thread on this
machine (``virtual:cuda``)."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import opgen
import pytest
import tvm_case
from engine_case import changed, compile_with, data_for, float_net, int8_net

from edgekit import api
from edgekit.artifact import Artifact
from edgekit.devices import open_device
from edgekit.errors import DeviceError, InputError, UnsupportedError
from edgekit.graph import reference
from edgekit.graph.ir import Graph
from edgekit.targets import get_backend, get_target
from edgekit_targets.cuda_ import build, gemm, support, toolchain, virtual
from edgekit_targets.tvm_.linear import Window

GPUS = ("a100", "h100", "h200")
LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@pytest.fixture
def compiler() -> None:
    """Skip where no CUDA kernels can be compiled."""
    tvm_case.needs_tvm()
    reason = build.why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(params=["virtual", "gpu"])
def device(request: pytest.FixtureRequest) -> str:
    """The name of a device that runs kernels; the GPU is skipped where there is none."""
    if request.param == "virtual":
        return virtual.NAME
    reason = virtual.why_no_gpu()
    if reason is not None:
        pytest.skip(reason)
    return "cuda"


def run(art: Artifact, device: str, x: list[np.ndarray], trace: bool = False):  # type: ignore[no-untyped-def]
    with open_device(device, target=art.target) as dev:
        return get_backend("server").run(art, dev, x, trace_layers=trace)


def inputs_for(graph: Graph, samples: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = []
    for name in graph.inputs:
        t = graph.tensor(name)
        shape = (samples, *t.shape[1:])
        if t.is_float:
            found.append(rng.normal(0, 1, shape).astype(np.float32))
        else:
            info = np.iinfo(t.dtype)
            found.append(rng.integers(info.min, info.max + 1, shape).astype(t.dtype))
    return found


# -- targets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GPUS)
def test_files_describe_gpus(name: str) -> None:
    target = get_target(name)
    assert target.core.isa in ("sm_80", "sm_90")
    assert {"tc-fp16", "tc-tf32", "tc-int8"} <= set(target.core.features)
    assert target.memory_size("dram") >= 80 << 30
    names = [e.name for e in get_backend("server").engines(target)]
    assert names[:4] == ["cuda", "cuda-tf32", "cuda-fp16", "cuda-int8"]
    assert {"onnxruntime-cuda", "onnxruntime-tensorrt"} <= set(names)
    assert "c" not in names


def test_processors_have_no_gpu_engines() -> None:
    names = [e.name for e in get_backend("server").engines(get_target("x86-64-host"))]
    assert not any(n.startswith("cuda") for n in names)
    with pytest.raises(InputError, match="has no engine 'cuda'"):
        get_backend("server").supports(int8_net(), get_target("x86-64-host"), "cuda")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"config": {}}, "compute_capability"),
        ({"config": {"compute_capability": "nine"}}, "compute_capability"),
        ({"config": {"compute_capability": "8.0"}}, "sm_90.*does not belong"),
        ({"config": {"compute_capability": "9.0", "warps": 1}}, "warps"),
        ({"toolchain": {"cpu": "native"}}, "toolchain"),
        (
            {
                "config": {"compute_capability": "7.5"},
                "cores": [{"name": "t", "isa": "sm_75", "clock_hz": 1}],
            },
            "older than 8.0",
        ),
        ({"cores": [{"name": "h", "isa": "sm_90", "clock_hz": 1, "features": ["avx2"]}]}, "avx2"),
        (
            {"cores": [{"name": "h", "isa": "sm_90", "clock_hz": 1, "features": ["dp4a"]}]},
            "tc-fp16",
        ),
    ],
)
def test_wrong_sections_are_named(sections: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        get_backend("server").check(changed("h100", **sections))


def test_unsupported_nodes_are_named() -> None:
    graph, _ = opgen.CASES["FULLY_CONNECTED"](np.random.default_rng(0))
    node = graph.nodes[0]
    weights = graph.tensor(node.inputs[1])
    if weights.quant is None:
        pytest.skip("the generator made a float layer")
    import dataclasses

    shifted = dataclasses.replace(weights.quant, zero_point=np.array([3]))
    graph.tensors[weights.name] = weights.with_(quant=shifted)
    (found,) = support.unsupported(graph)
    assert "zero point" in found.reason and found.node == node.name


def test_gpus_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual, "why_no_gpu", lambda: "no NVIDIA GPU: the driver is asleep")
    with pytest.raises(DeviceError, match=r"no NVIDIA GPU.*virtual:cuda"):
        open_device("cuda", target=get_target("h100"))
    assert get_backend("server").default_device(get_target("h100")) == "virtual:cuda"
    listed = {t["name"]: t for t in api.devices()["transports"]}
    assert listed["cuda"]["why_not"] == "no NVIDIA GPU: the driver is asleep"


# -- packing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["s8", "f16", "tf32", "f32"])
@pytest.mark.parametrize("channels", [1, 3, 4, 8, 17])
def test_packed_weights_hold_every_weight_once(kind: gemm.Kind, channels: int) -> None:
    win = Window(9, 9, channels, 7, 7, 5, (3, 3), (1, 1), (1, 1), (0, 0, 0, 0))
    t = gemm.tiling(win, kind)
    weights = np.arange(1, 5 * 9 * channels + 1).reshape(5, 3, 3, channels) % 127 - 63
    words = gemm.pack(weights.astype(np.float32), kind, t)
    assert words.shape == (t.padded_outputs, t.depth_words) and t.depth_words % t.words == 0
    dtype = {"s8": np.int8, "f16": np.float16}.get(kind, np.float32)
    back = words.view(dtype)[:5, : 9 * t.cell_words * gemm.PER_WORD[kind]]
    back = back.reshape(5, 9, -1)
    np.testing.assert_array_equal(back[:, :, :channels].reshape(weights.shape), weights)
    assert not back[:, :, channels:].any() and not words[5:].any()


def test_tf32_keeps_ten_bits() -> None:
    x = np.array([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 2**-12, -3.5, 0.0], np.float32)
    got = gemm.rounded_tf32(x).view(np.float32)
    assert got.tolist() == [1.0, 1 + 2**-10, 1 + 2**-10, 1.0, -3.5, 0.0]


# -- machine code --------------------------------------------------------------------------------


SOURCE = 'extern "C" __global__ void k(int* a) { __shared__ int s[64]; s[threadIdx.x] = a[0]; '
SOURCE += "__syncthreads(); a[threadIdx.x] = s[63 - threadIdx.x]; }\n"


def test_figures_of_the_assembler_are_read() -> None:
    log = """ptxas info    : Compiling entry function 'k' for 'sm_80'
    0 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 31 registers, used 1 barriers, 7664 bytes smem, 384 bytes cmem[0]
ptxas info    : Compiling entry function 'other' for 'sm_80'
ptxas info    : Used 9 registers, used 0 barriers, 384 bytes cmem[0]"""
    found = toolchain.resources(log)
    assert found["k"] == {"registers": 31, "shared_bytes": 7664, "spill_bytes": 8}
    assert found["other"] == {"registers": 9, "shared_bytes": 0, "spill_bytes": 0}


@pytest.mark.parametrize("which", ["nvcc", "nvrtc"])
def test_both_compilers_make_machine_code(which: str) -> None:
    found = toolchain._nvcc() if which == "nvcc" else toolchain._nvrtc()
    if found is None:
        pytest.skip(f"{which} is not installed: pip install 'edgekit[cuda]' brings NVRTC")
    prelude = (build.RUNTIME / "prelude.cuh").read_text("utf-8")
    for arch in ("sm_80", "sm_90"):
        code, log = toolchain.compile_source(found, prelude + SOURCE, arch)
        assert toolchain.kernels_in(code)["k"] > 0
        assert toolchain.resources(log)["k"]["shared_bytes"] >= 256
    ptx, _ = toolchain.compile_source(found, prelude + SOURCE, "compute_80")
    assert b".visible .entry k(" in ptx
    from edgekit.errors import ToolchainError

    with pytest.raises(ToolchainError, match="cannot compile the kernels for sm_80") as told:
        toolchain.compile_source(found, "this is no C", "sm_80")
    assert "\n" not in str(told.value)


def test_without_a_compiler_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "find", lambda: None)
    tvm_case.needs_tvm()
    infos = {e.name: e for e in get_backend("server").engines(get_target("h100"))}
    assert not infos["cuda"].usable
    assert "neither nvcc nor NVRTC is here" in (infos["cuda"].why_not or "")


@functools.cache
def _compiled(name: str, engine: str, target: str, folder: Path) -> Artifact:
    graph = {"int8": int8_net, "float": float_net}[name]()
    return compile_with(folder / f"{name}-{engine}-{target}", graph, target, engine)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda")


@pytest.mark.slow
def test_machine_code_uses_the_tensor_cores(compiler: None, place: Path) -> None:
    art = _compiled("int8", "cuda", "a100", place)
    ptx = art.file("kernels.ptx").read_text("ascii")
    assert "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32" in ptx and ".target sm_80" in ptx
    assert "dp4a.s32.s32" in ptx
    kernels = [k for row in art.manifest["plan"] for k in row["kernels"]]
    in_module = toolchain.kernels_in(art.file("kernels.cubin").read_bytes())
    assert {k["name"] for k in kernels} == set(in_module)
    assert all(0 < k["registers"] <= 255 and k["spill_bytes"] == 0 for k in kernels)
    assert all(k["shared_bytes"] <= 48 * 1024 for k in kernels)


# -- kernels -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_int8_networks_are_the_references_bytes(compiler: None, device: str, place: Path) -> None:
    art = _compiled("int8", "cuda", "a100", place)
    x = inputs_for(art.graph, 5)
    got = run(art, device, x, trace=True)
    want = reference.run(art.graph, x, keep="all")
    np.testing.assert_array_equal(got.outputs[0], want[art.graph.outputs[0]])
    for node in art.graph.nodes:
        for o in node.outputs:
            seen = np.stack([layers[o] for layers in got.layers]).reshape(want[o].shape)
            np.testing.assert_array_equal(seen, want[o], err_msg=o)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "instruction", "limit"),
    [
        ("cuda", "fma.rn.f32", 1e-5),
        ("cuda-tf32", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", 2e-3),
        ("cuda-fp16", "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", 2e-3),
    ],
)
def test_float_networks_keep_their_precision(
    compiler: None, device: str, place: Path, engine: str, instruction: str, limit: float
) -> None:
    art = _compiled("float", engine, "h100", place)
    assert instruction in art.file("kernels.ptx").read_text("ascii")
    x = inputs_for(art.graph, 3)
    got = run(art, device, x, trace=True)
    want = reference.run(art.graph, x, keep="all")
    for node in art.graph.nodes:
        (o,) = node.outputs
        seen = np.stack([layers[o] for layers in got.layers]).reshape(want[o].shape)
        error = np.abs(seen - want[o]).max() / np.abs(want[o]).max()
        assert error <= limit, (node.name, error)


def _check_cases(cases: list[tvm_case.Case], device: str, folder: Path) -> None:
    for k in range(0, len(cases), 60):
        graph, x = tvm_case.merge(cases[k : k + 60])
        art = compile_with(folder / f"cases-{k}", graph, "a100", "cuda")
        got = run(art, device, x).outputs
        assert tvm_case.mismatches(graph, list(got), reference.run(graph, x)) == []


def _cases(ops: tuple[str, ...], seeds: range, dtype: str | None = None) -> list[tvm_case.Case]:
    found = [c for op in ops for c in tvm_case.supported_cases(op, seeds, support._ANY, dtype)]
    return [c for c in found if not support.unsupported(c[0])]


@pytest.mark.slow
def test_every_operator_is_exact(compiler: None, device: str, tmp_path: Path) -> None:
    cases = _cases(tuple(sorted(opgen.CASES)), range(1)) + _cases(LINEAR, range(1, 6))
    assert len({g.nodes[0].type for g, _ in cases}) >= 33
    _check_cases(cases, device, tmp_path)


@pytest.mark.slow
def test_float_operators(compiler: None, device: str, tmp_path: Path) -> None:
    ops = (*LINEAR, "BATCH_MATMUL", "ADD", "MUL", "MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN")
    _check_cases(_cases(ops, range(2), "float32"), device, tmp_path)


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes(compiler: None, place: Path, tmp_path: Path) -> None:
    first = _compiled("int8", "cuda", "a100", place)
    again = compile_with(tmp_path / "again", int8_net(), "a100", "cuda")
    for name in ("kernels.cu", "kernels.cubin", "kernels.ptx", "plan.txt", "weights.bin", "runner"):
        assert first.file(name).read_bytes() == again.file(name).read_bytes(), name


@pytest.mark.slow
def test_deploy_verifies_without_a_gpu_and_gives_no_latency(
    compiler: None, device: str, tmp_path: Path
) -> None:
    from edgekit.targets.base import CompileOptions

    result = api.deploy(
        int8_net(), "h100", data_for(int8_net()), tmp_path / "a", device=device,
        options=CompileOptions("cuda"),
    )  # fmt: skip
    assert result["verify"]["passed"] and result["verify"]["mismatched_bytes"] == 0
    profile, (row,) = result["profile"], result["engines"]
    assert row["verified"] and row["exact"] and row["precision"] == "int8"
    if device == virtual.NAME:
        assert profile["kind"] == "simulated" and profile["total"]["latency_ms"] is None
        assert "machine code was not executed" in result["verify"]["verified"]
        assert profile["kinds"] == {} and "no NVIDIA GPU" in profile["details"]["absent"]
    else:
        assert profile["kind"] == "measured" and profile["total"]["latency_ms"] > 0
        assert profile["details"]["gpu"] and profile["details"]["gpu_ms"] > 0
        assert sum(layer["time_ms"] or 0 for layer in profile["layers"]) > 0


def test_refusals_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.targets.base import CompileOptions

    monkeypatch.setattr(build, "why_not", lambda: None)
    for engine, graph, error in (
        ("cuda-fp16", int8_net(), UnsupportedError),
        ("cuda-tf32", int8_net(), UnsupportedError),
    ):
        with pytest.raises(error, match="the model is quantized"):
            api.compile(graph, "h100", tmp_path / "a", options=CompileOptions(engine))
    with pytest.raises(InputError, match="no option 'warp'"):
        api.compile(
            int8_net(), "h100", tmp_path / "a", options=CompileOptions("cuda", extra={"warp": 1})
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_resnet8_is_the_oracles_bytes(
    compiler: None, device: str, shared: Path, tmp_path: Path
) -> None:
    """``verify`` takes TensorFlow Lite Micro as the oracle where that is installed."""
    from edgekit.targets.base import CompileOptions

    model = shared / "zoo" / "ic_resnet8_int8.tflite"
    art = api.compile(model, "h200", tmp_path / "a", options=CompileOptions("cuda"))
    checked = api.verify(art, f"{shared / 'data' / 'cifar10.npz'}:val_x", device=device, samples=2)
    assert checked["mismatched_bytes"] == 0 and checked["samples"] == 2
    streams = {k["name"] for row in art.manifest["plan"] for k in row["kernels"]}
    assert len(streams) == len(toolchain.kernels_in(art.file("kernels.cubin").read_bytes()))


# -- ONNX Runtime's GPU providers ----------------------------------------------------------------


def test_providers_that_are_not_listed_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from edgekit_targets.server import nvidia_ort

    def reasons() -> dict[str, str | None]:
        infos = get_backend("server").engines(get_target("h100"))
        return {e.name: e.why_not for e in infos if e.name.startswith("onnxruntime")}

    monkeypatch.setattr(nvidia_ort, "_gpu_build", lambda: None)
    found = reasons()
    assert "has no CUDAExecutionProvider: pip install" in str(found["onnxruntime-cuda"])
    assert "tensorrt" in str(found["onnxruntime-tensorrt"])
    monkeypatch.setattr(nvidia_ort, "_gpu_build", lambda: "1.31.1")
    monkeypatch.setattr(nvidia_ort, "listed", lambda: ("CUDAExecutionProvider",))
    found = reasons()
    assert found["onnxruntime-cuda"] is None
    assert "lists no TensorrtExecutionProvider" in str(found["onnxruntime-tensorrt"])


def test_gpu_providers_do_not_fall_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgekit_targets.server import nvidia_ort

    monkeypatch.setattr(nvidia_ort, "_gpu_build", lambda: "1.31.1")
    monkeypatch.setattr(nvidia_ort, "listed", lambda: ("CUDAExecutionProvider",))
    art = compile_with(tmp_path / "a", float_net(), "h100", "onnxruntime-cuda")
    assert '"CUDAExecutionProvider"' in art.file("model.json").read_text("utf-8")
    with pytest.raises(DeviceError, match="run on the device cuda alone"):
        run(art, virtual.NAME, inputs_for(art.graph, 1))
    # where the provider cannot start, the runner says so instead of taking the processor
    import shutil
    import subprocess
    import sys

    pytest.importorskip("onnxruntime")
    for name in ("model.onnx", "model.json", "interpret.py"):
        shutil.copyfile(art.file(name), tmp_path / name)
    (tmp_path / "in.bin").write_bytes(inputs_for(art.graph, 1)[0].tobytes())
    if virtual.why_no_gpu() is None:
        return
    done = subprocess.run(
        [sys.executable, "interpret.py", "run", "in.bin", "out.bin"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 3 and "could not start its CUDAExecutionProvider" in done.stdout


@pytest.mark.slow
def test_a_transformer_in_half_precision(compiler: None, device: str, tmp_path: Path) -> None:
    """Rows that a block sums together (dlight's schedules), batched products, halves in between."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    from archs import ARCHITECTURES

    from edgekit.compress import simplify
    from edgekit.formats.torch_ import from_module

    graph = simplify(from_module(*ARCHITECTURES["transformer"]())).graph
    art = compile_with(tmp_path / "a", graph, "h100", "cuda-fp16")
    x = inputs_for(graph, 2)
    got, want = run(art, device, x).outputs, reference.run(graph, x)
    for o, a in zip(graph.outputs, got, strict=True):
        error = np.abs(a - want[o].reshape(a.shape)).max() / np.abs(want[o]).max()
        assert error < 1e-2
