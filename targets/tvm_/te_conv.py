"""The rarer convolutions as plain TE computations: grouped, depthwise with a channel multiplier,
transposed. Exact, not fast: scalar sums, which LLVM vectorises where it can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit_targets.tvm_ import vector as vx
from edgekit_targets.tvm_.te_ops import clamp_float, q
from edgekit_targets.tvm_.vector import Expr, cast, const, script

if TYPE_CHECKING:
    from edgekit_targets.tvm_.lower import Lowering


def general_conv(lo: Lowering, node: Node) -> list[Any]:
    """One function: sums of ``(x - zero point) * w`` over the window, then requantization."""
    from tvm import te, tirx

    T, graph = script(), lo.graph
    x_t, w_t, out = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1]), graph.outs(node)[0]
    is_float = out.is_float
    kind = "float32" if is_float else "int32"
    channels = out.shape[3]
    depthwise, transposed = node.type == "DEPTHWISE_CONV_2D", node.type == "TRANSPOSE_CONV"
    _, kh, kw, depth = w_t.shape
    depth = 1 if depthwise else depth
    (sh, sw), (dh, dw) = node.attrs["stride"], node.attrs.get("dilation", (1, 1))
    big = out if transposed else x_t  # the larger side of the convolution
    pads, _ = nm.conv_padding(
        (big.shape[1], big.shape[2]), (kh, kw), (sh, sw), node.attrs["padding"], (dh, dw)
    )
    per_group = max(1, channels * w_t.shape[3] // x_t.shape[3])  # outputs of one group
    multiplier = w_t.shape[3] // x_t.shape[3]
    table = _table(node, graph, channels)

    def place(o: Expr, k: Expr, size: int, before: int, stride: int, dilation: int) -> Any:
        """Where output ``o`` reads along one axis for cell ``k``, and when that is inside."""
        if transposed:
            v = o + before - k
            inside = [v >= 0, T.floormod(v, stride) == 0, T.floordiv(v, stride) < size]
            return T.floordiv(v, stride), inside
        v = o * stride + k * dilation - before
        return v, [v >= 0, v < size]

    def build(x: Any, w: Any, t: Any) -> Any:
        ky, kx = te.reduce_axis((0, kh)), te.reduce_axis((0, kw))
        kc = te.reduce_axis((0, depth))

        def term(n: Expr, y: Expr, z: Expr, o: Expr) -> Expr:
            row, in_y = place(y, ky, x_t.shape[1], pads[0], sh, dh)
            col, in_x = place(z, kx, x_t.shape[2], pads[2], sw, dw)
            if depthwise:
                channel, weight = T.floordiv(o, multiplier), w[0, ky, kx, o]
            else:
                first = 0 if transposed else T.floordiv(o, per_group) * depth
                channel, weight = first + kc, w[o, ky, kx, kc]
            value = cast(x[n, row, col, channel], kind, 1)
            if not is_float:
                value = value - q(x_t).zp
            zero = const(0.0 if is_float else 0, kind)
            value = T.if_then_else(tirx.all(*in_y, *in_x), value, zero)
            return value * cast(weight, kind, 1)

        total = te.compute(out.shape, lambda *i: te.sum(term(*i), axis=[ky, kx, kc]), name="total")

        def leave(acc: Expr, o: Expr) -> Expr:
            if is_float:
                return clamp_float(acc + t[0, o], node.attrs["activation"])
            acc = (acc + t[0, o]) << t[3, o]
            high = vx.high_mul(acc, t[1, o], 1)
            right = T.Cast("int64", t[2, o])
            zero, one = const(0, "int64"), const(1, "int64")
            nudge = T.Select(right > zero, high >> const(63, "int64"), zero)
            high = (high + nudge + ((one << right) >> one)) >> right
            y = cast(high, "int32", 1) + q(out).zp
            limits = vx.limits(node.attrs["activation"], out.quant, out.dtype)
            return cast(vx.clamp(y, *limits, "int32", 1), out.dtype, 1)

        return te.compute(out.shape, lambda *i: leave(total[i], i[3]), name="out")

    args = [lo.value(node.inputs[0]), lo.value(node.inputs[1]), lo.const(table)]
    return [lo.emit_te(build, *args, hint=node.type.lower())]


def _table(node: Node, graph: Graph, channels: int) -> np.ndarray:
    """Rows bias, multiplier, right shift, left shift, ``[4, channels]``; float: the bias alone."""
    x, w, out = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1]), graph.outs(node)[0]
    bias = graph.ins(node)[2] if len(node.inputs) > 2 else None
    data = np.zeros(channels) if bias is None or bias.data is None else bias.data.ravel()
    if out.is_float:
        return data.astype(np.float32).reshape(1, -1)
    mult, shift = nm.conv_multipliers(q(x).s, q(w).scale, q(out).s, channels)
    rows = [data.astype(np.int64), mult, np.maximum(-shift, 0), np.maximum(shift, 0)]
    return np.stack(rows).astype(np.int32)
