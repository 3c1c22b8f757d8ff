"""Mobile GPUs without a GPU: target files, fusion, buffers, geometry, support, what is refused."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from engine_case import compile_with, data_for, float_net, int8_net, needs_cc
from hypothesis import given, settings
from hypothesis import strategies as st
from mobile_gpu_case import mobilenet_v2, needs_opencl, small_net, virtual
from netgen import Net

from edgekit import api
from edgekit.artifact import Artifact
from edgekit.cli import main
from edgekit.devices import open_device
from edgekit.doctor import examine
from edgekit.errors import DeviceError, InputError, ToolchainError, UnsupportedError
from edgekit.graph import reference
from edgekit.graph.ir import Graph, Tensor
from edgekit.targets import get_backend, get_target
from edgekit.targets.base import CompileOptions
from edgekit.targets.registry import families
from edgekit.targets.schema import Target
from edgekit_targets.mobile_gpu import buffers, config, fusion, probe, support, tir
from edgekit_targets.mobile_gpu.buffers import Life
from edgekit_targets.mobile_gpu.engine import OpenCl
from edgekit_targets.mobile_gpu.layers import layer_errors
from edgekit_targets.tvm_ import check, worker

BACKEND = get_backend("mobile_gpu")
TARGETS = sorted(
    p.stem for f in families() if f.name == "mobile_gpu" for p in Path(f.target_dir).glob("*.yaml")
)


# -- target files ------------------------------------------------------------------------------


def test_several_gpus_of_both_vendors_are_described() -> None:
    vendors = [config.parse(get_target(t)).config.vendor for t in TARGETS]
    assert vendors.count("qualcomm") >= 5 and vendors.count("arm") >= 5


@pytest.mark.parametrize("name", TARGETS)
def test_target_files_are_consistent(name: str) -> None:
    target = get_target(name)
    gpu = config.parse(target)
    assert target.core.isa == f"opencl-{gpu.config.opencl}"
    assert target.has("fp16") == gpu.config.fp16 and target.has("image2d") == gpu.config.image2d
    assert gpu.limits.group <= gpu.config.max_work_group
    assert name.split("-")[1].lower() in gpu.config.device_name.lower()
    assert BACKEND.default_device(target) == "virtual:opencl"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"opencl": "4.0"}, "opencl"),
        ({"vendor": "imagination"}, "vendor"),
        ({"max_work_group": 0}, "max_work_group"),
        ({"max_items": [0, 1, 1]}, "max_items"),
        ({"warp": 32}, "warp"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], field: str) -> None:
    data = get_target("mali-g78").model_dump()
    data["config"] = {**data["config"], **change}
    with pytest.raises(InputError, match=f"mali-g78.*config.*{field}"):
        BACKEND.engines(Target.model_validate(data))


def test_sections_of_other_families_are_refused() -> None:
    data = {**get_target("mali-g78").model_dump(), "virtual": {"cpu": "cortex-a53"}}
    with pytest.raises(InputError, match="virtual"):
        BACKEND.engines(Target.model_validate(data))


# -- fusion ------------------------------------------------------------------------------------


def grouped(graph: Graph) -> list[list[str]]:
    return [[n.type for n in g.nodes] for g in fusion.groups(graph)]


def test_elementwise_operators_join_the_kernel_that_computes_their_operand() -> None:
    assert grouped(small_net()) == [
        ["CONV_2D"],
        ["DEPTHWISE_CONV_2D"],
        ["CONV_2D", "ADD"],
        ["CONV_2D", "HARD_SWISH"],
        ["MEAN"],
        ["FULLY_CONNECTED", "LOGISTIC"],
        ["MUL"],
        ["FULLY_CONNECTED"],
        ["SOFTMAX"],
    ]


def test_mobilenet_has_a_kernel_for_each_convolution_and_little_else() -> None:
    kinds = grouped(mobilenet_v2(0.35, 96))
    assert len(kinds) == 52 + 3  # convolutions; mean, fully connected, softmax
    assert kinds.count(["CONV_2D", "ADD"]) == 10


def test_a_value_with_two_readers_or_that_is_an_output_is_written() -> None:
    net = Net(np.random.default_rng(0), (1, 4, 4, 4))
    a = net.conv("x", 4)
    b = net.op("TANH", [a])
    c = net.op("ADD", [a, b], activation="NONE")
    d = net.op("EXP", [c])
    assert grouped(net.finish(c, d)) == [["CONV_2D"], ["TANH", "ADD"], ["EXP"]]


def test_every_node_is_in_one_group_or_a_view() -> None:
    graph = small_net()
    inside = [n.name for g in fusion.groups(graph) for n in g.nodes]
    views = [n.name for n in graph.nodes if fusion.is_view(n, graph)]
    assert sorted([*inside, *views]) == sorted(n.name for n in graph.nodes)
    assert len(views) == 1


# -- buffers and geometry ----------------------------------------------------------------------

_LIVES = st.lists(
    st.tuples(st.integers(1, 5000), st.integers(0, 12), st.integers(0, 6)), min_size=1, max_size=14
)


@settings(max_examples=60, deadline=None)
@given(_LIVES)
def test_buffers_never_hold_two_live_tensors(drawn: list[tuple[int, int, int]]) -> None:
    lives = [Life(f"t{i}", n, first, first + more) for i, (n, first, more) in enumerate(drawn)]
    plan = buffers.plan(lives)
    assert plan == buffers.plan(lives)
    for i, a in enumerate(lives):
        assert plan.sizes[plan.place[a.name]] >= a.bytes
        for b in lives[:i]:
            together = a.first <= b.last and b.first <= a.last
            assert not (together and plan.place[a.name] == plan.place[b.name])
    assert plan.peak <= sum(plan.sizes) <= plan.total


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 700)] * 3),
    st.sampled_from([32, 64, 128]),
    st.tuples(*[st.integers(1, 256)] * 3),
)
def test_launch_geometry_covers_all_items_and_keeps_the_limits(
    items: tuple[int, int, int], group: int, limits: tuple[int, int, int]
) -> None:
    g = tir.grid(items, group, limits)
    assert np.prod(g.local) <= group
    for n, size, local, limit in zip(items, g.size, g.local, limits, strict=True):
        assert size >= n and size % local == 0 and local <= limit
        assert size - n < local


# -- what is refused ---------------------------------------------------------------------------


def test_operators_that_are_missing_are_named() -> None:
    net = Net(np.random.default_rng(0), (1, 4, 4, 2))
    graph = net.finish(net.op("TANH", ["x"]))
    graph.tensors = {
        k: t.with_(dtype="int64", data=None) if k == "x" else t for k, t in graph.tensors.items()
    }
    (found,) = support.unsupported(graph)
    assert found.op == "TANH" and "int64" in found.reason
    target = get_target("adreno-650")
    with pytest.raises(UnsupportedError, match=r"tanh.*TANH.*int64"):
        OpenCl().compile(graph, target, Path(), CompileOptions())


def test_the_float16_engines_leave_quantized_models_to_the_other() -> None:
    target = get_target("adreno-650")
    for engine in ("opencl-fp16", "litert-fp16"):
        (reason,) = BACKEND.supports(int8_net(), target, engine)
        assert "quantized" in reason.reason
    assert not BACKEND.supports(int8_net(), target, "opencl")


@pytest.mark.parametrize(
    ("tvm", "ffi", "word"),
    [
        (None, None, "not installed"),
        ("0.27.0.post1", "0.1.15.post1", "crash"),
        ("0.18.0", "0.1.14.post1", "interfaces"),
    ],
)
def test_a_tvm_that_does_not_do_is_one_sentence_and_leaves_nothing(
    tvm: str | None,
    ffi: str | None,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    found = {"apache-tvm": tvm, "apache-tvm-ffi": ffi}

    def version(name: str) -> str:
        if name in found and found[name] is None:
            raise metadata.PackageNotFoundError(name)
        return str(found.get(name) or "1.0")

    monkeypatch.setattr(check.metadata, "version", version)
    engines = {e.name: e for e in BACKEND.engines(get_target("adreno-650"))}
    assert not engines["opencl"].usable and word in str(engines["opencl"].why_not)
    assert engines["litert-fp16"].usable
    (entry,) = [e for e in BACKEND.examine() if e["name"] == "TVM for OpenCL"]  # type: ignore[attr-defined]
    assert not entry["ok"] and word in entry["how"]
    with pytest.raises((ToolchainError, InputError), match=word):
        api.compile(
            float_net(), "adreno-650", tmp_path / "out", options=CompileOptions(engine="opencl")
        )
    assert not list(tmp_path.iterdir())


def test_a_crash_of_tvm_is_one_sentence_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if check.why_not() is not None:
        pytest.skip("apache-tvm is not installed: pip install 'edgekit[tvm]'")
    done = subprocess.CompletedProcess([], -11, b"", b"boom")
    monkeypatch.setattr(worker.subprocess, "run", lambda *_a, **_k: done)
    with pytest.raises(ToolchainError, match=r"TVM crashed \(signal 11\)"):
        api.compile(
            float_net(), "adreno-650", tmp_path / "out", options=CompileOptions(engine="opencl")
        )
    assert not list(tmp_path.iterdir())


@pytest.fixture
def no_platform(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A machine whose OpenCL library finds no driver, or that has no library at all."""
    empty = str(tmp_path_factory.mktemp("vendors"))
    for variable in ("OCL_ICD_VENDORS", "OPENCL_VENDOR_PATH"):
        monkeypatch.setenv(variable, empty)
    probe.devices.cache_clear()
    yield
    probe.devices.cache_clear()


