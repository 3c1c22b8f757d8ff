"""The executor: batching, what it keeps, what it refuses."""

from __future__ import annotations

import numpy as np
import opgen
import opgen_all
import pytest

from edgekit.errors import GraphError, InputError, UnsupportedError
from edgekit.graph import reference
from edgekit.graph.ir import Graph, QuantParams, Tensor
from edgekit.graph.reference import run, run_node


def small() -> Graph:
    """x -> RELU-fused ADD of a constant -> MEAN over height and width."""
    g = Graph("small", {}, [], ("x",), ("m",))
    g.add_tensor(Tensor("x", (1, 2, 2, 3), "float32"))
    g.add_const("c", np.array([1.0, -1.0, 0.0], np.float32))
    g.add_tensor(Tensor("a", (1, 2, 2, 3), "float32"))
    g.add_tensor(Tensor("m", (1, 3), "float32"))
    g.add_node("ADD", ["x", "c"], ["a"], {"activation": "RELU"})
    g.add_node("MEAN", ["a"], ["m"], {"axes": (1, 2), "keep_dims": False})
    return g.validate()


def x_of(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 2, 2, 3)).astype(np.float32)


def test_outputs_by_name_or_in_order() -> None:
    x = x_of(5)
    want = np.maximum(x + np.array([1, -1, 0], np.float32), 0).mean(axis=(1, 2))
    for inputs in ([x], (x,), {"x": x}):
        out = run(small(), inputs)
        assert list(out) == ["m"]
        assert out["m"].dtype == np.float32
        np.testing.assert_allclose(out["m"], want, rtol=1e-6)


def test_keep() -> None:
    x = x_of(2)
    g = small()
    g.add_tensor(Tensor("left_over", (1, 2), "float32"))  # produced by nothing
    everything = run(g, [x], keep="all")
    assert set(everything) == {"x", "a", "m"}
    assert np.array_equal(everything["x"], x)
    some = run(small(), [x], keep=["a", "c"])
    assert list(some) == ["a", "c"]
    assert np.array_equal(some["a"], everything["a"])
    assert some["c"].shape == (2, 3)
    with pytest.raises(GraphError, match="'left_over' is produced by nothing"):
        run(g, [x], keep=["left_over"])
    with pytest.raises(GraphError, match="no tensor 'nothing'"):
        run(small(), [x], keep=["nothing"])
    with pytest.raises(InputError, match="keep is 'some'"):
        run(small(), [x], keep="some")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            [x_of(2).astype(np.float64)],
            r"'x' is float64\[2, 2, 2, 3\]; float32\[samples, 2, 2, 3\]",
        ),
        ([x_of(2)[:, :1]], r"'x' is float32\[2, 1, 2, 3\]"),
        ([x_of(2)[0]], r"'x' is float32\[2, 2, 3\]"),
        ([x_of(0)], r"'x' is float32\[0, 2, 2, 3\]"),
        ([np.float32(1)], r"'x' is float32\[\]"),
        ([x_of(1), x_of(1)], "2 inputs are given; the graph takes 1: x"),
        ({"y": x_of(1)}, r"inputs given are \['y'\]; the graph takes \['x'\]"),
        (x_of(1), "one array"),
    ],
)
def test_refused_inputs(inputs: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(small(), inputs)  # type: ignore[arg-type]


def test_inputs_of_different_lengths() -> None:
    g = Graph("two", {}, [], ("x", "y"), ("z",))
    for name in "xyz":
        g.add_tensor(Tensor(name, (1, 2), "float32"))
    g.add_node("MUL", ["x", "y"], ["z"], {"activation": "NONE"})
    a = np.ones((3, 2), np.float32)
    assert run(g, [a, a])["z"].shape == (3, 2)
    with pytest.raises(InputError, match="'y' has 1 samples; the inputs before it have 3"):
        run(g, [a, a[:1]])


@pytest.mark.parametrize("op", sorted(opgen.CASES))
def test_many_samples_equal_one_by_one(op: str) -> None:
    assert opgen_all
    for seed in range(6):
        graph, inputs = opgen.CASES[op](np.random.default_rng([seed, len(op)]))
        together = run(graph, inputs, keep="all")
        for i in range(inputs[0].shape[0] if inputs else 0):
            alone = run(graph, [x[i : i + 1] for x in inputs], keep="all")
            for name, value in alone.items():
                assert np.array_equal(value[0], together[name][i]), (name, graph.nodes[0])


def test_chunks_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    x = x_of(11)
    want = run(small(), [x], keep="all")
    monkeypatch.setattr(reference, "_BATCH_BYTES", 3000)  # a few samples at a time
    got = run(small(), [x], keep="all")
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-6)


