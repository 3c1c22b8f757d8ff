"""ONNX element-wise operators, activations, reductions."""

from __future__ import annotations

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.formats.onnx_context import HIDDEN, Context, Converter, Op

NONE = {"activation": "NONE"}


def unary(type: str) -> Converter:
    def convert(ctx: Context, op: Op) -> None:
        ctx.bind(op.y, ctx.emit(type, [ctx.tensor(op.x)], out=op.y, name=op.name))

    return convert


def _float(ctx: Context, name: str) -> str:
    if not ctx.graph.tensor(name).is_float:
        raise UnsupportedError(f"arithmetic on {ctx.graph.tensor(name).dtype} is not implemented")
    return name


def binary(type: str) -> Converter:
    attrs = NONE if type in ("ADD", "SUB", "MUL", "DIV") else {}

    def convert(ctx: Context, op: Op) -> None:
        names = [_float(ctx, ctx.tensor(i)) for i in op.inputs]
        if not names:
            raise UnsupportedError("it has no inputs")
        y = names[0]
        if len(names) == 1:
            return ctx.bind(op.y, y)
        for k, other in enumerate(names[1:], start=2):
            out = op.y if k == len(names) else f"{op.y}{HIDDEN}{k}"
            y = ctx.emit(type, [y, other], attrs, out=out, name=op.name)
        return ctx.bind(op.y, y)

    return convert


def variadic_mean(ctx: Context, op: Op) -> None:
    binary("ADD")(ctx, op)
    y = ctx.bound[op.y]
    n = len(op.inputs)
    if n > 1:
        ctx.bind(op.y, ctx.emit("MUL", [y, ctx.scalar(1 / n, op.y)], NONE, out=f"{op.y}{HIDDEN}m"))


def power(ctx: Context, op: Op) -> None:
    v = ctx.need(op, 1, "exponent")
    if v.size != 1:
        raise UnsupportedError("its exponent is not one number")
    e = float(np.ravel(v)[0])
    x = _float(ctx, ctx.tensor(op.x))
    if e == 1:
        return ctx.bind(op.y, x)
    if e == 0.5:
        return unary("SQRT")(ctx, op)
    if e == -0.5:
        return unary("RSQRT")(ctx, op)
    if e == -1:
        return reciprocal(ctx, op)
    if e not in (2, 3, 4):
        raise UnsupportedError(f"the power {e:g} is not implemented")
    square = ctx.emit("MUL", [x, x], NONE, out=op.y if e == 2 else f"{op.y}{HIDDEN}2", name=op.name)
    y = square
    if e > 2:
        y = ctx.emit("MUL", [square, x if e == 3 else square], NONE, out=op.y)
    return ctx.bind(op.y, y)


def reciprocal(ctx: Context, op: Op) -> None:
    one = ctx.scalar(1.0, op.y)
    ctx.bind(op.y, ctx.emit("DIV", [one, ctx.tensor(op.x)], NONE, out=op.y, name=op.name))


def clip(ctx: Context, op: Op) -> None:
    def bound(i: int, key: str, default: float) -> float:
        if key in op.attrs:
            return float(op.attrs[key])
        if op.input(i) is None:
            return default
        v = np.ravel(ctx.need(op, i, key))
        if v.size != 1 or np.isnan(v[0]):
            raise UnsupportedError(f"its {key} is not a number")
        return float(v[0])

    big = float(np.finfo(np.float32).max)
    low, high = bound(1, "min", -np.inf), bound(2, "max", np.inf)
    low, high = (-np.inf if low <= -big else low), (np.inf if high >= big else high)
    x = _float(ctx, ctx.tensor(op.x))
    fused = {(0.0, 6.0): "RELU6", (0.0, np.inf): "RELU", (-1.0, 1.0): "RELU_N1_TO_1"}
    if (low, high) in fused:
        return unary(fused[(low, high)])(ctx, op)
    if low == 0.0:
        x = ctx.emit("RELU", [x], out=f"{op.y}{HIDDEN}low", name=op.name)
    elif low > -np.inf:
        x = ctx.emit("MAXIMUM", [x, ctx.scalar(low, op.y)], out=f"{op.y}{HIDDEN}low", name=op.name)
    if high < np.inf:
        x = ctx.emit("MINIMUM", [x, ctx.scalar(high, op.y)], out=op.y, name=op.name)
    return ctx.bind(op.y, x)


def leaky_relu(ctx: Context, op: Op) -> None:
    attrs = {"alpha": float(np.float32(op.attr("alpha", 0.01)))}
    ctx.bind(op.y, ctx.emit("LEAKY_RELU", [ctx.tensor(op.x)], attrs, out=op.y, name=op.name))


def prelu(ctx: Context, op: Op) -> None:
    if not ctx.is_const(op.input(1)):
        raise UnsupportedError("its slope is not a constant")
    slope = ctx.tensor(op.input(1))
    ctx.bind(op.y, ctx.emit("PRELU", [ctx.tensor(op.x), slope], out=op.y, name=op.name))


