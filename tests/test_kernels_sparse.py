"""Block-sparse kernels: the reference's bytes, and chosen only where they are faster."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import kernel_host
import numpy as np
import opgen
import pytest
from dsp_harness import Case as M4Case
from dsp_harness import M4Program, m4
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import thinned

from edgekit.graph.ir import Graph, QuantParams, Tensor
from edgekit.graph.reference import run_node
from edgekit_targets.mcu.contract import KernelCall
from edgekit_targets.mcu.variants import sparse

OPS = ("CONV_2D", "FULLY_CONNECTED")


def calls(graph: Graph) -> list[KernelCall]:
    node, found = graph.nodes[0], []
    same = graph.tensor(node.inputs[0]).nbytes == graph.tensor(node.outputs[0]).nbytes
    for v in (v for v in sparse.VARIANTS if v.op == node.type):
        if v.reject(node, graph, m4()) is None:
            call = v.lower(node, graph, m4())
            found.append(call if same else replace(call, inplace=()))
    return found


def drawn(op: str, seed: int, count: int) -> list[tuple[Graph, list, KernelCall]]:
    found = []
    for i in range(count):
        rng = np.random.default_rng([zlib.crc32(op.encode()), seed, i])
        graph, inputs = opgen.CASES[op](rng)
        g = thinned(graph, rng)
        found += [(g, inputs, c) for c in calls(g)]
    return found


def test_under_sanitizers(tmp_path: Path) -> None:
    cases = [c for op in OPS for c in drawn(op, 0, 24)]
    assert {c.variant for _, _, c in cases} == {v.name for v in sparse.VARIANTS}
    kernel_host.check([kernel_host.Case(*c) for c in cases], tmp_path, sanitize=True)


@pytest.mark.slow
def test_many_cases(tmp_path: Path) -> None:
    cases = [c for op in OPS for c in drawn(op, 1, 100)]
    kernel_host.check([kernel_host.Case(*c) for c in cases], tmp_path, sanitize=False)


def dense_layer(rng: np.random.Generator, k: int, o: int, keep: float) -> Graph:
    w = (
        rng.integers(-20, 21, (o, k))
        * np.repeat(rng.random((o, -(-k // 4))) < keep, 4, axis=1)[:, :k]
    )
    x = Tensor("x", (1, k), "int8", QuantParams.per_tensor(0.1, 3))
    wt = Tensor("w", (o, k), "int8", QuantParams.per_tensor(0.01, 0), w.astype(np.int8))
    attrs = {"activation": "NONE", "keep_num_dims": False}
    return opgen.single("FULLY_CONNECTED", [x, wt], attrs, "int8", QuantParams.per_tensor(0.3, -5))


def test_long_gaps(tmp_path: Path) -> None:
    """Blocks further apart than a gap can say."""
    rng = np.random.default_rng(1)
    g = dense_layer(rng, 4 * 700, 6, 0.0)
    w = g.tensor("w")
    assert w.data is not None
    data = w.data.copy()
    for o, at in enumerate(([0], [255], [256], [699], [0, 511, 699], [])):
        for b in at:
            data[o, 4 * b : 4 * b + 4] = rng.integers(1, 100, 4)
    g.tensors["w"] = w.with_(data=data)
    x = rng.integers(-128, 128, (2, 2800)).astype(np.int8)
    found = calls(g)
    assert len(found) == 2
    kernel_host.check([kernel_host.Case(g, [x], c) for c in found], tmp_path)


@pytest.mark.slow
def test_on_a_cortex_m4(tmp_path: Path) -> None:
    cases, expected = [], []
    for op in OPS:
        for g, inputs, call in drawn(op, 3, 6):
            x = {g.inputs[0]: inputs[0][:1].reshape(g.tensor(g.inputs[0]).shape)}
            cases.append(M4Case(g, call, list(x.values())))
            expected.append(run_node(g.nodes[0], g, x)[0].reshape(-1))
    program = M4Program(cases, tmp_path)
    for k, want in enumerate(expected):
        np.testing.assert_array_equal(program.run(k).output, want, cases[k].call.variant)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 1400), st.floats(0, 1))
def test_what_is_stored_is_the_layer(seed: int, o: int, k: int, keep: float) -> None:
    rng = np.random.default_rng(seed)
    blocks = -(-k // 4)
    w = (
        rng.integers(-128, 128, (o, k))
        * np.repeat(rng.random((o, blocks)) < keep, 4, axis=1)[:, :k]
    )
    padded = np.pad(w, ((0, 0), (0, 4 * blocks - k))).reshape(o, blocks, 4)
    counts, gaps, values = sparse.stored(w, padded)
    back, at = np.zeros((o, blocks, 4), np.int64), 0
    for row, count in enumerate(counts):
        block = 0
        for _ in range(count):
            block += int(gaps[at])
            back[row, block] += values[4 * at : 4 * at + 4]
            at += 1
    np.testing.assert_array_equal(back, padded)


@pytest.mark.slow
def test_chosen_only_where_they_are_faster() -> None:
    """A layer with 95 % of its blocks zero runs sparse, one with 40 % does not."""
    from edgekit.targets import get_target
    from edgekit_targets.mcu import choose, toolchain
    from edgekit_targets.mcu.config import parse

    mcu = parse(get_target("cortex-m4"))
    compiler = toolchain.arm_compiler(mcu.toolchain, "auto")
    for keep, wins in ((0.05, True), (0.6, False)):
        g = dense_layer(np.random.default_rng(2), 256, 64, keep)
        picked = choose.choose(g, mcu, compiler, "speed")
        (call,) = picked.calls.values()
        assert ("sparse" in call.variant) == wins, (keep, call.variant)
