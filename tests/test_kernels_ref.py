"""The portable kernels give the reference's bytes, and touch nothing but what is theirs."""

from __future__ import annotations

import ctypes
import re
import subprocess
import zlib
from pathlib import Path

import kernel_host
import numpy as np
import opgen
import opgen_all  # noqa: F401  registers every generator
import pytest
from kernel_host import Case

from edgekit.errors import UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, QuantParams, Tensor
from edgekit_kernels import include_dir, source_root
from edgekit_targets.mcu import variants

TARGET = kernel_host.plain_core()

#: What opgen draws and no portable kernel takes: op -> what the reason says.
REFUSED = {"SOFTMAX": "is int16"}
#: Operators of which the reference, too, has a float form only.
FLOAT_ONLY = {"DIV"}

OPS = sorted(set(opgen.CASES) - FLOAT_ONLY)


def draw(op: str, seed: int, count: int) -> list[Case]:
    """Random cases of an operator, one for each portable variant that takes it; what is refused
    must be refused for the reason expected."""
    cases = []
    refused = 0
    for i in range(count):
        graph, inputs = opgen.CASES[op](np.random.default_rng([zlib.crc32(op.encode()), seed, i]))
        node = graph.nodes[0]
        found = variants.candidates(node, graph, TARGET)
        cases += [Case(graph, inputs, v.lower(node, graph, TARGET)) for v in found]
        if not found:
            reason = str(variants.reject_reason(node, graph, TARGET))
            assert op in REFUSED and REFUSED[op] in reason, f"{node}: {reason}"
            refused += 1
    assert refused < count // 2
    return cases


@pytest.mark.parametrize("first", range(0, len(OPS), 8))
def test_same_bytes_under_sanitizers(first: int, tmp_path: Path) -> None:
    cases = [case for op in OPS[first : first + 8] for case in draw(op, 0, 16)]
    kernel_host.check(cases, tmp_path, sanitize=True)


def test_same_bytes_optimised_between_guards(tmp_path: Path) -> None:
    cases = [case for op in OPS for case in draw(op, 1, 4)]
    kernel_host.check(cases, tmp_path, sanitize=False)


@pytest.mark.slow
@pytest.mark.parametrize("sanitize", [True, False], ids=["sanitized", "optimised"])
@pytest.mark.parametrize("op", OPS)
def test_same_bytes_many(op: str, sanitize: bool, tmp_path: Path) -> None:
    kernel_host.check(draw(op, 2 + sanitize, 300), tmp_path, sanitize=sanitize)


# -- corners that random cases seldom meet ---------------------------------------------------------


def unary(op: str, x: Tensor, out: Tensor, **attrs: object) -> Graph:
    g = Graph("t", {x.name: x, out.name: out}, [], (x.name,), (out.name,))
    g.add_node(op, [x.name], [out.name], attrs, "op")
    return g.validate()


def every_byte(dtype: str) -> np.ndarray:
    return np.arange(256, dtype=np.uint8).view(dtype).reshape(1, 256)


@pytest.mark.parametrize("src", ["int8", "uint8"])
@pytest.mark.parametrize("dst", ["int8", "uint8"])
def test_byte_conversions_are_one_table(src: str, dst: str, tmp_path: Path) -> None:
    zero = {"int8": 3, "uint8": 131}
    x = Tensor("x", (1, 256), src, QuantParams.per_tensor(0.02, zero[src]))
    y = Tensor("y", (1, 256), dst, QuantParams.per_tensor(0.017, zero[dst]))
    case = Case(unary("QUANTIZE", x, y), [every_byte(src)])
    assert case.lowered().variant == "lut_s8_ref"
    kernel_host.check([case], tmp_path)


def test_mobilenet_style_uint8_edges(tmp_path: Path) -> None:
    """uint8 in at zero point 127 to int8 at -1 of the same scale is exactly x - 128."""
    x = Tensor("x", (1, 256), "uint8", QuantParams.per_tensor(0.0078125, 127))
    y = Tensor("y", (1, 256), "int8", QuantParams.per_tensor(0.0078125, -1))
    graph = unary("QUANTIZE", x, y)
    (got,) = kernel_host.run_call(graph, [every_byte("uint8")], tmp_path)
    assert np.array_equal(got.astype(int), every_byte("uint8").astype(int) - 128)


