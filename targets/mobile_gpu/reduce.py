"""Kernels that reduce: sums shared out over a work-group, pools, softmax, layer normalization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.graph import numerics as nm
from edgekit_targets.tvm_.vector import Expr, const, script

from .fusion import Group
from .lower import Lowering, Writer, coordinates, finish
from .tir import Grid, Kernel, barrier, spread, width, zero

_LOWEST = -3.4028234663852886e38
#: Terms below which one work-item sums them all.
_WORTH_SPLITTING = 64


def _parts(lo: Lowering, items: int, terms: int, n: int) -> int:
    """Work-items that share one sum: a power of two that leaves each at least four terms."""
    if terms < _WORTH_SPLITTING:
        return 1
    most = min(lo.limits.group, lo.limits.items[1], lo.limits.local_bytes // (16 * n) or 1)
    p = 1
    while p * 2 <= most and p * 8 <= terms and p * items < 16 * lo.limits.group:
        p *= 2
    return p


def split_sum(
    lo: Lowering,
    kernel: Kernel,
    items: tuple[int, int],
    terms: int,
    n: int,
    term: Callable[[Expr, Expr, Expr], Expr],
    leave: Callable[[Expr, Expr, Expr], None],
    maximum: bool = False,
) -> None:
    """``leave(sum over k of term(row, item, k), row, item)`` for all rows and items.

    items: (rows, items of a row), a vector of ``n`` each. The y axis of a work-group shares one
    sum: partial sums meet in local memory. maximum: the largest term instead of the sum.
    """
    T = script()
    rows, columns = items
    parts = _parts(lo, rows * columns, terms, n)
    lx = 1
    while lx * 2 * parts <= lo.limits.group and lx < columns and lx * 2 <= lo.limits.items[0]:
        lx *= 2
    start = zero(n) if not maximum else const(_LOWEST, "float32", n)

    def join(a: Expr, b: Expr) -> Expr:
        return T.max(a, b) if maximum else a + b

    g = Grid((columns, parts, rows), (lx, parts, 1))
    with kernel.body(g, guarded=False) as (gx, _, row):
        tx, part, _ = kernel.threads
        whole = columns % lx == 0
        item = gx if whole else T.min(gx, columns - 1)
        acc = kernel.registers(1, n)
        T.buffer_store(acc, start, [0])
        steps = -(-terms // parts)
        with T.serial(0, steps) as s:
            k = s * parts + part
            if terms % parts:
                with T.If(k < terms), T.Then():
                    T.buffer_store(acc, join(acc[0], term(row, item, k)), [0])
            else:
                T.buffer_store(acc, join(acc[0], term(row, item, k)), [0])
        if parts > 1:
            meet = kernel.shared(lx * parts, n)
            T.buffer_store(meet, acc[0], [part * lx + tx])
            barrier()
        mine = [] if parts == 1 else [part < 1]
        mine += [] if whole else [gx < columns]
        with _all(mine):
            if parts > 1:
                with T.serial(1, parts) as s:
                    T.buffer_store(acc, join(acc[0], meet[s * lx + tx]), [0])
            leave(acc[0], row, gx)


def _all(conditions: list[Expr]) -> Any:
    from contextlib import ExitStack

    T = script()
    stack = ExitStack()
    for c in conditions:
        stack.enter_context(T.If(c))
        stack.enter_context(T.Then())
    return stack


def _reduction(lo: Lowering, group: Group) -> None:
    """MEAN, SUM and REDUCE_MAX over any axes."""
    graph, node, T = lo.graph, group.anchor, script()
    x, out = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    axes = tuple(node.attrs["axes"])
    keep = bool(node.attrs["keep_dims"])
    last = len(x.shape) - 1
    n = width(x.shape[-1]) if last not in axes else 1
    terms = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
    kernel = lo.kernel(node)
    src = kernel.operand(lo.arg(x.name))
    writer = Writer(lo, kernel, group)
    kept = tuple(1 if d in axes else s for d, s in enumerate(x.shape))
    row_n = kept[-1] // n

    def position(row: Expr, item: Expr) -> Expr:
        return row * kept[-1] + item * n

    def term(row: Expr, item: Expr, k: Expr) -> Expr:
        outer = [*coordinates(row, kept[:-1]), item * n]
        inner = coordinates(k, tuple(x.shape[a] for a in axes))
        for a, i in zip(axes, inner, strict=True):
            outer[a] = i
        return kernel.load(src, _flat(outer, x.shape), n)

    def leave(total: Expr, row: Expr, item: Expr) -> None:
        if node.type == "MEAN":
            total = total * const(1.0 / terms, "float32", n)
        index = T.Bind(position(row, item))
        coords: tuple[Expr, ...] = (*coordinates(row, kept[:-1]), item * n)
        if not keep:
            coords = coordinates(index, out.shape) if out.shape else ()
        writer.write(total, index, n, coords)

    rows = int(np.prod(kept[:-1], dtype=np.int64))
    split_sum(lo, kernel, (rows, row_n), terms, n, term, leave, node.type == "REDUCE_MAX")
    finish(lo, kernel, group)


def _flat(coords: list[Expr], shape: tuple[int, ...]) -> Expr:
    at, step = const(0, "int32"), 1
    for d, c in zip(reversed(shape), reversed(coords), strict=True):
        at = at + c * step
        step *= d
    return at


def _pool(lo: Lowering, group: Group) -> None:
    graph, node, T = lo.graph, group.anchor, script()
    x, out = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    batch, h, w, c = x.shape
    _, oh_n, ow_n, _ = out.shape
    (fh, fw), (sh, sw) = node.attrs["filter"], node.attrs["stride"]
    pads, _ = nm.conv_padding((h, w), (fh, fw), (sh, sw), node.attrs["padding"])
    largest = node.type == "MAX_POOL_2D"
    n = width(c)
    kernel = lo.kernel(node)
    src = kernel.operand(lo.arg(x.name))
    writer = Writer(lo, kernel, group)
    with kernel.body(lo.grid(c // n, ow_n, batch * oh_n)) as (gx, ox, gz):
        ch = T.Bind(gx * n)
        b, oy = (const(0, "int32"), gz) if batch == 1 else (gz // oh_n, gz % oh_n)
        y0, x0 = T.Bind(oy * sh - pads[0]), T.Bind(ox * sw - pads[2])
        ya, yb = T.Bind(T.max(y0, 0)), T.Bind(T.min(y0 + fh, h))
        xa, xb = T.Bind(T.max(x0, 0)), T.Bind(T.min(x0 + fw, w))
        acc = kernel.registers(1, n)
        T.buffer_store(acc, const(_LOWEST, "float32", n) if largest else zero(n), [0])
        with T.serial(0, yb - ya) as i, T.serial(0, xb - xa) as j:
            v = kernel.load(src, ((b * h + ya + i) * w + xa + j) * c + ch, n)
            T.buffer_store(acc, T.max(acc[0], v) if largest else acc[0] + v, [0])
        value = acc[0]
        if not largest:
            count = T.Cast("float32", (yb - ya) * (xb - xa))
            value = value / spread(count, n)
        writer.write(value, ((b * oh_n + oy) * ow_n + ox) * c + ch, n, (b, oy, ox, ch))
    finish(lo, kernel, group)


class _Row:
    """A work-group that computes one row together: reductions over the row, then every element."""

    def __init__(self, lo: Lowering, kernel: Kernel, columns: int) -> None:
        self.kernel, self.columns = kernel, columns
        self.items = 1
        while self.items * 2 <= min(lo.limits.group, lo.limits.items[0]) and self.items < columns:
            self.items *= 2

    def body(self, rows: int) -> Any:
        g = Grid((self.items, rows, 1), (self.items, 1, 1))
        return self.kernel.body(g, guarded=False)

    def each(self, do: Callable[[Expr], None]) -> None:
        T, t = script(), self.kernel.threads[0]
        with T.serial(0, -(-self.columns // self.items)) as s:
            i = s * self.items + t
            if self.columns % self.items:
                with T.If(i < self.columns), T.Then():
                    do(i)
            else:
                do(i)

    def reduce(self, term: Callable[[Expr], Expr], maximum: bool = False) -> Expr:
        T, t = script(), self.kernel.threads[0]
        acc = self.kernel.registers(1, 1)

        def join(a: Expr, b: Expr) -> Expr:
            return T.max(a, b) if maximum else a + b

        T.buffer_store(acc, const(_LOWEST if maximum else 0.0, "float32"), [0])
        self.each(lambda i: T.buffer_store(acc, join(acc[0], term(i)), [0]))
        if self.items == 1:
            return T.Bind(acc[0])
        meet = self.kernel.shared(self.items, 1)
        T.buffer_store(meet, acc[0], [t])
        barrier()
        total = self.kernel.registers(1, 1)
        T.buffer_store(total, meet[0], [0])
        with T.serial(1, self.items) as s:
            T.buffer_store(total, join(total[0], meet[s]), [0])
        return T.Bind(total[0])


def _softmax(lo: Lowering, group: Group) -> None:
    from tvm import tirx

    graph, node = lo.graph, group.anchor
    x = graph.tensor(node.inputs[0])
    columns = x.shape[-1]
    kernel = lo.kernel(node)
    src = kernel.operand(lo.arg(x.name))
    writer = Writer(lo, kernel, group)
    beta = const(float(node.attr("beta", 1.0)), "float32")
    row_items = _Row(lo, kernel, columns)
    with row_items.body(x.elements // columns) as (_, row, _z):

        def at(i: Expr) -> Expr:
            return row * columns + i

        top = row_items.reduce(lambda i: kernel.load(src, at(i)), maximum=True)

        def power(i: Expr) -> Expr:
            return tirx.exp((kernel.load(src, at(i)) - top) * beta)

        total = row_items.reduce(power)
        row_items.each(lambda i: writer.write(power(i) / total, at(i), 1, None))
    finish(lo, kernel, group)


def _layer_norm(lo: Lowering, group: Group) -> None:
    from tvm import tirx

    graph, node = lo.graph, group.anchor
    x = graph.tensor(node.inputs[0])
    columns = x.shape[-1]
    kernel = lo.kernel(node)
    src, gamma, beta = (kernel.operand(lo.arg(str(i))) for i in node.inputs)
    writer = Writer(lo, kernel, group)
    share = const(1.0 / columns, "float32")
    eps = const(float(node.attrs["epsilon"]), "float32")
    row_items = _Row(lo, kernel, columns)
    with row_items.body(x.elements // columns) as (_, row, _z):

        def value(i: Expr) -> Expr:
            return kernel.load(src, row * columns + i)

        mean = script().Bind(row_items.reduce(value) * share)
        variance = row_items.reduce(lambda i: (value(i) - mean) * (value(i) - mean)) * share
        scale = script().Bind(const(1.0, "float32") / tirx.sqrt(variance + eps))

        def do(i: Expr) -> None:
            normal = (value(i) - mean) * scale
            result = normal * kernel.load(gamma, i) + kernel.load(beta, i)
            writer.write(result, row * columns + i, 1, None)

        row_items.each(do)
    finish(lo, kernel, group)


def _arg_max(lo: Lowering, group: Group) -> None:
    """The first of the largest values along an axis; one work-item a result."""
    graph, node, T = lo.graph, group.anchor, script()
    x, out = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    axis = int(node.attrs["axis"])
    count = x.shape[axis]
    inner = int(np.prod(x.shape[axis + 1 :], dtype=np.int64))
    kernel = lo.kernel(node)
    src, dst = kernel.operand(lo.arg(x.name)), kernel.operand(lo.arg(out.name))
    with kernel.body(lo.grid(max(out.elements, 1))) as (i, _y, _z):
        base = T.Bind(T.floordiv(i, inner) * (count * inner) + T.floormod(i, inner))
        best = kernel.registers(1, 1)
        where = T.alloc_buffer((1,), "int32", scope="local")
        T.buffer_store(best, kernel.load(src, base), [0])
        T.buffer_store(where, const(0, "int32"), [0])
        with T.serial(1, count) as k:
            v = T.Bind(kernel.load(src, base + k * inner))
            with T.If(v > best[0]), T.Then():
                T.buffer_store(best, v, [0])
                T.buffer_store(where, k, [0])
        kernel.store_integer(dst, i, where[0])
    finish(lo, kernel, group)


LOWER: dict[str, Callable[[Lowering, Group], None]] = {
    "MAX_POOL_2D": _pool,
    "AVERAGE_POOL_2D": _pool,
    "MEAN": _reduction,
    "SUM": _reduction,
    "REDUCE_MAX": _reduction,
    "SOFTMAX": _softmax,
    "LAYER_NORM": _layer_norm,
    "ARG_MAX": _arg_max,
}
