""".tflite, operator by operator: what we write is read back the same, and both interpreters run it."""

from __future__ import annotations

import numpy as np
import pytest
from format_cases import NOT_IN_TFLM, SHAPE, Maker, Q, assert_same, cases, samples, single

from edgekit.errors import UnsupportedError
from edgekit.formats.base import finish
from edgekit.formats.tflite import read_bytes, write_bytes
from edgekit.graph import reference
from edgekit.graph.ir import Graph, Tensor

GRAPHS = [
    pytest.param(g, id=f"{dtype}-{i}-{g.nodes[0].type}")
    for dtype in ("float32", "int8", "int16")
    for i, g in enumerate(cases(dtype))
]


def litert(model: bytes, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of LiteRT's reference kernels (not XNNPACK)."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    itp = Interpreter(model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    itp.allocate_tensors()
    for detail, x in zip(itp.get_input_details(), inputs, strict=True):
        itp.set_tensor(detail["index"], x)
    itp.invoke()
    return [itp.get_tensor(d["index"]) for d in itp.get_output_details()]


def tflm(model: bytes, inputs: list[np.ndarray], n_out: int) -> list[np.ndarray]:
    from oracle import interpreter

    itp = interpreter(model)
    for k, x in enumerate(inputs):
        itp.set_input(x, k)
    itp.invoke()
    return [np.array(itp.get_output(k)) for k in range(n_out)]


def again(graph: Graph) -> Graph:
    return finish(read_bytes(write_bytes(graph), "again.tflite"))


def test_every_operator_of_the_table_that_tflite_has_is_covered() -> None:
    from edgekit.formats.tflite_emit import _HANDLERS
    from edgekit.graph.ops import op_types

    assert set(_HANDLERS) == set(op_types())
    seen = {g.nodes[0].type for dtype in ("float32", "int8") for g in cases(dtype)}
    assert seen == set(_HANDLERS)


@pytest.mark.parametrize("graph", GRAPHS)
def test_round_trip_is_exact(graph: Graph) -> None:
    back = again(graph)
    decomposed = graph.nodes[0].type == "LAYER_NORM"
    assert_same(graph, back, names=not decomposed)
    assert write_bytes(back) == write_bytes(again(back))


@pytest.mark.parametrize("graph", GRAPHS)
def test_litert_runs_it(graph: Graph) -> None:
    x = samples(graph)
    got = litert(write_bytes(graph), x)
    assert [g.shape for g in got] == [graph.tensor(o).shape for o in graph.outputs]
    if graph.tensor(graph.inputs[0]).is_float:
        want = reference.run(graph, x)
        for name, y in zip(graph.outputs, got, strict=True):
            np.testing.assert_allclose(y, want[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("graph", GRAPHS)
def test_tflm_runs_it(graph: Graph) -> None:
    node = graph.nodes[0]
    x = samples(graph)
    dtype = graph.tensor(graph.inputs[0]).dtype
    if (node.type, dtype) in NOT_IN_TFLM:
        with pytest.raises(RuntimeError):
            tflm(write_bytes(graph), x, len(graph.outputs))
        return
    got = tflm(write_bytes(graph), x, len(graph.outputs))
    want = reference.run(graph, x)
    for name, y in zip(graph.outputs, got, strict=True):
        if y.dtype.kind == "f":
            np.testing.assert_allclose(y, want[name], rtol=1e-4, atol=1e-4)
        else:
            np.testing.assert_array_equal(y, want[name])


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("op", ["CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "MAX_POOL_2D"])
def test_explicit_padding_is_written_as_operators_tflite_has(op: str, dtype: str) -> None:
    m = Maker(dtype)
    attrs = {"stride": (2, 2), "padding": (1, 2, 0, 1), "activation": "NONE"}
    consts: tuple = ()
    if op == "MAX_POOL_2D":
        attrs["filter"] = (3, 2)
    elif op == "TRANSPOSE_CONV":
        attrs["output_shape"] = (1, 12, 12, 5)
    else:
        attrs["dilation"] = (1, 1)
    if op != "MAX_POOL_2D":
        w = m.weights((1, 3, 3, 4), 3) if op == "DEPTHWISE_CONV_2D" else m.weights((5, 3, 3, 4))
        consts = (w, m.bias(w, w[0].shape[3] if op == "DEPTHWISE_CONV_2D" else 5))
    graph = single(op, [SHAPE], attrs, dtype, consts=consts)
    x = samples(graph)
    want = reference.run(graph, x)["y0"]
    model = write_bytes(graph)
    tolerance = 1e-4 if dtype == "float32" else 0
    for got in (litert(model, x), tflm(model, x, 1), [reference.run(again(graph), x)["y0"]]):
        np.testing.assert_allclose(got[0], want, atol=tolerance, rtol=0)


def test_explicit_padding_that_is_same_stays_one_operator() -> None:
    m = Maker("int8")
    w = m.weights((5, 3, 3, 4))
    attrs = {"stride": (2, 2), "dilation": (1, 1), "padding": (1, 1, 0, 1), "activation": "NONE"}
    graph = single("CONV_2D", [SHAPE], attrs, consts=(w, m.bias(w, 5)))
    back = again(graph)
    assert [n.type for n in back.nodes] == ["CONV_2D"]
    assert back.nodes[0].attrs["padding"] == "SAME"
    attrs = {"filter": (3, 3), "stride": (1, 1), "padding": (1, 0, 0, 1), "activation": "NONE"}
    with pytest.raises(UnsupportedError, match=r"average_pool_2d_0.*padding"):
        write_bytes(single("AVERAGE_POOL_2D", [SHAPE], attrs))


def test_convolution_without_bias_runs_in_both_interpreters() -> None:
    w = Maker("int8").weights((5, 3, 3, 4))
    attrs = {"stride": (1, 1), "dilation": (1, 1), "padding": "SAME", "activation": "NONE"}
    graph = single("CONV_2D", [SHAPE], attrs, consts=(w,))
    x = samples(graph)
    want = reference.run(graph, x)["y0"]
    assert np.array_equal(tflm(write_bytes(graph), x, 1)[0], want)
    assert litert(write_bytes(graph), x)[0].shape == want.shape


def test_integer_layer_norm_travels_as_a_custom_operator() -> None:
    c = (np.arange(8, dtype=np.int8), Q(0.01, 0))
    graph = single(
        "LAYER_NORM",
        [(1, 3, 8)],
        {"epsilon": 1e-6},
        consts=(c, c),
        out=Tensor("", (), "int8", Q(0.03, 1)),
    )
    back = again(graph)
    assert back.nodes[0].type == "LAYER_NORM"
    assert back.nodes[0].attrs == {"epsilon": 1e-6}
    assert b"EdgekitLayerNorm" in write_bytes(graph)
