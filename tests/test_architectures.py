"""Whole network families through the whole path: torch -> graph -> int8 -> firmware -> bytes.

``archs.py`` defines the networks. Each one is held to: the float graph gives torch's values; the
integer graph stays near the float one; simplification changes no byte; the firmware on the virtual
Cortex-M4 and the same C on this machine give the oracle's bytes; files written and read back give the
same again.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

from archs import ARCHITECTURES  # noqa: E402

from edgekit import api, formats  # noqa: E402
from edgekit.compress import quantize, simplify, total_macs  # noqa: E402
from edgekit.data import Dataset, model_inputs  # noqa: E402
from edgekit.errors import UnsupportedError  # noqa: E402
from edgekit.formats.torch_ import from_module  # noqa: E402
from edgekit.graph.ir import Graph  # noqa: E402
from edgekit.graph.numerics import dequantize  # noqa: E402
from edgekit.graph.reference import run  # noqa: E402

SAMPLES = 24
#: One of each kind in the quick suite; all of them in the slow one.
QUICK = ("two_heads", "yolo")
#: Activations that no integer form here can follow: refused by name.
REFUSED = {
    "act_softplus": "Where",
    "act_softsign": "DIV",
}
SUPPORTED = [n for n in ARCHITECTURES if n not in REFUSED]
#: Removed multiply-accumulates where half of the filters are zero, as a share of all.
PRUNED = {
    "pruned_valid": 0.55,
    "pruned_padded": 0.45,
    "pruned_unet": 0.25,
    "constant_branch": 0.55,
}
#: Nets whose uncounted padding .tflite cannot hold.
NOT_TFLITE = {"pools"}


@dataclass(frozen=True)
class Case:
    """graph: float. data: samples by input name. expected: torch's outputs for the first four, in the
    graph's layout. integer: the quantized graph."""

    graph: Graph
    data: Dataset
    expected: tuple[np.ndarray, ...]
    integer: Graph


def in_layout(graph: Graph, kind: str, name: str, a: np.ndarray) -> np.ndarray:
    """A value of the torch module as the graph holds it."""
    return np.moveaxis(a, 1, -1) if f"{kind}_layout:{name}" in graph.metadata else a


