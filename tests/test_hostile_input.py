"""What people do to programs: odd names, odd arrays, read-only folders, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mcu_case import small_net
from netgen import Net

from edgekit import api, display
from edgekit.artifact import Artifact
from edgekit.cli import main
from edgekit.compress import quantize, simplify
from edgekit.compress.lower import lower
from edgekit.data import Dataset, load_dataset, model_inputs, predictions
from edgekit.errors import DeviceError, InputError
from edgekit.graph.ir import Graph, Node, Tensor
from edgekit.graph.numerics import dequantize
from edgekit.graph.reference import run
from edgekit.text import printable, visible

MODELS = Path(__file__).resolve().parent.parent / "models"


def cli(capfd: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in args])
    out, err = capfd.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, out, err


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('it\'s a "folder" #1') / "модель"
    api.compile(
        MODELS / "digits.tflite", "cortex-m4", folder, data=MODELS / "digits.npz:calibration_x"
    )
    return folder


# -- data ------------------------------------------------------------------------------------------


def test_colons_belong_to_folders(tmp_path: Path) -> None:
    folder = tmp_path / "a:b.npz c"
    folder.mkdir()
    np.savez(folder / "d:1.npz", x=np.zeros((3, 2)), y=np.arange(3))
    for spec in (f"{folder}/d:1.npz:x,y", f"{folder}/d:1.npz"):
        data = load_dataset(spec)
        assert len(data) == 3 and data.y is not None


def test_one_array_may_feed_two_inputs(tmp_path: Path) -> None:
    a = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", a=a)
    t = {n: Tensor(n, (1, 4), "float32") for n in ("p", "q", "s")}
    g = Graph("sum", t, [Node("add", "ADD", ("p", "q"), ("s",), {"activation": "NONE"})],
              ("p", "q"), ("s",))  # fmt: skip
    given = model_inputs(g, load_dataset(f"{tmp_path}/d.npz:a+a"))
    assert len(given) == 2 and all(np.array_equal(x, a) for x in given)
    one = Graph("one", {"p": t["p"]}, [], ("p",), ("p",))
    with pytest.raises(InputError, match="2 arrays for a model with 1 input"):
        model_inputs(one, load_dataset(f"{tmp_path}/d.npz:a+a"))


def test_images_in_the_models_own_order_of_axes() -> None:
    x = Tensor("x", (1, 4, 5, 3), "float32")
    g = Graph("g", {"x": x}, [], ("x",), ("x",), {"input_layout:x": "NHWC (from NCHW)"})
    nchw = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    nhwc = np.moveaxis(nchw, 1, -1)
    for a in (nchw, nhwc, np.asfortranarray(nchw), nchw.astype(np.float64)):
        assert np.allclose(model_inputs(g, Dataset.of(a))[0], nhwc)
    g.metadata.clear()
    with pytest.raises(InputError, match=r"\[3, 4, 5\]"):
        model_inputs(g, Dataset.of(nchw))


def test_one_sample_of_boxes_is_no_classification() -> None:
    assert predictions(np.zeros((1, 64, 4), np.int8)) is None
    assert predictions(np.zeros((5, 64, 4), np.int8)) is None
    assert np.array_equal(predictions(np.eye(4)[:, None, None]), range(4))


# -- names -----------------------------------------------------------------------------------------


def test_names_cannot_drive_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    g = small_net()
    bad = g.copy()
    bad.name = "model\x1b]0;title\x07"
    bad.nodes[1] = bad.nodes[1].with_(name="[/red]\x1b[2J\x1b[31mred\nline")
    display.inspection(api.inspect(bad))
    out = capfd.readouterr().out
    assert "\x1b" not in out and "\x07" not in out
    assert "[/red]\\x1b[2J\\x1b[31mred\\nline" in out


def test_names_that_are_not_unicode() -> None:
    broken = b"caf\xc3\xa9 \xff.tflite".decode("ascii", "surrogateescape")
    assert printable(broken) == "café \ufffd.tflite"
    assert visible(broken).encode("utf-8")


def test_undecodable_file_names(artifact: Path, tmp_path: Path) -> None:
    """A locale without UTF-8, and names that need it."""
    model = tmp_path / "модель ü.tflite"
    shutil.copy(MODELS / "digits.tflite", model)
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "edgekit.cli", "compile", model, "--target", "cortex-m4", "--data",
         f"{MODELS}/digits.npz:calibration_x", "--calibration-samples", "4", "--observer", "minmax",
         "-o", tmp_path / "выход", "--json"],
        capture_output=True, env=env, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["source"] == "модель ü.tflite"


# -- folders, devices, signals ---------------------------------------------------------------------


def test_a_read_only_artifact_still_verifies(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no(self: Artifact, name: str, document: object) -> None:
        raise InputError(f"cannot write '{name}.json': Permission denied")

    monkeypatch.setattr(Artifact, "store_result", no)
    code, out, err = cli(
        capfd, "verify", artifact, "--data", f"{MODELS}/digits.npz:val_x,val_y", "--samples", 3,
        "--json",
    )  # fmt: skip
    assert code == 0 and json.loads(out)["mismatched_bytes"] == 0
    assert "not kept in the artifact" in err


def test_an_unknown_device_is_refused_before_compiling(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nope"):
        api.deploy(
            MODELS / "digits.tflite", "cortex-m4", MODELS / "digits.npz:val_x",
            tmp_path / "out", device="nope",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_fault_on_another_core_says_what_the_artifact_is_for(artifact: Path) -> None:
    with pytest.raises(DeviceError, match=r"compiled for cortex-m4; its own device is virtual:"):
        api.profile(artifact, device="virtual:cortex-m0plus")


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_nothing_behind(which: signal.Signals, tmp_path: Path) -> None:
    """Stopped while the C compiler runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit.cli", "compile", MODELS / "digits.tflite", "--target",
         "cortex-m4", "--data", f"{MODELS}/digits.npz:calibration_x", "-o", tmp_path / "out"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # a shell that runs the tests in the background has SIGINT ignored, for everybody below it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("compiling"):
            break
    time.sleep(0.05)
    os.killpg(process.pid, which)
    process.communicate(timeout=30)
    assert process.returncode in (128 + which, -which) or (tmp_path / "out").is_dir()
    assert [p.name for p in tmp_path.iterdir() if p.name != "out"] == []


