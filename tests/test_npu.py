"""Ethos-U with the real Vela: what is compiled, where it runs and why, what it costs, what is checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from netgen import random_inputs
from npu_case import TARGET, cpu_net, evil, float_net, int8_net, mixed_net, needs_vela

from edgekit import api, display
from edgekit.artifact import Artifact, sha256_file
from edgekit.data import Dataset
from edgekit.devices import open_device
from edgekit.errors import DeviceError, DoesNotFitError, InputError, UnsupportedError
from edgekit.formats import tflite_flat
from edgekit.graph.ir import Graph
from edgekit.targets import get_backend, get_target, target_names
from edgekit.targets.base import CompileOptions
from edgekit.targets.schema import Target
from edgekit_targets.npu import config

NPUS = [n for n in target_names() if n.startswith("ethos-")]


def changed(target: Target, memories: tuple[dict, ...] | None = None, **fields: object) -> Target:
    document = target.model_dump(mode="json")
    document["config"].update(fields)
    if memories is not None:
        document["memories"] = memories
    return Target.model_validate(document)


def test_every_shipped_npu_is_complete() -> None:
    assert (
        sorted(
            [f"ethos-u55-{n}" for n in (32, 64, 128, 256)]
            + [f"ethos-u65-{n}" for n in (256, 512)]
            + [f"ethos-u85-{n}" for n in (128, 256, 512, 1024, 2048)]
        )
        == NPUS
    )
    for name in NPUS:
        target = get_target(name)
        npu = config.parse(target)
        assert npu.config.accelerator == name
        assert name.split("-")[1].upper() in npu.config.system_config
        assert get_target(npu.config.host_target).family == "mcu"
        assert target.core.name == "cortex-m55" and npu.sram_bytes


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"accelerator": "ethos-u55-512"}, "field 'accelerator'.*ethos-u55-32"),
        ({"clock": 1}, "field 'clock'"),
        ({"system_config": "--help"}, "field 'system_config'"),
        ({"npu_clock_hz": 0}, "field 'npu_clock_hz'"),
    ],
)
def test_the_familys_section_is_checked(fields: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        config.parse(changed(get_target(TARGET), **fields))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return api.compile(int8_net(), TARGET, tmp_path_factory.mktemp("npu") / "a")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return api.compile(mixed_net(), TARGET, tmp_path_factory.mktemp("mixed") / "a")


@needs_vela
def test_the_artifact_holds_both_files_and_says_where_each_node_runs(artifact: Artifact) -> None:
    raw = tflite_flat.parse(artifact.file("model_vela.tflite").read_bytes())
    assert [(o.type, o.custom) for o in raw.operators] == [("ethos-u", True)]
    source = tflite_flat.parse(artifact.file("model_int8.tflite").read_bytes())
    assert [o.type for o in source.operators] == [n.type for n in artifact.graph.nodes]
    plan = artifact.manifest["plan"]
    assert {r["details"]["placement"] for r in plan} == {"npu"}
    commands = {r["op"]: r["details"]["commands"] for r in plan}
    assert commands["FULLY_CONNECTED"] == ["FullyConnected"]
    assert set(commands["DEPTHWISE_CONV_2D"]) == {"DepthwiseConv2D", "Relu"}
    assert len(commands["SOFTMAX"]) > 10 and "Asr" in commands["SOFTMAX"]
    assert artifact.details["operators"] == {"npu": len(plan), "cpu": 0}
    assert artifact.manifest["tools"] == {"ethos-u-vela": "5.2.0"}
    summary = json.loads(artifact.file("vela.json").read_text())["summary"]
    assert summary["accelerator_configuration"] == "Ethos_U55_128"
    assert artifact.manifest["memory"]["sram_bytes"] == 1024 * summary["sram_memory_used"]


@needs_vela
def test_profile_is_velas_estimate_with_its_configuration(artifact: Artifact) -> None:
    p = api.profile(artifact)
    summary = json.loads(artifact.file("vela.json").read_text())["summary"]
    assert (p["kind"], p["kinds"]["latency_ms"]) == ("estimated", "estimated")
    assert p["device"] == "estimate:vela" and p["total"]["instructions"] is None
    assert p["total"]["latency_ms"] == pytest.approx(1e3 * summary["inference_time"])
    assert p["total"]["cycles"] == summary["cycles_total"] > 0
    assert sum(la["cycles"] for la in p["layers"]) == p["total"]["cycles"]
    assert p["total"]["latency_ms"] == pytest.approx(p["total"]["cycles"] / 500e3)
    assert p["tools"]["ethos-u-vela"] == "5.2.0"
    d = p["details"]
    assert d["complete"] is True and d["accelerator"] == TARGET
    assert (d["system_config"], d["memory_mode"]) == (
        "Ethos_U55_High_End_Embedded",
        "Shared_Sram",
    )
    assert p["memory"]["flash_bytes"] > sum(t.nbytes for t in int8_net().constants()) // 2


@needs_vela
def test_verify_says_that_it_ran_the_source_and_finds_a_wrong_byte(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Dataset.of(random_inputs(artifact.reference, np.random.default_rng(0), 4)[0])
    checked = api.verify(artifact, data)
    assert checked["mismatched_bytes"] == 0 and checked["bytes"] == 4 * 5
    assert "int8 .tflite that Vela compiled" in checked["verified"]
    assert "not executed" in checked["verified"]
    # The stored file is what is run: one changed weight has to be seen.
    path = artifact.file("model_int8.tflite")
    good = path.read_bytes()
    weights = artifact.graph.ins(artifact.graph.nodes[0])[1]
    assert weights is not None and weights.data is not None
    at = good.find(weights.data.tobytes())
    assert at > 0
    try:
        path.write_bytes(good[: at + 3] + bytes([good[at + 3] ^ 0x7F]) + good[at + 4 :])
        broken = api.verify(Artifact.open(artifact.path, check=False), data)
    finally:
        path.write_bytes(good)
    assert broken["mismatched_bytes"] > 0
    assert broken["first_divergent_layer"]["layer"] == artifact.graph.nodes[0].name


@needs_vela
def test_the_same_inputs_give_the_same_bytes(artifact: Artifact, tmp_path: Path) -> None:
    again = api.compile(int8_net(), TARGET, tmp_path / "b")
    assert sha256_file(again.path / "manifest.json") == sha256_file(artifact.path / "manifest.json")


@needs_vela
def test_what_stays_on_the_cpu_has_a_reason_and_a_cost(mixed: Artifact) -> None:
    art = mixed
    cpu = {r["op"]: r["details"] for r in art.manifest["plan"] if r["variant"] == "cpu"}
    assert set(cpu) == {"RESIZE_NEAREST_NEIGHBOR", "STRIDED_SLICE"}
    assert "scale-factor is not equal" in cpu["RESIZE_NEAREST_NEIGHBOR"]["reason"]
    assert "negative stride" in cpu["STRIDED_SLICE"]["reason"]
    assert cpu["STRIDED_SLICE"]["rule"]
    raw = tflite_flat.parse(art.file("model_vela.tflite").read_bytes())
    assert sorted(o.type for o in raw.operators if not o.custom) == sorted(cpu)
    p = api.profile(art)
    d = p["details"]
    if not d["complete"]:  # no emulator or compiler on this machine: said, not guessed
        assert set(d["cpu"]["missing"]) and d["cpu"]["latency_ms"] is None
        pytest.skip(f"the CPU part cannot be costed here: {d['cpu']['missing']}")
    assert p["tools"]["emulator"].startswith("qemu") and p["kinds"]["instructions"] == "simulated"
    layers = {la["op"]: la for la in p["layers"] if la["placement"] == "cpu"}
    for la in layers.values():
        assert la["instructions"] > 0 and la["cpu_cycles"] > la["instructions"] // 2
        assert la["cycles"] == round(la["cpu_cycles"] * 500 / 400)
        assert la["reason"]
    cpu_ms = sum(la["cpu_cycles"] for la in layers.values()) / 400e3
    assert d["cpu"]["latency_ms"] == pytest.approx(cpu_ms)
    assert p["total"]["latency_ms"] == pytest.approx(d["npu"]["latency_ms"] + cpu_ms)
    assert sum(la["cycles"] for la in p["layers"]) == p["total"]["cycles"]


@needs_vela
def test_without_an_emulator_the_total_is_marked_incomplete(
    mixed: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    art = mixed
    monkeypatch.setattr("edgekit.devices.qemu._PROGRAM", "qemu-system-nowhere")
    p = api.profile(art)
    d = p["details"]
    assert d["complete"] is False and d["cpu"]["latency_ms"] is None
    assert set(d["cpu"]["missing"]) == {"resize_nearest_neighbor", "strided_slice"}
    assert all("qemu-system-nowhere is missing" in why for why in d["cpu"]["missing"].values())
    assert p["total"]["latency_ms"] == pytest.approx(d["npu"]["latency_ms"])
    assert [la["cycles"] for la in p["layers"] if la["placement"] == "cpu"] == [None, None]
    display.profile(p)
    assert "resize_nearest_neighbor, strided_slice: the total is incomplete" in " ".join(
        capsys.readouterr().out.split()
    )
    art.store_result("profile", p)
    assert "The total is incomplete" in api.report(art, tmp_path / "r.html").read_text()


@needs_vela
def test_the_terminal_says_why_a_node_stays_on_the_cpu(
    mixed: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    display.compiled({**mixed.manifest, "artifact": "a"})
    said = " ".join(capsys.readouterr().out.split())
    assert "STRIDED_SLICE on the cpu: StridedSlice with unsupported negative stride" in said


@pytest.mark.slow
@needs_vela
def test_less_memory_instead_of_speed(artifact: Artifact, tmp_path: Path) -> None:
    small = api.compile(
        int8_net(), TARGET, tmp_path / "a", options=CompileOptions("vela", optimize="ram")
    )
    assert (small.details["optimise"], artifact.details["optimise"]) == ("Size", "Performance")
    assert small.manifest["memory"]["sram_bytes"] <= artifact.manifest["memory"]["sram_bytes"]


@needs_vela
def test_names_that_would_break_velas_tables(tmp_path: Path) -> None:
    graph = evil(mixed_net())
    art = api.compile(graph, TARGET, tmp_path / "a", simplify=False)
    plan = art.manifest["plan"]
    assert [r["name"] for r in plan] == [n.name for n in graph.nodes]
    reasons = [r["details"]["reason"] for r in plan if r["variant"] == "cpu"]
    assert len(reasons) == 2 and "negative stride" in reasons[1]
    assert all(r["details"]["npu_cycles"] > 0 for r in plan if r["variant"] == "npu")
    data = Dataset.of(random_inputs(graph, np.random.default_rng(0), 2)[0])
    assert api.verify(art, data)["mismatched_bytes"] == 0
    with open_device("estimate:vela", target=art.target) as device:
        traced = get_backend("npu").run(art, device, [data.x["input0"]], trace_layers=True).layers
    assert len(traced) == 2 and set(traced[0]) == {o for n in graph.nodes for o in n.outputs}


@needs_vela
def test_nothing_for_the_npu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"no operator .*Ethos-U55.*negative stride") as e:
        api.compile(cpu_net(), TARGET, tmp_path / "a")
    assert "\n" not in str(e.value) and not list(tmp_path.iterdir())


def test_a_float_model_is_refused_or_quantized(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float and the target needs int8"):
        api.compile(float_net(), TARGET, tmp_path / "a")
    partly = int8_net().copy()
    x = partly.inputs[0]
    partly.tensors[x] = partly.tensor(x).with_(dtype="float32", quant=None)
    found = get_backend("npu").supports(partly, get_target(TARGET), "vela")
    assert [u.op for u in found] == ["CONV_2D"] and "quantize" in found[0].reason
    with pytest.raises(UnsupportedError, match="computes in float"):
        api.compile(partly, TARGET, tmp_path / "a", simplify=False)
    assert not list(tmp_path.iterdir())


@needs_vela
def test_a_float_model_with_data_is_quantized(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
    result = api.deploy(float_net(), "ethos-u85-256", Dataset.of(x), tmp_path / "a")
    assert result["verify"]["mismatched_bytes"] == 0
    assert result["engines"][0]["kind"] == "estimated" and result["engines"][0]["verified"]
    assert result["profile"]["memory"]["dram_bytes"] > 0
    page = (tmp_path / "a" / "report.html").read_text()
    assert "int8 .tflite that Vela compiled" in page and "at 1000 MHz" in page
    assert "Helium" not in page  # the roof and the remarks of the core say nothing about the NPU


@needs_vela
@pytest.mark.parametrize(
    ("target", "error", "told"),
    [
        ({"npu_clock_hz": 1}, InputError, "npu_clock_hz 1, .*says 500000000"),
        ({"memory_mode": "Nowhere"}, Exception, "Vela 5.2.0 failed"),
        ({"config_file": "../no/such.ini"}, InputError, "'../no/such.ini' does not exist"),
        ({"memories": ({"name": "s", "role": "ram", "size": 1000},)}, DoesNotFitError, "1,000"),
    ],
)
def test_a_wrong_target_is_named(
    tmp_path: Path, target: dict, error: type[Exception], told: str
) -> None:
    wrong = changed(get_target(TARGET), **target)
    with pytest.raises(error, match=told) as caught:
        get_backend("npu").compile(int8_net(), wrong, tmp_path, CompileOptions())
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_the_device_is_an_estimate_and_no_other_device_will_do() -> None:
    target = get_target(TARGET)
    assert get_backend("npu").default_device(target) == "estimate:vela"
    with open_device("estimate:vela", target=target) as device:
        assert device.info().kind == "estimated"
        with pytest.raises(DeviceError, match="runs no programs"):
            device.push_bytes(b"", "x")
    with pytest.raises(InputError, match="'estimate:vela' is not known"):
        open_device("estimate:vela", target=get_target("cortex-m4"))
    with pytest.raises(InputError, match="'estimate:vela' is not known"):
        open_device("estimate:vela")


@needs_vela
def test_a_device_of_another_family_is_refused(artifact: Artifact) -> None:
    with pytest.raises(InputError, match="'estimate:vela' only; 'host' was given"):
        api.profile(artifact, device="host")


def test_graphs_of_the_cpu_part_are_cut_where_the_npu_takes_over() -> None:
    from edgekit_targets.npu.cpu import subgraph

    graph = mixed_net()
    part: Graph = subgraph(graph, ["resize_nearest_neighbor", "strided_slice"])
    assert [n.type for n in part.nodes] == ["RESIZE_NEAREST_NEIGHBOR", "STRIDED_SLICE"]
    assert len(part.inputs) == len(part.outputs) == 2
    one = subgraph(graph, [graph.nodes[1].name, graph.nodes[2].name])
    assert one.inputs == graph.nodes[0].outputs and one.outputs == graph.nodes[2].outputs
