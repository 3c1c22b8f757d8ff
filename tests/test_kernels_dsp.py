"""DSP kernels: the bytes of the reference executor, under sanitizers and on a Cortex-M4."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import opgen
import pytest
from dsp_harness import Case, M4Program, m4, run_host

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, QuantParams, Tensor
from edgekit.graph.reference import run_node
from edgekit.targets.schema import Memory
from edgekit_targets.mcu.variants import (
    dsp_add,
    dsp_add_line,
    dsp_common,
    dsp_conv,
    dsp_depthwise,
    dsp_depthwise_3x3,
    dsp_fc,
    dsp_fc5,
    dsp_pool,
    dsp_rows,
)
from edgekit_targets.mcu.variants.dsp_common import MAX_EXP, Linear

MODULES = (
    dsp_add,
    dsp_add_line,
    dsp_conv,
    dsp_depthwise,
    dsp_depthwise_3x3,
    dsp_fc,
    dsp_fc5,
    dsp_pool,
    dsp_rows,
)
OPS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "AVERAGE_POOL_2D")

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def variants(op: str) -> list:
    return [v for m in MODULES for v in m.VARIANTS if v.op == op]


def lowered(graph: Graph, inputs: list[np.ndarray]) -> list[tuple[Case, np.ndarray]]:
    """Every DSP variant that takes the node, with the expected bytes of the first two samples."""
    node, target, found = graph.nodes[0], m4(), []
    for s in range(min(2, inputs[0].shape[0])):
        one = [
            x[s : s + 1].reshape(graph.tensor(i).shape)
            for x, i in zip(inputs, graph.inputs, strict=True)
        ]
        expected = run_node(node, graph, dict(zip(graph.inputs, one, strict=True)))[0].reshape(-1)
        for v in variants(node.type):
            reason = v.reject(node, graph, target)
            if reason is None or "too few" in reason:  # sizes that do not pay, but must work
                call = v.lower(node, graph, target)
                found.append((Case(graph, call, one), expected))
                found += [(Case(graph, call, one, i), expected) for i, _ in call.inplace]
    return found


def drawn(op: str, count: int, seed: int) -> list[tuple[Case, np.ndarray]]:
    rng = np.random.default_rng([seed, *op.encode()])
    return [p for _ in range(count) for p in lowered(*opgen.random_case(op, rng))]


def check(pairs: list[tuple[Case, np.ndarray]], outputs: list[np.ndarray]) -> None:
    for (case, expected), got in zip(pairs, outputs, strict=True):
        node = case.graph.nodes[0]
        assert np.array_equal(got, expected), (case.call.variant, dict(node.attrs), node.inputs)


def used(pairs: list[tuple[Case, np.ndarray]]) -> set[str]:
    return {case.call.variant for case, _ in pairs}


@needs_gcc
def test_random_cases_on_the_host_with_sanitizers(tmp_path: Path) -> None:
    pairs = [p for op in OPS for p in drawn(op, 30, 1)]
    rare = ("rows", "3x3")  # forms that random layers seldom fit: test_kernels_dsp_line.py
    names = {v.name for op in OPS for v in variants(op)}
    assert used(pairs) >= {n for n in names if not any(r in n for r in rare)}
    check(pairs, run_host([c for c, _ in pairs], tmp_path))


@needs_gcc
@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("seed", range(4))
def test_many_random_cases_on_the_host(op: str, seed: int, tmp_path: Path) -> None:
    pairs = drawn(op, 300, 100 + seed)
    check(pairs, run_host([c for c, _ in pairs], tmp_path))


def test_random_cases_on_a_cortex_m4(tmp_path: Path) -> None:
    pairs = [p for op in OPS for p in drawn(op, 8, 2)]
    program = M4Program([c for c, _ in pairs], tmp_path)
    check(pairs, [program.run(i).output for i in range(len(pairs))])


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["zig", "gcc"])
@pytest.mark.parametrize("opt", ["-Os", "-O3"])
def test_compilers_and_levels_on_a_cortex_m4(compiler: str, opt: str, tmp_path: Path) -> None:
    if compiler == "gcc" and shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    pairs = [p for op in OPS for p in drawn(op, 20, 3)]
    program = M4Program([c for c, _ in pairs], tmp_path, compiler, opt)
    check(pairs, [program.run(i).output for i in range(len(pairs))])


# -- worst cases -------------------------------------------------------------------------------


def conv_graph(
    w: np.ndarray,
    hw: tuple[int, int],
    zp: tuple[int, int],
    bias: int,
    scale: float,
    op: str,
    padding: str = "SAME",
) -> Graph:
    """One convolution or depthwise with the given weights and scale s_in * s_w / s_out."""
    depthwise = op == "DEPTHWISE_CONV_2D"
    o, c = (w.shape[3], w.shape[3]) if depthwise else (w.shape[0], w.shape[3])
    q_w = QuantParams.per_channel([scale] * o, 3 if depthwise else 0)
    x = Tensor("x", (1, *hw, c), "int8", QuantParams.per_tensor(1.0, zp[0]))
    weights = Tensor("w", w.shape, "int8", q_w, w)
    b = Tensor("b", (o,), "int32", None, np.full(o, bias, np.int32))
    attrs = {"stride": (1, 1), "dilation": (1, 1), "padding": padding, "activation": "NONE"}
    return opgen.single(op, [x, weights, b], attrs, "int8", QuantParams.per_tensor(1.0, zp[1]))


def worst_cases(op: str) -> list[tuple[Case, np.ndarray]]:
    pairs = []
    shape = (3, 3, 3, 9) if op == "CONV_2D" else (1, 3, 3, 9)
    signs = np.where(np.indices(shape).sum(axis=0) % 2 == 0, 1, -1)
    fills = [np.full(shape, v) for v in (-128, -127, 127)] + [127 * signs, 127 * signs - 1]
    for k, w in enumerate(fills):
        for bias in (0, 2**30, -(2**30), 12345):
            for zp, scale in (((-128, 127), 2.0**-12), ((127, -128), 2.0**-9.3), ((0, 0), 0.7)):
                g = conv_graph(w.astype(np.int8), (3, 4), zp, bias, scale, op)
                value = (-128, 127)[k % 2]
                x = np.stack([np.full((3, 4, 9), value), np.full((3, 4, 9), -1 - value)])
                pairs += lowered(g, [x.astype(np.int8)])
    return pairs


@needs_gcc
def test_worst_case_fills(tmp_path: Path) -> None:
    pairs = worst_cases("CONV_2D") + worst_cases("DEPTHWISE_CONV_2D")
    check(pairs, run_host([c for c, _ in pairs], tmp_path))


def test_worst_case_fills_on_a_cortex_m4(tmp_path: Path) -> None:
    pairs = (worst_cases("CONV_2D") + worst_cases("DEPTHWISE_CONV_2D"))[::7]
    program = M4Program([c for c, _ in pairs], tmp_path)
    check(pairs, [program.run(i).output for i in range(len(pairs))])


def fc_graph(k: int, value: int, bias: int) -> Graph:
    x = Tensor("x", (1, k), "int8", QuantParams.per_tensor(1.0, 0))
    w = Tensor(
        "w", (9, k), "int8", QuantParams.per_tensor(2.0**-16, 0), np.full((9, k), value, "b")
    )
    b = Tensor("b", (9,), "int32", None, np.full(9, bias, np.int32))
    attrs = {"activation": "NONE", "keep_num_dims": False}
    return opgen.single("FULLY_CONNECTED", [x, w, b], attrs, "int8", QuantParams.per_tensor(1, 3))


@needs_gcc
def test_convolution_that_covers_its_input_is_fully_connected(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    w = rng.integers(-127, 128, (11, 3, 5, 7)).astype(np.int8)
    x = rng.integers(-128, 128, (2, 3, 5, 7)).astype(np.int8)
    same = conv_graph(w, (3, 5), (5, -9), 77, 2.0**-13, "CONV_2D")
    valid = conv_graph(w, (3, 5), (5, -9), 77, 2.0**-13, "CONV_2D", "VALID")
    for graph, expected in ((same, False), (valid, True)):
        pairs = lowered(graph, [x])
        assert ("fully_connected_s8_halfword_dsp" in used(pairs)) is expected
        check(pairs, run_host([c for c, _ in pairs], tmp_path))


@needs_gcc
def test_halfword_form_up_to_its_limit(tmp_path: Path) -> None:
    """The largest sum it holds, 2^23 - 1, and the first one it has to refuse."""
    k = 516
    room = dsp_common.HALFWORD_LIMIT - 1 - k * 127 * 128
    fits = lowered(fc_graph(k, -127, room), [np.full((1, k), -128, np.int8)])
    beyond = lowered(fc_graph(k, -127, room + 1), [np.full((1, k), -128, np.int8)])
    below = lowered(fc_graph(k, 127, -room), [np.full((1, k), -128, np.int8)])
    assert used(fits) == used(below) == {v.name for v in variants("FULLY_CONNECTED")}
    assert used(beyond) == {"fully_connected_s8_pairs_dsp"}
    pairs = fits + beyond + below
    check(pairs, run_host([c for c, _ in pairs], tmp_path))


# -- the requantization identity ---------------------------------------------------------------


def test_fast_requantization_is_exact_where_it_is_chosen() -> None:
    rng = np.random.default_rng(5)
    for e in range(1, MAX_EXP + 1):
        n = 4000
        mult = rng.integers(1 << 30, 1 << 31, n)
        mult[:4] = (1 << 30, (1 << 31) - 1, (1 << 30) + 1, 1518500250)
        zp = int(rng.integers(-128, 128))
        drawn_acc = rng.normal(size=n) * 2.0 ** rng.uniform(2, 30, n)
        acc = np.clip(drawn_acc, -(2**30), 2**30).astype(np.int64)
        # and values around the ties of the second rounding
        ties = ((2 * rng.integers(-200, 200, n, np.int64) + 1) << (e - 1) << 31) // mult
        acc = np.concatenate([acc, np.clip(ties + rng.integers(-1, 2, n), -(2**30), 2**30)])
        mult = np.concatenate([mult, mult])
        offset = (2 * zp + 1) << (e - 1)
        layer = Linear(np.zeros((2 * n, 1)), acc, mult, np.full(2 * n, -e), zp)
        fast = layer.fast()
        assert fast.mean() > 0.9
        wrapped = dsp_common.wrap32(2 * mult).astype(np.int64)
        high = nm.wrap32((((acc + offset) << 32) + acc * wrapped + (1 << 31)) >> 32)
        got = nm.wrap32(high + (acc >> 31)) >> e
        want = nm.multiply_by_quantized_multiplier(acc, mult, np.full(2 * n, -e)) + zp
        assert np.array_equal(got[fast], want[fast])


def test_channels_beyond_the_fast_range_take_the_general_form() -> None:
    huge = Linear(
        np.zeros((4, 4), np.int64),
        np.array([2**31 - 1, 100, 100, 100]),
        np.array([1 << 30, 1 << 30, 0, 1 << 30]),
        np.array([-10, 0, -3, -23]),
        0,
    )
    assert not huge.fast().any()
    assert list(huge.quant(huge.bias, 1).reshape(-1, 4)[:, 2]) == [118, 128, 125, 105]


# -- what is refused ---------------------------------------------------------------------------


def test_reasons_for_refusal() -> None:
    rng = np.random.default_rng(0)
    g, _ = opgen.random_case("CONV_2D", rng)
    node = g.nodes[0]
    plain = m4().model_copy(update={"cores": (m4().core.model_copy(update={"features": ()}),)})
    for v in variants("CONV_2D"):
        assert v.reject(node, g, plain) == "cortex-m4 has no DSP extension"
    w = np.full((2, 1, 1, 4), -128, np.int8)
    g = conv_graph(w, (2, 2), (0, 0), 0, 0.1, "CONV_2D")
    halfword, pairs = dsp_conv.VARIANTS[:2]
    assert "do not fit a halfword" in halfword.reject(g.nodes[0], g, m4())
    assert pairs.reject(g.nodes[0], g, m4()) is None
    small = m4().model_copy(
        update={"memories": (Memory(name="ram", role="ram", size=65536, wait_states=0),)}
    )
    g = conv_graph(np.ones((2, 3, 3, 116), np.int8), (4, 4), (0, 0), 0, 0.1, "CONV_2D")
    assert pairs.reject(g.nodes[0], g, small) == (
        "its columns need 8352 bytes of scratch; at most 8192 are spent on it"
    )
    assert pairs.reject(g.nodes[0], g, m4()) is None
