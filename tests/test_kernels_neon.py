"""NEON kernels: the bytes of the reference executor, on QEMU's 64-bit Arm cores."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import opgen
import pytest
from dsp_harness import Case
from neon_harness import GCC, a76, run_neon
from test_kernels_dsp import conv_graph, fc_graph
from test_kernels_mve import convolution

from edgekit.devices.aarch64 import why_unusable
from edgekit.graph.ir import Graph
from edgekit.graph.reference import run_node
from edgekit.targets import get_target
from edgekit.targets.schema import Target
from edgekit_targets.mcu.variants import neon_common, variants_of
from edgekit_targets.mcu.variants.dsp_conv import linear_layer

OPS = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "ADD",
    "AVERAGE_POOL_2D",
    "MAX_POOL_2D",
    "MEAN",
    "SUM",
    "LOGISTIC",
    "TANH",
    "QUANTIZE",
)

needs_qemu = pytest.mark.skipif(why_unusable() is not None, reason=why_unusable() or "")
needs_gcc = pytest.mark.skipif(shutil.which(GCC) is None, reason=f"{GCC} is not installed")
Pairs = list[tuple[Case, np.ndarray]]


def variants(op: str) -> list:
    return [v for v in variants_of(op) if v.name.endswith("_neon")]


def lowered(
    graph: Graph, inputs: list[np.ndarray], target: Target | None = None, samples: int = 1
) -> Pairs:
    """Every NEON variant that takes the node, with the expected bytes of the first samples."""
    node, target, found = graph.nodes[0], target or a76(), []
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


def drawn_convolutions(count: int, seed: int, target: Target) -> Pairs:
    """Geometries that random operators seldom hit: all remainders of channels and pixels, 1x1 with and
    without strides, windows without and with padding, dilated ones."""
    rng = np.random.default_rng([seed, 64])
    pairs: Pairs = []

    def add(op: str, *args: object) -> None:
        pairs.extend(lowered(*convolution(rng, op, *args), target))  # type: ignore[arg-type]

    for i in range(count):
        zero, s = bool(rng.random() < 0.4), int(rng.integers(1, 3))
        h, w = int(rng.integers(1, 9)), int(rng.integers(1, 14))
        c, o = int(rng.integers(1, 70)), int(rng.integers(1, 40))
        pad = ["SAME", "VALID", (1, 0, 0, 2), (2, 2, 1, 1)][int(rng.integers(4))]
        add("CONV_2D", (h + 2, w + 2), (c, o), (3, 3), (s, s), pad, None, zero)
        c8 = 8 * int(rng.integers(1, 7))
        add("CONV_2D", (h + 2, w + 2), (c8, o), (3, 3), (1, 1), pad, None, zero)
        c4 = 4 * int(rng.integers(1, 20))
        add("CONV_2D", (h, w), (c4, o), (1, 1), (s, 1 + i % 2), "VALID", None, zero)
        add("CONV_2D", (h, w), (c, o), (1, 1), (1, 1), "SAME", None, zero)
        kernel = (int(rng.integers(1, 6)), int(rng.integers(1, 6)))
        add("CONV_2D", (h + 5, w + 5), (1 + c % 9, o), kernel, (1 + i % 3, s), pad, None, zero)
        kernel = (int(rng.integers(1, 6)), int(rng.integers(1, 6)))
        add("DEPTHWISE_CONV_2D", (h + 5, w + 5), (c, c), kernel, (s, 1 + i % 3), pad, None, zero)
        add("DEPTHWISE_CONV_2D", (h + 2, w + 2), (c, c), (3, 3), (s, s), pad, None, zero)
        c = 16 * (1 + i % 5)
        add("DEPTHWISE_CONV_2D", (h + 2, w + 2), (c, c), (3, 3), (1 + i % 2,) * 2, "SAME")
    return pairs


def drawn(count: int, seed: int, target: Target) -> Pairs:
    pairs: Pairs = []
    for op in OPS:
        rng = np.random.default_rng([seed, *op.encode()])
        for _ in range(count):
            pairs += lowered(*opgen.random_case(op, rng), target)
    return pairs + drawn_convolutions(max(1, count // 2), seed, target)


def worst_cases(target: Target) -> Pairs:
    """The largest sums and biases, extreme zero points, ties of the second rounding."""
    pairs: Pairs = []
    for op, shape in (("CONV_2D", (8, 3, 3, 16)), ("DEPTHWISE_CONV_2D", (1, 3, 3, 17))):
        signs = np.where(np.indices(shape).sum(axis=0) % 2 == 0, 1, -1)
        fills = [np.full(shape, v) for v in (-128, -127, 127)] + [127 * signs, 127 * signs - 1]
        for k, w in enumerate(fills):
            for bias in (0, 2**31 - 1, -(2**31), 12345):
                for zp, s in (((-128, 127), 2.0**-12), ((127, -128), 2.0**-9.3), ((0, 0), 0.4999)):
                    g = conv_graph(w.astype(np.int8), (4, 8), zp, bias, s, op)
                    x = np.full((1, 4, 8, shape[3]), (-128, 127)[k % 2], np.int8)
                    pairs += lowered(g, [x], target)
    for value, bias in ((-127, 0), (127, 2**31 - 1), (-128, -(2**31))):
        x = np.full((1, 517), -128, np.int8)
        pairs += lowered(fc_graph(517, value, bias), [x], target)
    return pairs


def check(
    pairs: Pairs, folder: Path, target: Target, compiler: str, optimize: str = "balanced"
) -> None:
    assert pairs
    cases = [c for c, _ in pairs]
    run = run_neon(cases, [e for _, e in pairs], folder, target, compiler, optimize)
    assert not run.wrong, [(cases[i].call.variant, cases[i].call.params) for i in run.wrong[:3]]


def names(pairs: Pairs) -> set[str]:
    return {c.call.variant for c, _ in pairs}


@needs_qemu
def test_random_cases(tmp_path: Path) -> None:
    target = get_target("cortex-a76")
    pairs = drawn(12, 1, target)
    offered = {v.name for op in OPS for v in variants(op)}
    assert names(pairs) == {n for n in offered if "mmla" not in n}
    check(pairs, tmp_path, target, "zig")


@needs_qemu
@pytest.mark.slow
@pytest.mark.parametrize("target", ["cortex-a72", "galaxy-s23"])
def test_random_cases_on_other_cores(target: str, tmp_path: Path) -> None:
    core = get_target(target)
    pairs = drawn(10, 2, core)
    assert any("_mmla_" in n for n in names(pairs)) == ("i8mm" in neon_common.features(core))
    assert any("_dot_" in n for n in names(pairs)) == ("dotprod" in neon_common.features(core))
    check(pairs, tmp_path, core, "zig")


@needs_qemu
@needs_gcc
@pytest.mark.slow
def test_random_cases_by_gcc(tmp_path: Path) -> None:
    core = get_target("galaxy-s23")
    check(drawn(6, 3, core), tmp_path, core, "gcc")


@needs_qemu
@pytest.mark.slow
@pytest.mark.parametrize("optimize", ["speed", "size"])
def test_worst_cases(optimize: str, tmp_path: Path) -> None:
    core = get_target("galaxy-s23")
    pairs = worst_cases(core)[:: 3 if optimize == "speed" else 7]
    assert {c.call.params.count("EK_NEON_PLAIN") for c, _ in pairs if c.call.params} == {0, 1}
    check(pairs, tmp_path, core, "zig", optimize)


def test_code_for_a_core_uses_what_it_has() -> None:
    assert "i8mm" in neon_common.features(get_target("galaxy-s23"))
    assert neon_common.features(get_target("cortex-a53")) == ("neon",)
    assert neon_common.features(get_target("cortex-m4")) == ()
    graph = conv_graph(np.ones((8, 3, 3, 8), np.int8), (4, 4), (0, 0), 0, 0.01, "CONV_2D")
    taken = {
        t: {v.name for v in variants("CONV_2D")
            if v.reject(graph.nodes[0], graph, get_target(t)) is None}
        for t in ("cortex-a53", "cortex-a76", "cortex-m55", "host")
    }  # fmt: skip
    assert taken["cortex-m55"] == taken["host"] == set()
    assert taken["cortex-a76"] - taken["cortex-a53"] == {"conv2d_s8_dot_neon"}


def test_the_cheap_end_is_taken_where_it_is_exact() -> None:
    """Zero point -128, no clamp of its own, and results of at most 16 bits."""

    def end(zp: int, w: int, scale: float, clamp: tuple[int, int] = (-128, 127)) -> str:
        g = conv_graph(np.full((4, 3, 3, 8), w, np.int8), (4, 4), (0, zp), 0, scale, "CONV_2D")
        node = g.nodes[0]
        weights = g.tensor(str(node.inputs[1])).data
        assert weights is not None
        return neon_common.finish(linear_layer(node, g, weights.reshape(4, -1)), *clamp)

    assert end(-128, 100, 0.01) == "EK_NEON_PLAIN"
    assert end(-127, 100, 0.01) == end(-128, 100, 0.01, (-128, 90)) == "EK_NEON_GENERAL"
    assert end(-128, 127, 0.4) == "EK_NEON_GENERAL"  # 72 * 127 * 128 * 0.4 does not fit
