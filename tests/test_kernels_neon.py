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
from edgekit_targets.mcu.variants import variants_of

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
compilers = pytest.mark.parametrize("compiler", ["zig", pytest.param("gcc", marks=needs_gcc)])
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


def check(pairs: Pairs, folder: Path, target: Target, compiler: str) -> None:
    assert pairs
    cases = [c for c, _ in pairs]
    run = run_neon(cases, [e for _, e in pairs], folder, target, compiler)
    assert not run.wrong, [(cases[i].call.variant, cases[i].call.params) for i in run.wrong[:3]]


@needs_qemu
@compilers
def test_random_cases(compiler: str, tmp_path: Path) -> None:
    target = get_target("cortex-a76")
    pairs = drawn(8, 1, target)
    offered = {v.name for op in OPS for v in variants(op)}
    assert {c.call.variant for c, _ in pairs} >= {n for n in offered if "mmla" not in n}
    check(pairs, tmp_path, target, compiler)


@needs_qemu
def test_worst_cases(tmp_path: Path) -> None:
    target = get_target("cortex-a76")
    check(worst_cases(target)[::3], tmp_path, target, "zig")
