"""Portable SOFTMAX: the exponentials of all differences come from a table."""

from __future__ import annotations

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.graph.ops.softmax import DIFF_BITS, softmax_params

from ..contract import ConstArray, KernelCall
from .ref_common import RefVariant, int8, lowered, output, required, shared_buffers

#: The sum of exponentials is Q12.19: this many equal maxima would overflow it.
_MAX_DEPTH = 4095


def exponentials(node: Node, graph: Graph) -> np.ndarray:
    """exp(-beta * scale * d) as Q0.31 for d = 0, 1, ...: int32, at most 256, up to the last
    difference that counts."""
    mult, shift, diff_min = softmax_params(node, required(node, graph))
    d = np.arange(0, min(255, -diff_min) + 1, dtype=np.int64)
    scaled = nm.multiply_by_quantized_multiplier(-d, mult, shift)
    return nm.exp_on_negative_values(scaled, DIFF_BITS).astype(np.int32)


def _softmax(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    int8(x)
    int8(y)
    depth = x.shape[-1] if x.shape else 1
    if depth > _MAX_DEPTH:
        raise UnsupportedError(f"softmax over {depth} values; the kernel sums up to {_MAX_DEPTH}")
    table = exponentials(node, graph)
    return lowered(
        "softmax_s8_table_ref",
        "ek_softmax.h",
        "&{p}, {in0}, {c.table}, {out0}",
        "ek_softmax_params",
        {"rows": x.elements // depth, "depth": depth, "entries": table.size},
        (ConstArray("table", "int32_t", table),),
        inplace=shared_buffers(node, graph),
    )


VARIANTS = [RefVariant("softmax_s8_table_ref", "SOFTMAX", _softmax)]