def test_uint8_relu_by_table(tmp_path: Path) -> None:
    q = QuantParams.per_tensor(0.1, 100)
    x, y = Tensor("x", (1, 256), "uint8", q), Tensor("y", (1, 256), "uint8", q)
    (got,) = kernel_host.run_call(unary("RELU", x, y), [every_byte("uint8")], tmp_path)
    assert np.array_equal(got, np.maximum(every_byte("uint8"), 100))


@pytest.mark.parametrize("dst", ["int8", "uint8", "int16"])
def test_quantize_float_rounds_ties_away_and_saturates(dst: str, tmp_path: Path) -> None:
    x = Tensor("x", (1, 13), "float32")
    y = Tensor("y", (1, 13), dst, QuantParams.per_tensor(0.5, 5))
    values = [0.25, -0.25, 0.75, -0.75, 0.2499999, -0.2499999, 63.25, 1e30, -1e30]
    values += [np.inf, -np.inf, 32766.75, -0.0]
    inputs = np.asarray([values], np.float32)
    kernel_host.check([Case(unary("QUANTIZE", x, y), [inputs])], tmp_path)


def conv(
    w: np.ndarray, bias: np.ndarray, x: Tensor, y: Tensor, scales: np.ndarray, padding: object
) -> Graph:
    g = Graph("t", {"x": x, "y": y}, [], ("x",), ("y",))
    g.add_const("w", w, QuantParams.per_channel(scales, 0))
    g.add_const("b", bias)
    attrs = {"stride": (1, 1), "dilation": (1, 1), "padding": padding, "activation": "NONE"}
    g.add_node("CONV_2D", ["x", "w", "b"], ["y"], attrs, "op")
    return g.validate()


@pytest.mark.parametrize("fill", [-128, 127])
def test_folded_bias_may_leave_32_bits(fill: int, tmp_path: Path) -> None:
    """bias - zp * sum(w) wraps, the sum wraps back: intermediate overflow must not matter."""
    zp = -128
    x = Tensor("x", (1, 3, 3, 16), "int8", QuantParams.per_tensor(1.0, zp))
    y = Tensor("y", (1, 3, 3, 2), "int8", QuantParams.per_tensor(2.0**24, 0))
    w = np.full((2, 3, 3, 16), 127, np.int8)
    w[1] = -127
    top = 2**31 - 1
    bias = np.array([top, -top], np.int32) + np.array([-1, 1], np.int32) * (127 * 144 * 255)
    graph = conv(w, bias, x, y, np.array([1.0, 1.0]), "SAME")
    kernel_host.check([Case(graph, [np.full((1, 3, 3, 16), fill, np.int8)])], tmp_path)


def test_padding_wider_than_the_image(tmp_path: Path) -> None:
    """Windows that lie outside altogether read only the zero point."""
    rng = np.random.default_rng(4)
    x = Tensor("x", (1, 2, 1, 3), "int8", QuantParams.per_tensor(0.5, 17))
    y = Tensor("y", (1, 12, 9, 4), "int8", QuantParams.per_tensor(20.0, -3))
    w = rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    bias = rng.integers(-999, 999, 4).astype(np.int32)
    graph = conv(w, bias, x, y, np.full(4, 0.25), (6, 6, 5, 5))
    kernel_host.check(
        [Case(graph, [rng.integers(-128, 128, (5, 2, 1, 3)).astype(np.int8)])], tmp_path
    )


def test_softmax_of_many_equal_values_and_the_widest_row(tmp_path: Path) -> None:
    cases = []
    for depth in (1, 2, 255, 511, 512, 1001, 4095):
        x = Tensor("x", (1, depth), "int8", QuantParams.per_tensor(0.1, 0))
        y = Tensor("y", (1, depth), "int8", QuantParams.per_tensor(1 / 256, -128))
        rows = np.zeros((3, depth), np.int8)
        rows[1, -1] = 127
        rows[2] = np.random.default_rng(depth).integers(-128, 128, depth)
        cases.append(Case(unary("SOFTMAX", x, y, beta=1.0), [rows]))
    kernel_host.check(cases, tmp_path)


