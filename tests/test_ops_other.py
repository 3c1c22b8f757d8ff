"""The remaining operators beyond the oracle: float forms against torch, edgekit's own int8
definitions, lookup tables, batching and shape errors."""

from __future__ import annotations

import zlib

import numpy as np
import opgen
import opgen_movement
import pytest

from edgekit.errors import GraphError, UnsupportedError
from edgekit.graph import numerics as nx
from edgekit.graph.ir import Graph, Node, QuantParams, Tensor
from edgekit.graph.ops import Call, infer_shapes, spec
from edgekit.graph.ops.activation import TABLE_OPS, lookup_table
from edgekit.graph.ops.norm import layer_norm_params, quantize_layer_norm
from edgekit.graph.reference import run

Q = QuantParams.per_tensor


def case(op: str, *seed: int) -> opgen.Case:
    return opgen.CASES[op](np.random.default_rng([zlib.crc32(op.encode()), *seed]))


def float_node(op: str, *arrays: np.ndarray, constants: int = 0, **attrs: object) -> np.ndarray:
    """One float node run by the executor; the last ``constants`` arrays are constants."""
    g = Graph("float", {}, [], (), ("y",))
    names = []
    for i, a in enumerate(arrays):
        const = a if i >= len(arrays) - constants else None
        names.append(g.add_tensor(Tensor(f"x{i}", a.shape, "float32", None, const)).name)
    node = g.add_node(op, names, ["y"], attrs)
    (shape,) = infer_shapes(node, g.ins(node))
    g.add_tensor(Tensor("y", shape, "float32"))
    g.inputs = tuple(n for n in names if not g.tensors[n].is_const)
    g.validate()
    return run(g, list(arrays[: len(g.inputs)]))["y"]


def data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


