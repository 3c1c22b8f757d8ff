"""Keras files against Keras itself (torch backend, in a process of its own)."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import FormatError, InputError, UnsupportedError
from edgekit.formats import load
from edgekit.graph.reference import run

h5py = pytest.importorskip("h5py", reason="Keras files need h5py")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("keras", "torch"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"Keras with the torch backend makes the models; {package} is missing")
    folder = tmp_path_factory.mktemp("keras")
    script = Path(__file__).parent / "keras_make.py"
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("name", ["functional", "convolutions", "transposed", "tokens", "pixels"])
def test_agrees_with_keras(made: Path, name: str, suffix: str) -> None:
    graph = load(made / f"{name}.{suffix}")
    data = np.load(made / f"{name}.npz")
    out = run(graph, {graph.inputs[0]: data["x"]})
    for i, o in enumerate(graph.outputs):
        np.testing.assert_allclose(out[o], data[f"y{i}"], rtol=1e-4, atol=1e-5)
    assert not any("~~" in t for t in graph.tensors)


def test_outputs_have_their_layers_names(made: Path) -> None:
    graph = load(made / "functional.keras")
    assert graph.inputs == ("image",) and graph.outputs[0] == "scores"


def test_resnet8_of_keras_2_equals_the_tflite_model(shared: Path) -> None:
    ours = load(shared / "zoo" / "ic_resnet8_keras.h5")
    theirs = load(shared / "zoo" / "ic_resnet8_float.tflite")
    x = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype(np.float32)
    y, z = (run(g, {g.inputs[0]: x})[g.outputs[0]] for g in (ours, theirs))
    np.testing.assert_allclose(y, z, rtol=0, atol=1e-4)


def test_nothing_of_keras_is_imported(made: Path) -> None:
    code = (
        "import sys; from edgekit.formats import load; load(sys.argv[1]);"
        "print([m for m in ('keras', 'torch', 'tensorflow', 'h5py') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(made / "tokens.keras")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_lambda_and_unknown_layers_are_refused_by_name(made: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"layer 'doubled' \(Lambda\)"):
        load(made / "lambda.keras")
    with pytest.raises(UnsupportedError, match=r"layer 'unit' \(UnitNormalization\)"):
        load(made / "odd.keras")


def test_channels_first_is_refused(made: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"'planes' \(Conv2D\): channels_first"):
        load(made / "first.keras")


def test_open_sizes(made: Path) -> None:
    with pytest.raises(
        InputError, match=r"dimension 1 of input 'any'.*--input-shape any=1,32,32,3"
    ):
        load(made / "sizes.keras")
    graph = load(made / "sizes.keras", input_shapes={"any": (1, 8, 9, 3)})
    assert graph.tensor(graph.outputs[0]).shape == (1, 6, 7, 2)
    with pytest.raises(InputError, match="does not fit input 'any'"):
        load(made / "sizes.keras", input_shapes={"any": (1, 8, 9, 4)})
    with pytest.raises(InputError, match="no input 'x'"):
        load(made / "tokens.keras", input_shapes={"x": (1, 6, 8)})


# -- files that Keras 2 wrote ------------------------------------------------------------------


def keras2(path: Path, layers: list[dict[str, object]], weights: dict[str, np.ndarray]) -> Path:
    """A Sequential model in Keras 2's layout; weights by 'layer/name'."""
    config = {"class_name": "Sequential", "config": {"name": "old", "layers": layers}}
    with h5py.File(path, "w") as f:
        f.attrs["model_config"] = json.dumps(config)
        f.attrs["keras_version"] = "2.4.0"
        root = f.create_group("model_weights")
        for layer in {k.split("/")[0] for k in weights}:
            g = root.create_group(layer)
            names = [k for k in weights if k.startswith(f"{layer}/")]
            g.attrs["weight_names"] = [f"{n}:0".encode() for n in names]
            for n in names:
                g.create_dataset(f"{n}:0", data=weights[n])
    return path


DEPTHWISE = {
    "class_name": "DepthwiseConv2D",
    "config": {
        "name": "dw",
        "batch_input_shape": [None, 6, 6, 2],
        "kernel_size": [3, 3],
        "strides": [1, 1],
        "padding": "valid",
        "data_format": "channels_last",
        "dilation_rate": [1, 1],
        "groups": 1,
        "depth_multiplier": 1,
        "activation": "hard_sigmoid",
        "use_bias": False,
    },
}


