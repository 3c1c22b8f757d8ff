"""Kernels of convolutions, fully connected layers and matrix products.

A work-item computes ``n`` neighbouring output channels (a vector) of several neighbouring pixels,
kept in registers; weights are packed so that the channels of one tap are neighbours, and each
weight vector read serves all pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Node
from edgekit_targets.tvm_.vector import Expr, const, script

from .fusion import Group
from .lower import Lowering, Writer, finish
from .reduce import split_sum
from .tir import Kernel, Storage, lane, spread, width, zero

#: Work-items that keep a phone's GPU busy; fewer, and a work-item computes fewer pixels.
_ENOUGH = 2048


@dataclass
class _Weights:
    """Operands: packed weights, and per output channel a scale (quantized weights) and a bias."""

    w: int
    scale: int | None
    bias: int | None

    def leave(self, kernel: Kernel, value: Expr, channel: Expr, n: int) -> Expr:
        if self.scale is not None:
            value = value * kernel.load(self.scale, channel, n)
        if self.bias is not None:
            value = value + kernel.load(self.bias, channel, n)
        return value


def _weights(
    lo: Lowering, kernel: Kernel, node: Node, pack: Callable[[np.ndarray], np.ndarray], outputs: int
) -> _Weights:
    """pack: the weights in the order in which the kernel reads them. Quantized weights stay int8,
    their scales are applied to the sums."""
    graph = lo.graph
    x, w = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1])
    assert w.data is not None
    scale, w_scale = None, np.ones(1)
    data, storage = w.data, None
    if w.quant is not None:
        w_scale = w.quant.scale.astype(np.float64)
        if np.any(w.quant.zero_point):
            data = data.astype(np.int16) - np.int16(w.quant.zp)
            storage = Storage("int16")
        else:
            storage = Storage(w.dtype)
        table = np.broadcast_to(w_scale, (outputs,)).astype(np.float32)
        scale = kernel.operand(lo.constant(f"{node.name}/scale", table))
    packed = pack(data)
    weights = kernel.operand(lo.constant(f"{node.name}/weights", packed, lo.half, storage))
    bias = None
    b = graph.tensor(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if b is not None and b.data is not None and np.any(b.data):
        real = b.data.astype(np.float64).reshape(-1)
        if not b.is_float:
            real = real * (b.quant.scale if b.quant else _scale(x) * w_scale)
        bias = kernel.operand(lo.constant(f"{node.name}/bias", real.astype(np.float32)))
    return _Weights(weights, scale, bias)


def _scale(x: Any) -> float:
    return x.quant.s if x.quant is not None else 1.0


def _pixels(columns: int, others: int, most: int = 4) -> int:
    """Pixels of a row that a work-item computes."""
    p = 1
    while p * 2 <= most and p * 2 <= columns and others * -(-columns // (2 * p)) >= _ENOUGH:
        p *= 2
    return p


def _conv(lo: Lowering, group: Group) -> None:
    graph, node, T = lo.graph, group.anchor, script()
    x, w = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1])
    out = graph.tensor(node.outputs[0])
    batch, h, wd, c = x.shape
    _, oh_n, ow_n, o = out.shape
    depthwise = node.type == "DEPTHWISE_CONV_2D"
    kh, kw = w.shape[1:3]
    (sh, sw), (dh, dw) = node.attrs["stride"], node.attrs["dilation"]
    pads, _ = nm.conv_padding((h, wd), (kh, kw), (sh, sw), node.attrs["padding"], (dh, dw))
    top, bottom, left, right = pads
    depth = 1 if depthwise else w.shape[3]  # input channels that one output channel reads
    per = o if depthwise else o // (c // depth)  # output channels that share their inputs
    multiplier = o // c if depthwise else 1
    n = width(o if depthwise and multiplier == 1 else 1 if depthwise else per)
    m = 1 if depthwise else width(depth)
    kernel = lo.kernel(node)
    src = kernel.operand(lo.arg(x.name))
    if depthwise:
        ws = _weights(lo, kernel, node, lambda a: a.reshape(kh, kw, o), o)
    else:
        ws = _weights(lo, kernel, node, lambda a: a.transpose(1, 2, 3, 0), o)
    writer = Writer(lo, kernel, group)
    p_n = _pixels(ow_n, (o // n) * oh_n * batch)
    columns = -(-ow_n // p_n)
    check_y = top > 0 or bottom > 0
    check_x = left > 0 or right > 0 or ow_n % p_n != 0
    with kernel.body(lo.grid(o // n, columns, batch * oh_n)) as (gx, gy, gz):
        oc, ox0 = T.Bind(gx * n), T.Bind(gy * p_n)
        b, oy = (const(0, "int32"), gz) if batch == 1 else (gz // oh_n, gz % oh_n)
        first = T.Bind(_first_input(oc, n, per, depth, depthwise, multiplier))
        acc = kernel.registers(p_n, n)
        xs = kernel.registers(p_n, n if depthwise and multiplier == 1 else m)
        for p in range(p_n):
            T.buffer_store(acc, zero(n), [p])
        with ExitStack() as loops:
            ky = loops.enter_context(T.serial(0, kh))
            iy = T.Bind(oy * sh + ky * dh - top)
            if check_y:
                loops.enter_context(T.If(T.And(iy >= 0, iy < h)))
                loops.enter_context(T.Then())
            kx = loops.enter_context(T.serial(0, kw))
            row = T.Bind((b * h + iy) * wd)
            ci = loops.enter_context(T.serial(0, depth // m)) * m
            for p in range(p_n):
                ix = (ox0 + p) * sw + kx * dw - left
                lanes = n if depthwise and multiplier == 1 else m
                inside = T.And(ix >= 0, ix < wd) if check_x else None
                read = kernel.load(src, (row + ix) * c + first + ci, lanes)
                _guarded(inside, xs, p, read, zero(lanes))
            for k in range(m):
                at = ((ky * kw + kx) * depth + ci + k) * o + oc
                tap = T.Bind(kernel.raw(ws.w, at, n))
                for p in range(p_n):
                    value = xs[p]
                    if not (depthwise and multiplier == 1):
                        value = spread(lane(value, k, m), n)
                    T.buffer_store(acc, acc[p] + value * tap, [p])
        for p in range(p_n):
            ox = ox0 + p
            with _only_if(ox < ow_n if ow_n % p_n else None):
                value = ws.leave(kernel, acc[p], oc, n)
                index = ((b * oh_n + oy) * ow_n + ox) * o + oc
                writer.write(value, index, n, (b, oy, ox, oc))
    finish(lo, kernel, group)


def _first_input(oc: Expr, n: int, per: int, depth: int, depthwise: bool, multiplier: int) -> Expr:
    """The first input channel that output channel ``oc`` reads."""
    T = script()
    if depthwise:
        return oc if multiplier == 1 else T.floordiv(oc, multiplier)
    # (oc / n) / (per / n): the same number, and visibly a multiple of depth
    return T.floordiv(T.floordiv(oc, n), per // n) * depth


def _only_if(condition: Expr | None) -> Any:
    if condition is None:
        return nullcontext()
    T = script()
    stack = ExitStack()
    stack.enter_context(T.If(condition))
    stack.enter_context(T.Then())
    return stack


def _guarded(inside: Expr | None, buffer: Any, slot: int, value: Expr, other: Expr) -> None:
    """``buffer[slot] = inside ? value : other``; nothing is read outside."""
    T = script()
    if inside is None:
        T.buffer_store(buffer, value, [slot])
        return
    with T.If(inside):
        with T.Then():
            T.buffer_store(buffer, value, [slot])
        with T.Else():
            T.buffer_store(buffer, other, [slot])


def _transpose_conv(lo: Lowering, group: Group) -> None:
    """Gathered: every output looks for the inputs that reach it."""
    graph, node, T = lo.graph, group.anchor, script()
    x, w = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1])
    out = graph.tensor(node.outputs[0])
    batch, h, wd, c = x.shape
    _, oh_n, ow_n, o = out.shape
    kh, kw = w.shape[1:3]
    sh, sw = node.attrs["stride"]
    pads, _ = nm.conv_padding((oh_n, ow_n), (kh, kw), (sh, sw), node.attrs["padding"])
    n, m = width(o), width(c)
    kernel = lo.kernel(node)
    src = kernel.operand(lo.arg(x.name))
    ws = _weights(lo, kernel, node, lambda a: a.transpose(1, 2, 3, 0), o)
    writer = Writer(lo, kernel, group)
    with kernel.body(lo.grid(o // n, ow_n, batch * oh_n)) as (gx, ox, gz):
        oc = T.Bind(gx * n)
        b, oy = (const(0, "int32"), gz) if batch == 1 else (gz // oh_n, gz % oh_n)
        acc, xs = kernel.registers(1, n), kernel.registers(1, m)
        T.buffer_store(acc, zero(n), [0])
        with T.serial(0, kh) as ky, T.serial(0, kw) as kx:
            ty, tx = T.Bind(oy + pads[0] - ky), T.Bind(ox + pads[2] - kx)
            iy, ix = T.Bind(T.floordiv(ty, sh)), T.Bind(T.floordiv(tx, sw))
            hit = T.And(T.And(ty >= 0, iy * sh == ty), T.And(tx >= 0, ix * sw == tx))
            hit = T.And(hit, T.And(iy < h, ix < wd))
            with _only_if(hit), T.serial(0, c // m) as k4:
                ci = k4 * m
                T.buffer_store(xs, kernel.load(src, ((b * h + iy) * wd + ix) * c + ci, m), [0])
                for k in range(m):
                    tap = kernel.raw(ws.w, ((ky * kw + kx) * c + ci + k) * o + oc, n)
                    T.buffer_store(acc, acc[0] + spread(lane(xs[0], k, m), n) * tap, [0])
        value = ws.leave(kernel, acc[0], oc, n)
        writer.write(value, ((b * oh_n + oy) * ow_n + ox) * o + oc, n, (b, oy, ox, oc))
    finish(lo, kernel, group)


def _dense(lo: Lowering, group: Group) -> None:
    graph, node = lo.graph, group.anchor
    x, out = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    depth, o = graph.tensor(node.inputs[1]).shape[1], out.shape[-1]
    n = width(o)
    kernel = lo.kernel(node)
    src = kernel.operand(lo.arg(x.name))
    ws = _weights(lo, kernel, node, lambda a: a.T, o)
    writer = Writer(lo, kernel, group)

    def term(row: Expr, item: Expr, k: Expr) -> Expr:
        value = spread(kernel.load(src, row * depth + k, 1), n)
        return value * kernel.raw(ws.w, k * o + item * n, n)

    def leave(total: Expr, row: Expr, item: Expr) -> None:
        T = script()
        oc = T.Bind(item * n)
        coords = _leading(row, out.shape)
        value = ws.leave(kernel, total, oc, n)
        writer.write(value, row * o + oc, n, (*coords, oc))

    split_sum(lo, kernel, (out.elements // o, o // n), depth, n, term, leave)
    finish(lo, kernel, group)


def _leading(row: Expr, shape: tuple[int, ...]) -> tuple[Expr, ...]:
    from .lower import coordinates

    return coordinates(row, shape[:-1])


def _batch_matmul(lo: Lowering, group: Group) -> None:
    graph, node, T = lo.graph, group.anchor, script()
    x, y, out = (graph.tensor(t) for t in (*node.inputs, *node.outputs))
    adj_x, adj_y = bool(node.attrs["adj_x"]), bool(node.attrs["adj_y"])
    rows, cols = out.shape[-2:]
    depth = x.shape[-2] if adj_x else x.shape[-1]
    n = 1 if adj_y else width(cols)
    batches = out.elements // (rows * cols)
    kernel = lo.kernel(node)
    a, b = kernel.operand(lo.arg(x.name)), kernel.operand(lo.arg(y.name))
    writer = Writer(lo, kernel, group)
    with kernel.body(lo.grid(cols // n, rows, batches)) as (gx, row, batch):
        col = T.Bind(gx * n)
        coords = _leading(batch, (*out.shape[:-2], 1))
        at_x, at_y = (_offset(coords, t.shape[:-2]) * (t.shape[-1] * t.shape[-2]) for t in (x, y))
        acc = kernel.registers(1, n)
        T.buffer_store(acc, zero(n), [0])
        with T.serial(0, depth) as k:
            left = kernel.load(a, at_x + (k * rows + row if adj_x else row * depth + k), 1)
            right = kernel.load(b, at_y + (col * depth + k if adj_y else k * cols + col), n)
            T.buffer_store(acc, acc[0] + spread(left, n) * right, [0])
        writer.write(acc[0], (batch * rows + row) * cols + col, n, (*coords, row, col))
    finish(lo, kernel, group)


def _offset(coords: tuple[Expr, ...], shape: tuple[int, ...]) -> Expr:
    """Which matrix of a batch that broadcasts."""
    at, step = const(0, "int32"), 1
    for d, c in zip(reversed(shape), reversed(coords[len(coords) - len(shape) :]), strict=True):
        if d != 1:
            at = at + c * step
        step *= d
    return at


LOWER: dict[str, Callable[[Lowering, Group], None]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _conv,
    "TRANSPOSE_CONV": _transpose_conv,
    "FULLY_CONNECTED": _dense,
    "BATCH_MATMUL": _batch_matmul,
}
