"""Portable ADD, SUB, MUL, SQUARED_DIFFERENCE, MAXIMUM, MINIMUM with broadcasting; PRELU; every
unary operator by table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.graph.ops import Call, spec
from edgekit.graph.ops.activation import TABLE_OPS, lookup_table
from edgekit.graph.ops.elementwise import (
    add_multipliers,
    head_room,
    squared_difference_multipliers,
    squared_difference_shift,
)

from ..contract import ConstArray, KernelCall
from .ref_common import (
    MAX_DIMS,
    RefVariant,
    int8,
    integer,
    lowered,
    output,
    required,
    same_scale,
    shared_buffers,
)

HEADER = "ek_elementwise.h"
_CALL = "&{p}, {in0}, {in1}, {out0}"

#: Outputs from which an ADD is given tables.
_ADD_TABLE_ELEMENTS = 1024


def _strides(shape: Sequence[int], out: Sequence[int]) -> list[int]:
    """Elements that each step along ``out`` moves in a tensor of ``shape``; 0 where broadcast."""
    padded = (1,) * (len(out) - len(shape)) + tuple(shape)
    strides, step = [], 1
    for d, full in zip(reversed(padded), reversed(out), strict=True):
        strides.append(step if d == full and d > 1 else 0)
        step *= d
    return strides[::-1]


def broadcast(a: Sequence[int], b: Sequence[int], out: Sequence[int]) -> dict[str, object]:
    """The fields of ``ek_broadcast``: neighbouring dimensions that both inputs walk alike are one.

    UnsupportedError where more than :data:`MAX_DIMS` remain.
    """
    dims: list[list[int]] = []  # [size, stride of a, stride of b]
    for d, sa, sb in zip(out, _strides(a, out), _strides(b, out), strict=True):
        if d == 1:
            continue
        if dims and dims[-1][1] == sa * d and dims[-1][2] == sb * d:
            dims[-1] = [dims[-1][0] * d, sa, sb]
        else:
            dims.append([d, sa, sb])
    if len(dims) > MAX_DIMS:
        raise UnsupportedError(
            f"broadcasting {list(a)} with {list(b)} takes {len(dims)} loops; there are {MAX_DIMS}"
        )
    dims = [[1, 0, 0]] * (MAX_DIMS - len(dims)) + dims
    return {
        "dims": [d for d, _, _ in dims],
        "stride1": [s for _, s, _ in dims],
        "stride2": [s for _, _, s in dims],
    }


def _shape(node: Node, graph: Graph) -> dict[str, object]:
    x, y, out = required(node, graph, 0), required(node, graph, 1), output(node, graph)
    return broadcast(x.shape, y.shape, out.shape)


def _limits(node: Node, graph: Graph, dtype: str = "int8") -> dict[str, object]:
    q = integer(output(node, graph), dtype)
    lo, hi = nm.activation_range(node.attr("activation", "NONE"), q, dtype)
    return {"out_zp": q.zp, "act_min": lo, "act_max": hi}


def _add_like(node: Node, graph: Graph, dtype: str = "int8") -> KernelCall:
    qx, qy = integer(required(node, graph, 0), dtype), integer(required(node, graph, 1), dtype)
    qo = integer(output(node, graph), dtype)
    if node.type == "SQUARED_DIFFERENCE":
        left = squared_difference_shift("int8")
        (m1, s1), (m2, s2), (mo, so) = squared_difference_multipliers(qx, qy, qo, left)
    else:
        left = head_room(dtype)
        (m1, s1), (m2, s2), (mo, so) = add_multipliers(qx, qy, qo, left)
    fields = {
        "shape": _shape(node, graph),
        "offset1": -qx.zp,
        "mult1": m1,
        "shift1": s1,
        "offset2": -qy.zp,
        "mult2": m2,
        "shift2": s2,
        "left_shift": left,
        "out_mult": mo,
        "out_shift": so,
        **_limits(node, graph, dtype),
    }
    name, header = f"{node.type.lower()}_s8_ref", HEADER
    if dtype == "int16":
        name, header = f"{node.type.lower()}_s16_ref", "ek_s16.h"
    return lowered(
        name, header, _CALL, "ek_add_params", fields, inplace=shared_buffers(node, graph)
    )


def add_s16(node: Node, graph: Graph) -> KernelCall:
    return _add_like(node, graph, "int16")


def _add_lut(node: Node, graph: Graph) -> KernelCall:
    """ADD and SUB; UnsupportedError where the tables would be larger than what they work on."""
    n = output(node, graph).elements
    if n < _ADD_TABLE_ELEMENTS:
        raise UnsupportedError(
            f"two tables of 1 KB for {n} elements; they pay from {_ADD_TABLE_ELEMENTS} on"
        )
    qx, qy = int8(required(node, graph, 0)), int8(required(node, graph, 1))
    left = head_room("int8")
    m1, m2, (mo, so) = add_multipliers(qx, qy, int8(output(node, graph)), left)
    q = np.arange(-128, 128, dtype=np.int64)
    table1 = nm.multiply_by_quantized_multiplier((q - qx.zp) << left, *m1)
    table2 = nm.multiply_by_quantized_multiplier((q - qy.zp) << left, *m2)
    consts = [ConstArray("table1", "int32_t", table1.astype(np.int32))]
    sign = 1 if node.type == "ADD" else -1
    second = "table1"
    if not np.array_equal(table1, sign * table2):
        second = "table2"
        consts.append(ConstArray(second, "int32_t", (sign * table2).astype(np.int32)))
    return lowered(
        "add_s8_lut_ref",
        HEADER,
        f"&{{p}}, {{in0}}, {{in1}}, {{c.table1}}, {{c.{second}}}, {{out0}}",
        "ek_add_lut_params",
        {"shape": _shape(node, graph), "out_mult": mo, "out_shift": so, **_limits(node, graph)},
        consts,
        inplace=shared_buffers(node, graph),
    )


def _mul(node: Node, graph: Graph) -> KernelCall:
    qx, qy = int8(required(node, graph, 0)), int8(required(node, graph, 1))
    qo = int8(output(node, graph))
    mult, shift = nm.quantize_multiplier(qx.s * qy.s / qo.s)
    fields = {
        "shape": _shape(node, graph),
        "offset1": -qx.zp,
        "offset2": -qy.zp,
        "out_mult": mult,
        "out_shift": shift,
        **_limits(node, graph),
    }
    return lowered(
        "mul_s8_ref", HEADER, _CALL, "ek_mul_params", fields, inplace=shared_buffers(node, graph)
    )


def _extremum(node: Node, graph: Graph) -> KernelCall:
    x, y, out = required(node, graph, 0), required(node, graph, 1), output(node, graph)
    int8(x)
    same_scale(x, y, out)
    return lowered(
        f"{node.type.lower()}_s8_ref",
        HEADER,
        _CALL,
        "ek_broadcast",
        _shape(node, graph),
        inplace=shared_buffers(node, graph),
    )


def byte_table(node: Node, graph: Graph) -> np.ndarray:
    """The outputs of an 8-bit unary node for all 256 inputs, as the table kernel wants them: bytes
    by the input byte read as int8, plus 128. UnsupportedError for other types."""
    x, y = required(node, graph), output(node, graph)
    for t in (x, y):
        if t.dtype not in ("int8", "uint8"):
            raise UnsupportedError(f"tensor '{t.name}' is {t.dtype}; a table takes int8 or uint8")
    if (x.dtype, y.dtype) == ("int8", "int8"):
        return lookup_table(node, graph.ins(node), graph.outs(node))
    values = np.arange(-128, 128).astype(np.int8).view(x.dtype)
    others: list[np.ndarray | None] = []
    for other in graph.ins(node)[1:]:
        if other is None or other.data is None or other.elements != 1:
            raise UnsupportedError("only one constant element besides the input goes into a table")
        others.append(other.data.reshape(1))
    call = Call(node, graph.ins(node), graph.outs(node), [values, *others])
    return spec(node.type).reference(call)[0].view(np.int8)


def table_call(node: Node, graph: Graph, table: np.ndarray) -> KernelCall:
    """A call that maps each byte of input 0 through a table of 256."""
    n = output(node, graph).elements
    return lowered(
        "lut_s8_ref",
        HEADER,
        f"(const int8_t *){{in0}}, {{c.table}}, (int8_t *){{out0}}, {n}",
        consts=(ConstArray("table", "int8_t", np.asarray(table, np.int8), align=1),),
        inplace=shared_buffers(node, graph),
    )


def _lut(node: Node, graph: Graph) -> KernelCall:
    return table_call(node, graph, byte_table(node, graph))


def _prelu(node: Node, graph: Graph) -> KernelCall:
    x, alpha, out = required(node, graph, 0), required(node, graph, 1), output(node, graph)
    qx, qa, qo = int8(x), int8(alpha), int8(out)
    pos, neg = nm.quantize_multiplier(qx.s / qo.s), nm.quantize_multiplier(qx.s * qa.s / qo.s)
    fields = {
        "shape": broadcast(x.shape, alpha.shape, out.shape),
        "offset1": -qx.zp,
        "offset2": -qa.zp,
        "pos_mult": pos[0],
        "pos_shift": pos[1],
        "neg_mult": neg[0],
        "neg_shift": neg[1],
        "out_zp": qo.zp,
    }
    inplace = shared_buffers(node, graph)
    return lowered("prelu_s8_ref", HEADER, _CALL, "ek_prelu_params", fields, inplace=inplace)


VARIANTS = [
    RefVariant("add_s8_lut_ref", "ADD", _add_lut, rank=95),
    RefVariant("add_s8_lut_ref", "SUB", _add_lut, rank=95),
    RefVariant("add_s8_ref", "ADD", _add_like),
    RefVariant("sub_s8_ref", "SUB", _add_like),
    RefVariant("squared_difference_s8_ref", "SQUARED_DIFFERENCE", _add_like),
    RefVariant("mul_s8_ref", "MUL", _mul),
    RefVariant("maximum_s8_ref", "MAXIMUM", _extremum),
    RefVariant("minimum_s8_ref", "MINIMUM", _extremum),
    RefVariant("prelu_s8_ref", "PRELU", _prelu),
    RefVariant("lut_s8_ref", "PRELU", _lut, rank=95),
    *(RefVariant("lut_s8_ref", op, _lut) for op in sorted(TABLE_OPS - {"PRELU", "QUANTIZE"})),
]
