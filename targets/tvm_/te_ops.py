"""Operators as TE computations: data movement, broadcasting arithmetic, reductions, float math.

LLVM vectorises what is worth it; nothing here dominates a network. Each function takes the
lowering, the node, and Relax expressions of its inputs, and returns those of its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Node, QuantParams, Tensor
from edgekit.graph.ops import Call, spec
from edgekit.graph.ops import elementwise as ew
from edgekit.graph.ops import resize as rs
from edgekit.graph.ops.movement import pad_value
from edgekit_targets.tvm_ import vector as vx
from edgekit_targets.tvm_.vector import Expr, cast, const, script

if TYPE_CHECKING:
    from edgekit_targets.tvm_.lower import Lowering

Values = list[Any]
Index = tuple[Any, ...]


def compute(
    lo: Lowering, node: Node, inputs: Sequence[Any], out: Tensor, body: Callable[..., Expr]
) -> Any:
    """``out[index] = body(index, *inputs)`` as a function of its own."""
    from tvm import te

    def build(*xs: Any) -> Any:
        return te.compute(out.shape, lambda *i: body(i, *xs), name="out")

    return lo.emit_te(build, *inputs, hint=node.type.lower())


def q(t: Tensor) -> QuantParams:
    assert t.quant is not None
    return t.quant


def i32(x: Expr) -> Expr:
    return cast(x, "int32", 1)


def table(lo: Lowering, node: Node, inputs: Values, ins: Sequence[Tensor], out: Tensor) -> Any:
    """A unary operator of an 8-bit tensor, by its 256 results (computed by the reference)."""
    src = ins[0]
    low, high = nm.LIMITS[src.dtype]
    every = np.arange(low, high + 1).astype(src.dtype)
    values: list[np.ndarray | None] = [every]
    values += [None if t.data is None else t.data.reshape(-1) for t in ins[1:]]
    results = spec(node.type).reference(Call(node, list(ins), [out], values))[0].reshape(-1)
    steps = results.astype(np.float64) - every.astype(np.float64)
    if out.dtype in ("int8", "uint8") and np.all(steps == steps[0]):  # uint8 <-> int8
        shift = int(steps[0])
        return compute(
            lo, node, inputs[:1], out, lambda i, x: cast(i32(x[i]) + shift, out.dtype, 1)
        )

    def body(i: Index, x: Any, entries: Any) -> Expr:
        return entries[i32(x[i]) - low]

    return compute(lo, node, [inputs[0], lo.const(results)], out, body)


def align(index: Index, shape: tuple[int, ...]) -> Index:
    """The index into an operand that broadcasts."""
    tail = index[len(index) - len(shape) :]
    return tuple(0 if d == 1 else i for d, i in zip(shape, tail, strict=True))


def binary(lo: Lowering, node: Node, inputs: Values, ins: Sequence[Tensor], out: Tensor) -> Any:
    x, y = ins
    T = script()
    kind = node.type

    def plain(a: Expr, b: Expr) -> Expr:
        if kind == "SQUARED_DIFFERENCE":
            return (a - b) * (a - b)
        return {
            "ADD": lambda: a + b,
            "SUB": lambda: a - b,
            "MUL": lambda: a * b,
            "DIV": lambda: a / b,
            "MAXIMUM": lambda: T.max(a, b),
            "MINIMUM": lambda: T.min(a, b),
        }[kind]()

    def clamped(a: Expr, b: Expr) -> Expr:
        return clamp_float(plain(a, b), node.attr("activation", "NONE"))

    value: Callable[[Expr, Expr], Expr]
    if out.dtype == "float32" or out.quant is None or kind in ("MAXIMUM", "MINIMUM"):
        value = clamped
    else:
        value = _integer_binary(node, q(x), q(y), out)

    def body(i: Index, a: Any, b: Any) -> Expr:
        return value(a[align(i, x.shape)], b[align(i, y.shape)])

    return compute(lo, node, inputs, out, body)


def _integer_binary(
    node: Node, qx: QuantParams, qy: QuantParams, out: Tensor
) -> Callable[[Expr, Expr], Expr]:
    qo = q(out)
    limits = vx.limits(node.attr("activation", "NONE"), qo, out.dtype)

    def leave(total: Expr, multiplier: tuple[int, int]) -> Expr:
        return vx.requantize_const(total, *multiplier, qo.zp, limits, out.dtype, 1)

    if node.type == "MUL":
        m = nm.quantize_multiplier(qx.s * qy.s / qo.s)
        return lambda a, b: leave((i32(a) - qx.zp) * (i32(b) - qy.zp), m)
    if node.type == "SQUARED_DIFFERENCE":
        left = ew.squared_difference_shift(out.dtype)
        mx, my, mo = ew.squared_difference_multipliers(qx, qy, qo, left)
    else:
        left = ew.head_room(out.dtype)
        mx, my, mo = ew.add_multipliers(qx, qy, qo, left)

    def value(a: Expr, b: Expr) -> Expr:
        sa = vx.multiply((i32(a) - qx.zp) << const(left, "int32"), *mx, 1)
        sb = vx.multiply((i32(b) - qy.zp) << const(left, "int32"), *my, 1)
        if node.type == "SQUARED_DIFFERENCE":
            return leave((sa - sb) * (sa - sb), mo)
        return leave(sa + sb if node.type == "ADD" else sa - sb, mo)

    return value


def clamp_float(x: Expr, activation: str) -> Expr:
    T = script()
    lo, hi = nm.activation_bounds(activation)
    if lo is not None:
        x = T.max(x, const(lo, "float32"))
    if hi is not None:
        x = T.min(x, const(hi, "float32"))
    return x


def float_unary(
    lo: Lowering, node: Node, inputs: Values, ins: Sequence[Tensor], out: Tensor
) -> Any:
    from tvm import tirx

    T, kind = script(), node.type

    def f(v: float) -> Expr:
        return const(v, "float32")

    def value(x: Expr) -> Expr:
        if kind == "LOGISTIC":
            return f(1.0) / (f(1.0) + tirx.exp(f(0.0) - x))
        if kind == "HARD_SWISH":
            return x * T.min(T.max(x + f(3.0), f(0.0)), f(6.0)) * f(1.0 / 6.0)
        if kind == "LEAKY_RELU":
            return T.Select(x >= f(0.0), x, x * f(float(np.float32(node.attrs["alpha"]))))
        if kind == "GELU":
            if node.attr("approximate", False):
                inner = f(0.7978845608028654) * (x + f(0.044715) * x * x * x)
                return f(0.5) * x * (f(1.0) + tirx.tanh(inner))
            return f(0.5) * x * (f(1.0) + tirx.erf(x * f(0.7071067811865476)))
        if kind in ("RELU", "RELU6", "RELU_N1_TO_1"):
            return clamp_float(x, kind)
        if kind == "NEG":
            return f(0.0) - x
        if kind == "ABS":
            return T.Select(x < f(0.0), f(0.0) - x, x)
        if kind == "RSQRT":
            return f(1.0) / tirx.sqrt(x)
        return {"TANH": tirx.tanh, "EXP": tirx.exp, "SQRT": tirx.sqrt}[kind](x)

    return compute(lo, node, inputs, out, lambda i, x: value(x[i]))


def quantize_float(
    lo: Lowering, node: Node, inputs: Values, ins: Sequence[Tensor], out: Tensor
) -> Any:
    """Divide in float32, round half away from zero, add the zero point, clamp."""
    from tvm import tirx

    T = script()
    qo = q(out)
    low, high = nm.LIMITS[out.dtype]

    def value(x: Expr) -> Expr:
        v = x / const(float(qo.s), "float32")
        # what clamps anyway must not leave the range of the conversion
        v = T.max(T.min(v, const(1e6, "float32")), const(-1e6, "float32"))
        whole = tirx.trunc(v)
        rest = v - whole
        n = T.Cast("int32", whole)
        n = n + T.Select(rest >= const(0.5, "float32"), const(1, "int32"), const(0, "int32"))
        n = n - T.Select(rest <= const(-0.5, "float32"), const(1, "int32"), const(0, "int32"))
        return T.Cast(out.dtype, T.max(T.min(n + qo.zp, high), low))

    return compute(lo, node, inputs, out, lambda i, x: value(x[i]))


def softmax_float(
    lo: Lowering, node: Node, inputs: Values, ins: Sequence[Tensor], out: Tensor
) -> Any:
    from tvm import te, tirx

    beta, shape = float(node.attr("beta", 1.0)), out.shape
    rows = shape[:-1]

    def build(x: Any) -> Any:
        k = te.reduce_axis((0, shape[-1]))
        top = te.compute(rows, lambda *i: te.max(x[(*i, k)], axis=k), name="top")
        e = te.compute(
            shape,
            lambda *i: tirx.exp((x[i] - top[i[:-1]]) * const(beta, "float32")),
            name="exps",
        )
        k2 = te.reduce_axis((0, shape[-1]))
        total = te.compute(rows, lambda *i: te.sum(e[(*i, k2)], axis=k2), name="total")
        return te.compute(shape, lambda *i: e[i] / total[i[:-1]], name="out")

    return lo.emit_te(build, *inputs, hint="softmax")


def reduction(lo: Lowering, node: Node, inputs: Values, ins: Sequence[Tensor], out: Tensor) -> Any:
    """MEAN, SUM and REDUCE_MAX over any axes."""
    from tvm import te

    from edgekit.graph.ops.pool import mean_multiplier

    src, axes = ins[0], tuple(node.attrs["axes"])
    keep = bool(node.attrs["keep_dims"])
    elements = int(np.prod([src.shape[a] for a in axes], dtype=np.int64))
    is_float = src.dtype == "float32"

    def build(x: Any) -> Any:
        ks = {a: te.reduce_axis((0, src.shape[a])) for a in axes}

        def index(i: Index) -> Index:
            rest = iter([v for d, v in enumerate(i) if d not in axes] if keep else i)
            return tuple(ks[d] if d in ks else next(rest) for d in range(len(src.shape)))

        over = list(ks.values())
        if node.type == "REDUCE_MAX":
            return te.compute(out.shape, lambda *i: te.max(x[index(i)], axis=over), name="out")

        def term(i: Index) -> Expr:
            return x[index(i)] if is_float else i32(x[index(i)])

        total = te.compute(out.shape, lambda *i: te.sum(term(i), axis=over), name="total")
        if is_float:
            scale = const(1.0 / elements if node.type == "MEAN" else 1.0, "float32")
            return te.compute(out.shape, lambda *i: total[i] * scale, name="out")
        qx, qo = q(src), q(out)
        if node.type == "MEAN":
            mult, shift = mean_multiplier(qx.s, qo.s, elements)
        else:
            mult, shift = nm.quantize_multiplier(qx.s / qo.s)
        zero = int(nm.wrap32(np.asarray(qx.zp * elements)))

        def leave(v: Expr) -> Expr:
            return vx.requantize_const(
                v - zero, mult, shift, qo.zp, nm.LIMITS[out.dtype], out.dtype, 1
            )

        return te.compute(out.shape, lambda *i: leave(total[i]), name="out")

    return lo.emit_te(build, *inputs, hint=node.type.lower())


# -- data movement -------------------------------------------------------------------------------


def concatenation(
    lo: Lowering, node: Node, inputs: Values, ins: Sequence[Tensor], out: Tensor
) -> Any:
    """Joined pair by pair inside one function; requantized and clamped before, where needed."""
    T, axis = script(), int(node.attrs["axis"])
    starts = np.cumsum([0, *(t.shape[axis] for t in ins)])
    activation = node.attr("activation", "NONE")

    def value(t: Tensor, v: Expr) -> Expr:
        if out.is_float:
            return clamp_float(v, activation)
        if t.quant and out.quant and not t.quant.same_as(out.quant):
            m = nm.quantize_multiplier(t.quant.s / out.quant.s)
            v = vx.requantize_const(
                i32(v) - t.quant.zp, *m, out.quant.zp, nm.LIMITS[out.dtype], out.dtype, 1
            )
        if activation != "NONE":
            limits = vx.limits(activation, out.quant, out.dtype)
            v = cast(vx.clamp(i32(v), *limits, "int32", 1), out.dtype, 1)
        return v

    def body(i: Index, *xs: Any) -> Expr:
        def part(k: int) -> Expr:
            at = (*i[:axis], i[axis] - int(starts[k]), *i[axis + 1 :])
            here = value(ins[k], xs[k][at])
            if k == len(xs) - 1:
                return here
            return T.if_then_else(i[axis] < int(starts[k + 1]), here, part(k + 1))

        return part(0)

    return compute(lo, node, inputs, out, body)


def pad(lo: Lowering, node: Node, inputs: Values, ins: Sequence[Tensor], out: Tensor) -> Any:
    from tvm import tirx

    T, pads = script(), node.attrs["paddings"]
    fill = const(pad_value(node, out), out.dtype)

    def body(i: Index, x: Any) -> Expr:
        inside = [
            c
            for v, (before, after), d in zip(i, pads, ins[0].shape, strict=True)
            for c in ([v >= before] if before else []) + ([v < before + d] if after else [])
        ]
        value = x[tuple(v - before for v, (before, _) in zip(i, pads, strict=True))]
        if not inside:
            return value
        return T.if_then_else(tirx.all(*inside), value, fill)

    return compute(lo, node, inputs, out, body)


def transpose(lo: Lowering, node: Node, inputs: Values, ins: Sequence[Tensor], out: Tensor) -> Any:
    perm = [int(p) for p in node.attrs["perm"]]
    return compute(
        lo, node, inputs, out, lambda i, x: x[tuple(i[perm.index(d)] for d in range(len(perm)))]
    )


def strided_slice(
    lo: Lowering, node: Node, inputs: Values, ins: Sequence[Tensor], out: Tensor
) -> Any:
    a = node.attrs
    shrink = {int(v) for v in a.get("shrink_axes", ())}

    def body(i: Index, x: Any) -> Expr:
        rest = iter(i)
        return x[
            tuple(
                int(b) if d in shrink else next(rest) * int(s) + int(b)
                for d, (b, s) in enumerate(zip(a["begin"], a["strides"], strict=True))
            )
        ]

    return compute(lo, node, inputs, out, body)


def split(lo: Lowering, node: Node, inputs: Values, outs: Sequence[Tensor]) -> Values:
    axis, start, results = int(node.attrs["axis"]), 0, []
    for t in outs:

        def body(i: Index, x: Any, first: int = start) -> Expr:
            return x[(*i[:axis], i[axis] + first, *i[axis + 1 :])]

        results.append(compute(lo, node, inputs, t, body))
        start += t.shape[axis]
    return results


def gather(lo: Lowering, node: Node, inputs: Values, ins: Sequence[Tensor], out: Tensor) -> Any:
    indices = np.asarray(node.attrs["indices"], np.int32)
    axis = int(node.attrs["axis"])
    if indices.ndim == 0:
        only = int(indices)
        return compute(lo, node, inputs, out, lambda i, x: x[(*i[:axis], only, *i[axis:])])

    def body(i: Index, x: Any, at: Any) -> Expr:
        middle = at[i[axis : axis + indices.ndim]]
        return x[(*i[:axis], middle, *i[axis + indices.ndim :])]

    return compute(lo, node, [inputs[0], lo.const(indices)], out, body)


def resize_nearest(
    lo: Lowering, node: Node, inputs: Values, ins: Sequence[Tensor], out: Tensor
) -> Any:
    flags = (bool(node.attr("align_corners", False)), bool(node.attr("half_pixel_centers", False)))
    rows = rs.nearest_indices(ins[0].shape[1], out.shape[1], *flags).astype(np.int32)
    cols = rs.nearest_indices(ins[0].shape[2], out.shape[2], *flags).astype(np.int32)
    return compute(
        lo,
        node,
        [inputs[0], lo.const(rows), lo.const(cols)],
        out,
        lambda i, x, r, c: x[i[0], r[i[1]], c[i[2]], i[3]],
    )


def resize_bilinear(
    lo: Lowering, node: Node, inputs: Values, ins: Sequence[Tensor], out: Tensor
) -> Any:
    T = script()
    flags = (bool(node.attr("align_corners", False)), bool(node.attr("half_pixel_centers", False)))
    weigh = rs.bilinear_float if out.is_float else rs.bilinear_integer
    kind = "float32" if out.is_float else "int64"
    consts = []
    for axis in (1, 2):
        lower, upper, fraction = weigh(ins[0].shape[axis], out.shape[axis], *flags)
        consts += [lower.astype(np.int32), upper.astype(np.int32), fraction.astype(kind)]
    one = const(1.0 if out.is_float else 1024, kind)

    def body(i: Index, x: Any, y0: Any, y1: Any, fy: Any, x0: Any, x1: Any, fx: Any) -> Expr:
        def v(r: Any, c: Any) -> Expr:
            return T.Cast(kind, x[i[0], r[i[1]], c[i[2]], i[3]])

        wy, wx = fy[i[1]], fx[i[2]]
        left = v(y0, x0) * (one - wy) + v(y1, x0) * wy
        right = v(y0, x1) * (one - wy) + v(y1, x1) * wy
        y = left * (one - wx) + right * wx
        if out.is_float:
            return y
        half = const(1 << 19, kind)
        y = y + T.Select(y > const(0, kind), half, const(0, kind) - half)
        y = T.truncdiv(y, const(1 << 20, kind))
        low, high = nm.LIMITS[out.dtype]
        return T.Cast(out.dtype, T.max(T.min(y, const(high, kind)), const(low, kind)))

    return compute(lo, node, [inputs[0], *map(lo.const, consts)], out, body)