def test_five_dimensional_broadcast(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    q = QuantParams.per_tensor(0.05, 3)
    a = Tensor("x", (1, 2, 1, 4, 1, 3), "int8", q)
    b = Tensor("z", (1, 1, 3, 1, 5, 1), "int8", QuantParams.per_tensor(0.03, -7))
    y = Tensor("y", (1, 2, 3, 4, 5, 3), "int8", QuantParams.per_tensor(0.08, 1))
    g = Graph("t", {"x": a, "z": b, "y": y}, [], ("x", "z"), ("y",))
    g.add_node("ADD", ["x", "z"], ["y"], {"activation": "NONE"}, "op")
    inputs = [rng.integers(-128, 128, (2, *t.shape[1:])).astype(np.int8) for t in (a, b)]
    kernel_host.check([Case(g.validate(), inputs)], tmp_path)


def test_fully_connected_weights_with_a_zero_point(tmp_path: Path) -> None:
    cases = []
    for i in range(30):
        rng = np.random.default_rng([5, i])
        g, inputs = opgen.CASES["FULLY_CONNECTED"](rng)
        w = g.tensor(g.nodes[0].inputs[1])
        assert w.quant is not None
        q = QuantParams.per_tensor(float(w.quant.scale.max()), int(rng.integers(-128, 128)))
        g.tensors[w.name] = w.with_(quant=q)
        if q.zp:
            assert variants.select(g.nodes[0], g, TARGET).name == (
                "fully_connected_s8_asymmetric_ref"
            )
        cases.append(Case(g, inputs))
    kernel_host.check(cases, tmp_path)


def test_addition_by_table(tmp_path: Path) -> None:
    """Sizes from which ADD and SUB get tables, which random cases rarely reach."""
    rng = np.random.default_rng(8)
    cases = []
    for i in range(24):
        big, other = (1, 4, 16, 17), ((1, 4, 16, 17), (17,), (1, 1, 16, 1), (1, 4, 1, 17))[i % 4]
        q1 = opgen.act_quant(rng, "int8")
        assert q1 is not None
        q2 = q1 if i % 5 == 0 else opgen.act_quant(rng, "int8", q1.s * 2.0 ** rng.uniform(-6, 6))
        assert q2 is not None
        out = opgen.act_quant(rng, "int8", max(q1.s, q2.s) * 2.0 ** rng.uniform(-2, 3))
        tensors = [Tensor("x", big, "int8", q1), Tensor("z", other, "int8", q2)]
        tensors = tensors[:: 1 if i % 3 else -1]
        y = Tensor("y", big, "int8", out)
        g = Graph("t", {t.name: t for t in (*tensors, y)}, [], ("x", "z"), ("y",))
        names = [t.name for t in tensors]
        attrs = {"activation": opgen.pick(rng, opgen.ACTIVATIONS)}
        node = g.add_node(("ADD", "SUB")[i % 2], names, ["y"], attrs, "op")
        g.validate()
        assert variants.select(node, g, TARGET).name == "add_s8_lut_ref"
        assert variants.select(node, g, TARGET, "size").name != "add_s8_lut_ref"
        inputs = [opgen.samples(rng, g.tensor(n).shape, "int8") for n in g.inputs]
        found = variants.candidates(node, g, TARGET)
        cases += [Case(g, inputs, v.lower(node, g, TARGET)) for v in found]
    kernel_host.check(cases, tmp_path)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "float32"])
def test_transpose_moves_any_type(dtype: str, tmp_path: Path) -> None:
    x = Tensor("x", (1, 2, 3, 4, 5), dtype)
    y = Tensor("y", (4, 1, 5, 3, 2), dtype)
    graph = unary("TRANSPOSE", x, y, perm=(3, 0, 4, 2, 1))
    kernel_host.check([Case(graph, [np.arange(120).reshape(x.shape).astype(dtype)])], tmp_path)


# -- arithmetic ------------------------------------------------------------------------------------

_EXPORTS = """
#include "ek_common.h"
int32_t t_requant(int32_t x, int32_t m, int s);
int32_t t_requant(int32_t x, int32_t m, int s) { return ek_requant(x, m, s); }
int32_t t_rdpot(int32_t x, int e);
int32_t t_rdpot(int32_t x, int e) { return ek_rdpot(x, e); }
int32_t t_srdhm(int32_t a, int32_t b);
int32_t t_srdhm(int32_t a, int32_t b) { return ek_srdhm_sat(a, b); }
int8_t t_finish(int32_t x, int32_t zp, int32_t lo, int32_t hi);
int8_t t_finish(int32_t x, int32_t zp, int32_t lo, int32_t hi) {
  return ek_finish_s8(x, zp, lo, hi);
}
"""


