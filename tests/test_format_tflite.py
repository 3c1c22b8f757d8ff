"""The .tflite reader: what it lowers, what it folds, what it refuses and how it says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_cases import SHAPE, Maker, Q, assert_same, samples, single, small_cnn
from test_format_tflite_ops import litert, tflm

from edgekit.errors import FormatError, GraphError, InputError, UnsupportedError
from edgekit.formats import load
from edgekit.formats.base import finish
from edgekit.formats.tflite import read_bytes, write_bytes
from edgekit.formats.tflite_write import ModelBuilder
from edgekit.graph import reference
from edgekit.graph.ir import Graph, Tensor

ZOO = [
    "ad_fcae_float",
    "ad_fcae_int8",
    "ic_resnet8_float",
    "ic_resnet8_int8",
    "ic_resnet_large_float",
    "ic_resnet_large_int8",
    "kws_dscnn_int8",
    "mobilenet_v2_1.0_224_int8",
]


def read(model: bytes, **shapes: tuple[int, ...]) -> Graph:
    return finish(read_bytes(model, "m.tflite", shapes))


def build(
    inputs: list[Tensor],
    outputs: list[Tensor],
    fill: Callable[[ModelBuilder], None],
    consts: tuple[Tensor, ...] = (),
) -> bytes:
    """A file made operator by operator, for what our own writer never writes."""
    g = Graph("raw", {}, [], tuple(t.name for t in inputs), tuple(t.name for t in outputs))
    for t in (*inputs, *outputs, *consts):
        g.add_tensor(t)
    b = ModelBuilder(g)
    for t in inputs:
        b.tensor(t.name)
    fill(b)
    return b.finish()


def options(b: ModelBuilder, name: str, **fields: Any) -> Any:
    out = getattr(b.schema, f"{name}OptionsT")()
    for k, v in fields.items():
        setattr(out, k, v)
    return out


def act(name: str, shape: tuple[int, ...], dtype: str = "float32") -> Tensor:
    return Tensor(name, shape, dtype, None if dtype == "float32" else Q(0.1, 0))


def run(model: bytes, *x: np.ndarray) -> np.ndarray:
    g = read(model)
    return reference.run(g, list(x))[g.outputs[0]]


# -- real files --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_zoo_survives_a_round_trip(shared: Path, name: str) -> None:
    path = shared / "zoo" / f"{name}.tflite"
    graph = load(path)
    assert graph.metadata == {"source": path.name, "format": "tflite"}
    model = write_bytes(graph)
    assert model == write_bytes(graph)
    back = read(model)
    assert_same(graph, back)
    assert write_bytes(back) == model
    if name.startswith("mobilenet"):  # the slow one: the kernels run for seconds
        return
    x = samples(graph)
    for before, after in (
        (litert(path.read_bytes(), x), litert(model, x)),
        (tflm(path.read_bytes(), x, 1), tflm(model, x, 1)),
    ):
        assert np.array_equal(before[0], after[0])


def test_uint8_model_with_quantize_inside(shared: Path) -> None:
    graph = load(shared / "zoo" / "mobilenet_v2_1.0_224_int8.tflite")
    assert graph.tensor(graph.inputs[0]).dtype == "uint8"
    assert graph.tensor(graph.outputs[0]).dtype == "uint8"
    assert [n.type for n in graph.nodes].count("QUANTIZE") == 2
    assert {n.name for n in graph.nodes} >= {"quantize_0", "conv_2d_1"}


# -- shapes ------------------------------------------------------------------------------------


def dynamic(model: bytes, *signature: int) -> bytes:
    """The file with a shape signature on its first input."""
    from ai_edge_litert import schema_py_generated as schema

    m = schema.ModelT.InitFromPackedBuf(model, 0)
    m.subgraphs[0].tensors[m.subgraphs[0].inputs[0]].shapeSignature = list(signature)
    import flatbuffers

    b = flatbuffers.Builder(1024)
    b.Finish(m.Pack(b), b"TFL3")
    return bytes(b.Output())


def test_dynamic_batch_becomes_one_and_other_dimensions_are_asked_for() -> None:
    model = write_bytes(single("RELU", [SHAPE], {}, "float32"))
    assert read(dynamic(model, -1, 7, 6, 4)).tensor("x0").shape == SHAPE
    with pytest.raises(UnsupportedError, match=r"input 'x0' has dynamic dimensions \[1, 2\]"):
        read(dynamic(model, -1, -1, -1, 4))
    graph = read(dynamic(model, -1, -1, -1, 4), x0=(1, 9, 5, 4))
    assert graph.tensor("x0").shape == graph.tensor("y0").shape == (1, 9, 5, 4)
    with pytest.raises(InputError, match="the inputs are x0"):
        read(model, other=(1,))
    with pytest.raises(InputError, match="does not fit"):
        read(model, x0=(1, 2))


def test_given_shapes_reach_every_tensor() -> None:
    graph = read(write_bytes(single("MEAN", [SHAPE], {"axes": (1, 2), "keep_dims": True})))
    assert graph.tensor("y0").shape == (1, 1, 1, 4)
    model = write_bytes(
        single("PAD", [SHAPE], {"paddings": ((0, 0), (1, 1), (1, 1), (0, 0)), "value": 0.0})
    )
    assert read(model, x0=(1, 3, 3, 4)).tensor("y0").shape == (1, 5, 5, 4)


def test_shape_computed_from_the_input_is_folded() -> None:
    """What Keras writes for Flatten with a dynamic batch."""

    def fill(b: ModelBuilder) -> None:
        i = act("", (4,), "int32")
        shape = b.temp(i, "shape")
        b.op("SHAPE", [b.tensor("x")], [shape], options(b, "Shape", outType=2))
        batch = b.temp(i, "batch", ())
        spec = [b.ints("begin", [0]), b.ints("end", [1]), b.ints("step", [1])]
        o = options(b, "StridedSlice", shrinkAxisMask=1)
        b.op("STRIDED_SLICE", [shape, *spec], [batch], o)
        target = b.temp(i, "target", (2,))
        o = options(b, "Pack", valuesCount=2, axis=0)
        b.op("PACK", [batch, b.ints("rest", -1)], [target], o)
        b.op("RESHAPE", [b.tensor("x"), target], [b.tensor("y")])

    model = build([act("x", SHAPE)], [act("y", (1, 168))], fill)
    graph = read(dynamic(model, -1, 7, 6, 4))
    assert [n.type for n in graph.nodes] == ["RESHAPE"]
    assert graph.nodes[0].attrs["new_shape"] == (1, 168)


# -- operators that become others ----------------------------------------------------------------


def test_float16_weights_are_folded_to_float32() -> None:
    w16 = np.linspace(-1, 1, 12, dtype=np.float16).reshape(3, 4)

    def fill(b: ModelBuilder) -> None:
        w = b.temp(act("", (3, 4)), "w32")
        b.op("DEQUANTIZE", [b.tensor("w16")], [w], options(b, "Dequantize"), 3)
        o = options(b, "FullyConnected")
        b.op("FULLY_CONNECTED", [b.tensor("x"), w, -1], [b.tensor("y")], o)

    consts = (Tensor("w16", (3, 4), "float16", None, w16),)
    model = build([act("x", (1, 4))], [act("y", (1, 3))], fill, consts)
    graph = read(model)
    assert [n.type for n in graph.nodes] == ["FULLY_CONNECTED"]
    weights = graph.tensor(graph.nodes[0].inputs[1])
    assert weights.dtype == "float32"
    assert weights.data is not None
    assert np.array_equal(weights.data, w16.astype(np.float32))


def test_pack_unpack_expand_dims_square_slice() -> None:
    x = np.arange(6, dtype=np.float32).reshape(1, 6) - 2

    def pack(b: ModelBuilder) -> None:
        b.op("PACK", [b.tensor("x"), b.tensor("x")], [b.tensor("y")], options(b, "Pack", axis=-1))

    assert np.array_equal(
        run(build([act("x", (1, 6))], [act("y", (1, 6, 2))], pack), x), np.stack([x, x], -1)
    )

    def unpack(b: ModelBuilder) -> None:
        outs = [b.tensor("y"), b.tensor("z")]
        b.op("UNPACK", [b.tensor("x")], outs, options(b, "Unpack", num=2, axis=1))

    model = build([act("x", (1, 2, 3))], [act("y", (1, 3)), act("z", (1, 3))], unpack)
    graph = read(model)
    got = reference.run(graph, [x.reshape(1, 2, 3)])
    assert np.array_equal(got["y"], x[:, :3])
    assert np.array_equal(got["z"], x[:, 3:])

    def expand(b: ModelBuilder) -> None:
        b.op("EXPAND_DIMS", [b.tensor("x"), b.ints("axis", -1)], [b.tensor("y")])

    assert run(build([act("x", (1, 6))], [act("y", (1, 6, 1))], expand), x).shape == (1, 6, 1)

    def square(b: ModelBuilder) -> None:
        b.op("SQUARE", [b.tensor("x")], [b.tensor("y")])

    assert np.array_equal(run(build([act("x", (1, 6))], [act("y", (1, 6))], square), x), x * x)

    def cut(b: ModelBuilder) -> None:
        inputs = [b.tensor("x"), b.ints("begin", [0, 2]), b.ints("size", [1, -1])]
        b.op("SLICE", inputs, [b.tensor("y")])

    assert np.array_equal(run(build([act("x", (1, 6))], [act("y", (1, 4))], cut), x), x[:, 2:])


@pytest.mark.parametrize(
    ("masks", "spec", "index"),
    [
        ({"beginMask": 2, "endMask": 6}, ([0, 5, 1], [1, 9, 0], [1, 1, 2]), np.s_[0:1, :, 1::2]),
        ({"ellipsisMask": 2}, ([0, 0, 1], [1, 0, 3], [1, 1, 1]), np.s_[0:1, ..., 1:3]),
        ({"newAxisMask": 2}, ([0, 0, 1], [1, 0, 4], [1, 1, 1]), np.s_[0:1, np.newaxis, 1:4]),
        ({"shrinkAxisMask": 4}, ([0, 0, -1], [1, 5, 0], [1, 1, 1]), np.s_[0:1, 0:5, -1]),
        ({"endMask": 2}, ([0, -1, 0], [1, 0, 9], [1, -2, 1]), np.s_[0:1, ::-2, 0:9]),
        ({}, ([0, -3, -100], [1, -1, 100], [1, 1, 3]), np.s_[0:1, -3:-1, ::3]),
    ],
)
def test_strided_slice_masks(masks: dict[str, int], spec: Any, index: Any) -> None:
    x = np.arange(40, dtype=np.float32).reshape(1, 5, 8)
    want = x[index]

    def fill(b: ModelBuilder) -> None:
        names = ("begin", "end", "strides")
        inputs = [b.tensor("x"), *(b.ints(n, v) for n, v in zip(names, spec, strict=True))]
        b.op("STRIDED_SLICE", inputs, [b.tensor("y")], options(b, "StridedSlice", **masks))

    model = build([act("x", x.shape)], [act("y", want.shape)], fill)
    assert np.array_equal(run(model, x), want)
    assert np.array_equal(litert(model, [x])[0], want)


def test_gather_with_a_matrix_of_indices() -> None:
    x = np.arange(12, dtype=np.float32).reshape(1, 4, 3)

    def fill(b: ModelBuilder) -> None:
        at = b.ints("at", [[0, 3], [2, 2]])
        b.op("GATHER", [b.tensor("x"), at], [b.tensor("y")], options(b, "Gather", axis=1))

    model = build([act("x", (1, 4, 3))], [act("y", (1, 2, 2, 3))], fill)
    assert np.array_equal(run(model, x), x[:, [[0, 3], [2, 2]]])


def keras_layer_norm(b: ModelBuilder) -> None:
    """x * (r * gamma) + (beta - mean * (r * gamma)), with SQUARED_DIFFERENCE."""
    full, one = act("", (1, 3, 8)), act("", (1, 3, 1))
    keep = options(b, "Reducer", keepDims=True)
    axes = b.ints("axes", [-1])
    x, mean, sq, var = b.tensor("x"), b.temp(one, "mean"), b.temp(full, "sq"), b.temp(one, "var")
    b.op("MEAN", [x, axes], [mean], keep)
    b.op("SQUARED_DIFFERENCE", [x, mean], [sq], options(b, "SquaredDifference"))
    b.op("MEAN", [sq, axes], [var], keep)
    eps, root, factor = b.temp(one, "eps"), b.temp(one, "root"), b.temp(full, "factor")
    b.op("ADD", [var, b.const("e", np.asarray(1e-3, np.float32))], [eps], options(b, "Add"))
    b.op("RSQRT", [eps], [root])
    b.op("MUL", [root, b.tensor("gamma")], [factor], options(b, "Mul"))
    left, right, offset = b.temp(full, "left"), b.temp(full, "right"), b.temp(full, "offset")
    b.op("MUL", [x, factor], [left], options(b, "Mul"))
    b.op("MUL", [mean, factor], [right], options(b, "Mul"))
    b.op("SUB", [b.tensor("beta"), right], [offset], options(b, "Sub"))
    b.op("ADD", [left, offset], [b.tensor("y")], options(b, "Add"))


def test_layer_norm_in_the_spelling_of_keras_is_recognised() -> None:
    rng = np.random.default_rng(0)
    consts = tuple(
        Tensor(n, (8,), "float32", None, rng.normal(size=8).astype(np.float32))
        for n in ("gamma", "beta")
    )
    model = build([act("x", (1, 3, 8))], [act("y", (1, 3, 8))], keras_layer_norm, consts)
    graph = read(model)
    assert [n.type for n in graph.nodes] == ["LAYER_NORM"]
    assert graph.nodes[0].inputs == ("x", "gamma", "beta")
    x = rng.normal(size=(1, 3, 8)).astype(np.float32)
    got = reference.run(graph, [x])["y"]
    np.testing.assert_allclose(got, litert(model, [x])[0], atol=1e-5)


def test_layer_norm_whose_inside_is_an_output_is_left_alone() -> None:
    graph = single(
        "LAYER_NORM",
        [(1, 3, 8)],
        {"epsilon": 0.5},
        "float32",
        consts=((np.ones(8, np.float32), None), (np.zeros(8, np.float32), None)),
    )
    plain = read_bytes(write_bytes(graph), "m.tflite")
    assert [n.type for n in plain.nodes] == ["LAYER_NORM"]
    from ai_edge_litert import schema_py_generated as schema

    m = schema.ModelT.InitFromPackedBuf(write_bytes(graph), 0)
    sub = m.subgraphs[0]
    names = [t.name.decode() for t in sub.tensors]
    sub.outputs = [names.index("y0"), names.index("layer_norm_0/normal")]
    import flatbuffers

    b = flatbuffers.Builder(1024)
    b.Finish(m.Pack(b), b"TFL3")
    types = [n.type for n in read(bytes(b.Output())).nodes]
    x = np.random.default_rng(1).normal(size=(1, 3, 8)).astype(np.float32)
    want = reference.run(graph, [x])["y0"]
    got = reference.run(read(bytes(b.Output())), [x])
    np.testing.assert_allclose(got["y0"], want, atol=1e-5)
    assert "MEAN" in types or types.count("LAYER_NORM") == 1
    assert set(got) == {"y0", "layer_norm_0/normal"}


# -- refusals ------------------------------------------------------------------------------------


def test_old_style_uint8_weights_are_read_exactly() -> None:
    w = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    bias = np.asarray([5, -5], np.int32)
    graph = Graph("u8", {}, [], ("x",), ("y",))
    graph.add_tensor(Tensor("x", (1, 4, 4, 2), "uint8", Q(0.5, 120)))
    graph.add_const("w", w, Q(0.25, 131))
    graph.add_const("b", bias, Q(0.125, 0))
    graph.add_tensor(Tensor("y", (1, 2, 3, 2), "uint8", Q(2.0, 3)))
    attrs = {"stride": (1, 1), "dilation": (1, 1), "padding": "VALID", "activation": "NONE"}
    graph.add_node("CONV_2D", ["x", "w", "b"], ["y"], attrs)
    back = read(write_bytes(graph))
    assert_same(graph, back)
    x = samples(graph)
    try:
        got = reference.run(back, x)["y"]
    except UnsupportedError as e:  # by name, not a crash
        assert "CONV_2D" in str(e)
    else:
        assert np.max(np.abs(got.astype(int) - litert(write_bytes(graph), x)[0])) <= 1


def test_hybrid_and_unknown_operators_are_all_named() -> None:
    def fill(b: ModelBuilder) -> None:
        a, c = b.temp(act("", (1, 3)), "a"), b.temp(act("", (1, 3)), "c")
        o = options(b, "FullyConnected")
        b.op("FULLY_CONNECTED", [b.tensor("x"), b.tensor("w"), -1], [a], o)
        b.op("CEIL", [a], [c])
        b.op("CUSTOM", [c], [b.tensor("y")], custom=("MyOp", b""))

    w = Tensor("w", (3, 4), "int8", Q(0.1, 0), np.ones((3, 4), np.int8))
    model = build([act("x", (1, 4))], [act("y", (1, 3))], fill, (w,))
    with pytest.raises(UnsupportedError) as e:
        read(model)
    assert [(n, t) for n, t, _ in e.value.unsupported] == [
        ("fully_connected_0", "FULLY_CONNECTED"),
        ("ceil_1", "CEIL"),
        ("myop_2", "MyOp"),
    ]
    assert "hybrid: float32 activations with int8 weights" in str(e.value)
    assert "node 'ceil_1' (CEIL): the operator is not implemented" in str(e.value)


def changed(change: Callable[[Any], None], graph: Graph | None = None) -> bytes:
    """The file of ``graph`` after ``change`` to its object form."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    m = schema.ModelT.InitFromPackedBuf(write_bytes(graph or small_cnn()), 0)
    change(m)
    b = flatbuffers.Builder(1024)
    b.Finish(m.Pack(b), b"TFL3")
    return bytes(b.Output())


