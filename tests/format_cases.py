"""One small graph for every operator and dtype that .tflite can hold, for the format tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from edgekit.graph.ir import Graph, QuantParams, Tensor
from edgekit.graph.ops import infer_shapes

Q = QuantParams.per_tensor
SHAPE = (1, 7, 6, 4)

#: What TFLM's build of the kernels lacks, though LiteRT has it: (operator, dtype).
NOT_IN_TFLM = {
    ("RELU_N1_TO_1", "float32"),
    ("RELU_N1_TO_1", "int8"),
    ("GELU", "float32"),
    ("GELU", "int8"),
    ("NEG", "int8"),
    ("EXP", "int8"),
    ("REDUCE_MAX", "int16"),
    ("RESIZE_BILINEAR", "int16"),
    ("GATHER", "int16"),
}


def single(
    op: str,
    shapes: list[tuple[int, ...]],
    attrs: dict[str, Any],
    dtype: str = "int8",
    *,
    consts: tuple[tuple[np.ndarray, QuantParams | None], ...] = (),
    out: Tensor | None = None,
    n_out: int = 1,
) -> Graph:
    """A graph of one node. ``out``: dtype and quantization of the outputs, default the inputs'."""
    g = Graph("single", {}, [], (), ())
    quant = None if dtype == "float32" else Q(0.05, 0 if dtype == "int16" else 3)
    names = [g.add_tensor(Tensor(f"x{i}", s, dtype, quant)).name for i, s in enumerate(shapes)]
    g.inputs = tuple(names)
    names += [g.add_const(f"c{i}", data, q).name for i, (data, q) in enumerate(consts)]
    g.outputs = tuple(f"y{i}" for i in range(n_out))
    node = g.add_node(op, names, g.outputs, attrs, name=f"{op.lower()}_0")
    like = out or Tensor("", (), dtype, quant)
    for name, shape in zip(g.outputs, infer_shapes(node, g.ins(node)), strict=True):
        g.add_tensor(Tensor(name, shape, like.dtype, like.quant))
    return g.validate()


