"""QDQ models become integer graphs that agree with ONNX Runtime within one step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_nets import Net, count, reference, session, types

from edgekit.formats.onnx_read import from_model
from edgekit.graph.ir import Graph

pytest.importorskip("onnxruntime", reason="ONNX Runtime makes and runs the quantized models")

Build = Callable[[Net, str], str]


def cnn() -> onnx.ModelProto:
    n = Net(opset=17)
    x = n.input("image", 1, 3, 8, 8)

    def conv(x: str, c: int, o: int, k: int, **attrs: Any) -> str:
        w = n.weight(o, c // attrs.get("group", 1), k, k)
        return n.op("Conv", x, w, n.weight(o), pads=[k // 2] * 4, **attrs)

    a = n.op("Relu", conv(x, 3, 8, 3))
    b = n.op("Relu", conv(a, 8, 8, 3, group=8))
    c = n.op("Relu", n.op("Add", conv(b, 8, 8, 1), a))
    d = n.op("MaxPool", c, kernel_shape=[2, 2], strides=[2, 2])
    e = n.op("Concat", d, n.op("Sigmoid", conv(d, 8, 4, 1)), axis=1)
    f = n.op("Flatten", n.op("GlobalAveragePool", e))
    return n.model(n.op("Softmax", n.op("Gemm", f, n.weight(5, 12), n.weight(5), transB=1)))


def quantized(
    model: onnx.ModelProto, folder: Path, inputs: list[np.ndarray], **options: Any
) -> Any:
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter({model.graph.input[0].name: x} for x in inputs)

        def get_next(self) -> Any:
            return next(self.left, None)

    source, target = folder / "float.onnx", folder / "qdq.onnx"
    onnx.save(model, source)
    q.quantize_static(source, target, Reader(), quant_format=q.QuantFormat.QDQ, **options)
    return onnx.load(target)


def steps(graph: Graph, model: onnx.ModelProto, inputs: list[np.ndarray]) -> float:
    """Largest difference from ONNX Runtime, in steps of the output's quantization."""
    run = session(model)
    t = graph.tensor(graph.outputs[0])
    unit = 1.0 if t.quant is None else t.quant.s
    worst = 0.0
    for x in inputs:
        feeds = {model.graph.input[0].name: x}
        worst = max(
            worst, np.abs(reference(graph, feeds)[0] - run.run(None, feeds)[0]).max() / unit
        )
    return float(worst)


INPUTS = [np.random.default_rng(k).normal(size=(1, 3, 8, 8)).astype(np.float32) for k in range(12)]


