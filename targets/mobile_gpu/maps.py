"""Kernels without sums: elementwise operators, data movement, resizing.

Each work-item writes a vector of neighbouring elements of the output, reading what belongs there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgekit.graph.ir import Tensor
from edgekit.graph.ops import resize as rs
from edgekit.graph.ops.movement import pad_value
from edgekit_targets.tvm_.vector import Expr, const, script

from .fusion import BINARY, UNARY, VIEWS, Group
from .lower import Lowering, Writer, broadcast, coordinates, elementwise, finish
from .tir import FLOAT, Kernel, Storage, spread, width

#: kernel, numbers of the operands, flat index, position, elements -> their values
Value = Callable[[Kernel, list[int], Expr, tuple[Expr, ...], int], Expr]


def _emit(
    lo: Lowering,
    group: Group,
    value: Value,
    n: int,
    sources: Sequence[str],
    tables: Sequence[np.ndarray] = (),
    output: str | None = None,
) -> None:
    """The kernel ``out[i] = value(i)``. Operands: the sources, then the index tables. n: elements
    of the last axis that are taken at once."""
    T, node = script(), group.anchor
    kernel = lo.kernel(node)
    out = lo.graph.tensor(output or node.outputs[0])
    ks = [kernel.operand(lo.arg(name)) for name in sources]
    for k, table in enumerate(tables):
        storage = FLOAT if table.dtype == np.float32 else Storage("int32")
        ks.append(kernel.operand(lo.constant(f"{node.name}/table{k}", table, storage=storage)))
    writer = Writer(lo, kernel, group, output)
    with kernel.body(lo.grid(max(1, out.elements // n))) as (i, _y, _z):
        index = T.Bind(i * n)
        coords = coordinates(index, out.shape)
        writer.write(value(kernel, ks, index, coords, n), index, n, coords)
    finish(lo, kernel, group, output)


def _last(t: Tensor) -> int:
    return t.shape[-1] if t.shape else 1


def _flat(coords: Sequence[Expr], shape: tuple[int, ...]) -> Expr:
    at, step = const(0, "int32"), 1
    for d, c in zip(reversed(shape), reversed(list(coords)), strict=True):
        at = at + c * step
        step *= d
    return at


def _names(group: Group) -> list[str]:
    return [i for i in group.anchor.inputs if i is not None]


def _elementwise(lo: Lowering, group: Group) -> None:
    """Where all shapes agree, vectors run over the whole tensor; else along the last axis."""
    graph, node = lo.graph, group.anchor
    names = _names(group)
    out = graph.tensor(node.outputs[0])
    operands = [*names, *(i for n in group.chain for i in n.inputs if i is not None)]
    shapes = {graph.tensor(i).shape for i in operands}
    n = width(out.elements if shapes == {out.shape} else _last(out))

    def value(kernel: Kernel, ks: list[int], index: Expr, coords: tuple[Expr, ...], n: int) -> Expr:
        x = []
        for k, name in zip(ks, names, strict=True):
            shape = graph.tensor(name).shape
            same = shape == out.shape
            x.append(kernel.load(k, index, n) if same else broadcast(kernel, k, shape, coords, n))
        return elementwise(node, x, n, not graph.tensor(names[0]).is_float)

    _emit(lo, group, value, n, names)


def _copy(lo: Lowering, group: Group) -> None:
    """A RESHAPE or SQUEEZE that is not a view."""
    out = lo.graph.tensor(group.anchor.outputs[0])
    n = width(_last(out))
    _emit(lo, group, lambda k, ks, i, c, m: k.load(ks[0], i, m), n, _names(group))


def _concatenation(lo: Lowering, group: Group) -> None:
    graph, node, T = lo.graph, group.anchor, script()
    parts = [graph.tensor(i) for i in _names(group)]
    out, axis = graph.tensor(node.outputs[0]), int(node.attrs["axis"])
    last = axis == len(out.shape) - 1
    n = min(width(t.shape[-1]) for t in parts) if last else width(_last(out))
    starts = [int(s) for s in np.cumsum([0, *(t.shape[axis] for t in parts)])]

    def value(kernel: Kernel, ks: list[int], index: Expr, coords: tuple[Expr, ...], n: int) -> Expr:
        slot = kernel.registers(1, n)
        for k, t, first, end in zip(ks, parts, starts, starts[1:], strict=False):
            at = [*coords[:axis], coords[axis] - first, *coords[axis + 1 :]]
            with T.If(T.And(coords[axis] >= first, coords[axis] < end)), T.Then():
                T.buffer_store(slot, kernel.load(k, _flat(at, t.shape), n), [0])
        return slot[0]

    _emit(lo, group, value, n, _names(group))


def _pad(lo: Lowering, group: Group) -> None:
    graph, node, T = lo.graph, group.anchor, script()
    x, out = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    pads = [tuple(int(v) for v in p) for p in node.attrs["paddings"]]
    n = width(int(np.gcd.reduce([x.shape[-1], *pads[-1]])))
    fill = float(pad_value(node, out))
    if out.quant is not None:
        fill = (fill - out.quant.zp) * out.quant.s

    def value(kernel: Kernel, ks: list[int], index: Expr, coords: tuple[Expr, ...], n: int) -> Expr:
        slot = kernel.registers(1, n)
        T.buffer_store(slot, const(fill, "float32", n), [0])
        at = [c - before for c, (before, _) in zip(coords, pads, strict=True)]
        inside: Expr = None
        for i, (before, after), d in zip(at, pads, x.shape, strict=True):
            for bound in ([i >= 0] if before else []) + ([i < d] if after else []):
                inside = bound if inside is None else T.And(inside, bound)
        if inside is None:
            return kernel.load(ks[0], index, n)
        with T.If(inside), T.Then():
            T.buffer_store(slot, kernel.load(ks[0], _flat(at, x.shape), n), [0])
        return slot[0]

    _emit(lo, group, value, n, _names(group))


def _transpose(lo: Lowering, group: Group) -> None:
    graph, node = lo.graph, group.anchor
    x = graph.tensor(node.inputs[0])
    perm = [int(p) for p in node.attrs["perm"]]
    n = width(x.shape[-1]) if perm[-1] == len(perm) - 1 else 1

    def value(kernel: Kernel, ks: list[int], index: Expr, coords: tuple[Expr, ...], n: int) -> Expr:
        at = [coords[perm.index(d)] for d in range(len(perm))]
        return kernel.load(ks[0], _flat(at, x.shape), n)

    _emit(lo, group, value, n, _names(group))


def _strided_slice(lo: Lowering, group: Group) -> None:
    graph, node = lo.graph, group.anchor
    x, a = graph.tensor(node.inputs[0]), node.attrs
    out = graph.tensor(node.outputs[0])
    begin, strides = a["begin"], a["strides"]
    shrink = {int(v) for v in a.get("shrink_axes", ())}
    rank = len(x.shape)
    along = rank - 1 not in shrink and int(strides[-1]) == 1
    n = width(int(np.gcd.reduce([x.shape[-1], int(begin[-1]), out.shape[-1]]))) if along else 1

    def value(kernel: Kernel, ks: list[int], index: Expr, coords: tuple[Expr, ...], n: int) -> Expr:
        rest = iter(coords)
        at = [
            const(int(begin[d]), "int32")
            if d in shrink
            else next(rest) * int(strides[d]) + int(begin[d])
            for d in range(rank)
        ]
        return kernel.load(ks[0], _flat(at, x.shape), n)

    _emit(lo, group, value, n, _names(group))


def _split(lo: Lowering, group: Group) -> None:
    graph, node = lo.graph, group.anchor
    x, axis, start = graph.tensor(node.inputs[0]), int(node.attrs["axis"]), 0
    for name in node.outputs:
        out = graph.tensor(name)
        last = axis == len(x.shape) - 1
        n = width(int(np.gcd.reduce([x.shape[-1], start, out.shape[-1]])) if last else _last(out))

        def value(
            kernel: Kernel,
            ks: list[int],
            index: Expr,
            coords: tuple[Expr, ...],
            n: int,
            first: int = start,
        ) -> Expr:
            at = [*coords[:axis], coords[axis] + first, *coords[axis + 1 :]]
            return kernel.load(ks[0], _flat(at, x.shape), n)

        _emit(lo, group, value, n, _names(group), output=name)
        start += out.shape[axis]


def _gather(lo: Lowering, group: Group) -> None:
    graph, node = lo.graph, group.anchor
    x, out = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    indices = np.asarray(node.attrs["indices"], np.int32)
    axis, rank = int(node.attrs["axis"]), indices.ndim
    n = width(x.shape[-1]) if axis < len(x.shape) - 1 and _last(out) == x.shape[-1] else 1

    def value(kernel: Kernel, ks: list[int], index: Expr, coords: tuple[Expr, ...], n: int) -> Expr:
        where = _flat(coords[axis : axis + rank], indices.shape) if rank else const(0, "int32")
        middle = kernel.integer(ks[1], where)
        return kernel.load(
            ks[0], _flat([*coords[:axis], middle, *coords[axis + rank :]], x.shape), n
        )

    _emit(lo, group, value, n, _names(group), [indices.reshape(-1)])


def _flags(lo: Lowering, group: Group) -> tuple[bool, bool]:
    a = group.anchor.attr
    return bool(a("align_corners", False)), bool(a("half_pixel_centers", False))


def _nearest(lo: Lowering, group: Group) -> None:
    graph, node = lo.graph, group.anchor
    x, out = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    tables = [
        rs.nearest_indices(x.shape[d], out.shape[d], *_flags(lo, group)).astype(np.int32)
        for d in (1, 2)
    ]

    def value(kernel: Kernel, ks: list[int], index: Expr, coords: tuple[Expr, ...], n: int) -> Expr:
        b, y, z, c = coords
        at = [b, kernel.integer(ks[1], y), kernel.integer(ks[2], z), c]
        return kernel.load(ks[0], _flat(at, x.shape), n)

    _emit(lo, group, value, width(_last(out)), _names(group), tables)


def _bilinear(lo: Lowering, group: Group) -> None:
    graph, node, T = lo.graph, group.anchor, script()
    x, out = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    tables: list[np.ndarray] = []
    for d in (1, 2):
        lower, upper, share = rs.bilinear_float(x.shape[d], out.shape[d], *_flags(lo, group))
        tables += [lower.astype(np.int32), upper.astype(np.int32), share.astype(np.float32)]

    def value(kernel: Kernel, ks: list[int], index: Expr, coords: tuple[Expr, ...], n: int) -> Expr:
        b, y, z, c = coords
        rows = [T.Bind(kernel.integer(ks[k], y)) for k in (1, 2)]
        cols = [T.Bind(kernel.integer(ks[k], z)) for k in (4, 5)]
        wy, wx = (spread(kernel.load(ks[k], i), n) for k, i in ((3, y), (6, z)))
        one = const(1.0, "float32", n)

        def v(r: int, s: int) -> Expr:
            return kernel.load(ks[0], _flat([b, rows[r], cols[s], c], x.shape), n)

        left = v(0, 0) * (one - wy) + v(1, 0) * wy
        right = v(0, 1) * (one - wy) + v(1, 1) * wy
        return left * (one - wx) + right * wx

    _emit(lo, group, value, width(_last(out)), _names(group), tables)


LOWER: dict[str, Callable[[Lowering, Group], None]] = {
    **dict.fromkeys(sorted(UNARY | BINARY), _elementwise),
    **dict.fromkeys(sorted(VIEWS), _copy),
    "CONCATENATION": _concatenation,
    "PAD": _pad,
    "TRANSPOSE": _transpose,
    "STRIDED_SLICE": _strided_slice,
    "SPLIT": _split,
    "GATHER": _gather,
    "RESIZE_NEAREST_NEIGHBOR": _nearest,
    "RESIZE_BILINEAR": _bilinear,
}
