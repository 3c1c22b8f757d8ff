"""Kernels for weights of few bits: the reference's bytes, under sanitizers and on a Cortex-M4."""

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
from kernel_cases import of_few_bits

from edgekit.errors import UnsupportedError
from edgekit.graph.ir import Graph
from edgekit.graph.reference import run_node
from edgekit_targets.mcu import variants
from edgekit_targets.mcu.contract import KernelCall
from edgekit_targets.mcu.variants import lowbit_dsp, lowbit_ref, lowbit_unpack
from edgekit_targets.mcu.variants.lowbit_codes import MIN_WEIGHTS, Codes, is_low_bit

OPS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
MODULES = (lowbit_ref, lowbit_dsp, lowbit_unpack)
#: Kinds of weights: int4 numbers, and codebooks of so many values.
KINDS = ("int4", 2, 3, 15, 50, "ternary", "binary")


def calls(graph: Graph, target: object) -> list[KernelCall]:
    """The node by every variant for weights of few bits that takes it."""
    node, found = graph.nodes[0], []
    for v in (v for m in MODULES for v in m.VARIANTS if v.op == node.type):
        reason = v.reject(node, graph, target)
        if reason is not None and "too few" in reason:  # sizes that do not pay have to work, too
            packed = isinstance(v, lowbit_unpack.Unpacked)
            reason = (
                "other form" if packed and isinstance(v.found(node, graph, target), str) else None
            )
        if reason is None:
            call = v.lower(node, graph, target)
            same = graph.tensor(node.inputs[0]).nbytes == graph.tensor(node.outputs[0]).nbytes
            found.append(
                call if same else replace(call, inplace=())
            )  # the harness wants equal sizes
    return found


def drawn(op: str, seed: int, count: int, target: object) -> list[tuple[Graph, list, KernelCall]]:
    found = []
    for i in range(count):
        rng = np.random.default_rng([zlib.crc32(op.encode()), seed, i])
        graph, inputs = opgen.CASES[op](rng)
        g = of_few_bits(graph, KINDS[i % len(KINDS)], rng)
        found += [(g, inputs, c) for c in calls(g, target)]
    return found


@pytest.mark.parametrize("op", OPS)
def test_portable_kernels_under_sanitizers(op: str, tmp_path: Path) -> None:
    cases = drawn(op, 0, 14, kernel_host.plain_core())
    names = {c.variant for _, _, c in cases}
    assert len(names) >= {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 3}[op]
    kernel_host.check([kernel_host.Case(*c) for c in cases], tmp_path, sanitize=True)


@pytest.mark.parametrize("op", OPS)
def test_dsp_kernels_under_sanitizers(op: str, tmp_path: Path) -> None:
    cases = [c for c in drawn(op, 1, 14, m4()) if any("dsp/" in s for s in c[2].sources)]
    assert len({c.variant for _, _, c in cases}) >= 2
    kernel_host.check([kernel_host.Case(*c) for c in cases], tmp_path, sanitize=True)


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_many_cases(op: str, tmp_path: Path) -> None:
    cases = drawn(op, 2, 150, m4())
    kernel_host.check([kernel_host.Case(*c) for c in cases], tmp_path, sanitize=False)


@pytest.mark.slow
def test_on_a_cortex_m4(tmp_path: Path) -> None:
    cases, expected = [], []
    for op in OPS:
        for g, inputs, call in drawn(op, 3, 7, m4()):
            x = {g.inputs[0]: inputs[0][:1].reshape(g.tensor(g.inputs[0]).shape)}
            cases.append(M4Case(g, call, list(x.values())))
            expected.append(run_node(g.nodes[0], g, x)[0].reshape(-1))
    program = M4Program(cases, tmp_path)
    for k, want in enumerate(expected):
        np.testing.assert_array_equal(program.run(k).output, want, cases[k].call.variant)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 64), st.integers(1, 3), st.integers(1, 70))
def test_codes_stand_for_their_values(seed: int, count: int, rows: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    book = rng.choice(np.arange(-128, 128), count, replace=False).astype(np.int8)
    data = rng.choice(book, (rows, n))
    codes = Codes.of(data)
    assert codes is not None and 1 << codes.bits >= len(np.unique(data))
    packed = codes.pack(data)
    # read back bit by bit, by the layout's words
    for r in range(rows):
        for i in range(n):
            assert look_up(codes, packed[r], i) == data[r, i]


def look_up(codes: Codes, packed: np.ndarray, i: int) -> int:
    """Weight ``i``, as the header describes the layout."""
    if codes.bits == 6:
        unit, at = divmod(i, 16)
        b = packed[12 * unit : 12 * unit + 12].astype(int)
        if at < 12:
            code = b[at] & 63
        else:
            code = sum((b[4 * k + at - 12] >> 6) << (2 * k) for k in range(3))
    else:
        per = 32 // codes.bits
        unit, at = divmod(i, per)
        code = int(packed[4 * unit + at % 4]) >> (codes.bits * (at // 4)) & ((1 << codes.bits) - 1)
    if codes.table is None:
        return code - 16 if code > 7 else code
    return int(codes.table[code])


def test_ordinary_layers_are_none_of_their_business() -> None:
    """Neither candidates nor among the rejected: the choice costs nothing where it is not wanted."""
    rng = np.random.default_rng(1)
    graph, _ = opgen.CASES["CONV_2D"](rng)
    w = graph.tensor(graph.nodes[0].inputs[1])
    assert not is_low_bit(graph.nodes[0], graph) or w.elements >= MIN_WEIGHTS
    big = graph.copy()
    shape = (16, 3, 3, w.shape[3] * 8)
    big.tensors[w.name] = w.with_(
        shape=shape, data=rng.integers(-127, 128, shape).astype(np.int8), quant=None
    )
    assert not is_low_bit(graph.nodes[0], big)
    names = [v.name for v in variants.variants_for(graph.nodes[0], big)]
    assert names and not any("unpacked" in n or "w4" in n or "s4" in n for n in names)


def test_sums_beyond_the_form_are_refused() -> None:
    """16 times the sum has to fit: weights or a bias that may reach 2**27 take another kernel."""
    rng = np.random.default_rng(3)
    graph, _ = opgen.CASES["FULLY_CONNECTED"](rng)
    while len(graph.nodes[0].inputs) < 3 or graph.nodes[0].inputs[2] is None:
        graph, _ = opgen.CASES["FULLY_CONNECTED"](rng)
    g = of_few_bits(graph, "int4", rng)
    b = g.tensor(g.nodes[0].inputs[2])
    g.tensors[b.name] = b.with_(data=np.full(b.shape, 1 << 27, np.int32))
    fully_connected = next(v for v in lowbit_dsp.VARIANTS if v.name == "fully_connected_s4_dsp")
    reason = fully_connected.reject(g.nodes[0], g, m4())
    assert reason is not None and "16 times" in reason
    with pytest.raises(UnsupportedError):
        lowbit_ref.four_bits(graph.nodes[0], graph)
