"""Matrix products, PRELU and LAYER_NORM as TE computations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Node, Tensor
from edgekit_targets.tvm_ import vector as vx
from edgekit_targets.tvm_.te_ops import Index, Values, align, compute, i32, q
from edgekit_targets.tvm_.vector import Expr, const, script

if TYPE_CHECKING:
    from edgekit_targets.tvm_.lower import Lowering


def prelu(lo: Lowering, node: Node, inputs: Values, ins: Sequence[Tensor], out: Tensor) -> Any:
    """alpha broadcasts. Integers: two multipliers, one for each sign (``reference/prelu.h``)."""
    T = script()

    def real(v: Expr, a: Expr) -> Expr:
        return T.Select(v >= const(0.0, "float32"), v, v * a)

    def integer(v: Expr, a: Expr) -> Expr:
        qx, qa, qo = q(ins[0]), q(ins[1]), q(out)
        v, a = i32(v) - qx.zp, i32(a) - qa.zp
        positive = vx.multiply(v, *nm.quantize_multiplier(qx.s / qo.s), 1)
        negative = vx.multiply(v * a, *nm.quantize_multiplier(qx.s * qa.s / qo.s), 1)
        y = T.Select(v >= const(0, "int32"), positive, negative) + qo.zp
        low, high = nm.LIMITS[out.dtype]
        return T.Cast(out.dtype, vx.clamp(y, low, high, "int32", 1))

    value = real if out.is_float else integer

    def body(i: Index, x: Any, a: Any) -> Expr:
        return value(x[i], a[align(i, ins[1].shape)])

    return compute(lo, node, inputs, out, body)


def batch_matmul(
    lo: Lowering, node: Node, inputs: Values, ins: Sequence[Tensor], out: Tensor
) -> Any:
    from tvm import te

    x_t, y_t = ins
    adj_x, adj_y = bool(node.attrs["adj_x"]), bool(node.attrs["adj_y"])
    depth = x_t.shape[-2] if adj_x else x_t.shape[-1]
    is_float = out.is_float

    def build(x: Any, y: Any) -> Any:
        k = te.reduce_axis((0, depth))

        def term(i: Index) -> Expr:
            batch, row, col = i[:-2], i[-2], i[-1]
            a = x[(*align(batch, x_t.shape[:-2]), *((k, row) if adj_x else (row, k)))]
            b = y[(*align(batch, y_t.shape[:-2]), *((col, k) if adj_y else (k, col)))]
            if is_float:
                return a * b
            return (i32(a) - q(x_t).zp) * (i32(b) - q(y_t).zp)

        total = te.compute(out.shape, lambda *i: te.sum(term(i), axis=k), name="total")
        if is_float:
            return total
        qo = q(out)
        m = nm.quantize_multiplier(q(x_t).s * q(y_t).s / qo.s)

        def leave(v: Expr) -> Expr:
            return vx.requantize_const(v, *m, qo.zp, nm.LIMITS[out.dtype], out.dtype, 1)

        return te.compute(out.shape, lambda *i: leave(total[i]), name="out")

    return lo.emit_te(build, *inputs, hint="batch_matmul")


def layer_norm_float(
    lo: Lowering, node: Node, inputs: Values, ins: Sequence[Tensor], out: Tensor
) -> Any:
    from tvm import te, tirx

    shape = out.shape
    n = const(1.0 / shape[-1], "float32")
    eps = const(float(node.attrs["epsilon"]), "float32")

    def build(x: Any, gamma: Any, beta: Any) -> Any:
        k = te.reduce_axis((0, shape[-1]))
        total = te.compute(shape[:-1], lambda *i: te.sum(x[(*i, k)], axis=k), name="total")
        k2 = te.reduce_axis((0, shape[-1]))

        def square(i: Index) -> Expr:
            d = x[(*i, k2)] - total[i] * n
            return d * d

        var = te.compute(shape[:-1], lambda *i: te.sum(square(i), axis=k2), name="var")
        return te.compute(
            shape,
            lambda *i: (
                (x[i] - total[i[:-1]] * n) / tirx.sqrt(var[i[:-1]] * n + eps) * gamma[i[-1]]
                + beta[i[-1]]
            ),
            name="out",
        )

    return lo.emit_te(build, *inputs, hint="layer_norm")
