"""Writing ONNX: every operator accepted by ONNX Runtime, float exact, int8 within one step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from format_cases import cases, samples
from onnx_nets import count, onnxruntime, session, types

from edgekit.errors import UnsupportedError
from edgekit.formats import load, save
from edgekit.formats.base import finish
from edgekit.formats.onnx_read import from_model
from edgekit.formats.onnx_write import to_model
from edgekit.graph.ir import Graph, Tensor
from edgekit.graph.reference import run

pytest.importorskip("onnxruntime", reason="ONNX Runtime is what the writer is compared with")

GRAPHS = [
    pytest.param(g, id=f"{dtype}-{i}-{g.nodes[0].type}")
    for dtype in ("float32", "int8", "int16")
    for i, g in enumerate(cases(dtype))
]


def real(t: Tensor, x: np.ndarray) -> np.ndarray:
    if t.quant is None:
        return x
    return ((x.astype(np.int32) - t.quant.zp) * np.float32(t.quant.s)).astype(np.float32)


def integer(t: Tensor, x: np.ndarray) -> np.ndarray:
    if t.quant is None:
        return x
    info = np.iinfo(t.dtype)
    return np.clip(np.round(x / np.float32(t.quant.s)) + t.quant.zp, info.min, info.max).astype(
        t.dtype
    )


def compare(g: Graph, inputs: list[np.ndarray], steps: float = 1.001) -> Graph:
    """Write, run under ONNX Runtime, read back, run both graphs; the graph read back."""
    model = to_model(g)
    again = from_model(model)
    feeds = {i: real(g.tensor(i), x) for i, x in zip(g.inputs, inputs, strict=True)}
    want = run(g, dict(zip(g.inputs, inputs, strict=True)))
    got = onnxruntime(model, feeds)
    back = run(again, {i: integer(again.tensor(i), feeds[i]) for i in again.inputs})
    for name, ort in zip(g.outputs, got, strict=True):
        t = g.tensor(name)
        step = 1e-5 if t.quant is None else steps * t.quant.s
        mine, other = real(t, want[name]), real(again.tensor(name), back[name])
        np.testing.assert_allclose(ort, mine, rtol=1e-5, atol=step)
        np.testing.assert_allclose(other, mine, rtol=1e-5, atol=step)
    return again


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_operator(graph: Graph) -> None:
    # TFLite interpolates 16-bit images with weights of 10 bits.
    coarse = graph.nodes[0].type == "RESIZE_BILINEAR" and graph.tensor("x0").dtype == "int16"
    compare(graph, samples(graph), steps=256 if coarse else 1.001)
    session(to_model(graph), optimized=True)  # its fusions accept the QDQ form, too


def test_float_network_round_trip(shared: Path) -> None:
    g = load(shared / "zoo" / "ic_resnet8_float.tflite")
    x = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype(np.float32)
    again = compare(g, [x])
    assert count(again, "TRANSPOSE") == 0
    assert again.tensor(again.inputs[0]).shape == (1, 32, 32, 3)


@pytest.mark.parametrize("name", ["ic_resnet8_int8", "kws_dscnn_int8", "ad_fcae_int8"])
def test_integer_network_comes_back_byte_for_byte(shared: Path, name: str) -> None:
    """QDQ holds everything: the graph read back computes the same bytes, with the same nodes."""
    g = load(shared / "zoo" / f"{name}.tflite")
    t = g.tensor(g.inputs[0])
    x = np.random.default_rng(0).integers(-128, 128, t.shape).astype(np.int8)
    again = compare(g, [x])
    assert again.is_quantized and sorted(types(again)) == sorted(types(g))
    y, z = (run(n, {n.inputs[0]: x})[n.outputs[0]] for n in (g, again))
    np.testing.assert_array_equal(y, z)


def test_one_transpose_where_the_image_enters(shared: Path) -> None:
    model = to_model(load(shared / "zoo" / "ic_resnet8_int8.tflite"))
    assert [n.op_type for n in model.graph.node].count("Transpose") == 1


def test_the_same_graph_gives_the_same_bytes(shared: Path, tmp_path: Path) -> None:
    g = load(shared / "zoo" / "kws_dscnn_int8.tflite")
    save(g, tmp_path / "a.onnx")
    save(g, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    onnx.checker.check_model(str(tmp_path / "a.onnx"))


def test_what_onnx_lacks_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    g = Graph("g", {}, [], ("x",), ("y",))
    g.add_tensor(Tensor("x", (1, 4), "int32"))
    g.add_const("c", np.ones((1, 4), np.int32))
    g.add_tensor(Tensor("y", (1, 4), "int32"))
    g.add_node("ADD", ["x", "c"], ["y"], {"activation": "NONE"}, name="sum")
    with pytest.raises(UnsupportedError, match=r"node 'sum' \(ADD\).*int32 without quantization"):
        save(finish(g), tmp_path / "g.onnx")
    assert list(tmp_path.iterdir()) == []


def test_fused_integer_kernels_see_the_same_classes(shared: Path) -> None:
    """ONNX Runtime's optimizer turns the QDQ pairs into integer kernels and the answers stay."""
    g = load(shared / "zoo" / "ic_resnet8_int8.tflite")
    t = g.tensor(g.inputs[0])
    images = np.load(shared / "data" / "cifar10.npz")["val_x"][:60].astype(np.float32)
    x = integer(t, images)
    want = run(g, {t.name: x})[g.outputs[0]].argmax(1)
    fused = session(to_model(g), optimized=True)
    name = fused.get_inputs()[0].name
    got = [int(fused.run(None, {name: real(t, i[None])})[0].argmax()) for i in x]
    assert (want == got).mean() >= 0.95