def float_graph(name: str) -> tuple[Graph, Dataset, tuple[np.ndarray, ...]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        module, example = ARCHITECTURES[name]()
        graph = from_module(module, example)
    torch.manual_seed(1)
    xs = [torch.randn(SAMPLES, *e.shape[1:]) for e in example]
    collected: list[list[np.ndarray]] = []
    with torch.no_grad():
        for k in range(4):
            y = module(*(x[k : k + 1] for x in xs))
            collected.append([v.numpy() for v in (y if isinstance(y, tuple) else (y,))])
    expected = tuple(
        in_layout(graph, "output", o, np.concatenate(column))
        for o, column in zip(graph.outputs, zip(*collected, strict=True), strict=True)
    )
    data = {
        i: np.ascontiguousarray(in_layout(graph, "input", i, x.numpy()))
        for i, x in zip(graph.inputs, xs, strict=True)
    }
    return graph, Dataset(data, None, "random"), expected


@cache
def case(name: str) -> Case:
    graph, data, expected = float_graph(name)
    return Case(graph, data, expected, quantize(graph, model_inputs(graph, data)))


def random_bytes(graph: Graph, n: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [
        rng.integers(-128, 128, (n, *graph.tensor(i).shape[1:])).astype(graph.tensor(i).dtype)
        for i in graph.inputs
    ]


def same_bytes(a: Graph, b: Graph, inputs: list[np.ndarray]) -> bool:
    x, y = run(a, inputs), run(b, inputs)
    return all(
        x[i].dtype == y[j].dtype and x[i].tobytes() == y[j].tobytes()
        for i, j in zip(a.outputs, b.outputs, strict=True)
    )


def snr_db(want: np.ndarray, got: np.ndarray) -> float:
    noise = float(((got.reshape(want.shape) - want.astype(np.float64)) ** 2).mean())
    return float(10 * np.log10(max(float(want.astype(np.float64).var()), 1e-30) / (noise + 1e-30)))


def check_values(c: Case) -> None:
    """The float graph against torch, the integer graph against the float one."""
    inputs = model_inputs(c.graph, c.data)
    values = run(c.graph, inputs)
    for o, want in zip(c.graph.outputs, c.expected, strict=True):
        got = values[o][:4]
        assert got.shape == want.shape
        if got.dtype.kind == "f":
            assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
        else:
            assert np.array_equal(got, want)
    integer = run(c.integer, model_inputs(c.integer, c.data))
    for o, q in zip(c.graph.outputs, c.integer.outputs, strict=True):
        t = c.integer.tensor(q)
        if t.quant is None:  # class numbers
            assert np.mean(values[o] == integer[q]) > 0.9
        else:
            assert snr_db(values[o], dequantize(integer[q], t.quant)) > 20.0


def check_simplify(name: str, c: Case) -> None:
    result = simplify(c.integer)
    assert same_bytes(c.integer, result.graph, random_bytes(c.integer))
    if name in PRUNED:
        assert result.macs <= (1 - PRUNED[name]) * total_macs(c.integer)


def check_device(c: Case, target: str, folder: Path) -> None:
    artifact = api.compile(c.graph, target, folder, data=c.data)
    report = api.verify(artifact, c.data, samples=3)
    assert report["mismatched_bytes"] == 0, report["first_divergent_layer"]
    assert report["bytes"] > 0


def check_files(name: str, c: Case, folder: Path) -> None:
    raw = random_bytes(c.integer)
    real = [
        dequantize(r, c.integer.tensor(i).quant) for r, i in zip(raw, c.integer.inputs, strict=True)
    ]
    floats = [a[:4] for a in model_inputs(c.graph, c.data)]
    want = run(c.graph, floats)
    for suffix in (".tflite", ".onnx", ".ekg"):
        if suffix == ".tflite" and name in NOT_TFLITE:
            with pytest.raises(UnsupportedError, match="padding"):
                formats.save(c.integer, folder / f"q{suffix}")
            continue
        formats.save(c.integer, folder / f"q{suffix}")
        back = formats.load(folder / f"q{suffix}")
        takes_int8 = back.tensor(back.inputs[0]).dtype == "int8"
        given = [
            a.reshape(len(a), *back.tensor(i).shape[1:])
            for a, i in zip(raw if takes_int8 else real, back.inputs, strict=True)
        ]
        expected, got = run(c.integer, raw), run(back, given)
        for o, b in zip(c.integer.outputs, back.outputs, strict=True):
            assert got[b].dtype == expected[o].dtype, suffix
            assert got[b].tobytes() == expected[o].tobytes(), suffix
        formats.save(c.graph, folder / f"f{suffix}")
        back = formats.load(folder / f"f{suffix}")
        values = run(back, floats)
        for o, b in zip(c.graph.outputs, back.outputs, strict=True):
            scale = max(1e-9, float(np.abs(want[o]).max()))
            assert np.abs(values[b].reshape(want[o].shape) - want[o]).max() <= 1e-4 * scale, suffix


def check_all(name: str, folder: Path) -> None:
    c = case(name)
    check_values(c)
    check_simplify(name, c)
    check_device(c, "cortex-m4", folder / "m4")
    check_files(name, c, folder)


@pytest.mark.parametrize("name", QUICK)
def test_architecture(name: str, tmp_path: Path) -> None:
    check_all(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in SUPPORTED if n not in QUICK])
def test_every_architecture(name: str, tmp_path: Path) -> None:
    check_all(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SUPPORTED[::3])  # the same C as on the Cortex-M0+, built once more
def test_a_third_of_them_on_this_machine(name: str, tmp_path: Path) -> None:
    check_device(case(name), "host", tmp_path / "host")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_not_supported_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=REFUSED[name]):
        graph, data, _ = float_graph(name)
        api.compile(graph, "cortex-m4", tmp_path / "out", data=data)
    assert not (tmp_path / "out").exists()
