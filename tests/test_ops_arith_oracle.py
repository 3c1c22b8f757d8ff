"""Arithmetic operators and whole networks, byte for byte against TensorFlow Lite Micro."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import opgen
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.formats.tflite import read
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, QuantParams, Tensor
from edgekit.graph.reference import run

OPS = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "TRANSPOSE_CONV",
    "FULLY_CONNECTED",
    "BATCH_MATMUL",
    "MAX_POOL_2D",
    "AVERAGE_POOL_2D",
    "MEAN",
    "SUM",
    "REDUCE_MAX",
    "ADD",
    "SUB",
    "MUL",
    "MAXIMUM",
    "MINIMUM",
    "SQUARED_DIFFERENCE",
)
#: (dtype, operator); Micro has no int16 REDUCE_MAX.
PAIRS = [
    *(("int8", op) for op in OPS),
    *(("int16", op) for op in OPS if op != "REDUCE_MAX"),
    *(("float32", op) for op in (*OPS, "DIV")),
]

seeds = st.integers(0, 2**63 - 1)
_relaxed = [HealthCheck.too_slow, HealthCheck.data_too_large]


def check(graph: Graph, inputs: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    ours = run(graph, inputs)
    for name, want in zip(graph.outputs, theirs, strict=True):
        got = ours[name]
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        if got.dtype == np.float32:  # sums are taken in another order, and clamped later
            size = max(1.0, float(np.abs(want).max(initial=0)))
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * size)
        else:
            np.testing.assert_array_equal(got, want)


def check_case(dtype: str, op: str, seed: int) -> None:
    draw = opgen.CASES[op] if dtype == "int8" else opgen.BY_DTYPE[dtype][op]
    graph, inputs = draw(np.random.default_rng(seed))
    check(graph.validate(), inputs, oracle.graph_to_tflm(graph, inputs))


@pytest.mark.parametrize(("dtype", "op"), PAIRS)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=_relaxed)
@given(seed=seeds)
def test_random_cases(dtype: str, op: str, seed: int) -> None:
    check_case(dtype, op, seed)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "op"), PAIRS)
@settings(max_examples=1000, deadline=None, suppress_health_check=_relaxed)
@given(seed=seeds)
def test_many_random_cases(dtype: str, op: str, seed: int) -> None:
    check_case(dtype, op, seed)


def test_the_oracle_lacks_int16_reduce_max() -> None:
    graph, inputs = opgen.BY_DTYPE["int16"]["REDUCE_MAX"](np.random.default_rng(0))
    with pytest.raises(RuntimeError):
        oracle.graph_to_tflm(graph, inputs)


@pytest.mark.parametrize("op", ["ADD", "SUB", "MUL", "SQUARED_DIFFERENCE"])
def test_every_pair_of_values(op: str) -> None:
    """All 65,536 pairs of int8 values for some scales and zero points, ties included."""
    rng = np.random.default_rng(0)
    every = np.arange(-128, 128, dtype=np.int8)
    for k in range(12):
        qx, qy = opgen.act_quant(rng, "int8", 0.05), opgen.act_quant(rng, "int8", 0.02)
        assert qx and qy
        if k % 3 == 0:  # ratios that are powers of two: many exact halves
            qx, qy = (QuantParams.per_tensor(2.0**-e, q.zp) for e, q in ((4, qx), (5 + k, qy)))
        s = max(qx.s, qy.s) * 2.0 ** (int(rng.integers(0, 3)) if k % 3 == 0 else rng.uniform(-1, 2))
        x = Tensor("x", (1, 256, 1), "int8", qx)
        y = Tensor("other", (1, 1, 256), "int8", qy)
        attrs = {} if op == "SQUARED_DIFFERENCE" else {"activation": "NONE"}
        g = opgen.single(op, [x, y], attrs, "int8", opgen.act_quant(rng, "int8", s))
        inputs = [every.reshape(1, 256, 1), every.reshape(1, 1, 256)]
        check(g, inputs, oracle.graph_to_tflm(g, inputs))


@pytest.mark.parametrize(
    ("x", "y", "out"),
    [
        ((0.022371385246515274, -26), (0.008350115269422531, -22), (0.01630249246954918, 16)),
        ((0.04034138843417168, 0), (0.008757766336202621, 72), (0.02281736209988594, 6)),
    ],
)
def test_add_with_all_its_head_room(x: tuple, y: tuple, out: tuple) -> None:
    """Scales for which 19 bits of head room instead of 20 change one or two of 65,536 sums."""
    every = np.arange(-128, 128, dtype=np.int8)
    a = Tensor("x", (1, 256, 1), "int8", QuantParams.per_tensor(*x))
    b = Tensor("other", (1, 1, 256), "int8", QuantParams.per_tensor(*y))
    g = opgen.single("ADD", [a, b], {"activation": "NONE"}, "int8", QuantParams.per_tensor(*out))
    inputs = [every.reshape(1, 256, 1), every.reshape(1, 1, 256)]
    check(g, inputs, oracle.graph_to_tflm(g, inputs))


@pytest.mark.parametrize("op", ["ADD", "SUB", "MUL", "SQUARED_DIFFERENCE"])
def test_large_int16_tensors(op: str) -> None:
    rng = np.random.default_rng(2)
    shape = (1, 300, 100)
    for _ in range(3):
        qx, qy = (QuantParams.per_tensor(2.0 ** rng.uniform(-14, -10), 0) for _ in range(2))
        s = max(qx.s, qy.s) * (1.3 if op in ("ADD", "SUB") else qy.s * 20000)
        x, y = Tensor("x", shape, "int16", qx), Tensor("other", shape, "int16", qy)
        attrs = {} if op == "SQUARED_DIFFERENCE" else {"activation": "NONE"}
        g = opgen.single(op, [x, y], attrs, "int16", QuantParams.per_tensor(s, 0))
        inputs = [rng.integers(-20000, 20000, shape).astype(np.int16) for _ in range(2)]
        check(g, inputs, oracle.graph_to_tflm(g, inputs))


@pytest.mark.parametrize("op", ["FULLY_CONNECTED", "BATCH_MATMUL"])
def test_scales_are_multiplied_in_double(op: str) -> None:
    """Scales whose product, rounded to float32, would give another 16-bit multiplier.

    Such are rare among random ones, and releases of TensorFlow Lite differ in this.
    """
    rng = np.random.default_rng(0)

    def reduced(real: float) -> int:
        return (nm.quantize_multiplier(real)[0] + (1 << 15)) >> 16

    found = 0
    while found < 5:
        sx, sw = (np.float32(2.0 ** rng.uniform(-8, -2)) for _ in range(2))
        so = np.float32(sx * sw * 2.0 ** rng.uniform(8, 12))
        exact = float(sx) * float(sw) / float(so)
        if reduced(float(sx * sw) / float(so)) == reduced(exact):
            continue
        found += 1
        dtype = "int8" if op == "FULLY_CONNECTED" else "int16"
        values = rng.integers(-127, 128, (64, 64)).astype(dtype)
        x = Tensor("x", (1, 64), "int16", QuantParams.per_tensor(float(sx), 0))
        w = Tensor("w", (64, 64), dtype, QuantParams.per_tensor(float(sw), 0), values)
        attrs = {"activation": "NONE", "keep_num_dims": False}
        if op == "BATCH_MATMUL":
            attrs = {"adj_x": False, "adj_y": False}
        g = opgen.single(op, [x, w], attrs, "int16", QuantParams.per_tensor(float(so), 0))
        inputs = [rng.integers(-9000, 9000, (2, 64)).astype(np.int16)]
        check(g, inputs, oracle.graph_to_tflm(g, inputs))


def test_cases_are_deterministic() -> None:
    for op in OPS:
        (a, x), (b, y) = (opgen.random_case(op, np.random.default_rng(5)) for _ in range(2))
        assert all(np.array_equal(i, j) for i, j in zip(x, y, strict=True))
        for s, t in zip(a.tensors.values(), b.tensors.values(), strict=True):
            assert (s.name, s.shape, s.dtype) == (t.name, t.shape, t.dtype)
            assert s.data is None or (t.data is not None and np.array_equal(s.data, t.data))


def test_cases_vary_and_are_not_degenerate() -> None:
    """Outputs with several distinct values: a comparison of constants would prove nothing."""
    for op in OPS:
        lively = 0
        for seed in range(20):
            graph, inputs = opgen.CASES[op](np.random.default_rng(seed))
            lively += np.unique(run(graph, inputs)["y"]).size > 3
        assert lively >= 5, op


# -- whole networks ----------------------------------------------------------------------------

TINY = ("ic_resnet8_int8", "kws_dscnn_int8", "ad_fcae_int8")


def check_model(path: Path, count: int, seed: int) -> None:
    graph = read(path).validate()
    rng = np.random.default_rng(seed)
    inputs = [
        opgen.samples(rng, graph.tensor(i).shape, graph.tensor(i).dtype, count)
        for i in graph.inputs
    ]
    check(graph, inputs, oracle.run_tflm(path.read_bytes(), inputs, arena=32 << 20))


@pytest.mark.parametrize("name", TINY)
def test_tiny_networks(shared: Path, name: str) -> None:
    check_model(shared / "zoo" / f"{name}.tflite", 6, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_tiny_networks_on_many_inputs(shared: Path, name: str) -> None:
    check_model(shared / "zoo" / f"{name}.tflite", 150, 2)


def test_mobilenet_v2(shared: Path) -> None:
    check_model(shared / "zoo" / "mobilenet_v2_1.0_224_int8.tflite", 1, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2_1.0_224_int8", "ic_resnet_large_int8"])
def test_large_networks_on_many_inputs(shared: Path, name: str) -> None:
    check_model(shared / "zoo" / f"{name}.tflite", 10, 4)


def test_float_network(shared: Path) -> None:
    check_model(shared / "zoo" / "ic_resnet8_float.tflite", 3, 5)