def hard_sigmoid(ctx: Context, op: Op) -> None:
    """max(0, min(1, alpha x + beta)) from MUL, ADD, RELU and MINIMUM."""
    alpha, beta = float(op.attr("alpha", 0.2)), float(op.attr("beta", 0.5))
    x = ctx.emit("MUL", [ctx.tensor(op.x), ctx.scalar(alpha, op.y)], NONE, out=f"{op.y}{HIDDEN}a")
    x = ctx.emit("ADD", [x, ctx.scalar(beta, op.y)], NONE, out=f"{op.y}{HIDDEN}b")
    x = ctx.emit("RELU", [x], out=f"{op.y}{HIDDEN}low")
    ctx.bind(op.y, ctx.emit("MINIMUM", [x, ctx.scalar(1.0, op.y)], out=op.y, name=op.name))


def swish(ctx: Context, op: Op) -> None:
    alpha = float(op.attr("alpha", 1.0))
    x = z = ctx.tensor(op.x)
    if alpha != 1.0:
        z = ctx.emit("MUL", [x, ctx.scalar(alpha, op.y)], NONE, out=f"{op.y}{HIDDEN}a")
    s = ctx.emit("LOGISTIC", [z], out=f"{op.y}{HIDDEN}s", name=op.name)
    ctx.bind(op.y, ctx.emit("MUL", [x, s], NONE, out=op.y))


def elu(ctx: Context, op: Op) -> None:
    """relu(x) + alpha (exp(min(x, 0)) - 1)."""
    alpha = float(op.attr("alpha", 1.0))
    x = ctx.tensor(op.x)
    p = ctx.emit("RELU", [x], out=f"{op.y}{HIDDEN}p", name=op.name)
    m = ctx.emit("MINIMUM", [x, ctx.scalar(0.0, op.y)], out=f"{op.y}{HIDDEN}min")
    e = ctx.emit("EXP", [m], out=f"{op.y}{HIDDEN}e")
    e = ctx.emit("SUB", [e, ctx.scalar(1.0, op.y)], NONE, out=f"{op.y}{HIDDEN}e1")
    if alpha != 1.0:
        e = ctx.emit("MUL", [e, ctx.scalar(alpha, op.y)], NONE, out=f"{op.y}{HIDDEN}ea")
    ctx.bind(op.y, ctx.emit("ADD", [p, e], NONE, out=op.y))


def selu(ctx: Context, op: Op) -> None:
    """gamma (relu(x) + alpha (exp(min(x, 0)) - 1)); the defaults are the operator's own."""
    alpha = float(op.attr("alpha", 1.67326319217681884765625))
    inner = Op(op.name, "Elu", op.inputs, [f"{op.y}{HIDDEN}elu"], {"alpha": alpha})
    elu(ctx, inner)
    gamma = ctx.scalar(float(op.attr("gamma", 1.05070102214813232421875)), op.y)
    ctx.bind(op.y, ctx.emit("MUL", [ctx.tensor(inner.y), gamma], NONE, out=op.y))


def gelu(ctx: Context, op: Op) -> None:
    attrs = {"approximate": op.attr("approximate", "none") == "tanh"}
    ctx.bind(op.y, ctx.emit("GELU", [ctx.tensor(op.x)], attrs, out=op.y, name=op.name))


def softmax(ctx: Context, op: Op) -> None:
    x = ctx.tensor(op.x)
    rank = len(ctx.graph.tensor(x).shape)
    axis = ctx.axis(int(op.attr("axis", -1)), rank)
    if axis == rank - 1:
        y = ctx.emit("SOFTMAX", [x], {"beta": 1.0}, out=op.y, name=op.name)
        return ctx.bind(op.y, y)
    last = [*(i for i in range(rank) if i != axis), axis]
    t = ctx.transpose(x, last, f"{op.y}{HIDDEN}last")
    y = ctx.emit("SOFTMAX", [t], {"beta": 1.0}, out=f"{op.y}{HIDDEN}nhwc", name=op.name)
    return ctx.bind(op.y, ctx.transpose(y, np.argsort(last).tolist(), f"{op.y}{HIDDEN}nchw"))


def log_softmax(ctx: Context, op: Op) -> None:
    """d - log(sum(exp(d))) with d = x - max(x): every step has a range that int8 holds well."""
    x = ctx.tensor(op.x)
    rank = len(ctx.graph.tensor(x).shape)
    over = {"axes": (ctx.axis(int(op.attr("axis", -1)), rank),), "keep_dims": True}
    top = ctx.emit("REDUCE_MAX", [x], over, out=f"{op.y}{HIDDEN}max")
    d = ctx.emit("SUB", [x, top], NONE, out=f"{op.y}{HIDDEN}d")
    e = ctx.emit("EXP", [d], out=f"{op.y}{HIDDEN}e")
    total = ctx.emit("SUM", [e], over, out=f"{op.y}{HIDDEN}sum")
    log = ctx.emit("LOG", [total], out=f"{op.y}{HIDDEN}log")
    ctx.bind(op.y, ctx.emit("SUB", [d, log], NONE, out=op.y, name=op.name))


