"""Kernels with one thread for each output (or each row): depthwise convolutions, pools, MEAN over
height and width, the integer SOFTMAX, and conversions between stored types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Node, Tensor
from edgekit.graph.ops.softmax import SUM_BITS
from edgekit_targets.tvm_ import softmax as sm
from edgekit_targets.tvm_ import vector as vx
from edgekit_targets.tvm_.linear import Window
from edgekit_targets.tvm_.pool import PoolWindow
from edgekit_targets.tvm_.vector import Expr, const, script

THREADS = 128
Buffer = tuple[int, str]  #: elements, stored dtype


def each(name: str, buffers: Sequence[Buffer], items: int, body: Callable[..., None]) -> Any:
    """A kernel over ``items`` threads: ``body(index, *buffers)``; the last buffer is the output."""
    from tvm.script.ir_builder import IRBuilder

    T = script()
    threads = min(THREADS, -(-items // 32) * 32)
    blocks = -(-items // threads)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True, "tirx.is_scheduled": True})
        args = [T.arg(f"a{k}", T.buffer((n,), dtype)) for k, (n, dtype) in enumerate(buffers)]
        with (
            T.launch_thread("blockIdx.x", blocks) as block,
            T.launch_thread("threadIdx.x", threads) as thread,
        ):
            index = T.Bind(block * threads + thread)
            if items % threads:
                with T.If(index < items), T.Then():
                    body(index, *args)
            else:
                body(index, *args)
    return builder.get()


def as_float(x: Expr) -> Expr:
    return script().Cast("float32", x)


def leaves_float(activation: str, dtype: str) -> Callable[[Expr], Expr]:
    """Clamp, then the stored type."""
    T = script()
    lo, hi = nm.activation_bounds(activation)

    def leave(x: Expr) -> Expr:
        if lo is not None:
            x = T.max(x, const(lo, "float32"))
        if hi is not None:
            x = T.min(x, const(hi, "float32"))
        return x if dtype == "float32" else T.Cast(dtype, x)

    return leave


def copy(name: str, src: Buffer, dst: Buffer) -> Any:
    """The same values in another stored type."""
    T = script()

    def body(i: Expr, x: Any, y: Any) -> None:
        value = x[i] if src[1] == dst[1] else T.Cast(dst[1], x[i])
        T.buffer_store(y, value, [i])

    return each(name, [src, dst], dst[0], body)


def depthwise(
    name: str,
    win: Window,
    x: Buffer,
    zero_point: int,
    weights: Buffer,
    table: Buffer,
    out: Buffer,
    leave: Callable[[Any, Expr, Expr], Expr],
) -> Any:
    """Channel multiplier 1. Arguments: input, weights ``[kh, kw, C]``, table, output.

    leave: (table, sum, channel) -> stored value. int8: taps outside of the image add nothing.
    """
    from tvm import tirx

    T = script()
    integer = x[1] == "int8"
    acc_type = "int32" if integer else "float32"
    (kh, kw), c = win.kernel, win.channels

    def body(i: Expr, xb: Any, wb: Any, tb: Any, yb: Any) -> None:
        channel, pixel = T.Bind(T.truncmod(i, c)), T.Bind(T.truncdiv(i, c))
        y0 = T.Bind(T.truncdiv(pixel, win.out_width) * win.stride[0] - win.pads[0])
        x0 = T.Bind(T.truncmod(pixel, win.out_width) * win.stride[1] - win.pads[2])
        acc = T.alloc_buffer((1,), acc_type, scope="local")
        T.buffer_store(acc, const(0, acc_type), [0])
        loop = T.unroll if kh * kw <= 25 else T.serial
        with loop(0, kh) as ky, loop(0, kw) as kx:
            row, col = T.Bind(y0 + ky * win.dilation[0]), T.Bind(x0 + kx * win.dilation[1])

            def tap(row: Expr = row, col: Expr = col, ky: Expr = ky, kx: Expr = kx) -> None:
                value = T.Cast(acc_type, xb[(row * win.width + col) * c + channel])
                if integer and zero_point:
                    value = value - zero_point
                weight = T.Cast(acc_type, wb[(ky * kw + kx) * c + channel])
                T.buffer_store(acc, acc[0] + value * weight, [0])

            if win.padded:
                inside = tirx.all(row >= 0, row < win.height, col >= 0, col < win.width)
                with T.If(inside), T.Then():
                    tap()
            else:
                tap()
        T.buffer_store(yb, leave(tb, acc[0], channel), [i])

    return each(name, [x, weights, table, out], out[0], body)


def pool(
    name: str,
    win: PoolWindow,
    x: Tensor,
    out: Tensor,
    stored: tuple[str, str],
    limits: tuple[float | None, float | None],
    mean: tuple[int, int, int] | None = None,
) -> Any:
    """MAX_POOL_2D, AVERAGE_POOL_2D, and MEAN over height and width; batch 1.

    stored: types of input and output in memory. limits, mean: as for
    :func:`edgekit_targets.tvm_.pool.pool_function`.
    """
    T = script()
    _, h, w, c = x.shape
    is_float = x.dtype == "float32"
    acc_type = "float32" if is_float else "int32"

    def leave(acc: Expr, count: Expr) -> Expr:
        if is_float:
            if win.kind != "max":
                acc = acc / T.Cast("float32", count)
            lo, hi = limits
            acc = acc if lo is None else T.max(acc, const(lo, "float32"))
            acc = acc if hi is None else T.min(acc, const(hi, "float32"))
            return acc if stored[1] == "float32" else T.Cast(stored[1], acc)
        low, high = int(limits[0] or 0), int(limits[1] or 0)
        if mean is not None:
            assert out.quant is not None
            total = acc - const(mean[2], "int32")
            return vx.requantize_const(
                total, mean[0], mean[1], out.quant.zp, (low, high), out.dtype, 1
            )
        if win.kind == "average":  # half away from zero
            half = T.Bind(T.truncdiv(count, const(2, "int32")))
            size = T.Bind(T.truncdiv(T.max(acc, const(0, "int32") - acc) + half, count))
            acc = T.Select(acc < const(0, "int32"), const(0, "int32") - size, size)
        return T.Cast(out.dtype, vx.clamp(acc, low, high, "int32", 1))

    def body(i: Expr, xb: Any, yb: Any) -> None:
        channel, pixel = T.Bind(T.truncmod(i, c)), T.Bind(T.truncdiv(i, c))
        y0 = T.Bind(T.truncdiv(pixel, win.out_hw[1]) * win.stride[0] - win.pads[0])
        x0 = T.Bind(T.truncmod(pixel, win.out_hw[1]) * win.stride[1] - win.pads[2])
        ya, yb_ = T.Bind(T.max(y0, 0)), T.Bind(T.min(y0 + win.kernel[0], h))
        xa, xb_ = T.Bind(T.max(x0, 0)), T.Bind(T.min(x0 + win.kernel[1], w))
        acc = T.alloc_buffer((1,), acc_type, scope="local")
        first = 0.0 if is_float else 0
        if win.kind == "max":
            first = -3.4028234663852886e38 if is_float else nm.LIMITS[x.dtype][0]
        T.buffer_store(acc, const(first, acc_type), [0])
        with T.serial(0, yb_ - ya) as p, T.serial(0, xb_ - xa) as q:
            v = T.Cast(acc_type, xb[((ya + p) * w + xa + q) * c + channel])
            joined = T.max(acc[0], v) if win.kind == "max" else acc[0] + v
            T.buffer_store(acc, joined, [0])
        count = T.Bind((yb_ - ya) * (xb_ - xa))
        T.buffer_store(yb, leave(acc[0], count), [i])

    return each(name, [(x.elements, stored[0]), (out.elements, stored[1])], out.elements, body)


def arg_max(name: str, x: Tensor, out: Tensor, axis: int, stored: str) -> Any:
    """The first index of the largest value along ``axis``."""
    T = script()
    axis %= len(x.shape)
    inner = int(np.prod(x.shape[axis + 1 :], dtype=np.int64))
    length = x.shape[axis]

    def body(i: Expr, xb: Any, yb: Any) -> None:
        first = T.Bind(T.truncdiv(i, inner) * (length * inner) + T.truncmod(i, inner))
        best = T.alloc_buffer((1,), stored, scope="local")
        where = T.alloc_buffer((1,), "int32", scope="local")
        T.buffer_store(best, xb[first], [0])
        T.buffer_store(where, const(0, "int32"), [0])
        with T.serial(0, length - 1) as k:
            value = T.Bind(xb[first + (k + 1) * inner])
            with T.If(value > best[0]), T.Then():
                T.buffer_store(best, value, [0])
                T.buffer_store(where, k + 1, [0])
        T.buffer_store(yb, T.Cast(out.dtype, where[0]), [i])

    return each(name, [(x.elements, stored), (out.elements, out.dtype)], out.elements, body)


def integer_softmax(name: str, node: Node, x: Tensor, out: Tensor) -> tuple[Any, np.ndarray]:
    """A thread for each row (TFLite ``reference/softmax.h``). Arguments: input, table, output; the
    table comes along."""
    T = script()
    columns = x.shape[-1]
    bits = 16 if out.dtype == "int16" else 8
    low, high = nm.LIMITS[out.dtype]

    def i64(value: int) -> Expr:
        return const(value, "int64")

    def body(r: Expr, xb: Any, table: Any, yb: Any) -> None:
        top = T.alloc_buffer((1,), "int32", scope="local")
        total = T.alloc_buffer((1,), "int32", scope="local")
        T.buffer_store(top, const(-32768, "int32"), [0])
        T.buffer_store(total, const(0, "int32"), [0])
        with T.serial(0, columns) as i:
            T.buffer_store(top, T.max(top[0], T.Cast("int32", xb[r * columns + i])), [0])

        def exponential(i: Expr) -> Expr:
            return T.Bind(table[T.Cast("int32", xb[r * columns + i]) - top[0] + 255])

        with T.serial(0, columns) as i:
            e = T.max(exponential(i), const(0, "int32"))
            rounded = (T.Cast("int64", e) + i64(1 << (SUM_BITS - 1))) >> i64(SUM_BITS)
            T.buffer_store(total, total[0] + T.Cast("int32", rounded), [0])
        zeros = T.Bind(T.Cast("int64", T.call_extern("int32", "ek_clz", total[0])))
        word = T.Cast("int32", (T.Cast("int64", total[0]) << zeros) - i64(1 << 31))
        scale = T.Bind(sm._reciprocal(T.Cast("int64", T.Bind(word))))
        exponent = T.Bind(i64(SUM_BITS + 31 - bits) - zeros)
        with T.serial(0, columns) as i:
            e = exponential(i)
            product = sm._mul(scale, T.Cast("int64", T.max(e, const(0, "int32"))))
            v = sm._divide(product, exponent) + i64(low)
            v = T.max(T.min(v, i64(high)), i64(low))
            value = T.Select(e < const(0, "int32"), i64(low), v)
            T.buffer_store(yb, T.Cast(out.dtype, value), [r * columns + i])

    buffers = [(x.elements, x.dtype), (256, "int32"), (out.elements, out.dtype)]
    return each(name, buffers, x.elements // columns, body), sm.softmax_table(node, x)