class Maker:
    """Weights and biases of a dtype, from one seed."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.rng = np.random.default_rng(7)

    def weights(self, shape: tuple[int, ...], axis: int = 0) -> tuple[Any, Any]:
        if self.dtype == "float32":
            return self.rng.normal(0, 0.2, shape).astype(np.float32), None
        scale = self.rng.uniform(0.001, 0.01, shape[axis])
        data = self.rng.integers(-127, 128, shape).astype(np.int8)
        return data, QuantParams.per_channel(scale, axis)

    def bias(self, weights: tuple[Any, Any], n: int) -> tuple[Any, Any]:
        if self.dtype == "float32":
            return self.rng.normal(size=n).astype(np.float32), None
        data = self.rng.integers(-500, 500, n)
        scale = np.float32(0.05) * weights[1].scale
        quant = QuantParams(scale, np.zeros(scale.size), 0 if scale.size > 1 else None)
        return data.astype(np.int64 if self.dtype == "int16" else np.int32), quant


def cases(dtype: str) -> Iterator[Graph]:
    """Graphs whose node survives a round trip through .tflite exactly as it is."""
    m = Maker(dtype)
    is_float = dtype == "float32"
    window = {"stride": (2, 1), "dilation": (1, 1), "activation": "RELU"}
    attrs: dict[str, Any]
    for padding in ("SAME", "VALID"):
        w = m.weights((5, 3, 2, 4))
        attrs = {**window, "padding": padding}
        yield single("CONV_2D", [SHAPE], attrs, dtype, consts=(w, m.bias(w, 5)))
        w = m.weights((1, 3, 3, 8), 3)
        attrs = {**attrs, "stride": (1, 1), "dilation": (1, 2)}
        yield single("DEPTHWISE_CONV_2D", [SHAPE], attrs, dtype, consts=(w, m.bias(w, 8)))
        w = m.weights((5, 3, 3, 4))
        shape = (1, 14, 12, 5) if padding == "SAME" else (1, 15, 13, 5)
        attrs = {"stride": (2, 2), "padding": padding, "output_shape": shape}
        attrs["activation"] = "RELU" if padding == "SAME" else "NONE"
        yield single("TRANSPOSE_CONV", [SHAPE], attrs, dtype, consts=(w, m.bias(w, 5)))
        for op in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
            attrs = {"filter": (3, 2), "stride": (2, 2), "padding": padding, "activation": "RELU"}
            yield single(op, [SHAPE], attrs, dtype)
    w = m.weights((6, 10))
    if not is_float:
        w = (w[0], Q(0.004, 0))
    bias = m.bias(w, 6)
    attrs = {"activation": "RELU", "keep_num_dims": False}
    yield single("FULLY_CONNECTED", [(1, 10)], attrs, dtype, consts=(w, bias))
    attrs = {"activation": "NONE", "keep_num_dims": True}
    yield single("FULLY_CONNECTED", [(1, 3, 10)], attrs, dtype, consts=(w, bias))
    yield single("BATCH_MATMUL", [(1, 3, 5), (1, 5, 4)], {"adj_x": False, "adj_y": False}, dtype)
    yield single("BATCH_MATMUL", [(1, 3, 5), (1, 4, 5)], {"adj_x": False, "adj_y": True}, dtype)
    for op in ("MEAN", "SUM", "REDUCE_MAX"):
        yield single(op, [SHAPE], {"axes": (1, 2), "keep_dims": op == "SUM"}, dtype)
    for op in ("ADD", "SUB", "MUL") + (("DIV",) if is_float else ()):
        yield single(op, [SHAPE, (1, 1, 1, 4)], {"activation": "RELU6"}, dtype)
    for op in ("MAXIMUM", "MINIMUM") + (("SQUARED_DIFFERENCE",) if is_float else ()):
        yield single(op, [SHAPE, SHAPE], {}, dtype)
    attrs = {"axis": 2, "activation": "NONE"}
    yield single("CONCATENATION", [SHAPE, SHAPE], attrs, dtype)
    pads = ((0, 0), (1, 2), (0, 1), (0, 0))
    yield single("PAD", [SHAPE], {"paddings": pads, "value": 0.0}, dtype)
    step = 0.5 if is_float else float(np.float32(0.05)) * 4
    yield single("PAD", [SHAPE], {"paddings": pads, "value": step}, dtype)
    yield single("RESHAPE", [SHAPE], {"new_shape": (1, 42, 4)}, dtype)
    yield single("SQUEEZE", [(1, 1, 5)], {"axes": (1,)}, dtype)
    yield single("TRANSPOSE", [SHAPE], {"perm": (0, 3, 1, 2)}, dtype)
    down = {"begin": (0, 1, 5, 0), "end": (1, 6, -1, 4), "strides": (1, 2, -1, 1)}
    yield single("STRIDED_SLICE", [SHAPE], {**down, "shrink_axes": ()}, dtype)
    point = {"begin": (0, 1, 2, 0), "end": (1, 6, 3, 4), "strides": (1, 2, 1, 1)}
    yield single("STRIDED_SLICE", [SHAPE], {**point, "shrink_axes": (2,)}, dtype)
    yield single("SPLIT", [SHAPE], {"axis": 3, "sizes": (2, 2)}, dtype, n_out=2)
    yield single("SPLIT", [SHAPE], {"axis": 1, "sizes": (2, 5)}, dtype, n_out=2)
    for op in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
        for corners, centers in ((False, False), (True, False), (False, True)):
            attrs = {"size": (14, 9), "align_corners": corners, "half_pixel_centers": centers}
            yield single(op, [SHAPE], attrs, dtype)
    if dtype != "int16":
        yield from _activations(dtype, m)
        yield single("ARG_MAX", [SHAPE], {"axis": 3}, dtype, out=Tensor("", (), "int32"))
    yield single("GATHER", [SHAPE], {"axis": 2, "indices": (0, 3, 3)}, dtype)
    if is_float:
        c = (m.rng.normal(size=8).astype(np.float32), None)
        epsilon = float(np.float32(1e-5))
        yield single("LAYER_NORM", [(1, 3, 8)], {"epsilon": epsilon}, dtype, consts=(c, c))
    else:
        yield single("DEQUANTIZE", [SHAPE], {}, dtype, out=Tensor("", (), "float32"))
        yield single("QUANTIZE", [SHAPE], {}, dtype, out=Tensor("", (), "int8", Q(0.1, 5)))


def _activations(dtype: str, m: Maker) -> Iterator[Graph]:
    alpha: tuple[np.ndarray, QuantParams | None]

    def fixed(scale: float, zero: int) -> Tensor | None:
        return None if dtype == "float32" else Tensor("", (), dtype, Q(scale, zero))

    yield single("SOFTMAX", [(1, 10)], {"beta": 1.0}, dtype, out=fixed(1 / 256, -128))
    yield single("LOGISTIC", [SHAPE], {}, dtype, out=fixed(1 / 256, -128))
    yield single("TANH", [SHAPE], {}, dtype, out=fixed(1 / 128, 0))
    for op in ("RELU", "RELU6", "RELU_N1_TO_1", "HARD_SWISH", "ABS", "NEG", "EXP"):
        yield single(op, [SHAPE], {}, dtype)
    if dtype == "float32":
        yield single("SQRT", [SHAPE], {}, dtype)
        yield single("LOG", [SHAPE], {}, dtype)
        yield single("RSQRT", [SHAPE], {}, dtype)
        alpha = (m.rng.normal(size=(1, 1, 4)).astype(np.float32), None)
    else:
        alpha = (m.rng.integers(-90, 90, (1, 1, 4)).astype(np.int8), Q(0.01, 0))
    yield single("LEAKY_RELU", [SHAPE], {"alpha": 0.125}, dtype)
    yield single("PRELU", [SHAPE], {}, dtype, consts=(alpha,))
    yield single("GELU", [SHAPE], {"approximate": True}, dtype)


def samples(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    """One random value per graph input; positive when float, so that every operator is defined."""
    rng = np.random.default_rng(seed)
    out = []
    for name in graph.inputs:
        t = graph.tensor(name)
        if t.is_float:
            out.append(rng.uniform(0.1, 2, t.shape).astype(t.dtype))
        else:
            info = np.iinfo(t.dtype)
            out.append(rng.integers(info.min, info.max + 1, t.shape).astype(t.dtype))
    return out


def small_cnn() -> Graph:
    """int8: CONV_2D -> MAX_POOL_2D -> RESHAPE -> FULLY_CONNECTED -> SOFTMAX."""
    m = Maker("int8")
    g = Graph("small_cnn", {}, [], ("x",), ("p",))
    act = Q(0.05, 3)
    g.add_tensor(Tensor("x", (1, 8, 8, 2), "int8", act))
    w = m.weights((4, 3, 3, 2))
    bias = m.bias(w, 4)
    g.add_const("w", *w)
    g.add_const("b", *bias)
    g.add_tensor(Tensor("c", (1, 8, 8, 4), "int8", act))
    window = {"stride": (1, 1), "dilation": (1, 1), "padding": "SAME", "activation": "RELU"}
    g.add_node("CONV_2D", ["x", "w", "b"], ["c"], window)
    g.add_tensor(Tensor("m", (1, 4, 4, 4), "int8", act))
    pool = {"filter": (2, 2), "stride": (2, 2), "padding": "VALID", "activation": "NONE"}
    g.add_node("MAX_POOL_2D", ["c"], ["m"], pool)
    g.add_tensor(Tensor("f", (1, 64), "int8", act))
    g.add_node("RESHAPE", ["m"], ["f"], {"new_shape": (1, 64)})
    g.add_const("v", m.weights((5, 64))[0], Q(0.004, 0))
    g.add_tensor(Tensor("l", (1, 5), "int8", Q(0.2, -7)))
    dense = {"activation": "NONE", "keep_num_dims": False}
    g.add_node("FULLY_CONNECTED", ["f", "v"], ["l"], dense)
    g.add_tensor(Tensor("p", (1, 5), "int8", Q(1 / 256, -128)))
    g.add_node("SOFTMAX", ["l"], ["p"], {"beta": 1.0})
    return g.validate()


def assert_same(a: Graph, b: Graph, *, names: bool = True) -> None:
    """Both graphs hold the same: types, attributes, tensors, constants, quantization."""
    assert a.inputs == b.inputs
    assert a.outputs == b.outputs
    assert [n.type for n in a.nodes] == [n.type for n in b.nodes]
    for n, o in zip(a.nodes, b.nodes, strict=True):
        assert dict(n.attrs) == dict(o.attrs), n.name
        if names:
            assert (n.inputs, n.outputs) == (o.inputs, o.outputs), n.name
        for t, u in zip([*a.ins(n), *a.outs(n)], [*b.ins(o), *b.outs(o)], strict=True):
            if t is None or u is None:
                assert t is u
                continue
            assert (t.shape, t.dtype, t.is_const) == (u.shape, u.dtype, u.is_const), t.name
            if t.data is not None and u.data is not None:
                assert np.array_equal(t.data, u.data), t.name
            if t.quant is not None or u.quant is not None:
                assert t.quant is not None and t.quant.same_as(u.quant), t.name
