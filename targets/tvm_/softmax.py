"""The TIR function of the integer SOFTMAX (TFLite ``reference/softmax.h``), row by row.

Exponentials come from a table of all 256 differences; the reciprocal of their sum is gemmlowp's
fixed-point Newton iteration, once a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Node, Tensor
from edgekit.graph.ops.softmax import SUM_BITS, softmax_params
from edgekit_targets.tvm_.conv import flat
from edgekit_targets.tvm_.vector import Expr, const, script


def softmax_table(node: Node, src: Tensor) -> np.ndarray:
    """int32 ``[256]``: the exponential (Q0.31) of the difference ``i - 255``; -1 below the range."""
    mult, shift, diff_min = softmax_params(node, src)
    diffs = np.arange(-255, 1, dtype=np.int64)
    live = diffs >= diff_min
    scaled = nm.multiply_by_quantized_multiplier(np.where(live, diffs, 0), mult, shift)
    return np.where(live, nm.exp_on_negative_values(scaled, 5), -1).astype(np.int32)


def _i64(value: int) -> Expr:
    return const(value, "int64")


def _mul(a: Expr, b: Expr) -> Expr:
    return (a * b + _i64(1 << 30)) >> _i64(31)


def _saturate(x: Expr) -> Expr:
    T = script()
    return T.max(T.min(x, _i64(nm.INT32_MAX)), _i64(nm.INT32_MIN))


def _divide(x: Expr, exponent: Expr) -> Expr:
    """RoundingDivideByPOT; exponent >= 0, not constant."""
    T = script()
    x, e = T.Bind(x), T.Bind(exponent)
    half = T.Bind((_i64(1) << e) >> _i64(1))
    nudge = T.Select(e > _i64(0), x >> _i64(63), _i64(0))
    return (x + half + nudge) >> e


def _reciprocal(a: Expr) -> Expr:
    """1 / (1 + a) of Q0.31 ``a``: :func:`edgekit.graph.numerics.one_over_one_plus_x`."""
    T = script()
    half = T.Bind(_divide(a + _i64(nm.INT32_MAX), _i64(1)))
    x = T.Bind(_i64(1515870810) + _mul(half, _i64(-1010580540)))
    for _ in range(3):
        error = _i64(1 << 29) - _mul(half, x)
        x = T.Bind(x + _saturate(_mul(x, error) << _i64(2)))
    return _saturate(x << _i64(1))


def softmax_function(name: str, src: Tensor, out: Tensor) -> Any:
    """Arguments: input, table of :func:`softmax_table`, output."""
    from tvm.script.ir_builder import IRBuilder

    T = script()
    columns = src.shape[-1]
    rows = src.elements // columns
    bits = 16 if out.dtype == "int16" else 8
    low, high = nm.LIMITS[out.dtype]
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        a = T.arg("a0", T.buffer(src.shape, src.dtype))
        table = T.arg("a1", T.buffer((256,), "int32"))
        b = T.arg("a2", T.buffer(out.shape, out.dtype))
        x, y = flat(T, a, src.shape, src.dtype), flat(T, b, out.shape, out.dtype)
        top = T.alloc_buffer((1,), "int32", scope="local")
        total = T.alloc_buffer((1,), "int32", scope="local")
        with T.serial(0, rows) as r:
            T.buffer_store(top, const(-32768, "int32"), [0])
            T.buffer_store(total, const(0, "int32"), [0])
            with T.serial(0, columns) as i:
                v = T.Cast("int32", x[r * columns + i])
                T.buffer_store(top, T.max(top[0], v), [0])

            def exponential(i: Expr, r: Expr = r) -> Expr:
                v = T.Cast("int32", x[r * columns + i])
                return T.Bind(table[v - top[0] + 255])

            with T.serial(0, columns) as i:
                e = T.max(exponential(i), const(0, "int32"))
                rounded = (T.Cast("int64", e) + _i64(1 << (SUM_BITS - 1))) >> _i64(SUM_BITS)
                T.buffer_store(total, total[0] + T.Cast("int32", rounded), [0])
            zeros = T.Bind(T.Cast("int64", T.clz(total[0])))
            word = T.Cast("int32", (T.Cast("int64", total[0]) << zeros) - _i64(1 << 31))
            scale = T.Bind(_reciprocal(T.Cast("int64", T.Bind(word))))
            exponent = T.Bind(_i64(SUM_BITS + 31 - bits) - zeros)
            with T.serial(0, columns) as i:
                e = exponential(i)
                product = _mul(scale, T.Cast("int64", T.max(e, const(0, "int32"))))
                q = _divide(product, exponent) + _i64(low)
                q = T.max(T.min(q, _i64(high)), _i64(low))
                value = T.Select(e < const(0, "int32"), _i64(low), q)
                T.buffer_store(y, T.Cast(out.dtype, value), [r * columns + i])
    return builder.get()
