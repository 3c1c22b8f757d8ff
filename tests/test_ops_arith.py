"""Arithmetic operators where there is no oracle: literal scalar definitions, refusals, costs."""

from __future__ import annotations

import itertools

import numpy as np
import opgen
import pytest

from edgekit.errors import GraphError, UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node, QuantParams, Tensor
from edgekit.graph.ops import infer_shapes, macs, spec
from edgekit.graph.reference import run

Rng = np.random.Generator


# -- scalar definitions ------------------------------------------------------------------------


def scale_down(acc: int, real: float) -> int:
    """gemmlowp's two roundings, in Python integers."""
    mult, shift = nm.quantize_multiplier(real)
    high = ((acc << max(shift, 0)) * mult + (1 << 30)) >> 31
    right = max(-shift, 0)
    mask = (1 << right) - 1
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0))


def literal_conv(g: Graph, x: np.ndarray, real: list[float], *, depthwise: bool) -> np.ndarray:
    """One sample through a (depthwise) convolution, cell by cell; ``real``: multipliers."""
    node = g.nodes[0]
    xt, wt = g.tensor(node.inputs[0]), g.tensor(node.inputs[1])
    out = g.tensor("y")
    assert xt.quant and wt.quant and out.quant and wt.data is not None
    w = wt.data.astype(int) - wt.quant.zp
    b = None if len(node.inputs) < 3 else g.tensor(node.inputs[2]).data
    (sh, sw), (dh, dw) = node.attrs["stride"], node.attrs["dilation"]
    kh, kw = w.shape[1:3]
    (top, _, left, _), _ = nm.conv_padding(
        x.shape[:2], (kh, kw), (sh, sw), node.attrs["padding"], (dh, dw)
    )
    lo, hi = nm.activation_range(node.attrs["activation"], out.quant, out.dtype)
    y = np.zeros(out.shape[1:], int)
    c = x.shape[2]
    for oy, ox, o in np.ndindex(*y.shape):
        if depthwise:
            inputs = [(o // (y.shape[2] // c), (0, o))]
        else:
            per = w.shape[3]
            first = o // (w.shape[0] // (c // per)) * per
            inputs = [(first + i, (o, i)) for i in range(per)]
        acc = 0 if b is None else int(b[o])
        for i, j in itertools.product(range(kh), range(kw)):
            iy, ix = oy * sh - top + i * dh, ox * sw - left + j * dw
            if 0 <= iy < x.shape[0] and 0 <= ix < x.shape[1]:
                for channel, (first_axis, last_axis) in inputs:
                    acc += (int(x[iy, ix, channel]) - xt.quant.zp) * int(
                        w[first_axis, i, j, last_axis]
                    )
        q = scale_down(acc, real[o if len(real) > 1 else 0]) + out.quant.zp
        y[oy, ox, o] = min(max(q, lo), hi)
    return y.astype(out.dtype)


def conv_graph(rng: Rng, dtype: str, *, depthwise: bool, per_channel: bool) -> Graph:
    wdtype = "uint8" if dtype == "uint8" else "int8"
    groups = 2 if rng.random() < 0.3 and not depthwise else 1
    cg, o = int(rng.integers(1, 4)), int(rng.integers(1, 3)) * groups
    c = cg * groups
    kh, kw = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    shape = (1, kh, kw, c * 2) if depthwise else (o, kh, kw, cg)
    axis = 3 if depthwise else 0
    n = shape[axis]
    lo, hi = nm.LIMITS[wdtype]
    data = rng.integers(lo, hi + 1, shape).astype(wdtype)
    if per_channel:
        wq = QuantParams.per_channel(0.01 * 2.0 ** rng.uniform(-3, 0, n), axis)
    else:
        wq = QuantParams.per_tensor(0.01, int(rng.integers(0, 256)) if wdtype == "uint8" else 0)
    xq = opgen.act_quant(rng, dtype, 0.05)
    x = Tensor("x", (1, int(rng.integers(3, 6)), int(rng.integers(3, 6)), c), dtype, xq)
    w = Tensor("w", shape, wdtype, wq, data)
    bias = Tensor("b", (n,), "int32", None, rng.integers(-9999, 9999, n).astype(np.int32))
    pads = tuple(int(p) for p in rng.integers(0, 2, 4))
    attrs = {
        "stride": (int(rng.integers(1, 3)), int(rng.integers(1, 3))),
        "dilation": (1, int(rng.integers(1, 3)) if kw == 1 else 1),
        "padding": opgen.pick(rng, ("SAME", pads, pads)),
        "activation": opgen.pick(rng, opgen.ACTIVATIONS),
    }
    op = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    return opgen.single(op, [x, w, bias], attrs, dtype, opgen.act_quant(rng, dtype, 0.4))


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(("dtype", "per_channel"), [("uint8", False), ("int8", True)])
def test_convolution_by_hand(dtype: str, per_channel: bool, depthwise: bool) -> None:
    """uint8 with asymmetric weights, explicit padding and groups, which Micro does not have."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        g = conv_graph(rng, dtype, depthwise=depthwise, per_channel=per_channel)
        x = opgen.samples(rng, g.tensor("x").shape, dtype, 2)
        qx, qw, qo = (g.tensor(n).quant for n in ("x", "w", "y"))
        assert qx and qw and qo
        real = [qx.s * float(s) / qo.s for s in qw.scale]
        got = run(g, [x])["y"]
        for i in range(2):
            np.testing.assert_array_equal(got[i], literal_conv(g, x[i], real, depthwise=depthwise))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
@pytest.mark.parametrize("op", ["MAX_POOL_2D", "AVERAGE_POOL_2D"])
def test_explicitly_padded_pools_by_hand(op: str, dtype: str) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        fh, fw = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        top, bottom, left, right = (int(rng.integers(0, f)) for f in (fh, fh, fw, fw))
        stride = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
        xq = opgen.act_quant(rng, dtype, 0.05)
        x = Tensor("x", (1, 4, 5, 3), dtype, xq)
        attrs = {"filter": (fh, fw), "stride": stride, "padding": (top, bottom, left, right)}
        g = opgen.single(op, [x], {**attrs, "activation": "RELU6"}, dtype, xq)
        value = opgen.samples(rng, x.shape, dtype, 1)
        lo, hi = nm.activation_range("RELU6", xq, dtype)
        got = run(g, [value])["y"][0]
        for oy, ox, c in np.ndindex(*got.shape):
            cells = [
                int(value[0, y, z, c])
                for y in range(oy * stride[0] - top, oy * stride[0] - top + fh)
                for z in range(ox * stride[1] - left, ox * stride[1] - left + fw)
                if 0 <= y < 4 and 0 <= z < 5
            ]
            n, total = len(cells), sum(cells)
            mean = (abs(total) + n // 2) // n * (1 if total >= 0 else -1)
            want = max(cells) if op == "MAX_POOL_2D" else mean
            assert got[oy, ox, c] == min(max(want, lo), hi)


def test_fully_connected_uint8_and_per_channel_int16_by_hand() -> None:
    rng = np.random.default_rng(0)
    fc = {"activation": "NONE", "keep_num_dims": False}
    xq, yq = QuantParams.per_tensor(0.1, 3), QuantParams.per_tensor(7.0, 100)
    x = Tensor("x", (1, 20), "uint8", xq)
    wq = QuantParams.per_tensor(0.3, 77)
    w = Tensor("w", (4, 20), "uint8", wq, rng.integers(0, 256, (4, 20)).astype(np.uint8))
    g = opgen.single("FULLY_CONNECTED", [x, w, None], fc, "uint8", yq)
    value = opgen.samples(rng, (1, 20), "uint8", 3)
    assert w.data is not None
    acc = (value.astype(int) - 3) @ (w.data.astype(int) - 77).T
    real = xq.s * wq.s / yq.s
    want = [[min(max(scale_down(int(a), real) + 100, 0), 255) for a in row] for row in acc]
    assert run(g, [value])["y"].tolist() == want

    x = Tensor("x", (1, 20), "int16", QuantParams.per_tensor(0.001, 0))
    wq = QuantParams.per_channel([0.01, 0.02, 0.003, 0.01], 0)
    w = Tensor("w", (4, 20), "int8", wq, rng.integers(-127, 128, (4, 20)).astype(np.int8))
    g = opgen.single("FULLY_CONNECTED", [x, w, None], fc, "int16", QuantParams.per_tensor(0.005, 0))
    value = opgen.samples(rng, (1, 20), "int16", 3)
    real_values = (value * 0.001) @ (np.asarray(w.data) * wq.scale[:, None].astype(float)).T / 0.005
    np.testing.assert_allclose(run(g, [value])["y"], np.clip(real_values, -32768, 32767), atol=1.5)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
@pytest.mark.parametrize("op", ["ADD", "SUB", "MUL", "SQUARED_DIFFERENCE"])
def test_elementwise_is_near_the_real_result(op: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        g, inputs = opgen.binary(rng, dtype, op=op)
        node = g.nodes[0]
        values = []
        feeds = iter(inputs)
        for name in node.inputs:
            t = g.tensor(name)
            assert t.quant is not None
            q = t.data if t.data is not None else next(feeds)
            values.append(nm.dequantize(np.asarray(q), t.quant).astype(float))
        if len({v.ndim for v in values}) > 1 and len(inputs) > 1:
            continue  # samples do not line up for NumPy here
        a, b = values
        real = {"ADD": a + b, "SUB": a - b, "MUL": a * b}.get(op, (a - b) ** 2)
        y = g.tensor("y")
        assert y.quant is not None
        low, high = nm.activation_range(node.attr("activation", "NONE"), y.quant, dtype)
        want = np.clip(real / y.quant.s + y.quant.zp, low, high)
        # a 16-bit difference loses one bit before it is squared
        rtol = 1e-3 if op == "SQUARED_DIFFERENCE" else 1e-4
        np.testing.assert_allclose(run(g, inputs)["y"].astype(float), want, atol=1.01, rtol=rtol)


def test_plain_int32() -> None:
    x = Tensor("x", (1, 2), "int32")
    none = {"activation": "NONE"}
    value = np.array([[2**31 - 1, -5]], np.int32)
    for op, want in (("ADD", [-2, -10]), ("SUB", [0, 0]), ("MUL", [1, 25])):
        g = Graph("g", {"x": x, "y": x.with_(name="y")}, [], ("x",), ("y",))
        g.add_node(op, ["x", "x"], ["y"], none)
        assert run(g, [value])["y"].tolist() == [want]


def test_lone_output_where_the_limits_cross_keeps_the_upper() -> None:
    assert nm.clamp_limits(np.array([0, 50]), 20, 10).tolist() == [10, 10]


# -- refusals ----------------------------------------------------------------------------------

CONV = {"stride": (1, 1), "dilation": (1, 1), "padding": "VALID", "activation": "NONE"}
POOL = {"filter": (2, 2), "stride": (1, 1), "padding": "VALID", "activation": "NONE"}
FC = {"activation": "NONE", "keep_num_dims": False}
UP = {"stride": (2, 2), "padding": "VALID", "activation": "NONE"}
ADD = {"activation": "NONE"}
REDUCE = {"axes": (1,), "keep_dims": False}
BMM = {"adj_x": False, "adj_y": False}

REFUSED = [
    ("CONV_2D", CONV, [(1, 4, 4, 3), (8, 3, 3, 2)], "multiples of the group count"),
    ("CONV_2D", CONV, [(1, 4, 4, 4), (3, 3, 3, 2)], "multiples of the group count"),
    ("CONV_2D", CONV, [(1, 2, 4, 3), (8, 3, 3, 3)], "does not fit the padded height 2"),
    ("CONV_2D", CONV, [(1, 4, 4, 3), (8, 3, 3, 3), (7,)], "7 elements for 8 output channels"),
    ("CONV_2D", CONV, [(4, 4, 3), (8, 3, 3, 3)], "4 dimensions are needed"),
    ("CONV_2D", CONV, [(1, 0, 4, 3), (8, 3, 3, 3)], "empty dimension"),
    ("CONV_2D", CONV, [(1, 4, 4, 3), None], "input 1 is missing"),
    ("CONV_2D", {**CONV, "stride": (0, 1)}, [(1, 4, 4, 3), (8, 3, 3, 3)], "at least 1"),
    ("CONV_2D", {**CONV, "activation": "SELU"}, [(1, 4, 4, 3), (8, 3, 3, 3)], "SELU is unknown"),
    ("CONV_2D", {}, [(1, 4, 4, 3), (8, 3, 3, 3)], "cannot take inputs"),
    ("DEPTHWISE_CONV_2D", CONV, [(1, 4, 4, 3), (1, 3, 3, 4)], "do not fit 3 input channels"),
    ("DEPTHWISE_CONV_2D", CONV, [(1, 4, 2, 3), (1, 3, 3, 3)], "padded width 2"),
    (
        "TRANSPOSE_CONV",
        {**UP, "output_shape": (1, 9, 9, 5)},
        [(1, 3, 3, 2), (5, 2, 2, 2)],
        r"gives \[4, 4\], not the input's \[3, 3\]",
    ),
    (
        "TRANSPOSE_CONV",
        {**UP, "output_shape": (1, 6, 6, 4)},
        [(1, 3, 3, 2), (5, 2, 2, 2)],
        r"must be \[1, height, width, 5\]",
    ),
    ("FULLY_CONNECTED", FC, [(1, 10), (4, 3)], "10 is no multiple of 3"),
    ("FULLY_CONNECTED", {**FC, "keep_num_dims": True}, [(2, 6), (4, 3)], "do not fit an input"),
    ("FULLY_CONNECTED", FC, [(1, 10), (4, 5, 2)], r"weights \[outputs, inputs\]"),
    ("BATCH_MATMUL", BMM, [(1, 2, 3), (1, 4, 5)], r"\[2, 3\] and \[4, 5\] cannot be multiplied"),
    ("BATCH_MATMUL", BMM, [(2, 2, 3), (3, 3, 5)], "do not broadcast"),
    ("BATCH_MATMUL", BMM, [(3,), (3, 5)], "two or more"),
    ("MAX_POOL_2D", {**POOL, "filter": (5, 2)}, [(1, 4, 4, 3)], "padded height 4"),
    ("AVERAGE_POOL_2D", {**POOL, "padding": (2, 0, 0, 0)}, [(1, 4, 4, 3)], "hold nothing"),
    ("MEAN", {**REDUCE, "axes": (3,)}, [(1, 4, 4)], "distinct axes from 0 to 2"),
    ("SUM", {**REDUCE, "axes": (1, 1)}, [(1, 4, 4)], "distinct axes"),
    ("ADD", ADD, [(1, 3), (1, 4)], "do not broadcast"),
    ("MAXIMUM", {}, [(1, 0), (1, 1)], "empty dimension"),
    ("SUB", ADD, [(1, 3)], "has 1 inputs; it takes 2 to 2"),
]


@pytest.mark.parametrize(("op", "attrs", "shapes", "message"), REFUSED)
def test_inconsistent_shapes(op: str, attrs: dict, shapes: list, message: str) -> None:
    ins = [None if s is None else Tensor("t", s, "float32") for s in shapes]
    with pytest.raises(GraphError, match=message) as e:
        infer_shapes(Node("n", op, tuple("abc"[: len(ins)]), ("y",), attrs), ins)
    assert "node 'n'" in str(e.value)


def _typed(op: str, attrs: dict, tensors: list[Tensor], out: Tensor) -> Graph:
    g = Graph("g", {}, [], (), ("y",))
    names = [g.add_tensor(t).name for t in tensors]
    g.inputs = tuple(n for n in names if not g.tensor(n).is_const)
    g.add_tensor(out.with_(name="y"))
    g.add_node(op, names, ["y"], attrs)
    return g


Q = QuantParams.per_tensor(0.1, 0)


def _w(dtype: str, quant: QuantParams | None, shape: tuple[int, ...] = (2, 1, 1, 2)) -> Tensor:
    return Tensor("w", shape, dtype, quant, np.ones(shape, dtype))


@pytest.mark.parametrize(
    ("x", "w", "y", "message"),
    [
        (("float32", None), ("int8", Q), ("float32", None), "float32 input, int8 weights"),
        (("int8", Q), ("int8", Q), ("int16", Q), "int16 output"),
        (("int8", None), ("int8", Q), ("int8", Q), "'x' is int8 without quantization"),
        (("int8", Q), ("int8", QuantParams.per_tensor(1, 1)), ("int8", Q), "must be symmetric"),
        (("int16", QuantParams.per_tensor(1, 1)), ("int8", Q), ("int16", Q), "zero point"),
        (("float16", None), ("float16", None), ("float16", None), "float16 input"),
    ],
)
def test_convolution_types_that_are_refused(x: tuple, w: tuple, y: tuple, message: str) -> None:
    g = _typed(
        "CONV_2D",
        CONV,
        [Tensor("x", (1, 1, 1, 2), *x), _w(*w)],
        Tensor("y", (1, 1, 1, 2), *y),
    )
    with pytest.raises(UnsupportedError, match=message):
        run(g, [np.zeros((1, 1, 1, 2), x[0])])


@pytest.mark.parametrize(
    ("op", "attrs", "dtype", "message"),
    [
        ("ADD", ADD, "int64", "ADD of int64"),
        ("DIV", ADD, "int8", "DIV of integers"),
        ("MEAN", {"axes": (1,), "keep_dims": True}, "int32", "MEAN of int32"),
        ("BATCH_MATMUL", BMM, "uint8", "BATCH_MATMUL of uint8"),
    ],
)
def test_other_types_that_are_refused(op: str, attrs: dict, dtype: str, message: str) -> None:
    x = Tensor("x", (1, 1), dtype, Q if dtype.endswith("8") else None)
    tensors = [x] if op == "MEAN" else [x, x.with_(name="z", data=np.ones((1, 1), dtype))]
    with pytest.raises(UnsupportedError, match=message):
        run(_typed(op, attrs, tensors, x), [np.zeros((1, 1), dtype)])


# -- cost --------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"])
def test_macs_of_convolutions_count_the_products(op: str) -> None:
    """Ones everywhere: without padding the sum of the outputs is the number of products."""
    shapes = {
        "CONV_2D": ((1, 7, 6, 4), (6, 3, 2, 2), 0),
        "DEPTHWISE_CONV_2D": ((1, 7, 6, 4), (1, 3, 2, 8), 3),
        "TRANSPOSE_CONV": ((1, 3, 4, 4), (6, 3, 2, 4), 0),
    }
    xs, ws, _ = shapes[op]
    attrs = {**CONV, "stride": (2, 1)}
    if op == "TRANSPOSE_CONV":
        attrs = {**attrs, "output_shape": (1, 7, 5, 6)}
    w = Tensor("w", ws, "float32", None, np.ones(ws, np.float32))
    g = opgen.single(op, [Tensor("x", xs, "float32"), w], attrs, "float32", None)
    products = run(g, [np.ones(xs, np.float32)])["y"].sum()
    assert macs(g.nodes[0], g) == products


def test_macs_of_matrix_products() -> None:
    w = Tensor("w", (4, 5), "float32", None, np.ones((4, 5), np.float32))
    g = opgen.single("FULLY_CONNECTED", [Tensor("x", (1, 15), "float32"), w], FC, "float32", None)
    assert macs(g.nodes[0], g) == 3 * 4 * 5
    x = Tensor("x", (1, 2, 7, 3), "float32")
    y = Tensor("z", (1, 1, 7, 5), "float32")
    g = opgen.single("BATCH_MATMUL", [x, y], {"adj_x": True, "adj_y": False}, "float32", None)
    assert macs(g.nodes[0], g) == 2 * 3 * 7 * 5


@pytest.mark.parametrize("op", ["ADD", "MUL", "MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN"])
def test_operators_without_weights_have_no_macs(op: str) -> None:
    g, _ = opgen.CASES[op](np.random.default_rng(0))
    assert macs(g.nodes[0], g) == 0
    assert spec(op).type == op
