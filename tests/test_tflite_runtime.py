"""The ``litert`` engine on tflite-runtime 2.14, which needs numpy<2 and therefore lives in an
environment of its own, named by EDGEKIT_TFLITE_PYTHON; beside ai-edge-litert in this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engine_case import data_for, float_net, int8_net
from netgen import Net, quantized

from edgekit import api
from edgekit.errors import DeviceError, InputError
from edgekit.graph.ir import Graph
from edgekit.targets.base import CompileOptions
from edgekit_targets import litert

HOST = "x86-64-host"
DIGITS = Path(__file__).resolve().parent.parent / "models"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tflite-runtime is for Linux")


@pytest.fixture(scope="session")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of a new environment with tflite-runtime and numpy<2."""
    place = tmp_path_factory.mktemp("tflite") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = str(place / "bin" / "python")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q",
         "--disable-pip-version-check", "tflite-runtime==2.14.0", "numpy<2"],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        pytest.skip(f"tflite-runtime 2.14 cannot be installed here: {last}")
    return python


def resnet_like() -> Graph:
    """Residual blocks with strided projections, as in ResNet-8: 16x16x3 in, 10 out."""
    net = Net(np.random.default_rng(8), (1, 16, 16, 3), "resnet_like")
    a = net.conv("x", 16)
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        b = net.conv(net.conv(a, channels, stride=stride), channels, activation="NONE")
        if stride > 1:
            a = net.conv(a, channels, k=1, stride=stride, activation="NONE")
        a = net.op("ADD", [a, b], activation="RELU")
    m = net.op("MEAN", [a], axes=(1, 2), keep_dims=False)
    return net.finish(net.op("SOFTMAX", [net.dense(m, 10)], beta=1.0))


@pytest.mark.slow
def test_its_reference_kernels_give_the_oracles_bytes(
    other_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(litert.VARIABLE, other_python)
    digits = f"{DIGITS / 'digits.npz'}:val_x,val_y"
    models: list[tuple[Graph | Path, object, str]] = [
        (DIGITS / "digits.tflite", digits, "litert-int8"),
        (quantized(resnet_like(), np.random.default_rng(9)), data_for(resnet_like()), "litert"),
        (int8_net(), data_for(int8_net()), "litert"),
    ]
    for k, (model, data, engine) in enumerate(models):
        options = CompileOptions(engine, extra={"kernels": "reference"})  # type: ignore[arg-type]
        art = api.compile(model, HOST, tmp_path / str(k), data=data, options=options)  # type: ignore[arg-type]
        assert art.manifest["tools"]["tflite-runtime"] == "2.14.0"
        checked = api.verify(art, data, samples=64)  # type: ignore[arg-type]
        assert checked["bytes"] > 0 and checked["mismatched_bytes"] == 0
        profile = api.profile(art)
        assert profile["tools"]["tflite-runtime"] == "2.14.0"
        assert "ai-edge-litert" not in profile["tools"]
        assert profile["total"]["latency_ms"] > 0 and profile["kind"] == "measured"


@pytest.mark.slow
def test_an_artifact_runs_with_either_runtime(
    other_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XNNPACK's bytes differ between versions; both keep the stated tolerance, and say who ran."""
    monkeypatch.delenv(litert.VARIABLE, raising=False)
    art = api.compile(int8_net(), HOST, tmp_path / "a", options=CompileOptions("litert"))
    data = data_for(int8_net())
    seen = set()
    for python in (None, other_python):
        if python:
            monkeypatch.setenv(litert.VARIABLE, python)
        assert api.verify(art, data)["passed"]
        seen |= set(api.profile(art)["tools"]) & set(litert.PACKAGES)
    assert seen == set(litert.PACKAGES)
    plain = api.compile(float_net(), HOST, tmp_path / "b", options=CompileOptions("litert"))
    assert api.verify(plain, data_for(float_net()))["passed"]


def test_a_python_that_is_none_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    art = api.compile(int8_net(), HOST, tmp_path / "a", options=CompileOptions("litert"))
    monkeypatch.setenv(litert.VARIABLE, str(tmp_path / "none"))
    with pytest.raises(DeviceError, match=r"EDGEKIT_TFLITE_PYTHON names .* does not start"):
        api.profile(art)
    monkeypatch.setenv(litert.VARIABLE, "/bin/false")
    with pytest.raises(DeviceError, match="has neither ai-edge-litert nor tflite-runtime"):
        api.profile(art)


def test_options_are_checked(tmp_path: Path) -> None:
    for extra, words in (
        ({"kernels": "fast"}, "auto and reference"),
        ({"x": 1}, "it has: kernels"),
    ):
        with pytest.raises(InputError, match=words):
            api.compile(
                int8_net(), HOST, tmp_path / "a", options=CompileOptions("litert", extra=extra)
            )
    assert not list(tmp_path.iterdir())
