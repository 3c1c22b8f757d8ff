"""Portable MEAN, SUM, REDUCE_MAX over any axes, and ARG_MAX."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.graph.ops.pool import mean_multiplier

from ..contract import KernelCall
from .ref_common import RefVariant, int8, lowered, output, product, required, same_scale, wrap32

HEADER = "ek_reduce.h"
_LOOPS = 3  #: kept and reduced axes of ``ek_axes``
_INT32_ELEMENTS = 1 << 24  #: values that a 32-bit sum of int8 surely holds


def axes(shape: Sequence[int], reduced: Collection[int]) -> dict[str, object]:
    """The fields of ``ek_axes``; UnsupportedError where kept and reduced axes alternate too often."""
    loops: list[tuple[bool, int, int]] = []  # reduced?, size, stride
    step = product(shape)
    for i, d in enumerate(shape):
        step //= d
        if d == 1:
            continue
        if loops and loops[-1][0] == (i in reduced):
            loops[-1] = (loops[-1][0], loops[-1][1] * d, step)
        else:
            loops.append((i in reduced, d, step))
    fields: dict[str, object] = {}
    for name, which in (("keep", False), ("reduce", True)):
        mine = [(d, s) for r, d, s in loops if r == which]
        if len(mine) > _LOOPS:
            raise UnsupportedError(
                f"axes {sorted(reduced)} of {list(shape)} are {len(mine)} groups; "
                f"the kernel takes {_LOOPS}"
            )
        mine = [(1, 0)] * (_LOOPS - len(mine)) + mine
        fields[name] = [d for d, _ in mine]
        fields[f"{name}_stride"] = [s for _, s in mine]
    return fields


def _sum(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    qx, qy = int8(x), int8(y)
    reduced = set(node.attrs["axes"])
    n = product([x.shape[a] for a in reduced])
    if n >= _INT32_ELEMENTS:
        raise UnsupportedError(
            f"{node.type} of {n} values; the kernel sums below {_INT32_ELEMENTS}"
        )
    if node.type == "MEAN":
        mult, shift = mean_multiplier(qx.s, qy.s, n)
    else:
        mult, shift = nm.quantize_multiplier(qx.s / qy.s)
    fields = {
        "axes": axes(x.shape, reduced),
        "zero_sum": int(wrap32(np.asarray(qx.zp * n))),
        "mult": mult,
        "shift": shift,
        "out_zp": qy.zp,
    }
    return lowered("sum_s8_ref", HEADER, "&{p}, {in0}, {out0}", "ek_sum_params", fields)


def _reduce_max(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    int8(x)
    same_scale(x, y)
    fields = axes(x.shape, set(node.attrs["axes"]))
    return lowered("reduce_max_s8_ref", HEADER, "&{p}, {in0}, {out0}", "ek_axes", fields)


def _arg_max(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    if x.dtype not in ("int8", "uint8") or y.dtype not in ("int32", "int64"):
        raise UnsupportedError(
            f"ARG_MAX of {x.dtype} to {y.dtype}; the kernel takes int8 or uint8 to int32 or int64"
        )
    axis = int(node.attrs["axis"])
    fields = {
        "outer": product(x.shape[:axis]),
        "axis": x.shape[axis],
        "inner": product(x.shape[axis + 1 :]),
        "flip": 0 if x.dtype == "int8" else 128,
        "out_bytes": 4 if y.dtype == "int32" else 8,
    }
    return lowered("arg_max_s8_ref", HEADER, "&{p}, {in0}, {out0}", "ek_arg_max_params", fields)


VARIANTS = [
    RefVariant("sum_s8_ref", "MEAN", _sum),
    RefVariant("sum_s8_ref", "SUM", _sum),
    RefVariant("reduce_max_s8_ref", "REDUCE_MAX", _reduce_max),
    RefVariant("arg_max_s8_ref", "ARG_MAX", _arg_max),
]
