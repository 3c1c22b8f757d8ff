"""Portable operators that move values: RESHAPE, SQUEEZE, CONCATENATION, PAD, TRANSPOSE,
STRIDED_SLICE, SPLIT, GATHER. Any dtype; only a CONCATENATION that rescales needs int8."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node, Tensor
from edgekit.graph.ops.movement import pad_value
from edgekit.graph.ops.quant import requantize

from ..contract import ConstArray, KernelCall
from .ref_common import MAX_DIMS, RefVariant, int8, lowered, output, product, required

HEADER = "ek_movement.h"

Loop = tuple[int, int, int]  #: size, bytes moved in the input, bytes moved in the output


def _item(x: Tensor, y: Tensor) -> int:
    """Bytes of an element; UnsupportedError unless both tensors are of one type."""
    if x.dtype != y.dtype:
        raise UnsupportedError(
            f"'{x.name}' is {x.dtype} and '{y.name}' is {y.dtype}; the kernel moves bytes unchanged"
        )
    return np.dtype(x.dtype).itemsize


def row_major(shape: Sequence[int], item: int) -> list[int]:
    """Bytes that a step along each dimension moves."""
    strides, step = [], item
    for d in reversed(shape):
        strides.append(step)
        step *= d
    return strides[::-1]


def strided(loops: Sequence[Loop], item: int, in_start: int, out_start: int) -> dict[str, object]:
    """The fields of ``ek_strided_params``: innermost dimensions that are contiguous on both sides
    become the run, other neighbours are merged. UnsupportedError where too many loops remain."""
    run = item
    merged: list[Loop] = []
    for size, a, b in loops:
        if size == 1:
            continue
        if merged and merged[-1][1] == a * size and merged[-1][2] == b * size:
            merged[-1] = (merged[-1][0] * size, a, b)
        else:
            merged.append((size, a, b))
    if merged and merged[-1][1] == merged[-1][2] == item:
        run *= merged.pop()[0]
    if len(merged) > MAX_DIMS:
        raise UnsupportedError(f"{len(merged)} loops of strided copies; there are {MAX_DIMS}")
    merged = [(1, 0, 0)] * (MAX_DIMS - len(merged)) + merged
    return {
        "dims": [n for n, _, _ in merged],
        "in_stride": [a for _, a, _ in merged],
        "out_stride": [b for _, _, b in merged],
        "in_start": in_start,
        "out_start": out_start,
        "run": run,
    }


def _copy(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    _item(x, y)
    inplace = () if x.is_const else ((0, 0),)
    return lowered("copy_ref", HEADER, f"{{in0}}, {{out0}}, {y.nbytes}", inplace=inplace)


def _strided_copy(fields: dict[str, object]) -> KernelCall:
    call = "&{p}, {in0}, {out0}"
    return lowered("strided_copy_ref", HEADER, call, "ek_strided_params", fields)


def _transpose(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    item = _item(x, y)
    ins, outs = row_major(x.shape, item), row_major(y.shape, item)
    perm = node.attrs["perm"]
    loops = [(d, ins[p], o) for d, p, o in zip(y.shape, perm, outs, strict=True)]
    return _strided_copy(strided(loops, item, 0, 0))


def _strided_slice(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    item = _item(x, y)
    a = node.attrs
    ranges = [range(*r) for r in zip(a["begin"], a["end"], a["strides"], strict=True)]
    ins = row_major(x.shape, item)
    outs = row_major([len(r) for r in ranges], item)
    loops = [(len(r), s * r.step, o) for r, s, o in zip(ranges, ins, outs, strict=True)]
    start = sum(r.start * s for r, s in zip(ranges, ins, strict=True))
    return _strided_copy(strided(loops, item, start, 0))


def _pad(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    item = _item(x, y)
    value = np.asarray(pad_value(node, y)).astype(y.dtype)
    pattern = set(value.tobytes())
    if len(pattern) != 1:
        raise UnsupportedError(
            f"padding of {y.dtype} with {value}; the kernel fills with one byte repeated"
        )
    ins, outs = row_major(x.shape, item), row_major(y.shape, item)
    start = sum(p[0] * o for p, o in zip(node.attrs["paddings"], outs, strict=True))
    fields = {
        "copy": strided(list(zip(x.shape, ins, outs, strict=True)), item, 0, start),
        "out_bytes": y.nbytes,
        "fill": pattern.pop(),
    }
    return lowered("pad_ref", HEADER, "&{p}, {in0}, {out0}", "ek_pad_params", fields)


def _rows(parts: Sequence[Tensor], axis: int) -> tuple[int, ConstArray]:
    """How often all parts' rows follow each other, and the bytes of each part's row."""
    item = np.dtype(parts[0].dtype).itemsize
    outer = product(parts[0].shape[:axis])
    sizes = [product(t.shape[axis:]) * item for t in parts]
    return outer, ConstArray("rows", "int32_t", np.asarray(sizes, np.int32))


def _table(src: Tensor, dst: Tensor, limits: tuple[int, int]) -> np.ndarray | None:
    """What a byte of ``src`` is in ``dst``, clamped: int8 ``[256]``; None where it is the same."""
    q = np.arange(-128, 128).astype(np.int8)
    same = src.quant is None or dst.quant is None or src.quant.same_as(dst.quant)
    y = nm.clamp_limits(q if same else requantize(q, src, dst), *limits).astype(np.int8)
    return None if np.array_equal(y, q) else y


def _parts(node: Node, graph: Graph) -> list[Tensor]:
    parts = [required(node, graph, i) for i in range(len(node.inputs))]
    for t in parts:
        _item(t, output(node, graph))
    return parts


def _pointers(ctype: str, name: str, values: Sequence[str]) -> str:
    """A C array of pointers, as part of a call template."""
    return f"{ctype} const {name}[] = {{{{ {', '.join(values)} }}}};"


def _concat(node: Node, graph: Graph) -> KernelCall:
    y, parts = output(node, graph), _parts(node, graph)
    for t in parts:
        if t.quant is not None and y.quant is not None and not t.quant.same_as(y.quant):
            raise UnsupportedError(f"'{t.name}' and '{y.name}' differ in scale or zero point")
    activation = node.attr("activation", "NONE")
    if activation != "NONE":
        raise UnsupportedError(f"a fused {activation}; the kernel moves bytes unchanged")
    outer, rows = _rows(parts, int(node.attrs["axis"]))
    inputs = _pointers("const void *", "inputs", [f"{{in{k}}}" for k in range(len(parts))])
    return KernelCall(
        variant="concat_ref",
        sources=("ref/concat_ref.c",),
        header=HEADER,
        call=f"{inputs} ek_concat_ref(inputs, {{c.rows}}, {len(parts)}, {outer}, {{out0}});",
        consts=(rows,),
    )


def _concat_lut(node: Node, graph: Graph) -> KernelCall:
    y, parts = output(node, graph), _parts(node, graph)
    for t in (*parts, y):
        int8(t)
    limits = nm.activation_range(node.attr("activation", "NONE"), y.quant, "int8")
    outer, rows = _rows(parts, int(node.attrs["axis"]))
    consts, tables = [rows], []
    for k, t in enumerate(parts):
        table = _table(t, y, limits)
        tables.append("NULL" if table is None else f"{{c.table{k}}}")
        if table is not None:
            consts.append(ConstArray(f"table{k}", "int8_t", table, align=1))
    inputs = _pointers("const int8_t *", "inputs", [f"{{in{k}}}" for k in range(len(parts))])
    return KernelCall(
        variant="concat_s8_lut_ref",
        sources=("ref/concat_s8_lut_ref.c",),
        header=HEADER,
        call=f"{inputs} {_pointers('const int8_t *', 'tables', tables)} "
        f"ek_concat_s8_lut_ref(inputs, tables, {{c.rows}}, {len(parts)}, {outer}, {{out0}});",
        consts=tuple(consts),
    )


def _split(node: Node, graph: Graph) -> KernelCall:
    x, parts = required(node, graph), graph.outs(node)
    for t in parts:
        _item(x, t)
    outer, rows = _rows(parts, int(node.attrs["axis"]))
    outputs = _pointers("void *", "outputs", [f"{{out{k}}}" for k in range(len(parts))])
    return KernelCall(
        variant="split_ref",
        sources=("ref/split_ref.c",),
        header=HEADER,
        call=f"{outputs} ek_split_ref({{in0}}, {{c.rows}}, {len(parts)}, {outer}, outputs);",
        consts=(rows,),
    )


def _gather(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    item = _item(x, y)
    axis = int(node.attrs["axis"])
    indices = np.asarray(node.attrs["indices"], np.int32).reshape(-1)
    run = product(x.shape[axis + 1 :]) * item
    fields = {
        "outer": product(x.shape[:axis]),
        "count": indices.size,
        "block": x.shape[axis] * run,
        "run": run,
    }
    return lowered(
        "gather_ref",
        HEADER,
        "&{p}, {in0}, {c.indices}, {out0}",
        "ek_gather_params",
        fields,
        (ConstArray("indices", "int32_t", indices),),
    )


VARIANTS = [
    *(RefVariant("copy_ref", op, _copy) for op in ("RESHAPE", "SQUEEZE")),
    RefVariant("strided_copy_ref", "TRANSPOSE", _transpose),
    RefVariant("strided_copy_ref", "STRIDED_SLICE", _strided_slice),
    RefVariant("pad_ref", "PAD", _pad),
    RefVariant("concat_ref", "CONCATENATION", _concat, rank=95),
    RefVariant("concat_s8_lut_ref", "CONCATENATION", _concat_lut),
    RefVariant("split_ref", "SPLIT", _split),
    RefVariant("gather_ref", "GATHER", _gather),
]
