"""Tools that are missing, killed or of the wrong version, models and target files that a family
cannot take: on the command line one sentence, exit status 2, nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engine_case import float_net, int8_net
from npu_case import cpu_net, needs_vela

from edgekit import formats
from edgekit.cli import main
from edgekit.graph.ir import Graph
from edgekit.targets import get_target
from edgekit_targets.cuda_ import toolchain
from edgekit_targets.tvm_ import check

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """``compile`` of a graph with these arguments: the sentence that it is refused with."""

    def run(graph: Graph, *arguments: object) -> str:
        model = tmp_path / "m.tflite"
        formats.save(graph, model)
        folder = tmp_path / "out"
        folder.mkdir()
        capfd.readouterr()
        argv = ["compile", model, *arguments, "-o", folder / "a"]
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in argv])
        out, err = capfd.readouterr()
        assert stop.value.code == 2 and out == "" and "Traceback" not in err, err
        assert not list(folder.iterdir()), "nothing half-written"
        folder.rmdir()
        last = err.strip().splitlines()[-1]
        assert last.startswith("edgekit: ")
        return last

    return run


def own_target(tmp_path: Path, base: str, **core: object) -> Path:
    """A user's own file: ``base`` with other fields of its core."""
    document = get_target(base).model_dump(mode="json")
    document["name"] = "mine"
    document["cores"][0] |= core
    path = tmp_path / "mine.yaml"  # JSON is YAML
    path.write_text(json.dumps(document))
    return path


def test_a_float_model_for_the_npu_needs_data(refused: Refused) -> None:
    told = refused(float_net(), "--target", "ethos-u55-128")
    assert "--data" in told


@needs_vela
def test_a_model_that_the_npu_takes_nothing_of(refused: Refused) -> None:
    told = refused(cpu_net(), "--target", "ethos-u55-128")
    assert "no operator of model" in told and "STRIDED_SLICE" in told


def with_weight_zero_point() -> Graph:
    """int8 weights with a zero point: a FULLY_CONNECTED that tensor cores cannot multiply."""
    import dataclasses

    graph = int8_net().copy()
    node = next(n for n in graph.nodes if n.type == "FULLY_CONNECTED")
    weights = graph.tensor(node.inputs[1])
    assert weights.quant is not None
    scale = weights.quant.scale.ravel()[:1]
    shifted = dataclasses.replace(weights.quant, scale=scale, zero_point=np.array([3]), axis=None)
    graph.tensors[weights.name] = weights.with_(quant=shifted)
    return graph


def test_an_operator_that_an_engine_lacks_is_named(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "why_not", lambda: None)  # asked before any tool is started
    monkeypatch.setattr(toolchain, "why_not", lambda: None)
    told = refused(with_weight_zero_point(), "--target", "h100", "--engine", "cuda")
    assert "(FULLY_CONNECTED)" in told and "zero point" in told
    told = refused(int8_net(), "--target", "h100", "--engine", "cuda-fp16")
    assert "the model is quantized" in told


@pytest.mark.parametrize(
    ("base", "features", "told"),
    [
        ("x86-64-avx2", ["avx1024"], "'avx1024' is no ISA feature of this family"),
        ("x86-64-avx512-vnni", ["sse4_2", "avx2", "fma", "f16c"], "uses 'avx512f'"),
        ("cortex-a76", ["neon", "avx2"], "'avx2'"),
        ("h100", ["dotprod"], "'dotprod' is no feature of a GPU"),
    ],
)
def test_a_wrong_cpu_feature_is_named(
    refused: Refused, tmp_path: Path, base: str, features: list[str], told: str
) -> None:
    path = own_target(tmp_path, base, features=features)
    assert told in refused(int8_net(), "--target", path)


def test_without_nvcc_and_nvrtc(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "why_not", lambda: None)
    monkeypatch.setattr(toolchain, "find", lambda: None)
    told = refused(int8_net(), "--target", "a100", "--engine", "cuda")
    assert "neither nvcc nor NVRTC is here: pip install 'edgekit[cuda]'" in told
    assert "neither nvcc nor NVRTC" in refused(int8_net(), "--target", "a100")


@pytest.mark.parametrize(
    ("tvm", "ffi", "told"),
    [
        (check.TESTED_TVM, "0.1.15.post2", "known to crash"),
        ("0.28.0", check.TESTED_FFI, "0.27.0.post1 is needed"),
        (None, None, "pip install 'edgekit[tvm]'"),
    ],
)
def test_a_tvm_that_is_known_to_crash(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, tvm: str | None, ffi: str | None, told: str
) -> None:
    versions = {"apache-tvm": tvm, "apache-tvm-ffi": ffi}
    monkeypatch.setattr(check, "version", versions.get)
    assert told in refused(int8_net(), "--target", "a100", "--engine", "cuda")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("kill -KILL $$", "nvcc 13.0.1 cannot compile the kernels for sm_80"),
        ("echo 'k.cu(1): error: no' >&2; exit 2", "sm_80: k.cu(1): error: no"),
        ("exit 0", "cannot compile the kernels for sm_80"),
    ],
)
def test_an_nvcc_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, told: str
) -> None:
    from edgekit.errors import ToolchainError

    program = tmp_path / "nvcc"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo V13.0.1; exit 0; fi\n{body}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("EDGEKIT_NVCC", str(program))
    compiler = toolchain.require()
    assert (compiler.kind, compiler.version) == ("nvcc", "13.0.1")
    with pytest.raises(ToolchainError) as error:
        toolchain.compile_source(compiler, "int x;", "sm_80")
    assert told in str(error.value) and "\n" not in str(error.value)


def test_options_of_engines(refused: Refused) -> None:
    m4 = ("--target", "cortex-m4")
    assert "key=value" in refused(int8_net(), *m4, "--option", "toolchain")
    assert "given twice" in refused(
        int8_net(), *m4, "--toolchain", "zig", "--option", "toolchain=zig"
    )
    assert "no option 'speed'; it has: toolchain" in refused(
        int8_net(), *m4, "--option", "speed=11"
    )
    assert "timeout_s" in refused(
        int8_net(), "--target", "ethos-u55-128", "--option", "timeout_s=soon"
    )
    cuda = ("--target", "a100", "--engine", "cuda", "--option", "x=1")
    told = refused(int8_net(), *cuda)
    assert "no option 'x'" in told or "cannot be used on this machine" in told


def test_devices_of_families_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["devices", "--json"])
    assert stop.value.code in (0, None)
    listed = {d["name"]: d for d in json.loads(capfd.readouterr().out)["devices"]}
    assert listed["estimate:vela"]["transport"] == "estimate"
    assert {"cuda", "virtual:cuda"} <= set(listed)
