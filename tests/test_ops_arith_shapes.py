"""Ranks and broadcasting of arithmetic operators, byte for byte against TensorFlow Lite Micro."""

from __future__ import annotations

import numpy as np
import opgen
import oracle
import pytest

from edgekit.graph.ir import Graph, QuantParams, Tensor
from edgekit.graph.reference import run

Shape = tuple[int, ...]
Q = QuantParams.per_tensor(0.05, -7)


def check(g: Graph) -> None:
    rng = np.random.default_rng(4)
    inputs = [opgen.samples(rng, g.tensor(i).shape, g.tensor(i).dtype, 3) for i in g.inputs]
    (want,) = oracle.graph_to_tflm(g.validate(), inputs)
    got = run(g, inputs)["y"]
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    np.testing.assert_array_equal(got, want)


def constant(shape: Shape, quant: QuantParams = Q) -> Tensor:
    data = np.random.default_rng(5).integers(-128, 128, shape).astype(np.int8)
    return Tensor("c", shape, "int8", quant, data)


PAIRS: list[tuple[Shape, Shape]] = [
    ((1, 2, 3, 4, 5), (1, 2, 3, 4, 5)),
    ((1, 2, 3, 4, 5), (5,)),
    ((1, 2, 3, 4, 5), (1, 1, 3, 1, 5)),
    ((1, 2, 1, 4), (1, 1, 3, 1)),
    ((1, 3, 1, 4), (3, 2, 4)),
    ((1, 3), (1,)),
]


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("op", ["ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"])
def test_broadcasting(op: str, a: Shape, b: Shape) -> None:
    attrs = {"activation": "NONE"} if op in ("ADD", "SUB", "MUL") else {}
    check(opgen.single(op, [Tensor("x", a, "int8", Q), constant(b)], attrs, "int8", Q))
    check(opgen.single(op, [constant(b), Tensor("x", a, "int8", Q)], attrs, "int8", Q))


@pytest.mark.parametrize(
    ("x", "y", "adj_x", "adj_y"),
    [
        ((1, 3, 4, 5), (5, 6), False, False),
        ((1, 3, 4, 5), (3, 5, 6), False, False),
        ((4, 5), (1, 2, 5, 6), False, False),
        ((1, 1, 4, 5), (1, 3, 5, 6), False, False),
        ((1, 2, 1, 4, 5), (1, 2, 3, 5, 6), False, False),
        ((1, 2, 3, 4, 5), (1, 1, 3, 5, 6), False, False),
        ((1, 2, 5, 4), (1, 2, 6, 5), True, True),
        ((1, 3, 4, 5), (1, 6, 5), False, True),
        ((1, 5, 4), (5, 6), True, False),
        ((1, 5), (5, 6), False, False),
        ((5, 1), (5, 6), True, False),
    ],
)
@pytest.mark.parametrize("fixed", [False, True])
def test_batch_matmul(x: Shape, y: Shape, adj_x: bool, adj_y: bool, fixed: bool) -> None:
    right = constant(y, QuantParams.per_tensor(0.03, 2))
    if not fixed:
        right = right.with_(data=None)
    attrs = {"adj_x": adj_x, "adj_y": adj_y}
    left = Tensor("x", x, "int8", Q)
    out = QuantParams.per_tensor(0.9, 3)
    check(opgen.single("BATCH_MATMUL", [left, right], attrs, "int8", out))


@pytest.mark.parametrize("keep_dims", [False, True])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((1, 2, 3, 4, 5), (2, 3)),
        ((1, 4, 5), (1, 2)),
        ((2, 3, 4), (0,)),
        ((1, 4), (0, 1)),
        ((1, 4, 4, 3), ()),
        ((1, 4, 4, 3), (1, 2)),
        ((1, 4, 4, 3), (1,)),
        ((1, 4, 4, 3), (3,)),
    ],
)
@pytest.mark.parametrize("op", ["MEAN", "SUM", "REDUCE_MAX"])
def test_reductions(op: str, shape: Shape, axes: tuple[int, ...], keep_dims: bool) -> None:
    attrs = {"axes": axes, "keep_dims": keep_dims}
    out = QuantParams.per_tensor(0.07, 5) if op != "REDUCE_MAX" else Q
    check(opgen.single(op, [Tensor("x", shape, "int8", Q)], attrs, "int8", out))


@pytest.mark.parametrize(
    ("shape", "keep"),
    [((1, 20), False), ((1, 4, 5), False), ((3, 20), False), ((2, 2, 20), True), ((20,), True)],
)
def test_fully_connected(shape: Shape, keep: bool) -> None:
    """Also with a zero point of the weights, which Micro's kernel honours here."""
    w = constant((8, 20), QuantParams.per_tensor(0.01, 5))
    attrs = {"activation": "RELU", "keep_num_dims": keep}
    out = QuantParams.per_tensor(0.3, 3)
    x = Tensor("x", shape, "int8", Q)
    check(opgen.single("FULLY_CONNECTED", [x, w, None], attrs, "int8", out))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("multiplier", [1, 4])
def test_depthwise_with_one_scale(channels: int, multiplier: int) -> None:
    w = constant((1, 3, 3, channels * multiplier), QuantParams.per_tensor(0.01, 0))
    attrs = {"stride": (1, 1), "dilation": (2, 1), "padding": "SAME", "activation": "RELU6"}
    x = Tensor("x", (1, 6, 5, channels), "int8", Q)
    out = QuantParams.per_tensor(0.2, -20)
    check(opgen.single("DEPTHWISE_CONV_2D", [x, w, None], attrs, "int8", out))