def test_operators_that_mix_samples_run_one_by_one() -> None:
    """FULLY_CONNECTED that folds rows, MEAN over axis 0, and lower-rank activations."""
    g = Graph("rows", {}, [], ("x",), ("y", "s", "z"))
    g.add_tensor(Tensor("x", (1, 4, 3), "float32"))
    g.add_const("w", np.arange(6, dtype=np.float32).reshape(2, 3))
    g.add_tensor(Tensor("y", (4, 2), "float32"))
    g.add_tensor(Tensor("s", (2,), "float32"))
    g.add_tensor(Tensor("r", (1, 3), "float32"))
    g.add_tensor(Tensor("z", (1, 4, 3), "float32"))
    fc = {"activation": "NONE", "keep_num_dims": False}
    g.add_node("FULLY_CONNECTED", ["x", "w"], ["y"], fc)
    g.add_node("MEAN", ["y"], ["s"], {"axes": (0,), "keep_dims": False})
    g.add_node("SUM", ["x"], ["r"], {"axes": (1,), "keep_dims": False})
    g.add_node("SUB", ["x", "r"], ["z"], {"activation": "NONE"})
    g.validate()
    x = np.random.default_rng(1).normal(size=(5, 4, 3)).astype(np.float32)
    out = run(g, [x])
    y = x @ g.tensor("w").data.T  # type: ignore[union-attr]
    assert out["y"].shape == (5, 4, 2)
    np.testing.assert_allclose(out["y"], y, rtol=1e-5)
    np.testing.assert_allclose(out["s"], y.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(out["z"], x - x.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-5)


def test_inputs_without_a_leading_one() -> None:
    g = Graph("pair", {}, [], ("x",), ("y",))
    g.add_tensor(Tensor("x", (2, 3), "float32"))
    g.add_tensor(Tensor("y", (3,), "float32"))
    g.add_node("SUM", ["x"], ["y"], {"axes": (0,), "keep_dims": False})
    x = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    assert np.array_equal(run(g, [x])["y"], x.sum(axis=1))
    assert np.array_equal(run(g, [x[1]])["y"], x[1:2].sum(axis=1))  # one sample, as declared
    with pytest.raises(InputError, match=r"float32\[samples, 2, 3\]"):
        run(g, [x[:, :1]])


def test_values_that_depend_on_no_input() -> None:
    g = small()
    g.add_const("d", np.full((1, 3), 2, np.float32))
    g.add_tensor(Tensor("e", (1, 3), "float32"))
    g.add_tensor(Tensor("f", (1, 3), "float32"))
    g.add_node("MUL", ["d", "d"], ["e"], {"activation": "NONE"})
    g.add_node("ADD", ["m", "e"], ["f"], {"activation": "NONE"})
    g.outputs = ("f", "e", "x")
    x = x_of(3)
    out = run(g.validate(), [x], keep=["f", "e", "x", "m"])
    assert out["e"].tolist() == [[4.0] * 3] * 3
    np.testing.assert_allclose(out["f"], out["m"] + 4)
    assert np.array_equal(out["x"], x)


def test_run_node_names_the_node() -> None:
    g = Graph("bad", {}, [], ("x",), ("y",))
    q = QuantParams.per_tensor(0.1, 0)
    g.add_tensor(Tensor("x", (1, 2), "int8", q))
    g.add_tensor(Tensor("y", (1, 2), "float32"))
    node = g.add_node("MUL", ["x", "x"], ["y"], {"activation": "NONE"}, "product")
    with pytest.raises(
        UnsupportedError, match=r"'product' \(MUL\): MUL of int8 and int8 to float32"
    ):
        run(g, [np.zeros((1, 2), np.int8)])
    with pytest.raises(GraphError, match=r"'product' \(MUL\) needs 'x', which has no value"):
        run_node(node, g, {})


def test_a_declared_shape_that_is_wrong_is_caught() -> None:
    g = small()
    g.tensors["m"] = g.tensor("m").with_(shape=(1, 4))
    with pytest.raises(GraphError, match=r"gave float32\[1, 3\] for 'm'"):
        run(g, [x_of(1)])


def test_constants_stay_untouched() -> None:
    for op in ("CONV_2D", "FULLY_CONNECTED", "ADD"):
        graph, inputs = opgen.CASES[op](np.random.default_rng(3))
        before = [x.copy() for x in inputs]
        constants = {t.name: t.data.copy() for t in graph.constants() if t.data is not None}
        run(graph, inputs)
        assert all(np.array_equal(a, b) for a, b in zip(before, inputs, strict=True))
        for name, data in constants.items():
            assert np.array_equal(np.asarray(graph.tensor(name).data), data)