@pytest.mark.parametrize("activations", ["QInt8", "QUInt8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_quantize_static(tmp_path: Path, activations: str, per_channel: bool) -> None:
    from onnxruntime.quantization import QuantType

    model = quantized(
        cnn(),
        tmp_path,
        INPUTS,
        activation_type=QuantType[activations],
        weight_type=QuantType.QInt8,
        per_channel=per_channel,
    )
    graph = from_model(model)
    assert graph.is_quantized and count(graph, "TRANSPOSE", "DEQUANTIZE") == 0
    assert {t.dtype for t in graph.tensors.values()} == {"int8", "int32"}
    assert graph.tensor("image").shape == (1, 8, 8, 3)
    conv = next(n for n in graph.nodes if n.type == "CONV_2D")
    weights, bias = graph.tensor(conv.inputs[1]), graph.tensor(conv.inputs[2])
    assert weights.quant.is_per_channel == per_channel and bias.dtype == "int32"
    np.testing.assert_allclose(
        bias.quant.scale, weights.quant.scale * graph.tensor(conv.inputs[0]).quant.s, rtol=1e-6
    )
    assert steps(graph, model, INPUTS) <= 1.01


def test_asymmetric_weights_stay_float_and_right(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType

    model = quantized(
        cnn(), tmp_path, INPUTS, activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8
    )
    graph = from_model(model)
    assert count(graph, "QUANTIZE") and count(graph, "DEQUANTIZE")
    assert steps(graph, model, INPUTS) <= 1.01


def island(build: Build, *, dtype: Any = np.int8, out: tuple[float, int] = (0.04, -5)) -> Any:
    """x -> Q DQ -> what ``build`` adds -> Q DQ."""
    n = Net()
    x = n.input("x", 1, 4, 6, 6)
    shift = 128 if dtype == np.uint8 else 0

    def qdq(v: str, s: float, z: int) -> str:
        scale, zero = n.const(s), n.const(z + shift, dtype)
        return n.op("DequantizeLinear", n.op("QuantizeLinear", v, scale, zero), scale, zero)

    return n.model(qdq(build(n, qdq(x, 0.03, 7)), *out))


def weights(n: Net, *shape: int, dtype: Any = np.int8) -> str:
    q = n.rng.integers(-127, 128, shape)
    scales = n.rng.uniform(0.001, 0.01, shape[0])
    zeros = n.const(np.zeros(shape[0]), dtype)
    return n.op("DequantizeLinear", n.const(q, dtype), n.const(scales), zeros, axis=0)


ISLANDS: dict[str, tuple[Build, str]] = {
    "conv": (lambda n, x: n.op("Conv", x, weights(n, 5, 4, 3, 3)), "CONV_2D"),
    "conv float bias": (
        lambda n, x: n.op("Relu", n.op("Conv", x, weights(n, 5, 4, 3, 3), n.weight(5))),
        "CONV_2D",
    ),
    "depthwise": (
        lambda n, x: n.op("Conv", x, weights(n, 8, 1, 3, 3), group=4),
        "DEPTHWISE_CONV_2D",
    ),
    "add itself": (lambda n, x: n.op("Add", x, x), "ADD"),
    "times scalar": (lambda n, x: n.op("Mul", x, n.const(0.7)), "MUL"),
    "relu": (lambda n, x: n.op("Relu", x), "RELU"),
    "leaky": (lambda n, x: n.op("LeakyRelu", x, alpha=0.1), "LEAKY_RELU"),
    "sigmoid": (lambda n, x: n.op("Sigmoid", x), "LOGISTIC"),
    "gelu": (lambda n, x: n.op("Gelu", x), "GELU"),
    "mean": (lambda n, x: n.op("ReduceMean", x, n.ints(2, 3)), "MEAN"),
    "softmax": (lambda n, x: n.op("Softmax", x, axis=1), "SOFTMAX"),
    "max pool": (lambda n, x: n.op("MaxPool", x, kernel_shape=[2, 2]), "MAX_POOL_2D"),
    "average pool": (
        lambda n, x: n.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]),
        "AVERAGE_POOL_2D",
    ),
    "pad": (lambda n, x: n.op("Pad", x, n.ints(0, 0, 1, 1, 0, 0, 1, 1), n.const(0.0)), "PAD"),
    "resize": (
        lambda n, x: n.op("Resize", x, "", n.const([1, 1, 2, 2]), mode="linear"),
        "RESIZE_BILINEAR",
    ),
    "layer norm": (
        lambda n, x: n.op("LayerNormalization", x, n.weight(6), n.weight(6)),
        "LAYER_NORM",
    ),
}


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("name", ISLANDS)
def test_island(name: str, dtype: Any) -> None:
    build, type = ISLANDS[name]
    model = island(build, dtype=dtype)
    graph = from_model(model)
    assert graph.is_quantized and type in types(graph)
    inputs = [
        np.random.default_rng(k).normal(size=(1, 4, 6, 6)).astype(np.float32) for k in range(4)
    ]
    # Kernels that keep their input's scale round twice on the way to the output's.
    assert steps(graph, model, inputs) <= 1.01


def test_an_operator_without_integer_form_stays_float_between_quantize_nodes() -> None:
    model = island(lambda n, x: n.op("Div", x, n.const(3.0)))
    graph = from_model(model)
    assert types(graph) == ["DEQUANTIZE", "DIV", "QUANTIZE"]
    assert steps(graph, model, INPUTS[:0]) == 0


def test_moving_data_needs_no_quantize_behind_it() -> None:
    n = Net()
    x = n.input("x", 1, 4, 6, 6)
    s, z = n.const(0.03), n.const(7, np.int8)
    d = n.op("DequantizeLinear", n.op("QuantizeLinear", x, s, z), s, z)
    y = n.op("Transpose", n.op("MaxPool", d, kernel_shape=[2, 2]), perm=[0, 2, 3, 1])
    graph = from_model(n.model(y))
    assert types(graph) == ["MAX_POOL_2D"] and graph.is_quantized


def test_uint8_output_is_a_uint8_tensor() -> None:
    n = Net()
    x = n.input("x", 1, 6)
    y = n.op("QuantizeLinear", n.op("Relu", x), n.const(0.02), n.const(3, np.uint8))
    model = n.model(y)
    graph = from_model(model)
    assert graph.tensor(graph.outputs[0]).dtype == "uint8"
    feeds = {"x": np.linspace(-1, 6, 6, dtype=np.float32)[None]}
    from edgekit.graph.reference import run

    np.testing.assert_array_equal(
        run(graph, feeds)[graph.outputs[0]], session(model).run(None, feeds)[0]
    )