def tensor_of(m: Any, name: str) -> Any:
    return next(t for t in m.subgraphs[0].tensors if t.name == name.encode())


def _two_subgraphs(m: Any) -> None:
    m.subgraphs = [m.subgraphs[0], m.subgraphs[0]]


def _set(name: str, **fields: Any) -> Callable[[Any], None]:
    def change(m: Any) -> None:
        for k, v in fields.items():
            setattr(tensor_of(m, name), k, v)

    return change


def _quant(name: str, **fields: Any) -> Callable[[Any], None]:
    def change(m: Any) -> None:
        for k, v in fields.items():
            setattr(tensor_of(m, name).quantization, k, v)

    return change


def _sparse(m: Any) -> None:
    from ai_edge_litert import schema_py_generated as schema

    tensor_of(m, "w").sparsity = schema.SparsityParametersT()


def _cycle(m: Any) -> None:
    ops = m.subgraphs[0].operators
    ops[0].inputs = [ops[1].outputs[0], *list(ops[0].inputs)[1:]]


def _operator(index: int, **fields: Any) -> Callable[[Any], None]:
    def change(m: Any) -> None:
        for k, v in fields.items():
            setattr(m.subgraphs[0].operators[index], k, v)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_two_subgraphs, "2 subgraphs"),
        (_set("c", isVariable=True), "'c' is a variable"),
        (_sparse, "'w' is stored sparse"),
        (_set("w", type=16), "'w' has type UINT16"),
        (_cycle, r"conv_2d_0 reads tensor 'm' before anything produces it"),
        (_set("w", shape=[4, 3, 3, 3]), r"'w'.*needs 108 bytes but its buffer has 72"),
        (_set("c", shape=[1 << 30] * 4), "'c' of shape .* would take"),
        (_set("c", shape=[1, 8, 8, 5]), r"conv_2d_0.*gives \[\[1, 8, 8, 4\]\].*declared"),
        (_set("w", buffer=99), "'w' names buffer 99"),
        (_quant("x", scale=[0.0]), "'x' has a scale that is not"),
        (_quant("x", scale=[float("nan")]), "'x' has a scale that is not"),
        (_quant("x", zeroPoint=[300]), "'x' has a zero point that int8 cannot hold"),
        (_quant("w", scale=[1.0, 2.0]), "'w' has 2 scales but 4 zero points"),
        (_quant("w", quantizedDimension=1), "'w' of shape .* has 4 scales along axis 1"),
        (_operator(0, inputs=[0, 77, 2]), "operator 0 .CONV_2D. name tensor 77"),
        (_operator(0, outputs=[]), "operator 0 .CONV_2D. has 3 inputs and 0 outputs"),
        (_operator(0, opcodeIndex=50), "operator code 50 of"),
        (_operator(0, builtinOptionsType=3), "does not carry the options"),
        (lambda m: setattr(m, "version", 2), "schema version 2"),
        (lambda m: setattr(m, "subgraphs", []), "no subgraph"),
        (lambda m: setattr(m.subgraphs[0], "inputs", []), "has 0 inputs"),
        (lambda m: setattr(m.subgraphs[0], "inputs", [0, 0]), "listed twice"),
    ],
)
def test_malformed_and_unsupported_models_are_refused_by_name(
    change: Callable[[Any], None], message: str
) -> None:
    with pytest.raises((FormatError, UnsupportedError, GraphError), match=message) as e:
        read(changed(change))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    m = Maker("float32")
    w, bias = m.weights((5, 3, 3, 4)), m.bias((None, None), 5)
    w[0][1, 2, 0, 3] = bad
    attrs = {"stride": (1, 1), "dilation": (1, 1), "padding": "SAME", "activation": "NONE"}
    model = write_bytes(single("CONV_2D", [SHAPE], attrs, "float32", consts=(w, bias)))
    with pytest.raises(FormatError, match=r"'c0' holds values that are not finite"):
        read(model)