def test_no_opencl_platform_is_one_sentence_and_leaves_nothing_half_written(
    no_platform: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = float_net()
    model, data = tmp_path / "m.ekg", tmp_path / "d.npz"
    from edgekit.formats import ekg

    ekg.write(graph, model)
    np.savez(data, x=inputs_of(graph, 2)[0])
    args = ["deploy", str(model), "--target", "adreno-650", "--engine", "litert-fp16"]
    with pytest.raises(SystemExit) as e:
        main([*args, "--data", str(data), "-o", str(tmp_path / "out")])
    assert e.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "OpenCL" in said[-1] and "pocl-opencl-icd" in said[-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.npz", "m.ekg", "out"]
    Artifact.open(tmp_path / "out")  # compiled, and whole; only running it failed


def test_no_opencl_platform_shows_in_devices_and_doctor(no_platform: None) -> None:
    document = api.devices()
    (line,) = [t for t in document["transports"] if t["name"] == "pocl"]
    assert not line["usable"] and "OpenCL" in line["why_not"]
    (device,) = [d for d in document["devices"] if d["name"] == "virtual:opencl"]
    assert device["transport"] == "pocl" and not device["usable"]
    (entry,) = [e for e in examine() if e["name"] == "OpenCL on the CPU"]
    assert not entry["ok"] and "apt-get install" in entry["how"]


def test_a_driver_that_crashes_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    probe.devices.cache_clear()
    done = subprocess.CompletedProcess([], -11, "", "")
    monkeypatch.setattr(probe.subprocess, "run", lambda *_a, **_k: done)
    assert "crashed or hung" in str(probe.why_no_cpu())
    probe.devices.cache_clear()


# -- one small network, compiled and run -------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    needs_opencl()
    folder = tmp_path_factory.mktemp("small") / "out"
    return compile_with(folder, small_net(), "mali-g52", "opencl")


def inputs_of(graph: Graph, samples: int, seed: int = 1) -> list[np.ndarray]:
    return list(data_for(graph, samples, seed).x.values())


def test_every_layer_agrees_with_the_reference(small: Artifact) -> None:
    with virtual() as device:
        errors = layer_errors(small, device, inputs_of(small.graph, 3))
    assert len(errors) == small.details["kernels"] == 9
    assert max(e.error for e in errors) < 1e-5  # 1e-4 is the promise


def test_the_profile_has_no_latency_and_says_whose_clock_it_was(small: Artifact) -> None:
    with virtual() as device:
        profile = BACKEND.profile(small, device).to_json()
    assert profile["kind"] == "simulated" and profile["kinds"] == {}
    assert profile["total"]["latency_ms"] is None
    assert all(layer["time_ms"] is None for layer in profile["layers"])
    assert sum(layer["host_time_ms"] for layer in profile["layers"]) > 0
    assert "say nothing about" in profile["details"]["absent"]
    assert len(profile["details"]["host_kernels_ms"]) == small.details["kernels"]


def test_the_launch_plan_is_consistent(small: Artifact) -> None:
    plan = json.loads(small.file("plan.json").read_text())
    source = small.file("kernels.cl").read_text()
    limits = config.parse(small.target).limits
    lives = {t["tensor"]: t for t in plan["tensors"]}
    for step, k in enumerate(plan["kernels"]):
        assert f"__kernel void {k['function']}(" in source
        assert np.prod(k["local"]) <= limits.group
        assert k["writes"]["buffer"] not in [lives[t]["buffer"] for t in k["reads"]]
        assert all(lives[t]["first"] <= step <= lives[t]["last"] for t in k["reads"])
    assert sum(plan["buffers"]) < plan["unshared_bytes"]
    memory = small.manifest["memory"]
    assert memory["arena_bytes"] == sum(plan["buffers"]) >= memory["peak_alive_bytes"]
    variants = {r["name"]: r["variant"] for r in small.manifest["plan"]}
    assert sum(v.startswith("fused into") for v in variants.values()) == 3
    assert list(variants.values()).count("view") == 1


@needs_cc
def test_the_runner_survives_every_broken_plan(small: Artifact, tmp_path: Path) -> None:
    """Under address and undefined-behaviour sanitizers: errors and never faults."""
    from edgekit_targets.mobile_gpu.program import RUNTIME

    flags = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    flags += ["-fno-sanitize-recover=all", "-o", "runner"]
    sources = [str(RUNTIME / name) for name in ("runner.c", "plan.c")]
    subprocess.run(["cc", *flags, *sources, "-ldl"], cwd=tmp_path, check=True, timeout=120)
    for name in ("kernels.cl", "weights.bin"):
        (tmp_path / name).write_bytes(small.file(name).read_bytes())
    (tmp_path / "in.bin").write_bytes(inputs_of(small.graph, 1)[0].tobytes())
    good = small.file("plan.txt").read_text()
    words = good.split()
    rng = np.random.default_rng(0)
    broken = ["", good[: len(good) // 2], good.replace("buffers", "buffer"), "\0" * 40]
    for _ in range(20):
        at = int(rng.integers(len(words)))
        other = ["-1", "99999999999999999999", "0", "b", "c999", "x", ""][int(rng.integers(7))]
        broken.append(" ".join([*words[:at], other, *words[at + 1 :]]))
    env = {"ASAN_OPTIONS": "detect_leaks=0", "PATH": "/usr/bin:/bin"}  # drivers leak
    for text in broken:
        (tmp_path / "plan.txt").write_text(text)
        done = subprocess.run(
            ["./runner", "cpu", "run", "in.bin", "out.bin"],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        assert done.returncode == 0 or "error=" in done.stdout
        assert "Sanitizer" not in done.stderr


def test_the_host_has_not_the_targets_gpu(small: Artifact) -> None:
    """Whatever GPU this machine has (or none): its times are not those of a Mali."""
    with open_device("host") as device, pytest.raises(DeviceError, match=r"gpu|GPU|OpenCL"):
        BACKEND.run(small, device, inputs_of(small.graph, 1))


def test_samples_and_types_are_checked(small: Artifact) -> None:
    with virtual() as device, pytest.raises(InputError, match="float32"):
        BACKEND.run(small, device, [np.zeros((1, 9, 7, 3), np.int8)])


def test_the_reference_and_the_device_agree_on_many_samples(small: Artifact) -> None:
    x = inputs_of(small.graph, 6, seed=9)
    want = reference.run(small.graph, x)[small.graph.outputs[0]]
    with virtual() as device:
        (got,) = BACKEND.run(small, device, x).outputs
    assert got.dtype == np.float32 and got.shape == want.shape
    assert np.allclose(got, want, rtol=0, atol=1e-5)


def test_graph_tensor_types_stay_the_models_own() -> None:
    t = Tensor("x", (1, 4), "float32")
    assert tir.storage_of(t, half=True).dtype == "float16"
    assert tir.storage_of(t, half=False).dtype == "float32"
