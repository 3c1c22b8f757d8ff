"""Helium kernels: the bytes of the reference executor, under sanitizers and on QEMU's Cortex-M55."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import opgen
import pytest
from dsp_harness import Case, run_host
from mve_harness import m55, run_m55
from test_kernels_dsp import conv_graph, fc_graph

from edgekit.devices.qemu import why_unusable
from edgekit.devices.timing import load_table
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, QuantParams, Tensor
from edgekit.graph.reference import run_node
from edgekit_targets.mcu.toolchain import why_missing
from edgekit_targets.mcu.variants import mve_add, mve_common, select, variants_of
from edgekit_targets.mcu.variants.dsp_common import Linear

OPS = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "ADD",
    "AVERAGE_POOL_2D",
    "LOGISTIC",
    "TANH",
)

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
needs_qemu = pytest.mark.skipif(why_unusable() is not None, reason=why_unusable() or "")
compilers = pytest.mark.parametrize(
    "compiler",
    [
        pytest.param(c, marks=pytest.mark.skipif(bool(why_missing(c)), reason=why_missing(c) or ""))
        for c in ("zig", "gcc")
    ],
)
Pairs = list[tuple[Case, np.ndarray]]


def variants(op: str) -> list:
    return [v for v in variants_of(op) if v.name.endswith("_mve")]


def lowered(graph: Graph, inputs: list[np.ndarray], samples: int = 1) -> Pairs:
    """Every Helium variant that takes the node, with the expected bytes of the first samples."""
    node, target, found = graph.nodes[0], m55(), []
    taken = [v for v in variants(node.type) if v.reject(node, graph, target) is None]
    calls = [v.lower(node, graph, target) for v in taken]
    for s in range(min(samples, inputs[0].shape[0])):
        one = [
            x[s : s + 1].reshape(graph.tensor(i).shape)
            for x, i in zip(inputs, graph.inputs, strict=True)
        ]
        expected = run_node(node, graph, dict(zip(graph.inputs, one, strict=True)))[0].reshape(-1)
        for call in calls:
            found.append((Case(graph, call, one), expected))
            found += [(Case(graph, call, one, i), expected) for i, _ in call.inplace]
    return found


def convolution(
    rng: np.random.Generator,
    op: str,
    hw: tuple[int, int],
    channels: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: object = "SAME",
    activation: str | None = None,
    relu_zero: bool = False,
) -> tuple[Graph, list[np.ndarray]]:
    """One convolution or depthwise with plausible scales, one multiplier a channel, random data."""
    c, o = channels
    depthwise = op == "DEPTHWISE_CONV_2D"
    shape = (1, *kernel, c) if depthwise else (o, *kernel, c)
    w = rng.integers(-127, 128, shape).astype(np.int8)
    taps = kernel[0] * kernel[1] * (1 if depthwise else c)
    scales = rng.uniform(0.3, 2.0, o) / (70.0 * np.sqrt(taps))
    bias = rng.integers(-3000, 3000, o).astype(np.int32)
    zero = -128 if relu_zero else int(rng.integers(-128, 128))
    x = Tensor("x", (1, *hw, c), "int8", QuantParams.per_tensor(1.0, int(rng.integers(-128, 128))))
    weights = Tensor("w", w.shape, "int8", QuantParams.per_channel(scales, 3 * depthwise), w)
    b = Tensor("b", (o,), "int32", None, bias)
    drawn = "RELU" if relu_zero else str(rng.choice(["NONE", "NONE", "RELU", "RELU6"]))
    attrs = {
        "stride": stride,
        "dilation": (1, 1),
        "padding": padding,
        "activation": activation or drawn,
    }
    out = QuantParams.per_tensor(1.0, zero)
    graph = opgen.single(op, [x, weights, b], attrs, "int8", out)
    return graph, [rng.integers(-128, 128, (1, *hw, c)).astype(np.int8)]


def drawn_convolutions(count: int, seed: int) -> Pairs:
    """Shapes that the random operators seldom hit: 3x3 on blocks of channels, 1x1, long columns, and
    depthwise layers of all remainders."""
    rng = np.random.default_rng([seed, 55])
    pairs: Pairs = []
    for i in range(count):
        zero = bool(rng.random() < 0.4)
        h, w = int(rng.integers(3, 12)), int(rng.integers(4, 13))
        o = 4 * int(rng.integers(1, 6))
        c = int(rng.choice([12, 13, 15, 16, 16, 28, 31, 32, 48]))
        pad = ["SAME", "VALID", (1, 0, 0, 2), (2, 2, 1, 1)][int(rng.integers(4))]
        s = int(rng.integers(1, 3))
        args = (rng, "CONV_2D", (h + 2 * s, w + 2 * s), (c, o), (3, 3), (s, s), pad, None, zero)
        pairs += lowered(*convolution(*args))
        c = 16 * int(rng.integers(1, 12))
        args = (rng, "CONV_2D", (h, w), (c, o), (1, 1), (s, 1 + i % 2), "VALID", None, zero)
        pairs += lowered(*convolution(*args))
        kernel = (int(rng.integers(1, 6)), int(rng.integers(1, 6)))
        c, o = int(rng.integers(1, 40)), int(rng.integers(1, 24))
        args = (rng, "CONV_2D", (h + 3, w + 3), (c, o), kernel, (1 + i % 3, s), "SAME", None, zero)
        pairs += lowered(*convolution(*args))
        kernel = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
        c, (h, w) = int(rng.integers(1, 40)), rng.integers(3, 36, 2).tolist()
        args = (rng, "DEPTHWISE_CONV_2D", (h, w), (c, c), kernel, (s, s), pad, None, zero)
        pairs += lowered(*convolution(*args))
    return pairs


def drawn(count: int, seed: int) -> Pairs:
    pairs: Pairs = []
    for op in OPS:
        rng = np.random.default_rng([seed, *op.encode()])
        for _ in range(count):
            pairs += lowered(*opgen.random_case(op, rng))
    return pairs + drawn_convolutions(max(1, count // 2), seed)


def worst_cases() -> Pairs:
    """The largest sums and biases, extreme zero points, ties of the second rounding."""
    pairs: Pairs = []
    for op, shape in (("CONV_2D", (8, 3, 3, 16)), ("DEPTHWISE_CONV_2D", (1, 3, 3, 17))):
        signs = np.where(np.indices(shape).sum(axis=0) % 2 == 0, 1, -1)
        fills = [np.full(shape, v) for v in (-128, -127, 127)] + [127 * signs, 127 * signs - 1]
        for k, w in enumerate(fills):
            for bias in (0, 2**31 - 1, -(2**31), 12345):
                for zp, s in (((-128, 127), 2.0**-12), ((127, -128), 2.0**-9.3), ((0, 0), 0.4999)):
                    g = conv_graph(w.astype(np.int8), (4, 8), zp, bias, s, op)
                    value = (-128, 127)[k % 2]
                    x = np.full((1, 4, 8, shape[3]), value, np.int8)
                    pairs += lowered(g, [x])
    for value, bias in ((-127, 0), (127, 2**31 - 1), (-128, -(2**31))):
        pairs += lowered(fc_graph(517, value, bias), [np.full((1, 517), -128, np.int8)])
    return pairs


def check(pairs: Pairs, outputs: list[np.ndarray]) -> None:
    for (case, expected), got in zip(pairs, outputs, strict=True):
        node = case.graph.nodes[0]
        assert np.array_equal(got, expected), (case.call.variant, case.call.params, node.inputs)


def check_m55(pairs: Pairs, folder: Path, compiler: str) -> None:
    cases = [c for c, _ in pairs]
    run = run_m55(cases, [e for _, e in pairs], folder, compiler, timing=False)
    assert not run.wrong, [(cases[i].call.variant, cases[i].call.params) for i in run.wrong[:3]]


@needs_gcc
def test_random_cases_on_the_host_with_sanitizers(tmp_path: Path) -> None:
    pairs = drawn(14, 1)
    assert {c.call.variant for c, _ in pairs} == {v.name for op in OPS for v in variants(op)}
    check(pairs, run_host([c for c, _ in pairs], tmp_path))


@needs_gcc
def test_worst_cases_on_the_host(tmp_path: Path) -> None:
    pairs = worst_cases()[::2]
    check(pairs, run_host([c for c, _ in pairs], tmp_path))


@needs_qemu
@compilers
def test_random_cases_on_a_cortex_m55(compiler: str, tmp_path: Path) -> None:
    check_m55(drawn(10, 2), tmp_path, compiler)


@needs_qemu
@compilers
def test_worst_cases_on_a_cortex_m55(compiler: str, tmp_path: Path) -> None:
    check_m55(worst_cases()[::5], tmp_path, compiler)


@needs_gcc
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_many_random_cases_on_the_host(seed: int, tmp_path: Path) -> None:
    pairs = drawn(120, 100 + seed)
    check(pairs, run_host([c for c, _ in pairs], tmp_path))


@needs_qemu
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_many_random_cases_on_a_cortex_m55(seed: int, tmp_path: Path) -> None:
    check_m55(drawn(50, 200 + seed), tmp_path, "zig")


# -- what it costs -----------------------------------------------------------------------------


def add_graph(shape: tuple[int, ...]) -> tuple[Graph, list[np.ndarray]]:
    rng = np.random.default_rng(1)
    x = Tensor("x", shape, "int8", QuantParams.per_tensor(0.045, -17))
    y = Tensor("y", shape, "int8", QuantParams.per_tensor(0.113, 4))
    out = QuantParams.per_tensor(0.0532, -128)
    graph = opgen.single("ADD", [x, y], {"activation": "RELU"}, "int8", out)
    return graph, [rng.integers(-128, 128, shape).astype(np.int8) for _ in range(2)]


def dense_graph(k: int, o: int) -> tuple[Graph, list[np.ndarray]]:
    rng = np.random.default_rng(2)
    x = Tensor("x", (1, k), "int8", QuantParams.per_tensor(1.0, 3))
    w = rng.integers(-127, 128, (o, k)).astype(np.int8)
    weights = Tensor("w", (o, k), "int8", QuantParams.per_tensor(0.0005, 0), w)
    bias = Tensor("b", (o,), "int32", None, rng.integers(-9999, 9999, o).astype(np.int32))
    attrs = {"activation": "RELU", "keep_num_dims": False}
    out = QuantParams.per_tensor(1.0, -128)
    graph = opgen.single("FULLY_CONNECTED", [x, weights, bias], attrs, "int8", out)
    return graph, [rng.integers(-128, 128, (1, k)).astype(np.int8)]


#: Layers of ResNet-8, DS-CNN and the autoencoder: most instructions and estimated cycles.
BUDGET = {
    "3x3 32x32x16": (284_000, 403_000),
    "3x3 16x16x32": (264_000, 362_000),
    "3x3 8x8x64": (250_000, 339_000),
    "3x3 stride 2 16 to 32": (154_000, 204_000),
    "first 3x3x3 to 16": (122_000, 176_000),
    "first 10x4x1 to 64": (64_000, 97_000),
    "1x1 25x5x64": (74_500, 102_000),
    "1x1 stride 2 16 to 32": (35_500, 57_000),
    "depthwise 25x5x64": (45_500, 75_500),
    "dense 640 to 128": (11_700, 13_000),
    "add 32x32x16": (30_000, 35_500),
}


def budget_layers() -> dict[str, tuple[Graph, list[np.ndarray]]]:
    rng = np.random.default_rng(9)

    def conv(op: str, hw: tuple[int, int], channels: tuple[int, int], k: tuple[int, int], s: int):
        return convolution(rng, op, hw, channels, k, (s, s), "SAME", "RELU", True)

    return {
        "3x3 32x32x16": conv("CONV_2D", (32, 32), (16, 16), (3, 3), 1),
        "3x3 16x16x32": conv("CONV_2D", (16, 16), (32, 32), (3, 3), 1),
        "3x3 8x8x64": conv("CONV_2D", (8, 8), (64, 64), (3, 3), 1),
        "3x3 stride 2 16 to 32": conv("CONV_2D", (32, 32), (16, 32), (3, 3), 2),
        "first 3x3x3 to 16": conv("CONV_2D", (32, 32), (3, 16), (3, 3), 1),
        "first 10x4x1 to 64": conv("CONV_2D", (49, 10), (1, 64), (10, 4), 2),
        "1x1 25x5x64": conv("CONV_2D", (25, 5), (64, 64), (1, 1), 1),
        "1x1 stride 2 16 to 32": conv("CONV_2D", (32, 32), (16, 32), (1, 1), 2),
        "depthwise 25x5x64": conv("DEPTHWISE_CONV_2D", (25, 5), (64, 64), (3, 3), 1),
        "dense 640 to 128": dense_graph(640, 128),
        "add 32x32x16": add_graph((1, 32, 32, 16)),
    }


@needs_qemu
def test_instructions_and_cycles_of_whole_layers(tmp_path: Path) -> None:
    layers = budget_layers()
    cases, expected = [], []
    for graph, inputs in layers.values():
        node = graph.nodes[0]
        variant = select(node, graph, m55())
        assert variant.name.endswith("_mve")
        cases.append(Case(graph, variant.lower(node, graph, m55()), inputs))
        values = dict(zip(graph.inputs, inputs, strict=True))
        expected.append(run_node(node, graph, values)[0].reshape(-1))
    run = run_m55(cases, expected, tmp_path)
    assert not run.wrong
    for name, result in zip(layers, run.results, strict=True):
        most = BUDGET[name]
        assert (result.instructions <= most[0]) and (result.cycles <= most[1]), (name, result)
        assert result.instructions > 0.9 * most[0], (name, result, "the budget can be lowered")


def test_multi_register_moves_and_gathers_cost_a_cycle_each() -> None:
    """The core table must not flatter what these kernels use."""
    table = load_table("m55")
    for code, cycles in (
        ("b9e85555", 8),  # ldm r9!, {r0, r2, r4, r6, r8, r10, r12, lr}
        ("2ded108b", 16),  # vpush {d8-d15}
        ("b0ec100b", 16),  # vldmia r0!, {d0-d7}
        ("91fc008e", 16),  # vldrb.u8 q4, [r1, q0]
        ("91fc402f", 4),  # vldrw.u32 q1, [r1, q0]
        ("8bec840e", 8),  # vstrb.16 q0, [r11, q2]
        ("acfd011e", 4),  # vstrw.32 q0, [q6, #4]!
    ):
        assert table.block(0, bytes.fromhex(code)).cycles == (cycles,), code


# -- requantization and refusals ---------------------------------------------------------------


def test_finishes_are_exact() -> None:
    """signed for every sum; plain where the result is clamped from -128 up."""
    rng = np.random.default_rng(5)
    for e in range(1, mve_common.MAX_EXP + 1):
        n = 3000
        mult = rng.integers(1 << 30, 1 << 31, n)
        acc = (rng.normal(size=n) * 2.0 ** rng.uniform(2, 31, n)).clip(-(2**31), 2**31 - 1)
        ties = ((2 * rng.integers(-300, 300, n) + 1) << (e - 1)).astype(object) * (1 << 31) // mult
        near = ties.astype(np.float64).clip(-(2**31) + 2, 2**31 - 3).astype(np.int64)
        acc = np.concatenate([acc.astype(np.int64), near + rng.integers(-1, 2, n)])
        mult = np.concatenate([mult, mult])
        high = (acc * mult + (1 << 30)) >> 31
        want = nm.multiply_by_quantized_multiplier(acc, mult, np.full(2 * n, -e))
        signed = (high + (acc >> 31) + (1 << (e - 1))) >> e
        plain = (high + (1 << (e - 1))) >> e
        assert np.array_equal(signed, want)
        assert np.array_equal(np.clip(plain, 0, 255), np.clip(want, 0, 255))


def test_finish_follows_zero_point_and_clamp() -> None:
    assert mve_common.finish(-128, -128, 127) == "plain"
    assert mve_common.finish(4, -128, 127) == "signed"
    assert mve_common.finish(-128, -128, 90) == "clamped"
    assert mve_common.finish(4, 4, 127) == "clamped"


def test_shifts_outside_the_exact_range_are_refused() -> None:
    def layer(shift: int) -> Linear:
        one = np.ones(1, np.int64)
        return Linear(np.ones((1, 1), np.int64), one, one << 30, shift * one, 0)

    for shift, reason in ((-1, None), (-31, None), (0, "by 0"), (2, "by -2"), (-32, "by 32")):
        found = mve_common.reject_shifts(layer(shift))
        assert (found is None) if reason is None else (found is not None and reason in found)


def test_reasons_for_refusal() -> None:
    rng = np.random.default_rng(0)
    for op in OPS:
        graph, _ = opgen.random_case(op, rng)
        core = m55().core.model_copy(update={"features": ("dsp",)})
        plain = m55().model_copy(update={"cores": (core,)})
        for v in variants(op):
            assert v.reject(graph.nodes[0], graph, plain) == "cortex-m55 has no Helium (MVE)"
    graph, _ = convolution(rng, "DEPTHWISE_CONV_2D", (9, 9), (4, 4), (5, 5), (1, 1))
    reasons = {
        v.name: v.reject(graph.nodes[0], graph, m55()) for v in variants("DEPTHWISE_CONV_2D")
    }
    assert reasons["depthwise_s8_planar_mve"] == "the kernel is 5x5; up to 3x3 is implemented"
    assert "4 input channels" in reasons["conv2d_s8_im2col_mve"]


def test_linear_form_of_an_addition() -> None:
    """All pairs, by the arithmetic of the kernel; a clamp inside the range has no such form here."""
    x, y, out = (0.0394, -128), (0.1042, 4), (0.0509, -128)
    a, b, c, shift = mve_add.linear_form(x, y, out, "RELU")
    pairs = np.arange(-128, 128)
    total = a * pairs[:, None] + b * pairs[None, :] + c
    assert np.abs(total).max() < 2**31
    first = np.clip((total + (1 << 15)) >> 16, -32768, 32767)
    got = np.clip((first + (1 << (shift - 1))) >> shift, -128, 127)
    assert np.array_equal(got, mve_add._table(x, y, out, "RELU"))