def _softplus(ctx: Context, op: Op, out: str) -> str:
    """relu(x) + log(1 + exp(-|x|)), which never overflows."""
    x = ctx.tensor(op.x)
    m = ctx.emit("NEG", [ctx.emit("ABS", [x], out=f"{op.y}{HIDDEN}abs")], out=f"{op.y}{HIDDEN}neg")
    e = ctx.emit("EXP", [m], out=f"{op.y}{HIDDEN}e")
    e = ctx.emit("ADD", [e, ctx.scalar(1.0, op.y)], NONE, out=f"{op.y}{HIDDEN}e1")
    log = ctx.emit("LOG", [e], out=f"{op.y}{HIDDEN}log")
    p = ctx.emit("RELU", [x], out=f"{op.y}{HIDDEN}p")
    return ctx.emit("ADD", [p, log], NONE, out=out, name=op.name)


def softplus(ctx: Context, op: Op) -> None:
    ctx.bind(op.y, _softplus(ctx, op, op.y))


def mish(ctx: Context, op: Op) -> None:
    """x tanh(softplus(x))."""
    s = _softplus(ctx, op, f"{op.y}{HIDDEN}softplus")
    t = ctx.emit("TANH", [s], out=f"{op.y}{HIDDEN}tanh")
    ctx.bind(op.y, ctx.emit("MUL", [ctx.tensor(op.x), t], NONE, out=op.y))


def reduction_axes(ctx: Context, op: Op, rank: int) -> tuple[int, ...]:
    axes = ctx.ints(op, 1, "axes", "axes")
    if not axes:
        if op.attr("noop_with_empty_axes", 0):
            return ()
        return tuple(range(rank))
    return tuple(sorted({ctx.axis(a, rank) for a in axes}))


def reduce(type: str, before: str | None = None, after: str | None = None) -> Converter:
    """A reduction; ``before`` (NEG or SQUARE) and ``after`` (NEG or SQRT) make the others of it."""

    def convert(ctx: Context, op: Op) -> None:
        x = _float(ctx, ctx.tensor(op.x))
        axes = reduction_axes(ctx, op, len(ctx.graph.tensor(x).shape))
        if not axes:
            return ctx.bind(op.y, x)
        if before == "SQUARE":
            x = ctx.emit("MUL", [x, x], NONE, out=f"{op.y}{HIDDEN}square")
        elif before:
            x = ctx.emit(before, [x], out=f"{op.y}{HIDDEN}before")
        out = f"{op.y}{HIDDEN}reduced" if after else op.y
        attrs = {"axes": axes, "keep_dims": bool(op.attr("keepdims", 1))}
        y = ctx.emit(type, [x], attrs, out=out, name=op.name)
        if after:
            y = ctx.emit(after, [y], out=op.y)
        return ctx.bind(op.y, y)

    return convert


def arg_max(ctx: Context, op: Op) -> None:
    if op.attr("select_last_index", 0):
        raise UnsupportedError("select_last_index is not implemented")
    x = ctx.tensor(op.x)
    shape = ctx.graph.tensor(x).shape
    axis = ctx.axis(int(op.attr("axis", 0)), len(shape))
    keep = bool(op.attr("keepdims", 1))
    y = ctx.emit(
        "ARG_MAX",
        [x],
        {"axis": axis},
        out=f"{op.y}{HIDDEN}flat" if keep else op.y,
        dtype="int64",
        name=op.name,
    )
    if keep:
        y = ctx.reshape(y, tuple(1 if i == axis else d for i, d in enumerate(shape)), op.y)
    ctx.bind(op.y, y)


CONVERTERS: dict[str, Converter] = {
    "Add": binary("ADD"),
    "Sum": binary("ADD"),
    "Mean": variadic_mean,
    "Sub": binary("SUB"),
    "Mul": binary("MUL"),
    "Div": binary("DIV"),
    "Max": binary("MAXIMUM"),
    "Min": binary("MINIMUM"),
    "Pow": power,
    "Reciprocal": reciprocal,
    "Sqrt": unary("SQRT"),
    "Exp": unary("EXP"),
    "Log": unary("LOG"),
    "LogSoftmax": log_softmax,
    "Softplus": softplus,
    "Mish": mish,
    "Abs": unary("ABS"),
    "Neg": unary("NEG"),
    "Relu": unary("RELU"),
    "Sigmoid": unary("LOGISTIC"),
    "Tanh": unary("TANH"),
    "HardSwish": unary("HARD_SWISH"),
    "Clip": clip,
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "HardSigmoid": hard_sigmoid,
    "Swish": swish,
    "Elu": elu,
    "Selu": selu,
    "Gelu": gelu,
    "Softmax": softmax,
    "ReduceMean": reduce("MEAN"),
    "ReduceSum": reduce("SUM"),
    "ReduceMax": reduce("REDUCE_MAX"),
    "ReduceMin": reduce("REDUCE_MAX", "NEG", "NEG"),
    "ReduceSumSquare": reduce("SUM", "SQUARE"),
    "ReduceL2": reduce("SUM", "SQUARE", "SQRT"),
    "ArgMax": arg_max,
}