def test_state_is_named_operator_by_operator() -> None:
    def fill(b: ModelBuilder) -> None:
        handle, value = b.temp(act("", ()), "handle"), b.temp(act("", (1, 3)), "value")
        b._tensors[handle].type = 13  # RESOURCE
        b.op("VAR_HANDLE", [], [handle])
        b.op("READ_VARIABLE", [handle], [value])
        b.op("ADD", [b.tensor("x"), value], [b.tensor("y")], options(b, "Add"))

    with pytest.raises(UnsupportedError, match="'handle' has type RESOURCE") as e:
        read(build([act("x", (1, 3))], [act("y", (1, 3))], fill))
    assert [n for n, _, _ in e.value.unsupported] == ["var_handle_0", "read_variable_1"]


def test_odd_tensors_that_nobody_reads_do_no_harm() -> None:
    def fill(b: ModelBuilder) -> None:
        b._tensors[b.temp(act("", (1, 3)), "left over")].type = 5  # STRING
        b.op("RELU", [b.tensor("x")], [b.tensor("y")])

    assert len(read(build([act("x", (1, 3))], [act("y", (1, 3))], fill)).nodes) == 1


def test_parameters_computed_at_run_time_are_refused() -> None:
    def fill(b: ModelBuilder) -> None:
        b.op("TRANSPOSE", [b.tensor("x"), b.tensor("p")], [b.tensor("y")])

    perm = Tensor("p", (2,), "int32")
    model = build([act("x", (2, 3)), perm], [act("y", (3, 2))], fill)
    with pytest.raises(UnsupportedError, match=r"transpose_0.*permutation is computed at run time"):
        read(model)


