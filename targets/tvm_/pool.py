"""TIR functions of pools and of MEAN over height and width, in vectors along the channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Tensor
from edgekit_targets.tvm_ import vector as vx
from edgekit_targets.tvm_.conv import flat
from edgekit_targets.tvm_.vector import Expr, at, cast, const, script


@dataclass(frozen=True)
class PoolWindow:
    """kind: "max", "average" or "mean" (a sum over everything, then a multiplier)."""

    kind: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: nm.Padding4
    out_hw: tuple[int, int]


def pool_function(
    name: str,
    win: PoolWindow,
    x: Tensor,
    out: Tensor,
    lanes: int,
    limits: tuple[float | None, float | None],
    mean: tuple[int, int, int] | None = None,
) -> Any:
    """limits: the clamp in the output's own values. mean: (multiplier, shift, zero points' sum to
    subtract) of an integer MEAN; its output zero point is ``out.quant.zp``.
    """
    from tvm.script.ir_builder import IRBuilder

    T = script()
    _, h, w, c = x.shape
    oh_n, ow_n = win.out_hw
    is_float = x.dtype == "float32"
    acc_type = "float32" if is_float else "int32"

    def leave(acc: Expr, count: Expr, n: int) -> Expr:
        if is_float:
            if win.kind != "max":
                acc = acc / _broadcast(T.Cast("float32", count), n)
            lo, hi = limits
            if lo is not None:
                acc = T.max(acc, const(lo, "float32", n))
            if hi is not None:
                acc = T.min(acc, const(hi, "float32", n))
            return acc
        lo_i, hi_i = int(limits[0] or 0), int(limits[1] or 0)
        if mean is not None:
            assert out.quant is not None
            total = acc - const(mean[2], "int32", n)
            return vx.requantize_const(
                total, mean[0], mean[1], out.quant.zp, (lo_i, hi_i), out.dtype, n
            )
        if win.kind == "average":  # half away from zero
            wide = _broadcast(T.Bind(count), n)
            half = _broadcast(T.truncdiv(count, const(2, "int32")), n)
            zero = const(0, "int32", n)
            size = T.Bind(T.truncdiv(T.max(acc, zero - acc) + half, wide))
            acc = T.Select(acc < zero, zero - size, size)
        return cast(vx.clamp(acc, lo_i, hi_i, "int32", n), out.dtype, n)

    def _broadcast(value: Expr, n: int) -> Expr:
        return value if n == 1 else T.Broadcast(value, n)

    def cell(xb: Any, yb: Any, oh: Expr, ow: Expr, ch: Expr, n: int) -> None:
        acc = T.alloc_buffer((n,), acc_type, scope="local")
        slot = at(const(0, "int32"), n)
        first = 0.0 if is_float else 0
        if win.kind == "max":
            first = -3.4028234663852886e38 if is_float else nm.LIMITS[x.dtype][0]
        T.buffer_store(acc, const(first, acc_type, n), [slot])
        (sh, sw), (top, _, left, _) = win.stride, win.pads
        y0, x0 = T.Bind(oh * sh - top), T.Bind(ow * sw - left)
        ya, yb_ = T.Bind(T.max(y0, 0)), T.Bind(T.min(y0 + win.kernel[0], h))
        xa, xb_ = T.Bind(T.max(x0, 0)), T.Bind(T.min(x0 + win.kernel[1], w))
        with T.serial(0, yb_ - ya) as i, T.serial(0, xb_ - xa) as j:
            v = xb[at(((ya + i) * w + xa + j) * c + ch, n)]
            if not is_float:
                v = cast(v, "int32", n)
            joined = T.max(acc[slot], v) if win.kind == "max" else acc[slot] + v
            T.buffer_store(acc, joined, [slot])
        count = (yb_ - ya) * (xb_ - xa)
        T.buffer_store(yb, leave(acc[slot], count, n), [at((oh * ow_n + ow) * c + ch, n)])

    body: Callable[..., None] = cell
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        a = T.arg("a0", T.buffer(x.shape, x.dtype))
        b = T.arg("a1", T.buffer(out.shape, out.dtype))
        xb, yb = flat(T, a, x.shape, x.dtype), flat(T, b, out.shape, out.dtype)
        full, tail = divmod(c, lanes)
        with T.serial(0, oh_n) as oh, T.serial(0, ow_n) as ow:
            if full:
                with T.serial(0, full) as k:
                    body(xb, yb, oh, ow, k * lanes, lanes)
            if tail:
                with T.serial(0, tail) as k:
                    body(xb, yb, oh, ow, k + full * lanes, 1)
    return builder.get()