def test_no_arguments_show_the_help(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = cli(capfd)
    assert code == 2 and out == ""
    assert "Commands:\n" in err and "deploy" in err


def test_unbalanced_quotes_in_args(artifact: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = cli(
        capfd, "emulate", artifact / "firmware.elf", "--core", "cortex-m4", "--args", "'a"
    )
    assert code == 2 and "cannot be split" in err and "internal" not in err


# -- quantization and simplification ---------------------------------------------------------------


def test_a_fixed_scale_does_not_clip_its_neighbours() -> None:
    """Boxes in pixels beside scores: the scores' 1/256 must not reach the boxes."""
    rng = np.random.default_rng(0)
    net = Net(rng, (1, 4, 4, 3), "boxes")
    boxes = net.conv("x", 4, k=1, activation="NONE")
    boxes = net.op("MUL", [boxes, net.g.add_const("s", np.full(1, 40.0, np.float32)).name],
                   activation="NONE")  # fmt: skip
    scores = net.op("LOGISTIC", [net.conv("x", 2, k=1, activation="NONE")])
    g = net.finish(net.op("CONCATENATION", [boxes, scores], axis=3, activation="NONE"))
    x = rng.normal(size=(16, 4, 4, 3)).astype(np.float32)
    q = quantize(g, [x])
    want = run(g, [x])[g.outputs[0]]
    raw = run(q, model_inputs(q, Dataset.of(x)))[q.outputs[0]]
    got = dequantize(raw, q.tensor(q.outputs[0]).quant)
    assert np.abs(got - want).max() < 0.03 * np.abs(want).max()


def test_divisions_by_constants_and_norms_get_integer_forms() -> None:
    rng = np.random.default_rng(0)
    net = Net(rng, (1, 6), "unit length")
    c = net.g.add_const
    y = net.dense("x", 6, activation="NONE")
    y = net.op("DIV", [y, c("three", np.full(1, 3.0, np.float32)).name], activation="NONE")
    square = net.op("MUL", [y, y], activation="NONE")
    total = net.op("SUM", [square], axes=(1,), keep_dims=True)
    norm = net.op("SQRT", [total])
    norm = net.op("MAXIMUM", [norm, c("eps", np.full(1, 1e-12, np.float32)).name])
    wide = net.op("CONCATENATION", [norm] * 6, axis=1, activation="NONE")
    g = net.finish(net.op("DIV", [y, wide], activation="NONE"))
    x = rng.normal(size=(32, 6)).astype(np.float32)
    low = lower(g)
    assert not {n.type for n in low.nodes} & {"DIV", "SQRT", "CONCATENATION"}
    want = run(g, [x])[g.outputs[0]]
    assert np.allclose(run(low, [x])[low.outputs[0]], want, atol=1e-5)
    q = quantize(g, [x])
    assert q.is_quantized
    raw = run(q, model_inputs(q, Dataset.of(x)))[q.outputs[0]]
    got = dequantize(raw, q.tensor(q.outputs[0]).quant)
    assert np.abs(got - want).mean() < 0.05


def test_division_by_zero_is_left_alone() -> None:
    net = Net(np.random.default_rng(0), (1, 4), "zero")
    zero = net.g.add_const("zero", np.zeros(1, np.float32)).name
    g = net.finish(net.op("DIV", ["x", zero], activation="NONE"))
    assert [n.type for n in lower(g).nodes] == ["DIV"]


def test_a_branch_without_weights_is_computed_once() -> None:
    rng = np.random.default_rng(5)
    net = Net(rng, (1, 8, 8, 3), "half")
    live = net.conv("x", 4)
    dead = net.conv("x", 4)
    weights = net.g.node(net.g.producers()[dead].name).inputs[1]
    t = net.g.tensor(weights)
    net.g.tensors[t.name] = t.with_(data=np.zeros(t.shape, np.float32))
    dead = net.conv(dead, 4)  # padded: its border differs, so no channel of it is constant
    g = net.finish(net.op("ADD", [live, dead], activation="NONE"))
    x = rng.normal(size=(8, 8, 8, 3)).astype(np.float32)
    q = quantize(g, [x])
    s = simplify(q)
    assert [n.type for n in s.graph.nodes] == ["CONV_2D", "ADD"]
    raw = rng.integers(-128, 128, (5, 8, 8, 3)).astype(np.int8)
    assert np.array_equal(run(q, [raw])[q.outputs[0]], run(s.graph, [raw])[s.graph.outputs[0]])


def test_calibration_of_a_range_of_a_few_float_steps() -> None:
    net = Net(np.random.default_rng(0), (1, 4), "narrow")
    one = net.g.add_const("one", np.full(1, 1.0, np.float32)).name
    g = net.finish(net.op("ADD", ["x", one], activation="NONE"))
    x = (np.random.default_rng(1).normal(size=(8, 4)) * 1e-7).astype(np.float32)
    assert quantize(g, [x]).is_quantized
