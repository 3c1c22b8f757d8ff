"""The command line as other programs rely on it: JSON keys, exit statuses, one sentence for errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from netgen import Net, quantized

from edgekit import formats
from edgekit.cli import main
from edgekit.graph import Graph
from edgekit.graph.reference import run as reference

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process; (exit status, stdout, stderr)."""

    def call(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in args])
        out, err = capfd.readouterr()
        code = stop.value.code
        assert isinstance(code, int)
        assert "Traceback" not in out + err
        return code, out, err

    return call


def refused(result: tuple[int, str, str]) -> str:
    """The one sentence of a refused input."""
    code, out, err = result
    assert code == 2, (code, out, err)
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("edgekit: ") and "internal error" not in last, err
    return last


def float_net() -> Graph:
    rng = np.random.default_rng(21)
    net = Net(rng, (1, 8, 8, 1), "tiny")
    x = net.conv("x", 8)
    x = net.depthwise(x)
    x = net.op("ADD", [net.conv(x, 8, k=1, activation="NONE"), x], activation="RELU")
    x = net.op("AVERAGE_POOL_2D", [x], filter=(8, 8), stride=(8, 8), padding="VALID",
               activation="NONE")  # fmt: skip
    x = net.op("RESHAPE", [x], new_shape=(1, 8))
    return net.finish(net.op("SOFTMAX", [net.dense(x, 4)], beta=1.0))


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``float.tflite``, ``int8.tflite`` and ``d.npz`` (x: float images, q: int8, y: labels)."""
    folder = tmp_path_factory.mktemp("cli")
    g = float_net()
    q = quantized(g, np.random.default_rng(1), 32)
    formats.save(g, folder / "float.tflite")
    formats.save(q, folder / "int8.tflite")
    rng = np.random.default_rng(2)
    x = rng.normal(0, 1, (24, 8, 8, 1)).astype(np.float32)
    y = reference(g, [x])[g.outputs[0]].argmax(axis=1).astype(np.uint8)
    ints = rng.integers(-128, 128, (24, 8, 8, 1)).astype(np.int8)
    np.savez(folder / "d.npz", x=x, y=y, q=ints)
    return folder


def document(result: tuple[int, str, str], status: int = 0) -> Any:
    code, out, err = result
    assert code == status, err
    return json.loads(out)


def test_the_whole_way(cli: Cli, files: Path, tmp_path: Path) -> None:
    art = tmp_path / "art"
    d = document(cli("deploy", files / "float.tflite", "--target", "cortex-m4", "--data",
                     f"{files}/d.npz:x,y", "-o", art, "--json"))  # fmt: skip
    p, v = d["profile"], d["verify"]
    assert p["device"] == "virtual:cortex-m4" and p["target"] == "cortex-m4"
    assert p["engine"] == "c" and p["kind"] == "simulated"
    assert p["total"]["instructions"] > 1000 and p["total"]["cycles"] > 1000
    assert p["total"]["latency_ms"] > 0
    assert p["memory"]["flash_bytes"] > 0 and p["memory"]["ram_bytes"] > 0
    for layer in p["layers"]:
        assert {"name", "op", "macs", "instructions", "cycles"} <= set(layer)
    counted = sum(la["instructions"] for la in p["layers"])
    assert 0.9 * p["total"]["instructions"] < counted <= p["total"]["instructions"]
    assert v["samples"] == 24 and v["mismatched_bytes"] == 0 and v["max_abs_diff"] == 0
    assert v["reference_accuracy"] == 1.0 and v["accuracy"] > 0.7
    assert v["first_divergent_layer"] is None
    assert Path(d["artifact"]) == art and (art / "report.html").is_file()
    assert d["engines"][0]["name"] == "c" and d["engines"][0]["verified"]

    out = tmp_path / "o.npz"
    document(cli("run", art, "--input", f"{files}/d.npz:x", "-o", out, "--json"))
    with np.load(out) as z:
        (values,) = (z[k] for k in z.files)
    assert values.shape == (24, 4) and values.dtype == np.int8
    again = document(cli("profile", art, "--json"))
    assert again["total"]["instructions"] > 1000
    checked = document(cli("verify", art, "--data", f"{files}/d.npz:q", "--samples", 5, "--json"))
    assert checked["samples"] == 5 and checked["accuracy"] is None
    page = tmp_path / "page.html"
    document(cli("report", art, "-o", page, "--json"))
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")
    code, text, _ = cli("profile", art)
    assert code == 0 and "simulated" in text and "estimated" in text


def test_two_compiles_give_the_same_bytes(cli: Cli, files: Path, tmp_path: Path) -> None:
    trees = []
    for name in ("one", "two/deeper"):
        out = tmp_path / name
        document(cli("compile", files / "float.tflite", "--target", "cortex-m4", "--data",
                     f"{files}/d.npz:x", "-o", out, "--json"))  # fmt: skip
        trees.append(
            {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
        )
    assert trees[0].keys() == trees[1].keys()
    different = [n for n in trees[0] if trees[0][n] != trees[1][n]]
    assert different == []
    assert b"/tmp" not in trees[0]["manifest.json"]


def test_inspect_and_lists(cli: Cli, files: Path) -> None:
    d = document(cli("inspect", files / "int8.tflite", "--json"))
    assert d["macs"] > 0 and d["live_macs"] <= d["macs"]
    assert d["parameters"] > 0 and d["live_parameters"] <= d["parameters"]
    assert d["inputs"][0]["shape"] == [1, 8, 8, 1] and d["outputs"][0]["dtype"] == "int8"
    assert {"name", "op", "macs"} <= set(d["ops"][0]) and d["unsupported"] == []
    t = document(cli("targets", "--json"))
    names = {e["name"] for e in t}
    assert {f"cortex-{m}" for m in ("m0plus", "m3", "m4", "m7", "m33", "m55")} <= names
    assert len(names) >= 18
    one = document(cli("targets", "cortex-m4", "--json"))
    assert one["board"] and one["memories"] and one["default_device"] == "virtual:cortex-m4"
    v = document(cli("devices", "--json"))
    assert {"name", "usable", "why_not"} <= set(v["transports"][0])
    assert "virtual:cortex-m4" in {e["name"] for e in v["devices"]}
    assert {"name", "ok", "how"} <= set(document(cli("doctor", "--json"))["checks"][0])
    for command in (["inspect", files / "int8.tflite"], ["targets"], ["targets", "cortex-m4"],
                    ["devices"], ["doctor"]):  # fmt: skip
        code, out, _ = cli(*command)
        assert code == 0 and out.strip()


def test_a_changed_byte_is_found_and_named(cli: Cli, files: Path, tmp_path: Path) -> None:
    """Compile one model, then claim that it is another: verify exits 1 and names the layer."""
    from edgekit.artifact import Artifact, sha256_file
    from edgekit.formats import ekg

    art = tmp_path / "art"
    document(cli("compile", files / "int8.tflite", "--target", "cortex-m4", "-o", art, "--json"))
    g = Artifact.open(art).graph
    conv = next(n for n in g.nodes if n.type == "FULLY_CONNECTED")
    bias = g.tensor(conv.inputs[2])
    assert bias.data is not None
    g.tensors[bias.name] = bias.with_(data=(bias.data + 4000).astype(bias.dtype))
    ekg.write(g, art / "graph.ekg")
    manifest = json.loads((art / "manifest.json").read_text())
    names = [n for n in ("graph.ekg", "reference.ekg") if n in manifest["files"]]
    for n in names:
        ekg.write(g, art / n)
        manifest["files"][n] = sha256_file(art / n)
    (art / "manifest.json").write_text(json.dumps(manifest))
    d = document(cli("verify", art, "--data", f"{files}/d.npz:q", "--json"), status=1)
    assert d["mismatched_bytes"] > 0 and d["max_abs_diff"] > 0
    assert d["first_divergent_layer"]["layer"] == conv.name
    assert d["first_divergent_layer"]["got"] != d["first_divergent_layer"]["expected"]


def test_refusals_name_what_where_and_what_would_do(cli: Cli, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    model, data = files / "int8.tflite", f"{files}/d.npz:q"
    m4 = ("--target", "cortex-m4", "-o", out)
    assert "cortex-m4" in refused(cli("compile", model, "--target", "cortex-m44", "-o", out))
    assert "--data" in refused(cli("compile", files / "float.tflite", *m4))
    assert "nothing.tflite" in refused(cli("inspect", tmp_path / "nothing.tflite"))
    assert "q, x, y" in refused(cli("deploy", model, *m4, "--data", f"{files}/d.npz:z"))
    assert "does not exist" in refused(cli("deploy", model, *m4, "--data", "no.npz"))
    assert "file.npz" in refused(cli("deploy", model, *m4, "--data", "data.csv"))
    assert "engine" in refused(cli("compile", model, *m4, "--engine", "warp"))
    assert "speed" in refused(cli("compile", model, *m4, "--optimize", "beauty"))
    assert "gcc" in refused(cli("compile", model, *m4, "--toolchain", "turbo"))
    assert "observer" in refused(
        cli("compile", files / "float.tflite", *m4, "--data", f"{files}/d.npz:x",
            "--observer", "luck")
    )  # fmt: skip
    assert "--input-shape" in refused(cli("inspect", model, "--input-shape", "x"))
    assert "manifest.json" in refused(cli("profile", tmp_path))
    assert "--target" in refused(cli("compile", model))
    assert "--help" in refused(cli("nonsense"))
    assert not out.exists(), "nothing half-written"
    assert list(tmp_path.iterdir()) == []
    # wrong shapes, kinds and values of data
    for name, array, words in (
        ("shape", np.zeros((3, 8, 9, 1), np.float32), "[8, 9, 1]"),
        ("nan", np.full((3, 8, 8, 1), np.nan, np.float32), "NaN"),
        ("text", np.full((3, 8, 8, 1), "a"), "numbers"),
        ("none", np.zeros((0, 8, 8, 1), np.float32), "no samples"),
    ):
        np.savez(tmp_path / f"{name}.npz", x=array)
        said = refused(cli("deploy", model, *m4, "--data", tmp_path / f"{name}.npz"))
        assert words in said, said
    np.savez(tmp_path / "labels.npz", x=np.zeros((3, 8, 8, 1)), y=np.array([0, 1, 9]))
    assert "4 classes" in refused(cli("deploy", model, *m4, "--data", tmp_path / "labels.npz"))
    (tmp_path / "garbage.npz").write_bytes(b"PK\x03\x04 not a zip file")
    assert "not a readable .npz" in refused(
        cli("deploy", model, *m4, "--data", tmp_path / "garbage.npz")
    )
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], object), allow_pickle=True)
    assert "pickled" in refused(cli("deploy", model, *m4, "--data", tmp_path / "pickled.npy"))
    # a folder that is somebody else's
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    assert "not an artifact" in refused(cli("compile", model, "--target", "cortex-m4", "-o", mine))
    assert (mine / "thesis.txt").read_text() == "precious"
    assert data


def test_damaged_artifacts_are_refused(cli: Cli, files: Path, tmp_path: Path) -> None:
    art = tmp_path / "art"
    document(cli("compile", files / "int8.tflite", "--target", "cortex-m4", "-o", art, "--json"))
    graph = art / "graph.ekg"
    good = graph.read_bytes()
    graph.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "graph.ekg" in refused(cli("profile", art))
    graph.write_bytes(good)
    manifest = (art / "manifest.json").read_text()
    for broken in ("", "{", "[]", '{"schema_version": 99, "files": {}}'):
        (art / "manifest.json").write_text(broken)
        refused(cli("profile", art))
    (art / "manifest.json").write_text(manifest)
    assert "no such device" in refused(cli("profile", art, "--device", "no such device"))


@pytest.mark.parametrize("suffix", [".tflite", ".onnx", ".h5", ".keras", ".ekg", ".bin"])
def test_bad_model_files_of_every_format(cli: Cli, tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    for name, data in (
        ("empty", b""),
        ("garbage", rng.integers(0, 256, 4000).astype(np.uint8).tobytes()),
        ("text", b"not a model\n" * 50),
        ("zeros", bytes(5000)),
    ):
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(data)
        assert path.name in refused(cli("inspect", path))


def test_python_model_files(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text("def broken():\n    raise RuntimeError('no weights here')\nvalue = 3\n")
    assert "no weights here" in refused(cli("inspect", f"{path}:broken"))
    assert "value" in refused(cli("inspect", f"{path}:value"))
    assert "missing" in refused(cli("inspect", f"{path}:missing"))
    path.write_text("def (:\n")
    refused(cli("inspect", f"{path}:broken"))


def test_missing_toolchain(
    cli: Cli, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refused(cli("compile", files / "int8.tflite", "--target", "cortex-m4", "-o",
                       tmp_path / "out", "--toolchain", "gcc"))  # fmt: skip
    assert "arm-none-eabi-gcc" in said and "install" in said
    assert not (tmp_path / "out").exists()


def test_help_answers_at_once() -> None:
    best = 9.0
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "edgekit.cli", "--help"],
            capture_output=True, text=True, timeout=60, check=True,
            env={**os.environ, "COLUMNS": "100"},
        )  # fmt: skip
        best = min(best, time.perf_counter() - start)
    assert all(v in done.stdout for v in ("deploy", "verify", "emulate", "doctor"))
    heavy = "import sys, edgekit.cli; print([m for m in ('numpy','torch','pydantic','onnx','rich') " \
            "if m in sys.modules])"  # fmt: skip
    loaded = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True,
                            timeout=60, check=True)  # fmt: skip
    assert loaded.stdout.strip() == "[]"
    assert best < 0.3
