"""int16 activations with int8 weights: the portable kernels give the reference's bytes."""

from __future__ import annotations

import zlib
from pathlib import Path

import kernel_host
import numpy as np
import opgen
import pytest

from edgekit_targets.mcu import variants

OPS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "AVERAGE_POOL_2D",
       "MAX_POOL_2D", "MEAN", "SUM")  # fmt: skip
TARGET = kernel_host.plain_core()


def drawn(op: str, seed: int, count: int) -> list[kernel_host.Case]:
    cases = []
    for i in range(count):
        rng = np.random.default_rng([zlib.crc32(op.encode()), seed, i])
        graph, inputs = opgen.CASES[op](rng, dtype="int16")
        node = graph.nodes[0]
        found = [v for v in variants.candidates(node, graph, TARGET) if "s16" in v.name]
        assert found, variants.reject_reason(node, graph, TARGET)
        cases += [kernel_host.Case(graph, inputs, v.lower(node, graph, TARGET)) for v in found]
    return cases


@pytest.mark.parametrize("first", range(0, len(OPS), 3))
def test_same_bytes_under_sanitizers(first: int, tmp_path: Path) -> None:
    cases = [case for op in OPS[first : first + 3] for case in drawn(op, 0, 10)]
    kernel_host.check(cases, tmp_path, sanitize=True)


@pytest.mark.slow
def test_many_optimised(tmp_path: Path) -> None:
    cases = [case for op in OPS for case in drawn(op, 1, 60)]
    kernel_host.check(cases, tmp_path, sanitize=False)


def test_both_kinds_of_sums(tmp_path: Path) -> None:
    """A convolution takes 32-bit sums where its bias has 32 bits: both must have been drawn."""
    calls = [c.lowered().call for c in drawn("CONV_2D", 0, 16)]
    assert any(c.endswith(", 1);") for c in calls) and any(c.endswith(", 0);") for c in calls)
