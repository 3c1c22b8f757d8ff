"""Winograd and polyphase convolutions for cores with DSP: the bytes of the reference executor, and
instruction counts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import opgen
import pytest
from dsp_harness import Case, M4Program, m4, run_host

from edgekit.graph.ir import Graph, QuantParams, Tensor
from edgekit.graph.reference import run_node
from edgekit.targets.schema import Memory
from edgekit_targets.mcu.variants import dsp_conv, dsp_tiles
from edgekit_targets.mcu.variants.dsp_tiles import DspTiles

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

WIDE = next(v for v in dsp_conv.VARIANTS if v.form == "wide")
NAMES = {v.name for v in dsp_tiles.VARIANTS}


def conv(
    w: np.ndarray,
    hw: tuple[int, int],
    stride: int,
    padding: object = "SAME",
    zp: tuple[int, int] = (-3, 5),
    scale: float | list[float] = 2.0**-9,
    bias: np.ndarray | int = 100,
    activation: str = "NONE",
    out_scale: float = 1.0,
) -> Graph:
    """One 3x3 convolution; scale: s_in * s_w / s_out (one, or one a channel)."""
    o, c = w.shape[0], w.shape[3]
    scales = scale if isinstance(scale, list) else [scale] * o
    x = Tensor("x", (1, *hw, c), "int8", QuantParams.per_tensor(1.0, zp[0]))
    q_w = QuantParams.per_channel([s * out_scale for s in scales], 0)
    b = Tensor("b", (o,), "int32", None, np.broadcast_to(np.int32(bias), (o,)).copy())
    attrs = {
        "stride": (stride, stride),
        "dilation": (1, 1),
        "padding": padding,
        "activation": activation,
    }
    q = QuantParams.per_tensor(out_scale, zp[1])
    return opgen.single("CONV_2D", [x, Tensor("w", w.shape, "int8", q_w, w), b], attrs, "int8", q)


def lowered(graph: Graph, x: np.ndarray) -> list[tuple[Case, np.ndarray]]:
    """Every tiled variant that takes the node, whether it pays or not, and the expected bytes."""
    node = graph.nodes[0]
    expected = run_node(node, graph, {"x": x})[0].reshape(-1)
    found = []
    for v in [*dsp_tiles.VARIANTS, WIDE]:
        reason = v.reject(node, graph, m4())
        if reason is None or "too few" in reason:
            found.append((Case(graph, v.lower(node, graph, m4()), [x]), expected))
    return found


def drawn(count: int, seed: int) -> list[tuple[Case, np.ndarray]]:
    """Any size, padding, channel count, zero points, activation; scales that reach every path."""
    rng = np.random.default_rng([seed, 3])
    pairs = []
    for _ in range(count):
        c, o = (int(opgen.pick(rng, (1, 2, 3, 4, 5, 8, 12, 16, 19))) for _ in range(2))
        stride = int(rng.integers(1, 3))
        hw = (int(rng.integers(1, 14)), int(rng.integers(1, 14)))
        pads = tuple(int(p) for p in rng.integers(0, 3, 4))
        options = ["SAME", "SAME", pads] + (["VALID"] if min(hw) >= 3 else [])
        padding = options[int(rng.integers(len(options)))]
        if padding == pads and (hw[0] + sum(pads[:2]) < 3 or hw[1] + sum(pads[2:]) < 3):
            padding = "SAME"
        w = opgen.fill(rng, (o, 3, 3, c), "int8")
        zp = tuple(int(opgen.pick(rng, (-128, 127, 0, int(rng.integers(-128, 128))))) for _ in "io")
        scales = [float(2.0 ** rng.uniform(-12, -4)) for _ in range(o)]
        bias = rng.integers(-5000, 5000, o)
        if opgen.chance(rng, 0.3):  # constant channels, multipliers above one, tiny ones
            bias[0], scales[0] = 2**30, 2.0**-23
        if opgen.chance(rng, 0.3):
            bias[-1], scales[-1] = -(2**25), 2.0**-20
        if opgen.chance(rng, 0.2):
            scales[o // 2] = 1.7
        activation = str(opgen.pick(rng, opgen.ACTIVATIONS))
        out_scale = float(opgen.pick(rng, (1.0, 0.05)))
        g = conv(w, hw, stride, padding, zp, scales, bias, activation, out_scale)
        pairs += lowered(g, opgen.fill(rng, (1, *hw, c), "int8"))
    return pairs


def check(pairs: list[tuple[Case, np.ndarray]], outputs: list[np.ndarray]) -> None:
    for (case, expected), got in zip(pairs, outputs, strict=True):
        node = case.graph.nodes[0]
        shapes = [case.graph.tensor(i).shape for i in (*node.inputs, *node.outputs)]
        assert np.array_equal(got, expected), (case.call.variant, dict(node.attrs), shapes)


@needs_gcc
def test_random_cases_on_the_host_with_sanitizers(tmp_path: Path) -> None:
    pairs = drawn(30, 1)
    assert {c.call.variant for c, _ in pairs} == NAMES | {WIDE.name}
    check(pairs, run_host([c for c, _ in pairs], tmp_path))


@needs_gcc
@pytest.mark.slow
def test_many_random_cases_on_the_host(tmp_path: Path) -> None:
    pairs = drawn(400, 2)
    check(pairs, run_host([c for c, _ in pairs], tmp_path))


def test_random_cases_on_a_cortex_m4(tmp_path: Path) -> None:
    pairs = drawn(12, 3)
    program = M4Program([c for c, _ in pairs], tmp_path)
    check(pairs, [program.run(i).output for i in range(len(pairs))])


@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "opt"), [("zig", "-Os"), ("gcc", "-O3"), ("gcc", "-Os")])
def test_compilers_and_levels_on_a_cortex_m4(compiler: str, opt: str, tmp_path: Path) -> None:
    if compiler == "gcc" and shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    pairs = drawn(25, 4)
    program = M4Program([c for c, _ in pairs], tmp_path, compiler, opt)
    check(pairs, [program.run(i).output for i in range(len(pairs))])


def worst_cases() -> list[tuple[Case, np.ndarray]]:
    """Fills of weights, inputs and zero points that reach the bounds of every lane and sum."""
    rng = np.random.default_rng(7)
    pairs = []
    for stride in (1, 2):
        for k, fill in enumerate(("low", "high", "extremes", "extremes")):
            w = opgen.fill(rng, (2, 3, 3, 10), "int8", fill)
            for value in ("low", "high", "extremes"):
                for zp in ((-128, -128), (127, 127), (-128, 5)):
                    g = conv(w, (6, 9), stride, "SAME", zp, 2.0 ** (-9.3 - k), -(2**12))
                    pairs += lowered(g, opgen.fill(rng, (1, 6, 9, 10), "int8", value))
    return pairs


@needs_gcc
def test_worst_case_fills(tmp_path: Path) -> None:
    pairs = worst_cases()
    check(pairs, run_host([c for c, _ in pairs], tmp_path))


def test_worst_case_fills_on_a_cortex_m4(tmp_path: Path) -> None:
    pairs = worst_cases()[::6]
    program = M4Program([c for c, _ in pairs], tmp_path)
    check(pairs, [program.run(i).output for i in range(len(pairs))])


POINTS = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)  #: F(4x4,3x3)'s input transform


def test_transformed_weights_stay_in_16_bits() -> None:
    """Also the inputs, from the matrices: the signs that make the largest sum of each stream."""
    inputs = np.einsum("ur,vs->uvrs", POINTS, POINTS).reshape(36, -1)
    high, low = (np.where(s * inputs > 0, inputs, 0).sum(axis=1) * 255 for s in (1, -1))
    assert high.max() == 17340 and low.min() == -12750
    raised = dsp_tiles.SCHEMES[0].raised
    assert low.min() + raised >= 0 and high.max() + raised < 1 << 15  # no borrow between lanes
    assert low.min() + 0x8000 >= 0 and high.max() + 0x8000 < 1 << 16  # the lean kernel's
    for v in dsp_tiles.VARIANTS:
        s = v.scheme
        bound = 128 * s.factor * np.abs(s.matrix).sum(axis=1).max() ** 2
        assert bound < 1 << 15, s.name


def test_winograd_matrices_are_an_identity() -> None:
    """G g G^T and B^T d B, combined as the kernels do, are the convolution times the scale."""
    a = np.array(
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 2]]
    )
    g = dsp_tiles.SCHEMES[0].matrix
    for tap in range(3):
        for i in range(6):
            got = a @ (g[:, tap] * POINTS[:, i])
            assert list(got) == [24 * (i == k + tap) for k in range(4)]


#: Kernel, input, output channels, stride -> executed instructions (zig, -O2), and scratch.
COUNTS = [
    ("winograd_f4", (32, 32, 3), 16, 1, 509_000, 3_200),
    ("winograd_f4", (32, 32, 16), 16, 1, 948_000, 6_272),
    ("winograd_f4", (16, 16, 32), 32, 1, 691_000, 10_880),
    ("winograd_f4", (8, 8, 64), 64, 1, 556_500, 20_096),
    ("polyphase", (32, 32, 16), 32, 2, 838_000, 4_432),
    ("polyphase", (16, 16, 32), 64, 2, 710_000, 7_632),
]


def test_instruction_counts(tmp_path: Path) -> None:
    """ResNet-8's layers: no more instructions than noted (2 % for another compiler version)."""
    rng = np.random.default_rng(11)
    pairs = []
    for name, (h, wd, c), o, stride, _, _ in COUNTS:
        w = rng.integers(-127, 128, (o, 3, 3, c)).astype(np.int8)
        g = conv(w, (h, wd), stride, zp=(-128, 4 if c > 3 and stride == 1 else -128))
        v = next(v for v in dsp_tiles.VARIANTS if v.scheme.name == name and not v.lean)
        assert v.reject(g.nodes[0], g, m4()) is None
        x = rng.integers(-128, 128, (1, h, wd, c)).astype(np.int8)
        pairs.append((Case(g, v.lower(g.nodes[0], g, m4()), [x]), g, x))
    program = M4Program([c for c, _, _ in pairs], tmp_path)
    for i, ((case, g, x), (name, shape, *_, count, scratch)) in enumerate(
        zip(pairs, COUNTS, strict=True)
    ):
        result = program.run(i)
        assert np.array_equal(result.output, run_node(g.nodes[0], g, {"x": x})[0].reshape(-1))
        assert result.instructions <= 1.02 * count, (name, shape)
        assert case.call.scratch_bytes == scratch
        estimate = DspTiles.instructions(_variant(case), g.nodes[0], g, m4())
        assert abs(estimate / result.instructions - 1) < 0.12, (name, shape, estimate)


