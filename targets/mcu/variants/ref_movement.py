"""Portable operators that only move values: RESHAPE, SQUEEZE, CONCATENATION, PAD, TRANSPOSE,
STRIDED_SLICE, SPLIT, GATHER. Any dtype of 1, 2 or 4 bytes."""

from __future__ import annotations

from edgekit.errors import UnsupportedError
from edgekit.graph.ir import Graph, Node

from ..contract import KernelCall
from .ref_common import RefVariant, lowered, output, required

HEADER = "ek_movement.h"


def _copy(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    if x.dtype != y.dtype:
        raise UnsupportedError(f"'{x.name}' is {x.dtype} and '{y.name}' is {y.dtype}")
    inplace = () if x.is_const else ((0, 0),)
    return lowered("copy_ref", HEADER, f"{{in0}}, {{out0}}, {y.nbytes}", inplace=inplace)


VARIANTS = [RefVariant("copy_ref", op, _copy) for op in ("RESHAPE", "SQUEEZE")]