def test_old_depthwise_with_groups_and_the_old_hard_sigmoid(tmp_path: Path) -> None:
    w = np.random.default_rng(0).normal(size=(3, 3, 2, 1)).astype(np.float32)
    path = keras2(tmp_path / "old.h5", [DEPTHWISE], {"dw/depthwise_kernel": w})
    graph = load(path)
    x = np.random.default_rng(1).normal(size=(1, 6, 6, 2)).astype(np.float32)
    y = run(graph, {graph.inputs[0]: x})[graph.outputs[0]]
    want = np.zeros((1, 4, 4, 2), np.float32)
    for i in range(4):
        for j in range(4):
            want[0, i, j] = (x[0, i : i + 3, j : j + 3] * w[..., 0]).sum((0, 1))
    np.testing.assert_allclose(y, np.clip(0.2 * want + 0.5, 0, 1), atol=1e-5)


def test_weights_that_are_not_numbers(tmp_path: Path) -> None:
    w = np.full((3, 3, 2, 1), np.nan, np.float32)
    path = keras2(tmp_path / "nan.h5", [DEPTHWISE], {"dw/depthwise_kernel": w})
    with pytest.raises(FormatError, match="'dw/depthwise_kernel:0' hold NaN"):
        load(path)


def test_missing_and_misshapen_weights(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"layer 'dw' \(DepthwiseConv2D\) has no weights"):
        load(keras2(tmp_path / "none.h5", [DEPTHWISE], {}))
    w = np.ones((3, 3, 5, 1), np.float32)
    with pytest.raises(FormatError, match="'dw'"):
        load(keras2(tmp_path / "shape.h5", [DEPTHWISE], {"dw/depthwise_kernel": w}))


def test_links_to_other_files_are_not_followed(tmp_path: Path) -> None:
    w = np.ones((3, 3, 2, 1), np.float32)
    keras2(tmp_path / "secret.h5", [DEPTHWISE], {"dw/depthwise_kernel": w})
    path = keras2(tmp_path / "link.h5", [DEPTHWISE], {"dw/depthwise_kernel": w})
    with h5py.File(path, "a") as f:
        del f["model_weights/dw/dw/depthwise_kernel:0"]
        f["model_weights/dw/dw/depthwise_kernel:0"] = h5py.ExternalLink(
            "secret.h5", "/model_weights/dw/dw/depthwise_kernel:0"
        )
    with pytest.raises(FormatError, match="link to somewhere else"):
        load(path)


# -- malformed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_garbage(tmp_path: Path, suffix: str) -> None:
    head = b"\x89HDF\r\n\x1a\n" if suffix == "h5" else b"PK\x03\x04"
    for data in (b"", b"no model", head, head + b"\xff" * 999):
        path = tmp_path / f"bad.{suffix}"
        path.write_bytes(data)
        with pytest.raises(FormatError) as e:
            load(path)
        assert "\n" not in str(e.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["functional.h5", "convolutions.keras"])
def test_truncations_and_flipped_bytes(made: Path, tmp_path: Path, name: str) -> None:
    """Each file costs a process, so these are few; the HDF5 library crashes on some."""
    data = (made / name).read_bytes()
    rng = random.Random(0)
    path = tmp_path / name
    for k in range(12):
        bad = bytearray(data)
        if k % 3 == 0:
            bad = bad[: rng.randrange(1, len(bad))]
        for _ in range(k % 3 * 8):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        path.write_bytes(bad)
        try:
            load(path)
        except InputError as e:
            assert "\n" not in str(e)


def test_other_archives_and_huge_members(tmp_path: Path) -> None:
    path = tmp_path / "zip.keras"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("readme.txt", "hello")
    with pytest.raises(FormatError, match=r"has no config\.json"):
        load(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("config.json", b" " * (65 << 20))
        z.writestr("model.weights.h5", b"")
    with pytest.raises(FormatError, match="unpacks to"):
        load(path)


def test_weights_without_a_model(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as f:
        f["kernel"] = np.zeros(3)
    with pytest.raises(FormatError, match="no model configuration"):
        load(path)