@pytest.fixture(scope="module", params=[0, 1], ids=["long", "split"])
def arithmetic(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ctypes.CDLL:
    """The inline functions of ``ek_common.h``, with either form of the high multiplication."""
    folder = tmp_path_factory.mktemp("arithmetic")
    (folder / "t.c").write_text(_EXPORTS)
    command = ["cc", *kernel_host.WARNINGS, "-O2", "-shared", "-fPIC", f"-I{include_dir()}"]
    command += [f"-DEK_SPLIT_MULTIPLY={request.param}", "-fsanitize=undefined"]
    command += ["-fno-sanitize-recover=all"]
    subprocess.run(
        [*command, str(folder / "t.c"), "-o", str(folder / "t.so")], check=True, timeout=60
    )
    return ctypes.CDLL(str(folder / "t.so"))


def corners(rng: np.random.Generator, n: int) -> list[int]:
    edge = [0, 1, -1, 2, -2, 2**30, -(2**30), 2**30 - 1, 2**31 - 1, -(2**31), -(2**31) + 1]
    wide = rng.integers(-(2**31), 2**31, n).tolist()
    return (
        edge + wide + [int(v) >> int(s) for v, s in zip(wide, rng.integers(0, 31, n), strict=True)]
    )


def test_requantization_is_gemmlowps(arithmetic: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    for mult in (0, 2**30, 2**30 + 1, 2**31 - 1, *rng.integers(2**30, 2**31, 8).tolist()):
        for shift in range(-31, 31):
            for x in corners(rng, 6):
                want = int(nm.multiply_by_quantized_multiplier(x, mult, shift))
                assert arithmetic.t_requant(x, mult, shift) == want, (x, mult, shift)


def test_rounding_primitives_are_gemmlowps(arithmetic: ctypes.CDLL) -> None:
    rng = np.random.default_rng(1)
    values = corners(rng, 30)
    for x in values:
        for e in range(32):
            assert arithmetic.t_rdpot(x, e) == int(nm.rounding_divide_by_pot(np.asarray(x), e))
        for y in values:
            want = int(nm.saturating_rounding_doubling_high_mul(x, y))
            assert arithmetic.t_srdhm(x, y) == want, (x, y)
        for zp in (-128, 0, 127):
            want = min(max(x + zp, -100), 90)
            assert arithmetic.t_finish(x, zp, -100, 90) == want


# -- the table of variants -------------------------------------------------------------------------


def test_every_portable_kernel_is_offered_and_declared() -> None:
    offered = {
        f"ref/{v.name}.c" for op in variants.supported_ops() for v in variants.variants_of(op)
    }
    sources = set(kernel_host.all_reference_sources())
    # These prepare the weights of any other kernel (variants/lowbit_unpack.py).
    assert sources <= offered | {"ref/unpack_s4_ref.c", "ref/unpack_codes_ref.c"}
    headers = "".join(h.read_text() for h in include_dir().glob("*.h"))
    for source in sources:
        stem = Path(source).stem
        assert re.search(rf"\bek_{stem}\(", headers), f"{stem} is in no header"
        text = (source_root() / source).read_text()
        assert re.search(rf"\bek_{stem}\(", text), f"{source} does not define ek_{stem}"


def test_every_int8_operator_has_a_kernel() -> None:
    assert set(OPS) <= set(variants.supported_ops())


def test_select_prefers_rank_and_can_prefer_size() -> None:
    x = Tensor("x", (1, 8), "int8", QuantParams.per_tensor(0.1, 0))
    y = Tensor("y", (1, 8), "int8", QuantParams.per_tensor(0.2, 0))
    graph = unary("QUANTIZE", x, y)
    node = graph.nodes[0]
    assert [v.name for v in variants.candidates(node, graph, TARGET)] == [
        "lut_s8_ref",
        "requantize_ref",
    ]
    assert variants.select(node, graph, TARGET).name == "lut_s8_ref"
    assert variants.select(node, graph, TARGET, "size").name == "requantize_ref"
    assert variants.select(node, graph, TARGET, "ram").name == "lut_s8_ref"


def test_refusal_names_node_operator_and_reasons() -> None:
    x, y = Tensor("x", (1, 8), "float32"), Tensor("y", (1, 8), "float32")
    graph = unary("TANH", x, y)
    with pytest.raises(UnsupportedError) as e:
        variants.select(graph.nodes[0], graph, TARGET)
    text = str(e.value)
    assert "'op' (TANH)" in text and "float32" in text and "lut_s8_ref" in text and "plain" in text
    node = graph.nodes[0].with_(type="DIV")
    assert "no microcontroller kernel for DIV" in str(variants.reject_reason(node, graph, TARGET))
