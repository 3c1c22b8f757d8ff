"""DSP kernels that requantize by a line: bytes, the proof behind them, instruction counts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import opgen
import pytest
from dsp_harness import Case, M4Program, m4, run_host
from test_kernels_dsp import check, lowered, used

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, QuantParams, Tensor
from edgekit.graph.reference import run_node
from edgekit_targets.mcu import variants
from edgekit_targets.mcu.variants import dsp_line
from edgekit_targets.mcu.variants.dsp_common import Linear

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

FORMS = {
    "CONV_2D": {f"conv2d_s8_rows_{f}_dsp" for f in ("short", "compact", "long")},
    "DEPTHWISE_CONV_2D": {
        f"depthwise_3x3_s8_{f}_dsp" for f in ("short", "compact", "long", "lean")
    },
    "FULLY_CONNECTED": {"fully_connected_s8_fives_dsp"},
    "ADD": {"add_s8_line_dsp"},
}


def layer(
    rng: np.random.Generator,
    op: str,
    w: np.ndarray,
    hw: tuple[int, int] = (1, 1),
    *,
    stride: tuple[int, int] = (1, 1),
    padding: str | tuple[int, ...] = "SAME",
    relu: bool = True,
    exponents: tuple[float, float] = (6.2, 10.8),
    spread: float = 2000,
    zp: int | None = None,
) -> Graph:
    """One layer with multipliers of 2^-b .. 2^-a for exponents (a, b); ReLU at zero point -128 or a
    linear output. Some channels have biases that make them constant."""
    depthwise, fc = op == "DEPTHWISE_CONV_2D", op == "FULLY_CONNECTED"
    o = w.shape[3] if depthwise else w.shape[0]
    scale = 2.0 ** -rng.uniform(*exponents, 1 if fc else o)
    q_w = (
        QuantParams.per_tensor(float(scale[0]), 0)
        if fc
        else QuantParams.per_channel(list(scale), 3 if depthwise else 0)
    )
    bias = np.round(rng.normal(size=o) * spread)
    bias[rng.random(o) < 0.1] = -3_000_000 if relu and not fc else 0
    zp = int(rng.integers(-128, 128)) if zp is None else zp
    q_y = QuantParams.per_tensor(1.0, -128 if relu else int(rng.integers(-128, 128)))
    shape = (1, w.shape[1]) if fc else (1, *hw, w.shape[3])
    x = Tensor("x", shape, "int8", QuantParams.per_tensor(1.0, zp))
    attrs: dict = {"activation": "RELU" if relu else "NONE"}
    if fc:
        attrs["keep_num_dims"] = False
    else:
        attrs |= {"stride": stride, "dilation": (1, 1), "padding": padding}
    tensors = [x, Tensor("w", w.shape, "int8", q_w, w)]
    tensors.append(Tensor("b", (o,), "int32", None, bias.astype(np.int32)))
    return opgen.single(op, tensors, attrs, "int8", q_y)


def weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random, now and then all extremes."""
    if rng.random() < 0.2:
        return rng.choice([-127, 127], shape).astype(np.int8)
    return np.clip(np.round(rng.normal(size=shape) * 40), -127, 127).astype(np.int8)


def addition(rng: np.random.Generator, count: int) -> tuple[Graph, list[np.ndarray]]:
    """ADD of scales near one another, linear or ReLU at zero point -128."""
    relu = bool(rng.random() < 0.5)
    scale = rng.uniform(0.02, 0.2, 3)
    zps = rng.integers(-128, 128, 3)
    quants = [QuantParams.per_tensor(float(s), int(z)) for s, z in zip(scale, zps, strict=True)]
    if relu:
        quants[2] = QuantParams.per_tensor(float(scale[2]), -128)
    x, y = (Tensor(n, (1, count), "int8", q) for n, q in zip("xy", quants[:2], strict=True))
    g = opgen.single("ADD", [x, y], {"activation": "RELU" if relu else "NONE"}, "int8", quants[2])
    return g, [opgen.samples(rng, (1, count), "int8", 1) for _ in range(2)]


