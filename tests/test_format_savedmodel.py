"""SavedModel folders: through TensorFlow where it is installed, one sentence where it is not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import FormatError, InputError, ToolchainError
from edgekit.formats import load, savedmodel
from edgekit.graph.reference import run

HAVE_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None

MAKE = """
import sys
import numpy as np
import tensorflow as tf

class Net(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable(tf.random.stateless_normal([3, 3, 3, 4], [0, 1]))
        self.d = tf.Variable(tf.random.stateless_normal([4, 5], [0, 2]))

    @tf.function
    def __call__(self, x):
        y = tf.nn.relu(tf.nn.conv2d(x, self.w, 2, "SAME"))
        return {"scores": tf.nn.softmax(tf.reduce_mean(y, [1, 2]) @ self.d)}

net = Net()
spec = tf.TensorSpec([None, 8, 8, 3], tf.float32, name="x")
tf.saved_model.save(net, sys.argv[1], signatures=net.__call__.get_concrete_function(spec))
x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype("float32")
np.savez(sys.argv[2], x=x, y=net(tf.constant(x))["scores"].numpy())
"""


def folder(tmp_path: Path) -> Path:
    path = tmp_path / "net"
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"\x08\x01 no model")
    return path


@pytest.mark.skipif(HAVE_TENSORFLOW, reason="TensorFlow is installed here")
def test_without_tensorflow_the_sentence_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        ToolchainError, match=r"needs TensorFlow.*pip install edgekit\[tensorflow\]"
    ):
        load(folder(tmp_path))


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"without a saved_model\.pb"):
        load(tmp_path)


def fake_python(tmp_path: Path, body: str) -> str:
    """A program that stands for the Python that runs the worker."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("body", "error", "sentence"),
    [
        ("kill -SEGV $$", ToolchainError, "ended with status -11 on 'net'"),
        ("echo 'error: no such op'; exit 1", FormatError, r"cannot convert 'net' \(no such op\)"),
        ("exit 0", ToolchainError, "ended with status 0"),
        ("exec sleep 30", ToolchainError, "took more than 0.3 s"),
    ],
)
def test_a_converter_that_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    error: type[Exception],
    sentence: str,
) -> None:
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, body))
    monkeypatch.setattr(savedmodel.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(error, match=sentence):
        savedmodel.read(folder(tmp_path), timeout_s=0.3 if "sleep" in body else 30)


@pytest.mark.slow
@pytest.mark.skipif(
    not HAVE_TENSORFLOW, reason="TensorFlow is not installed (pip install edgekit[tensorflow])"
)
def test_agrees_with_tensorflow(tmp_path: Path) -> None:
    path, data = tmp_path / "net", tmp_path / "data.npz"
    subprocess.run(
        [sys.executable, "-c", MAKE, str(path), str(data)],
        check=True,
        timeout=300,
        capture_output=True,
    )
    graph = load(path)
    z = np.load(data)
    assert graph.inputs == ("x",)
    np.testing.assert_allclose(run(graph, {"x": z["x"]})[graph.outputs[0]], z["y"], atol=1e-5)
    with pytest.raises(InputError, match="no input 'z'; its inputs are x"):
        load(path, input_shapes={"z": (1, 8, 8, 3)})
    (path / "saved_model.pb").write_bytes(b"garbage" * 20)
    with pytest.raises(FormatError, match="TensorFlow cannot convert 'net'"):
        load(path)