# -- float against torch ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "name", "attrs"),
    [
        ("LOGISTIC", "sigmoid", {}),
        ("TANH", "tanh", {}),
        ("RELU", "relu", {}),
        ("RELU6", "relu6", {}),
        ("HARD_SWISH", "hardswish", {}),
        ("LEAKY_RELU", "leaky_relu", {"alpha": 0.2}),
        ("GELU", "gelu", {"approximate": False}),
        ("GELU", "gelu", {"approximate": True}),
        ("EXP", "exp", {}),
        ("LOG", "log", {}),
        ("ABS", "abs", {}),
        ("NEG", "neg", {}),
        ("SQRT", "sqrt", {}),
        ("RSQRT", "rsqrt", {}),
        ("SOFTMAX", "softmax", {"beta": 1.0}),
    ],
)
def test_float_unary_is_torch(op: str, name: str, attrs: dict) -> None:
    torch = pytest.importorskip("torch")
    x = data(1, 4, 33)
    if op in ("LOG", "SQRT", "RSQRT"):
        x = np.abs(x)
    f = getattr(torch.nn.functional, name, None) or getattr(torch, name)
    kwargs = {
        "LEAKY_RELU": {"negative_slope": 0.2},
        "SOFTMAX": {"dim": -1},
        "GELU": {"approximate": "tanh" if attrs.get("approximate") else "none"},
    }.get(op, {})
    want = f(torch.from_numpy(x), **kwargs).numpy()
    np.testing.assert_allclose(float_node(op, x, **attrs), want, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("mode", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("size", [(10, 14), (3, 4), (5, 7), (11, 3)])
def test_float_bilinear_is_torch(mode: tuple[bool, bool], size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    align, half = mode
    x = data(1, 5, 7, 3)
    y = float_node("RESIZE_BILINEAR", x, size=size, align_corners=align, half_pixel_centers=half)
    if align or half:
        nchw = torch.from_numpy(x).permute(0, 3, 1, 2)
        want = torch.nn.functional.interpolate(
            nchw, size=size, mode="bilinear", align_corners=align
        )
        want = want.permute(0, 2, 3, 1).numpy()
    else:  # torch has no asymmetric mode: interpolate along the lines
        rows = np.minimum(np.arange(size[0]) * 5 / size[0], 4)
        cols = np.minimum(np.arange(size[1]) * 7 / size[1], 6)
        lines = np.stack(
            [[np.interp(rows, np.arange(5), x[0, :, i, c]) for i in range(7)] for c in range(3)]
        )
        want = np.stack(
            [
                [np.interp(cols, np.arange(7), lines[c, :, j]) for c in range(3)]
                for j in range(size[0])
            ]
        ).transpose(0, 2, 1)[None]
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


def test_float_layer_norm_and_prelu_are_torch() -> None:
    torch = pytest.importorskip("torch")
    x, gamma, beta = data(1, 6, 48), data(48, seed=1), data(48, seed=2)
    want = torch.nn.functional.layer_norm(
        torch.from_numpy(x), (48,), torch.from_numpy(gamma), torch.from_numpy(beta), 1e-5
    ).numpy()
    got = float_node("LAYER_NORM", x, gamma, beta, constants=2, epsilon=1e-5)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    want = np.where(x >= 0, x, x * gamma)
    np.testing.assert_allclose(float_node("PRELU", x, gamma, constants=1), want)


# -- edgekit's own int8 definitions ----------------------------------------------------------------


@pytest.mark.parametrize("op", ["EXP", "LOG", "NEG", "SQRT", "GELU", "RELU_N1_TO_1"])
def test_own_int8_is_the_rounded_real_function(op: str) -> None:
    real = {
        "EXP": np.exp,
        "LOG": lambda v: np.log(np.maximum(v, 0.0)),
        "NEG": np.negative,
        "SQRT": lambda v: np.sqrt(np.maximum(v, 0)),
        "RELU_N1_TO_1": lambda v: np.clip(v, -1, 1),
    }
    torch = pytest.importorskip("torch") if op == "GELU" else None
    for i in range(20):
        g, (x,) = case(op, 5, i)
        a, b = g.tensors["x"].quant, g.tensors["y"].quant
        assert a is not None and b is not None
        v = (x.astype(np.float64) - a.zp) * a.s
        if torch is not None:
            form = "tanh" if g.nodes[0].attrs["approximate"] else "none"
            f = torch.nn.functional.gelu(torch.from_numpy(v), approximate=form).numpy()
        else:
            with np.errstate(over="ignore", divide="ignore"):
                f = real[op](v)
        want = np.clip(np.minimum(f, 1e30) / b.s + b.zp, -128, 127)
        # half a step; requantization rounds twice
        limit = 0.76 if op == "RELU_N1_TO_1" else 0.5001
        assert np.abs(run(g, [x])["y"] - want).max() <= limit


@pytest.mark.parametrize("op", sorted(TABLE_OPS - {"PRELU"}))
def test_lookup_table_is_the_operator(op: str) -> None:
    for i in range(10):
        g, (x,) = case(op, 6, i)
        if g.tensors["x"].dtype != "int8" or g.tensors["y"].dtype != "int8":
            continue
        node = g.nodes[0]
        table = lookup_table(node, g.ins(node), g.outs(node))
        assert table.dtype == np.int8 and table.shape == (256,)
        np.testing.assert_array_equal(table[x.astype(int) + 128], run(g, [x])["y"])


def test_lookup_table_of_prelu_needs_one_alpha() -> None:
    node = Node("n", "PRELU", ("x", "alpha"), ("y",))
    x, y = (Tensor(n, (1, 4), "int8", Q(0.1, 0)) for n in "xy")
    one = Tensor("alpha", (1, 1), "int8", Q(0.01, 0), np.full((1, 1), 25, np.int8))
    table = lookup_table(node, [x, one], [y])
    assert table[128 - 100] == -25 and table[128 + 100] == 100
    four = Tensor("alpha", (1, 4), "int8", Q(0.01, 0), np.full((1, 4), 25, np.int8))
    with pytest.raises(UnsupportedError, match="more than one"):
        lookup_table(node, [x, four], [y])
    with pytest.raises(UnsupportedError, match="no table"):
        lookup_table(Node("n", "SOFTMAX", ("x",), ("y",)), [x], [y])


def scalar_layer_norm(x: list[int], gamma: list[int], beta: list[int], c: dict) -> list[int]:
    """The specification in ``ops/norm.py`` on Python integers, square root bit by bit."""
    n_ch = len(x)
    s, q = sum(x), sum(v * v for v in x)
    w = n_ch * q - s * s + c["epsilon"]
    out = []
    v = e = 0
    if w:
        t = (64 - w.bit_length()) // 2 * 2
        radicand, r = w << t, 0
        for bit in range(31, -1, -1):
            if (r | 1 << bit) ** 2 <= radicand:
                r |= 1 << bit
        assert 2**31 <= r < 2**32
        v, e = 2**62 // r, 50 - t // 2
    for xi, g, b in zip(x, gamma, beta, strict=True):
        n = ((n_ch * xi - s) * v + (1 << (e - 1))) >> e if w else 0
        a = g * n + b
        if c["k"]:
            a = (a + (1 << (c["k"] - 1))) >> c["k"]
        a = min(max(a, nx.INT32_MIN), nx.INT32_MAX)
        y = int(nx.multiply_by_quantized_multiplier(a, c["mult"], c["shift"])) + c["zp"]
        out.append(min(max(y, -128), 127))
    return out


def test_int8_layer_norm_is_its_specification() -> None:
    for i in range(25):
        g, (x,) = case("LAYER_NORM", 7, i)
        node = g.nodes[0]
        p = layer_norm_params(node, g.ins(node), g.outs(node))
        out = g.tensors["y"].quant
        assert out is not None
        constants = {
            "epsilon": p.epsilon, "k": p.gamma_shift, "mult": p.mult, "shift": p.shift,
            "zp": out.zp,
        }  # fmt: skip
        gamma, beta = (g.tensors[n].data for n in ("gamma", "beta"))
        assert gamma is not None and beta is not None
        y = run(g, [x])["y"]
        rows = x.reshape(-1, x.shape[-1])[:6]
        for row, got in zip(rows, y.reshape(-1, x.shape[-1]), strict=False):
            want = scalar_layer_norm(row.tolist(), gamma.tolist(), beta.tolist(), constants)
            assert got.tolist() == want


@pytest.mark.parametrize("channels", [3, 64, 768])
def test_int8_layer_norm_is_close_to_real(channels: int) -> None:
    rng = np.random.default_rng(8)
    gamma, beta = rng.normal(1, 0.3, channels), rng.normal(0, 0.3, channels)
    x = rng.integers(-128, 128, (40, channels)).astype(np.int8)
    gq, qg, bq, qb = quantize_layer_norm(gamma, beta)
    g = Graph("ln", {}, [], ("x",), ("y",))
    g.add_tensor(Tensor("x", (1, channels), "int8", Q(0.02, 17)))
    g.add_const("gamma", gq, qg)
    g.add_const("beta", bq, qb)
    g.add_tensor(Tensor("y", (1, channels), "int8", Q(0.04, -3)))
    g.add_node("LAYER_NORM", ["x", "gamma", "beta"], ["y"], {"epsilon": 1e-5})
    y = run(g.validate(), [x])["y"]
    v = (x.astype(np.float64) - 17) * 0.02
    real = (v - v.mean(1, keepdims=True)) / np.sqrt(v.var(1, keepdims=True) + 1e-5) * gamma + beta
    want = np.clip(real / np.float32(0.04) - 3, -128, 127)
    assert np.abs(y - want).max() < 0.52  # half a step, and the 12-bit fraction


def test_layer_norm_of_a_constant_row_is_beta() -> None:
    gq, qg, bq, qb = quantize_layer_norm(np.ones(4), np.array([0.0, 1.0, -1.0, 0.5]))
    x = Tensor("x", (1, 4), "int8", Q(0.1, 0))
    ins = [x, Tensor("g", (4,), "int16", qg, gq), Tensor("b", (4,), "int32", qb, bq)]
    node = Node("n", "LAYER_NORM", ("x", "g", "b"), ("y",), {"epsilon": 0.0})
    call = Call(node, ins, [Tensor("y", (1, 4), "int8", Q(0.5, 3))],
                [np.full((1, 4), 99, np.int8), gq, bq])  # fmt: skip
    assert spec("LAYER_NORM").reference(call)[0].tolist() == [[3, 5, 1, 4]]


def test_concatenation_requantizes_as_quantize_does() -> None:
    a, b = np.arange(-128, 128, dtype=np.int8)[None], np.arange(-128, 128, dtype=np.int8)[None]
    out = Q(0.1, 5)
    g = Graph("c", {}, [], ("a", "b"), ("y", "z"))
    g.add_tensor(Tensor("a", a.shape, "int8", out))
    g.add_tensor(Tensor("b", b.shape, "int8", Q(0.23, -40)))
    g.add_tensor(Tensor("y", (1, 512), "int8", out))
    g.add_tensor(Tensor("z", b.shape, "int8", out))
    g.add_node("CONCATENATION", ["a", "b"], ["y"], {"axis": 1, "activation": "NONE"})
    g.add_node("QUANTIZE", ["b"], ["z"])
    r = run(g.validate(), [a, b])
    np.testing.assert_array_equal(r["y"], np.concatenate([a, r["z"]], 1))


def test_relu6_between_two_quantizations_requantizes() -> None:
    g = Graph("r", {}, [], ("x",), ("y",))
    g.add_tensor(Tensor("x", (1, 256), "int8", Q(0.1, 0)))
    g.add_tensor(Tensor("y", (1, 256), "int8", Q(6 / 255, -128)))
    g.add_node("RELU6", ["x"], ["y"])
    x = np.arange(-128, 128, dtype=np.int8)[None]
    want = np.clip(x * 0.1, 0, 6) / (6 / 255) - 128
    assert np.abs(run(g, [x])["y"] - want).max() < 0.51


@pytest.mark.parametrize("op", [*opgen_movement.UNARY, "SOFTMAX", "PRELU"])
def test_uint8_is_int8_moved_by_128(op: str) -> None:
    for i in range(6):
        g, (x,) = case(op, 10, i)
        if g.tensors["y"].dtype != "int8":
            continue
        moved = g.copy()
        for name in ("x", "y"):
            t = g.tensors[name]
            assert t.quant is not None
            moved.tensors[name] = t.with_(dtype="uint8", quant=Q(t.quant.s, t.quant.zp + 128))
        want = run(g, [x])["y"].astype(int) + 128
        np.testing.assert_array_equal(
            run(moved, [(x.astype(int) + 128).astype(np.uint8)])["y"], want
        )


# -- batches, shapes -------------------------------------------------------------------------------


@pytest.mark.parametrize("op", sorted(opgen_movement.MINE))
def test_many_samples_at_once_are_the_samples_one_by_one(op: str) -> None:
    for i in range(6):
        g, inputs = case(op, 9, i)
        many = run(g, inputs)
        for k in range(inputs[0].shape[0]):
            one = run(g, [v[k : k + 1] for v in inputs])
            for name in g.outputs:
                np.testing.assert_array_equal(many[name][k : k + 1], one[name])


@pytest.mark.parametrize(
    ("op", "attrs", "message"),
    [
        ("RESHAPE", {"new_shape": (5, 5)}, "cannot be reshaped"),
        ("TRANSPOSE", {"perm": (0, 0, 1)}, "permutation"),
        ("SQUEEZE", {"axes": (1,)}, "squeezed"),
        ("PAD", {"paddings": ((0, 0),), "value": 0.0}, "dimensions"),
        ("PAD", {"paddings": ((0, 0), (-1, 0), (0, 0)), "value": 0.0}, "negative"),
        ("SPLIT", {"axis": 1, "sizes": (1, 1)}, "do not split"),
        ("SPLIT", {"axis": 3, "sizes": (1,)}, "axis 3"),
        ("GATHER", {"axis": 1, "indices": (7,)}, "outside"),
        ("STRIDED_SLICE", {"begin": (0, 0, 0), "end": (1, 9, 1), "strides": (1, 1, 1)}, "leaves"),
        ("STRIDED_SLICE", {"begin": (0, 2, 0), "end": (1, 2, 1), "strides": (1, 1, 1)}, "empty"),
        ("STRIDED_SLICE", {"begin": (0,), "end": (1,), "strides": (1,)}, "entries"),
        ("RESIZE_BILINEAR", {"size": (2, 2)}, r"\[N, H, W, C\]"),
        ("ARG_MAX", {"axis": 5}, "axis 5"),
        ("CONCATENATION", {"axis": 4}, "axis 4"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(op: str, attrs: dict, message: str) -> None:
    with pytest.raises(GraphError, match=f"node 'n' \\({op}\\).*{message}"):
        infer_shapes(Node("n", op, ("x",), ("y",), attrs), [Tensor("x", (1, 4, 6), "int8")])


def test_joining_shapes_and_alphas_that_do_not_fit_is_refused() -> None:
    a, b = Tensor("a", (1, 4), "float32"), Tensor("b", (2, 4), "float32")
    with pytest.raises(GraphError, match="do not join"):
        infer_shapes(Node("n", "CONCATENATION", ("a", "b"), ("y",), {"axis": 1}), [a, b])
    alpha = Tensor("alpha", (1, 3), "float32", None, np.zeros((1, 3), np.float32))
    with pytest.raises(GraphError, match="broadcast"):
        infer_shapes(Node("n", "PRELU", ("a", "alpha"), ("y",)), [a, alpha])


def test_dtypes_without_a_definition_are_refused() -> None:
    x = Tensor("x", (1, 4), "int32", Q(0.1, 0))
    call = Call(Node("n", "TANH", ("x",), ("y",)), [x], [x], [np.zeros((1, 4), np.int32)])
    with pytest.raises(UnsupportedError, match="int32"):
        spec("TANH").reference(call)
    bare = Tensor("x", (1, 4), "int8")
    call = Call(Node("n", "RELU", ("x",), ("y",)), [bare], [bare], [np.zeros((1, 4), np.int8)])
    with pytest.raises((UnsupportedError, GraphError), match="quantiz"):
        spec("RELU").reference(call)


def test_movement_works_on_any_dtype() -> None:
    x = np.arange(24, dtype=np.int64).reshape(1, 4, 6)
    t = Tensor("x", x.shape, "int64")
    node = Node("n", "TRANSPOSE", ("x",), ("y",), {"perm": (0, 2, 1)})
    out = Tensor("y", (1, 6, 4), "int64")
    np.testing.assert_array_equal(
        spec("TRANSPOSE").reference(Call(node, [t], [out], [x]))[0], x.transpose(0, 2, 1)
    )
    assert spec("TRANSPOSE").macs(node, [t], [out]) == 0