def _variant(case: Case) -> DspTiles:
    return next(v for v in dsp_tiles.VARIANTS if v.name == case.call.variant)


def test_reasons_for_refusal() -> None:
    rng = np.random.default_rng(0)
    f4, f4_lean = (v for v in dsp_tiles.VARIANTS if v.scheme.name == "winograd_f4")

    def reason(v: DspTiles, w: np.ndarray, hw: tuple[int, int], stride: int) -> str | None:
        g = conv(w, hw, stride)
        return v.reject(g.nodes[0], g, m4())

    w = rng.integers(-127, 128, (16, 3, 3, 16)).astype(np.int8)
    assert reason(f4, w, (16, 16), 1) is None
    assert "stride 1" in (reason(f4, w, (16, 16), 2) or "")
    assert "stride 1" in (reason(f4, w[:, :2], (16, 16), 1) or "")
    assert "too few" in (reason(f4, w[:2], (1, 1), 1) or "")
    many = np.full((2, 3, 3, 300), 127, np.int8)
    assert reason(f4, many, (8, 8), 1) == (
        "sums may reach 43891200; the transform is exact below 33554432"
    )
    small = m4().model_copy(
        update={"memories": (Memory(name="ram", role="ram", size=24576, wait_states=0),)}
    )
    g = conv(rng.integers(-127, 128, (64, 3, 3, 64)).astype(np.int8), (8, 8), 1)
    assert f4.reject(g.nodes[0], g, small) == (
        "its tiles need 20096 bytes of scratch; at most 8192 are spent on it"
    )
    assert f4_lean.reject(g.nodes[0], g, m4()) is None


def test_lean_kernels_store_no_more_than_the_weights() -> None:
    rng = np.random.default_rng(0)
    for v in dsp_tiles.VARIANTS:
        g = conv(rng.integers(-127, 128, (16, 3, 3, 16)).astype(np.int8), (16, 16), v.scheme.stride)
        flash = sum(c.data.nbytes for c in v.lower(g.nodes[0], g, m4()).consts)
        expected = 16 * 9 * 16 if v.lean else 16 * v.scheme.streams * 16 * 2
        assert flash == expected + 16 * (32 if v.raised else 16)
