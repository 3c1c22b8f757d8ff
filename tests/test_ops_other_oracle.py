"""Bytes of the remaining operators against TensorFlow Lite Micro's reference kernels."""

from __future__ import annotations

import zlib

import numpy as np
import opgen
import opgen_movement
import oracle
import pytest

from edgekit.graph.ir import Graph, QuantParams, Tensor
from edgekit.graph.reference import run
from edgekit.graph.to_torch import dequantized

COMPARABLE = [op for op in opgen_movement.MINE if op not in opgen_movement.NOT_IN_TFLM]


def rng_of(op: str, *seed: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(op.encode()), *seed])


def check(graph: Graph, inputs: list[np.ndarray], note: object = "") -> None:
    graph.validate()
    ours = run(graph, inputs)
    for name, theirs in zip(graph.outputs, oracle.graph_to_tflm(graph, inputs), strict=True):
        assert ours[name].dtype == theirs.dtype
        np.testing.assert_array_equal(ours[name], theirs, f"{note} {graph.nodes[0]}")


def sweep(op: str, count: int, seed: int) -> None:
    compared = 0
    for i in range(count):
        graph, inputs = opgen.CASES[op](rng_of(op, seed, i))
        if opgen_movement.in_oracle(graph):
            check(graph, inputs, (op, seed, i))
            compared += 1
    assert compared > count // 3


@pytest.mark.parametrize("op", COMPARABLE)
def test_bytes_of_random_cases(op: str) -> None:
    sweep(op, 15, 0)


@pytest.mark.slow
@pytest.mark.parametrize("op", COMPARABLE)
def test_bytes_of_many_random_cases(op: str) -> None:
    sweep(op, 400, 1)


FLOAT = [op for op in opgen_movement.MINE if op not in ("QUANTIZE", "DEQUANTIZE", "LAYER_NORM")]


@pytest.mark.parametrize("op", sorted(set(FLOAT) - {"GELU", "RELU_N1_TO_1"}))
def test_float_values_of_random_cases(op: str) -> None:
    for i in range(6):
        graph, inputs = opgen.CASES[op](rng_of(op, 5, i))
        if op == "CONCATENATION" and graph.nodes[0].attrs["activation"] != "NONE":
            continue
        graph = dequantized(graph)
        x = [rng_of(op, 6, i).normal(0, 3, v.shape).astype(np.float32) for v in inputs]
        if op in ("SQRT", "RSQRT"):
            x = [np.abs(v) for v in x]
        ours = run(graph, x)
        for name, theirs in zip(graph.outputs, oracle.graph_to_tflm(graph, x), strict=True):
            np.testing.assert_allclose(ours[name], theirs, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("op", sorted(opgen_movement.NOT_IN_TFLM))
def test_the_oracle_really_lacks_these(op: str) -> None:
    graph, inputs = opgen.CASES[op](rng_of(op, 2))
    with pytest.raises(RuntimeError):
        oracle.graph_to_tflm(graph, inputs)


def wide(op: str, q_in: QuantParams, q_out: QuantParams, **attrs: float) -> Graph:
    g = Graph("wide", {}, [], ("x",), ("y",))
    g.add_tensor(Tensor("x", (1, 4096), "int16", q_in))
    g.add_tensor(Tensor("y", (1, 4096), "int16", q_out))
    g.add_node(op, ["x"], ["y"], attrs)
    return g


@pytest.mark.parametrize("op", ["LOGISTIC", "TANH", "RELU", "LEAKY_RELU", "ABS", "QUANTIZE"])
def test_int16_bytes(op: str) -> None:
    rng = rng_of(op, 3)
    x = np.linspace(-32768, 32767, 4096).astype(np.int16)[None]
    for i in range(15):
        s = float(2.0 ** rng.uniform(-15, -7))
        if op in ("LOGISTIC", "TANH"):
            s = float(rng.choice([2.0**-12, 2.0**-11, s]))
            out = QuantParams.per_tensor(2.0**-15, 0)
        else:
            out = QuantParams.per_tensor(s * 2.0 ** rng.uniform(-3, 3), 0)
        attrs = {"alpha": 0.1 * i - 0.3} if op == "LEAKY_RELU" else {}
        check(wide(op, QuantParams.per_tensor(s, 0), out, **attrs), [x], s)
    tables = {"LOGISTIC": 1.0 / 24576, "TANH": 1.0 / 6144}  # steps through every cell of the table
    if op in tables:
        q = QuantParams.per_tensor(tables[op], 0)
        check(wide(op, q, QuantParams.per_tensor(2.0**-15, 0)), [x])


def test_quantize_rounds_ties_away_from_zero() -> None:
    s = np.float32(0.37)
    x = ((np.arange(-200, 200) + 0.5) * s).astype(np.float32)[None]
    g = Graph("q", {}, [], ("x",), ("y",))
    g.add_tensor(Tensor("x", x.shape, "float32"))
    g.add_tensor(Tensor("y", x.shape, "int8", QuantParams.per_tensor(float(s), 5)))
    g.add_node("QUANTIZE", ["x"], ["y"])
    check(g, [x])


WIDTHS = [(a, b) for a in ("int8", "int16", "int32") for b in ("int8", "int16", "int32")]
WIDTHS.remove(("int32", "int32"))  # TensorFlow Lite Micro does not have it


@pytest.mark.parametrize(("src", "dst"), WIDTHS)
def test_requantize_every_width(src: str, dst: str) -> None:
    rng = rng_of("QUANTIZE", 4)
    for _ in range(10):
        s = float(2.0 ** rng.uniform(-10, 0))
        ratio = {("int8", "int32"): (-20, 3), ("int32", "int8"): (3, 20)}.get((src, dst), (-3, 9))
        limit = min(np.iinfo(src).max, 1 << 21)
        x = rng.integers(-limit, limit, (1, 200)).astype(src)
        q_in = QuantParams.per_tensor(s, 0 if src != "int8" else 7)
        zero = -9 if dst == "int8" else 0
        q_out = QuantParams.per_tensor(s * 2.0 ** rng.uniform(*ratio), zero)
        g = Graph("q", {}, [], ("x",), ("y",))
        g.add_tensor(Tensor("x", x.shape, src, q_in))
        g.add_tensor(Tensor("y", x.shape, dst, q_out))
        g.add_node("QUANTIZE", ["x"], ["y"])
        check(g, [x])