# -- the writer ----------------------------------------------------------------------------------


def test_constants_are_aligned_and_stored_once() -> None:
    from ai_edge_litert import schema_py_generated as schema

    graph = small_cnn()
    model = write_bytes(graph)
    m = schema.Model.GetRootAsModel(model, 0)
    assert m.Description() == b"edgekit"
    at = np.frombuffer(model, np.uint8).ctypes.data
    for i in range(1, m.BuffersLength()):
        assert (m.Buffers(i).DataAsNumpy().ctypes.data - at) % 16 == 0
    assert m.Buffers(0).DataLength() == 0
    twin = graph.copy()
    twin.tensors["w2"] = graph.tensor("w").with_(name="w2")
    twin.nodes[0] = twin.nodes[0].with_(inputs=("x", "w2", "b"))
    assert len(write_bytes(twin)) - len(model) < graph.tensor("w").nbytes


def test_integer_bias_without_quantization_gets_the_product_of_the_scales() -> None:
    graph = small_cnn()
    graph.tensors["b"] = graph.tensor("b").with_(quant=None)
    back = read(write_bytes(graph))
    weights, quant = graph.tensor("w").quant, back.tensor("b").quant
    assert weights is not None
    assert quant is not None
    want = np.float32(0.05) * weights.scale
    assert np.array_equal(quant.scale, want)
    assert np.array_equal(litert(write_bytes(graph), samples(graph))[0].shape, (1, 5))
