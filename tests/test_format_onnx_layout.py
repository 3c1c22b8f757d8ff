"""NCHW comes in, NHWC goes through: no transposes are left that cancel."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_nets import Net, agree, count, types

pytest.importorskip("onnxruntime", reason="ONNX Runtime is what the reader is compared with")


def conv(n: Net, x: str, c: int, o: int, k: int = 3, **attrs: object) -> str:
    return n.op("Conv", x, n.weight(o, c, k, k), n.weight(o), pads=[k // 2] * 4, **attrs)


def test_residual_network_has_no_transpose() -> None:
    n = Net()
    x = n.input("x", 1, 3, 8, 8)
    a = n.op("Relu", conv(n, x, 3, 8))
    b = n.op("Add", conv(n, a, 8, 8), a)
    b = n.op("BatchNormalization", b, n.weight(8), n.weight(8), n.weight(8), n.const([1.0] * 8))
    c = n.op("Concat", n.op("MaxPool", b, kernel_shape=[2, 2], strides=[2, 2]),
             n.op("AveragePool", a, kernel_shape=[2, 2], strides=[2, 2]), axis=1)  # fmt: skip
    y = n.op("Gemm", n.op("Flatten", c), n.weight(10, 256), n.weight(10), transB=1)
    graph = agree(n.model(n.op("Softmax", y)))
    assert count(graph, "TRANSPOSE", "GATHER") == 0
    assert count(graph, "RESHAPE") == 1
    assert graph.tensor("x").shape == (1, 8, 8, 3)


def test_squeeze_and_excite() -> None:
    n = Net()
    x = n.input("x", 1, 3, 8, 8)
    a = conv(n, x, 3, 6)
    s = n.op("ReduceMean", a, n.ints(2, 3), keepdims=0)
    s = n.op("Sigmoid", n.op("Gemm", s, n.weight(6, 6)))
    s = n.op("Unsqueeze", s, n.ints(2, 3))
    graph = agree(n.model(conv(n, n.op("Mul", a, s), 6, 4)))
    assert count(graph, "TRANSPOSE") == 0
    assert graph.metadata[f"output_layout:{graph.outputs[0]}"] == "NHWC (from NCHW)"


def test_slices_pads_splits_and_resizes_between_convolutions() -> None:
    n = Net()
    x = n.input("x", 1, 3, 8, 8)
    a = conv(n, x, 3, 8)
    p, q = n.op("Split", a, outputs=2, axis=1, num_outputs=2)
    p = n.op(
        "Pad", n.op("Slice", p, n.ints(1), n.ints(4), n.ints(1)), n.ints(0, 1, 0, 0, 0, 0, 0, 0)
    )
    q = n.op("PRelu", q, n.weight(4, 1, 1))
    z = n.op("Mul", n.op("Concat", p, q, axis=1), n.weight(8, 1, 1))
    z = n.op("Resize", z, "", n.const([1, 1, 2, 2]), mode="linear")
    graph = agree(n.model(conv(n, z, 8, 2)))
    assert count(graph, "TRANSPOSE") == 0


def test_two_flattened_branches_share_a_dense_layer() -> None:
    n = Net()
    x = n.input("x", 1, 3, 4, 4)
    a, b = n.op("Flatten", conv(n, x, 3, 4)), n.op("Flatten", conv(n, x, 3, 2))
    c = n.op("Mul", n.op("Concat", a, b, axis=1), n.weight(96))
    graph = agree(n.model(n.op("MatMul", n.op("Relu", c), n.weight(96, 5))))
    assert count(graph, "TRANSPOSE", "GATHER") == 0


def test_flatten_that_is_an_output_is_put_in_order() -> None:
    n = Net()
    x = n.input("x", 1, 3, 4, 4)
    agree(n.model(n.op("Flatten", conv(n, x, 3, 4))))


def test_channel_shuffle_costs_one_transpose() -> None:
    n = Net()
    x = n.input("x", 1, 3, 6, 6)
    a = conv(n, x, 3, 8)
    a = n.op("Reshape", a, n.ints(1, 2, 4, 6, 6))
    a = n.op("Transpose", a, perm=[0, 2, 1, 3, 4])
    graph = agree(n.model(conv(n, n.op("Reshape", a, n.ints(1, 8, 6, 6)), 8, 2)))
    assert count(graph, "TRANSPOSE") == 1


def test_decoder_turns_the_rows_of_the_dense_layer() -> None:
    n = Net()
    z = n.input("z", 1, 10)
    a = n.op("Gemm", z, n.weight(10, 48), n.weight(48))
    a = n.op("Reshape", n.op("Relu", a), n.ints(1, 3, 4, 4))
    graph = agree(n.model(conv(n, a, 3, 2)))
    assert count(graph, "TRANSPOSE") == 0


def test_nhwc_model_with_its_own_transposes_keeps_its_input() -> None:
    """What converters from TensorFlow write: NHWC outside, NCHW inside."""
    n = Net()
    x = n.input("x", 1, 8, 8, 3)
    a = n.op("Relu", conv(n, n.op("Transpose", x, perm=[0, 3, 1, 2]), 3, 4))
    graph = agree(n.model(n.op("Transpose", a, perm=[0, 2, 3, 1])))
    assert types(graph) == ["CONV_2D", "RELU"]
    assert graph.tensor("x").shape == (1, 8, 8, 3)


def test_attention_of_a_vision_transformer() -> None:
    n = Net()
    x = n.input("x", 1, 3, 8, 8)
    p = n.op("Conv", x, n.weight(12, 3, 4, 4), strides=[4, 4])
    t = n.op("Transpose", n.op("Reshape", p, n.ints(1, 12, 4)), perm=[0, 2, 1])
    t = n.op("Add", n.op("Concat", n.weight(1, 1, 12), t, axis=1), n.weight(1, 5, 12))
    t = n.op("LayerNormalization", t, n.weight(12), n.weight(12))

    def heads(perm: list[int]) -> str:
        y = n.op("Reshape", n.op("MatMul", t, n.weight(12, 12)), n.ints(1, 5, 3, 4))
        return n.op("Transpose", y, perm=perm)

    q, k, v = heads([0, 2, 1, 3]), heads([0, 2, 3, 1]), heads([0, 2, 1, 3])
    s = n.op("Softmax", n.op("Mul", n.op("MatMul", q, k), n.const(0.5)), axis=-1)
    o = n.op("Transpose", n.op("MatMul", s, v), perm=[0, 2, 1, 3])
    o = n.op("Add", t, n.op("MatMul", n.op("Reshape", o, n.ints(1, 5, 12)), n.weight(12, 12)))
    graph = agree(n.model(n.op("Gather", o, n.const(0, np.int64), axis=1)), 1e-4)
    assert count(graph, "TRANSPOSE") == 4  # the heads' own, none around the convolution


def test_two_outputs_one_of_them_the_others_input() -> None:
    n = Net()
    x = n.input("x", 1, 3, 6, 6)
    a = conv(n, x, 3, 4)
    graph = agree(n.model(a, n.op("Relu", a), n.op("ReduceMean", a, n.ints(1), keepdims=0)))
    assert len(graph.outputs) == 3


def test_one_dimensional_network_reshapes_only_at_its_ends() -> None:
    """A height of 1 goes through; activations and norms stay beside their convolution."""
    n = Net()
    x = n.input("x", 1, 6, 16)
    a = n.op("Conv", x, n.weight(8, 6, 3), n.weight(8), pads=[1, 1])
    a = n.op("BatchNormalization", a, n.weight(8), n.weight(8), n.weight(8), n.const([1.0] * 8))
    a = n.op("Conv", n.op("Relu", a), n.weight(8, 1, 3), group=8, strides=[2])
    a = n.op("MaxPool", n.op("LeakyRelu", a), kernel_shape=[2], strides=[2])
    graph = agree(n.model(n.op("Gemm", n.op("Flatten", a), n.weight(24, 3))))
    assert types(graph)[2:-2] == [
        "CONV_2D", "MUL", "ADD", "RELU", "DEPTHWISE_CONV_2D", "LEAKY_RELU", "MAX_POOL_2D",
    ]  # fmt: skip
    assert count(graph, "RESHAPE") == 2 and count(graph, "TRANSPOSE") == 1