def drawn(op: str, count: int, seed: int) -> list[tuple[Case, np.ndarray]]:
    """Random shapes: odd sizes, any channels, strides, paddings, zero points, worst-case inputs."""
    rng = np.random.default_rng([seed, *op.encode()])
    pairs = []
    for _ in range(count):
        relu = bool(rng.random() < 0.7)
        wide = (2.2, 10.8) if rng.random() < 0.3 else (6.2, 10.8)
        hw = (int(rng.integers(3, 11)), int(rng.integers(3, 14)))
        pads = opgen.pick(rng, ["SAME", "VALID", (1, 0, 0, 1), (2, 0, 0, 2), (0, 2, 2, 0)])
        if op == "ADD":
            pairs += lowered(*addition(rng, int(rng.integers(1, 70))))
            continue
        if op == "DEPTHWISE_CONV_2D":
            w = weights(rng, (1, 3, 3, int(rng.integers(1, 70 if rng.random() < 0.1 else 10))))
            g = layer(rng, op, w, hw, padding=pads, relu=relu, exponents=wide)
        elif op == "CONV_2D":
            kernel = opgen.pick(rng, [(1, 1), (1, 1), (3, 3), (1, 3), (4, 2)])
            c, o = int(rng.integers(1, 20)), 2 * int(rng.integers(1, 7))
            hw = opgen.pick(rng, [hw, hw, (1, 1), (1, 2), (2, 2)])
            pads = pads if hw[1] > 2 and kernel == (3, 3) else "SAME"
            stride = opgen.pick(rng, [(1, 1), (1, 1), (2, 2), (1, 3)])
            w = weights(rng, (o, *kernel, c if rng.random() < 0.5 else 4 * (c // 4 + 1)))
            g = layer(rng, op, w, hw, stride=stride, padding=pads, relu=relu, exponents=wide)
        else:
            w = weights(rng, (int(rng.integers(5, 24)), int(rng.integers(1, 90))))
            g = layer(rng, op, w, relu=relu, exponents=(1.2, 10.8))
        pairs += lowered(g, [opgen.samples(rng, g.tensors["x"].shape, "int8", 2)])
    return [(c, y) for c, y in pairs if c.call.variant in FORMS[op]]


@needs_gcc
@pytest.mark.parametrize("op", FORMS)
def test_random_layers_on_the_host_with_sanitizers(op: str, tmp_path: Path) -> None:
    pairs = drawn(op, 25, 1)
    assert used(pairs) == FORMS[op]
    check(pairs, run_host([c for c, _ in pairs], tmp_path))


@needs_gcc
@pytest.mark.slow
@pytest.mark.parametrize("op", FORMS)
def test_many_random_layers_on_the_host(op: str, tmp_path: Path) -> None:
    pairs = drawn(op, 120, 2)
    check(pairs, run_host([c for c, _ in pairs], tmp_path))


def test_random_layers_on_a_cortex_m4(tmp_path: Path) -> None:
    pairs = [p for op in FORMS for p in drawn(op, 9, 3)]
    program = M4Program([c for c, _ in pairs], tmp_path)
    check(pairs, [program.run(i).output for i in range(len(pairs))])


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["zig", "gcc"])
@pytest.mark.parametrize("opt", ["-Os", "-O3"])
def test_compilers_and_levels_on_a_cortex_m4(compiler: str, opt: str, tmp_path: Path) -> None:
    if compiler == "gcc" and shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    pairs = [p for op in FORMS for p in drawn(op, 20, 4)]
    program = M4Program([c for c, _ in pairs], tmp_path, compiler, opt)
    check(pairs, [program.run(i).output for i in range(len(pairs))])


# -- the line ----------------------------------------------------------------------------------


def random_linear(rng: np.random.Generator, channels: int, relu: bool) -> Linear:
    mult = rng.integers(1 << 30, 1 << 31, channels)
    mult[:3] = ((1 << 30), (1 << 31) - 1, 1518500250)[:channels]
    zp = -128 if relu else int(rng.integers(-128, 128))
    w = rng.integers(-127, 128, (channels, 4))
    bias = rng.integers(-60_000, 60_000, channels)
    return Linear(w, bias, mult, -rng.integers(5, 11, channels), zp)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shift", [None, dsp_line.SHORT_SHIFT])
def test_a_fitted_line_is_the_reference_for_every_sum(relu: bool, shift: int | None) -> None:
    rng = np.random.default_rng([5, relu, shift or 0])
    fitted = 0
    for _ in range(60):
        plain = random_linear(rng, 1, relu)
        lines = dsp_line.fit(plain, (-128, 127), shift)
        if isinstance(lines, str):
            assert lines == "the requantization is no line" and not (relu or shift is None)
            continue
        fitted += 1
        (lo,), (hi,) = dsp_line.bounds(plain)
        acc = np.arange(lo, hi + 1)
        y = nm.multiply_by_quantized_multiplier(acc, plain.mult[0], plain.shift[0])
        want = np.clip(y + plain.out_zp, -128, 127)
        constant = want[0] == want[-1]
        got = lines.apply((acc if not constant else np.zeros_like(acc))[None, :])[0]
        assert np.array_equal(got, want)
    assert fitted == 60 or (not relu and shift is not None)


def test_a_wrong_line_is_found() -> None:
    """The proof sees every line that differs anywhere: constants off by little, on either side."""
    rng = np.random.default_rng(6)
    found = 0
    for _ in range(40):
        plain = random_linear(rng, 1, True)
        lines = dsp_line.fit(plain, (-128, 127), dsp_line.SHORT_SHIFT)
        assert isinstance(lines, dsp_line.Lines)
        lo, hi = dsp_line.bounds(plain)
        acc = np.arange(lo[0], hi[0] + 1)
        for dm, dc in ((0, 3), (0, -3), (1 << 12, 0), (-(1 << 12), 0)):
            other = dsp_line.Lines(plain, lines.m + dm, lines.c + dc, lines.d, lines.k)
            y = nm.multiply_by_quantized_multiplier(acc, plain.mult[0], plain.shift[0])
            differs = not np.array_equal(other.apply(acc[None, :])[0], np.clip(y - 128, -128, 127))
            assert bool(dsp_line._wrong(other, plain, lo, hi, (-128, 127))[0]) == differs
            found += differs
    assert found > 20


def test_reasons_for_refusal() -> None:
    rng = np.random.default_rng(9)
    w = rng.integers(-127, 128, (4, 1, 1, 8)).astype(np.int8)

    def reasons(graph: Graph) -> dict[str, str]:
        return dict(variants.reject_reasons(graph.nodes[0], graph, m4()))

    linear = reasons(layer(rng, "CONV_2D", w, (5, 5), relu=False, spread=0))
    assert linear["conv2d_s8_rows_short_dsp"] == "the requantization is no line"
    assert "conv2d_s8_rows_long_dsp" not in linear
    steep = reasons(layer(rng, "CONV_2D", w, (5, 5), exponents=(3.1, 3.9)))
    assert "an output shift of 3 is out of the line's range" in steep["conv2d_s8_rows_short_dsp"]
    odd = reasons(layer(rng, "CONV_2D", w[:3], (5, 5)))
    assert odd["conv2d_s8_rows_short_dsp"] == "3 output channels: an odd number"
    big = layer(rng, "CONV_2D", np.full((2, 1, 1, 516), 127, np.int8), (2, 2), zp=0)
    assert "256 times the sum has to fit 32 bits" in reasons(big)["conv2d_s8_rows_long_dsp"]
    few = reasons(layer(rng, "FULLY_CONNECTED", w[:, 0, 0]))
    assert few["fully_connected_s8_fives_dsp"] == "4 outputs; at least 5 are needed"
    w = rng.integers(-127, 128, (1, 3, 3, 8)).astype(np.int8)
    fast = reasons(layer(rng, "DEPTHWISE_CONV_2D", w, (9, 9), stride=(2, 2)))
    assert "stride and dilation 1" in fast["depthwise_3x3_s8_short_dsp"]


@needs_gcc
def test_addition_of_every_pair_of_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    pairs = []
    byte = np.arange(-128, 128, dtype=np.int8)
    every = [np.repeat(byte, 256)[None], np.tile(byte, 256)[None]]
    for _ in range(6):
        g, _ = addition(rng, 1 << 16)
        pairs += [p for p in lowered(g, every) if p[0].call.variant == "add_s8_line_dsp"]
    assert len(pairs) >= 9  # each also in place, over either operand
    check(pairs, run_host([c for c, _ in pairs], tmp_path))


# -- instructions ------------------------------------------------------------------------------


def test_instructions_of_known_layers(tmp_path: Path) -> None:
    """Layers of the MLPerf Tiny networks; the bounds are 1 % above what zig -O3 gave."""
    rng = np.random.default_rng(7)

    def w(*shape: int) -> np.ndarray:
        return rng.integers(-127, 128, shape).astype(np.int8)

    exps = (7.1, 7.9)
    known = [
        (layer(rng, "CONV_2D", w(64, 1, 1, 64), (25, 5), exponents=exps), "speed", 425_000),
        (layer(rng, "CONV_2D", w(64, 1, 1, 64), (25, 5), exponents=exps), "size", 440_000),
        (
            layer(rng, "CONV_2D", w(64, 10, 4, 1), (49, 10), stride=(2, 2), exponents=exps),
            "speed",
            290_500,
        ),
        (
            layer(rng, "DEPTHWISE_CONV_2D", w(1, 3, 3, 64), (25, 5), exponents=exps),
            "speed",
            127_500,
        ),
        (layer(rng, "DEPTHWISE_CONV_2D", w(1, 3, 3, 64), (25, 5), exponents=exps), "ram", 150_500),
        (layer(rng, "FULLY_CONNECTED", w(128, 640), exponents=exps), "speed", 75_500),
        (layer(rng, "FULLY_CONNECTED", w(128, 128), exponents=exps), "speed", 16_000),
        (addition(rng, 16384)[0], "speed", 95_000),
    ]
    cases, expected = [], []
    for graph, optimize, _ in known:
        node = graph.nodes[0]
        x = {n: opgen.samples(rng, graph.tensors[n].shape, "int8", 1)[:1] for n in graph.inputs}
        call = variants.select(node, graph, m4(), optimize).lower(node, graph, m4())
        cases.append(Case(graph, call, list(x.values())))
        expected.append(run_node(node, graph, x)[0].reshape(-1))
    program = M4Program(cases, tmp_path, "zig", "-O3")
    counts = []
    for i, want in enumerate(expected):
        result = program.run(i)
        assert np.array_equal(result.output, want), cases[i].call.variant
        counts.append(result.instructions)
    limits = [limit for _, _, limit in known]
    assert all(n <= limit for n, limit in zip(counts, limits, strict=True)), (counts, limits)
    assert all(n > 0.97 * limit for n, limit in zip(counts, limits, strict=True)), (counts, limits)
