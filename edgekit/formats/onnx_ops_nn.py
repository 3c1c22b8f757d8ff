"""ONNX operators with weights or windows: convolution, pooling, dense, normalization."""

from __future__ import annotations

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.formats.onnx_context import HIDDEN, Context, Converter, Op

NONE = {"activation": "NONE"}


def _pair(op: Op, key: str, n: int, default: int = 1) -> list[int]:
    return [int(v) for v in (op.attr(key) or [default] * n)]


def window_padding(
    op: Op,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> list[tuple[int, int]]:
    """(before, after) of every spatial axis, ``auto_pad`` resolved (ONNX Conv, Pool)."""
    n = len(size)
    auto = op.attr("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        pads = _pair(op, "pads", 2 * n, 0)
        return [(pads[i], pads[n + i]) for i in range(n)]
    if auto == "VALID":
        return [(0, 0)] * n
    out = []
    for s, k, st, d in zip(size, kernel, stride, dilation, strict=True):
        total = max((-(-s // st) - 1) * st + (k - 1) * d + 1 - s, 0)
        small, large = total // 2, total - total // 2
        out.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return out


def name_padding(
    pads: list[tuple[int, int]],
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> str | tuple[int, int, int, int]:
    """ "VALID" or "SAME" where the pads are what TFLite would compute, else (t, b, l, r)."""
    if any(p < 0 for pair in pads for p in pair):
        raise UnsupportedError(f"its padding {pads} is negative")
    if all(p == (0, 0) for p in pads):
        return "VALID"
    same = []
    for s, k, st, d in zip(size, kernel, stride, dilation, strict=True):
        total = max((-(-s // st) - 1) * st + (k - 1) * d + 1 - s, 0)
        same.append((total // 2, total - total // 2))
    return "SAME" if pads == same else (*pads[0], *pads[1])


def _as_2d(ctx: Context, op: Op) -> tuple[str, bool]:
    """Input 0 as [N,C,H,W] (a 1-D feature map gets height 1) and whether it was 1-D."""
    x = ctx.tensor(op.x)
    shape = ctx.graph.tensor(x).shape
    if len(shape) == 4:
        return x, False
    if len(shape) == 3:
        n, c, w = shape
        return ctx.reshape(x, (n, c, 1, w), f"{op.y}{HIDDEN}2d"), True
    raise UnsupportedError(f"its input has rank {len(shape)}; 1-D and 2-D ones are implemented")


def _finish(ctx: Context, op: Op, y: str, was_1d: bool) -> None:
    nchw = ctx.from_nhwc(op, y)
    if was_1d:
        n, c, _, w = ctx.graph.tensor(nchw).shape
        ctx.bind(op.y, ctx.reshape(nchw, (n, c, w), f"{op.y}{HIDDEN}1d"))


def _spatial(op: Op, key: str, one_d: bool, default: int = 1) -> tuple[int, int]:
    v = _pair(op, key, 1 if one_d else 2, default)
    if len(v) != (1 if one_d else 2):
        raise UnsupportedError(f"its {key} {v} do not fit its rank")
    return (default if one_d else v[0], v[-1])


def _pads(op: Op, one_d: bool, size, kernel, stride, dilation) -> list[tuple[int, int]]:
    if one_d:
        p = window_padding(op, size[1:], kernel[1:], stride[1:], dilation[1:])
        return [(0, 0), *p]
    return window_padding(op, size, kernel, stride, dilation)


def _bias(ctx: Context, op: Op, i: int) -> str | None:
    name = op.input(i)
    return None if name is None else ctx.weight(name, np.ravel, 0)


def conv(ctx: Context, op: Op) -> None:
    x, one_d = _as_2d(ctx, op)
    w_name = op.input(1)
    w_shape = ctx.shape(w_name)
    if not ctx.is_const(w_name):
        raise UnsupportedError("its weights are computed at run time")
    if one_d:
        w_shape = (*w_shape[:2], 1, *w_shape[2:])
    if len(w_shape) != 4:
        raise UnsupportedError(f"its weights have shape {list(w_shape)}")
    _, c, h, width = ctx.graph.tensor(x).shape
    o, per_group, kh, kw = w_shape
    group = int(op.attr("group", 1))
    stride = _spatial(op, "strides", one_d)
    dilation = _spatial(op, "dilations", one_d)
    pads = _pads(op, one_d, (h, width), (kh, kw), stride, dilation)
    attrs = {
        "stride": stride,
        "dilation": dilation,
        "padding": name_padding(pads, (h, width), (kh, kw), stride, dilation),
        **NONE,
    }
    if group < 1 or c != per_group * group or o % group:
        raise UnsupportedError(
            f"its {group} groups do not fit {c} channels and weights {list(w_shape)}"
        )
    depthwise = group == c and group > 1
    if depthwise:  # [C*m, 1, kh, kw] -> [1, kh, kw, C*m]
        w = ctx.weight(w_name, lambda a: a.reshape(w_shape).transpose(1, 2, 3, 0), 3)
    else:  # OIHW -> OHWI
        w = ctx.weight(w_name, lambda a: a.reshape(w_shape).transpose(0, 2, 3, 1), 0)
    y = ctx.emit(
        "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
        [ctx.nhwc(op, x), w, _bias(ctx, op, 2)],
        attrs,
        out=f"{op.y}{HIDDEN}nhwc",
        name=op.name,
    )
    _finish(ctx, op, y, one_d)


def conv_transpose(ctx: Context, op: Op) -> None:
    x, one_d = _as_2d(ctx, op)
    w_name = op.input(1)
    if not ctx.is_const(w_name):
        raise UnsupportedError("its weights are computed at run time")
    w_shape = ctx.shape(w_name)
    if one_d:
        w_shape = (*w_shape[:2], 1, *w_shape[2:])
    n, c, h, width = ctx.graph.tensor(x).shape
    ci, o, kh, kw = w_shape
    if int(op.attr("group", 1)) != 1:
        raise UnsupportedError("grouped transposed convolution is not implemented")
    if _spatial(op, "dilations", one_d) != (1, 1):
        raise UnsupportedError("dilated transposed convolution is not implemented")
    if ci != c:
        raise UnsupportedError(f"its weights {list(w_shape)} do not fit {c} input channels")
    stride = _spatial(op, "strides", one_d)
    extra = _spatial(op, "output_padding", one_d, 0)
    size, kernel = (h, width), (kh, kw)
    full = [st * (s - 1) + e + k for s, k, st, e in zip(size, kernel, stride, extra, strict=True)]
    wanted = op.attr("output_shape")
    auto = op.attr("auto_pad", "NOTSET")
    if wanted is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
        if wanted is not None:
            spatial = [int(v) for v in wanted][-(1 if one_d else 2) :]
            out = [1, *spatial] if one_d else spatial
        else:
            out = [s * st for s, st in zip(size, stride, strict=True)]
        pads = []
        for f, o_ in zip(full, out, strict=True):
            total = max(f - o_, 0)
            half = total // 2
            pads.append((half, total - half) if auto == "SAME_UPPER" else (total - half, half))
    elif auto == "VALID":
        pads, out = [(0, 0), (0, 0)], full
    else:
        p = [int(v) for v in (op.attr("pads") or [0] * (2 if one_d else 4))]
        pads = [(0, 0), (p[0], p[1])] if one_d else [(p[0], p[2]), (p[1], p[3])]
        out = [f - a - b for f, (a, b) in zip(full, pads, strict=True)]
    if min(out) < 1:
        raise UnsupportedError(f"its output would have the size {out}")
    # The forward convolution maps ``out`` to ``size``: its trailing pad lacks the output padding.
    forward = [(a, b - e) for (a, b), e in zip(pads, extra, strict=True)]
    w = ctx.weight(w_name, lambda a: a.reshape(w_shape).transpose(1, 2, 3, 0), 0)
    y = ctx.emit(
        "TRANSPOSE_CONV",
        [ctx.nhwc(op, x), w, _bias(ctx, op, 2)],
        {
            "stride": stride,
            "padding": name_padding(forward, tuple(out), kernel, stride, (1, 1)),
            "output_shape": (n, *out, o),
            **NONE,
        },
        out=f"{op.y}{HIDDEN}nhwc",
        name=op.name,
    )
    _finish(ctx, op, y, one_d)


def _pool(ctx: Context, op: Op, type: str) -> None:
    if len(op.outputs) > 1 and op.outputs[1]:
        raise UnsupportedError("its second output (indices) is not implemented")
    x, one_d = _as_2d(ctx, op)
    kernel = _spatial(op, "kernel_shape", one_d)
    stride = _spatial(op, "strides", one_d)
    if _spatial(op, "dilations", one_d) != (1, 1):
        raise UnsupportedError("dilated pooling is not implemented")
    _, _, h, w = ctx.graph.tensor(x).shape
    size = (h, w)
    pads = _pads(op, one_d, size, kernel, stride, (1, 1))
    counted = bool(op.attr("count_include_pad", 0)) and type == "AVERAGE_POOL_2D"
    if op.attr("ceil_mode", 0) and op.attr("auto_pad", "NOTSET") in ("NOTSET", ""):
        for i, (s, k, st) in enumerate(zip(size, kernel, stride, strict=True)):
            a, b = pads[i]
            windows = -(-(s + a + b - k) // st) + 1
            if (windows - 1) * st >= s + a:  # it would start in the padding after
                windows -= 1
            more = max((windows - 1) * st + k - (s + a + b), 0)
            if more and counted:
                raise UnsupportedError("ceil_mode with count_include_pad is not implemented")
            pads[i] = (a, b + more)
    nhwc = ctx.nhwc(op, x)
    if counted and any(p != (0, 0) for p in pads):
        nhwc = ctx.emit(
            "PAD",
            [nhwc],
            {"paddings": ((0, 0), pads[0], pads[1], (0, 0)), "value": 0.0},
            out=f"{op.y}{HIDDEN}padded",
        )
        pads = [(0, 0), (0, 0)]
    y = ctx.emit(
        type,
        [nhwc],
        {
            "filter": kernel,
            "stride": stride,
            "padding": name_padding(pads, size, kernel, stride, (1, 1)),
            **NONE,
        },
        out=f"{op.y}{HIDDEN}nhwc",
        name=op.name,
    )
    _finish(ctx, op, y, one_d)


def max_pool(ctx: Context, op: Op) -> None:
    _pool(ctx, op, "MAX_POOL_2D")


def average_pool(ctx: Context, op: Op) -> None:
    _pool(ctx, op, "AVERAGE_POOL_2D")


def global_pool(type: str) -> Converter:
    def convert(ctx: Context, op: Op) -> None:
        x = ctx.tensor(op.x)
        rank = len(ctx.graph.tensor(x).shape)
        if rank < 3:
            raise UnsupportedError(f"its input has rank {rank}")
        attrs = {"axes": tuple(range(2, rank)), "keep_dims": True}
        ctx.bind(op.y, ctx.emit(type, [x], attrs, out=op.y, name=op.name))

    return convert


def _dense(ctx: Context, op: Op, x: str, w: str, bias: str | None, out: str) -> str:
    two_d = len(ctx.graph.tensor(x).shape) == 2
    return ctx.emit(
        "FULLY_CONNECTED",
        [x, w, bias],
        {"keep_num_dims": not two_d, **NONE},
        out=out,
        name=op.name,
    )


def gemm(ctx: Context, op: Op) -> None:
    alpha, beta = float(op.attr("alpha", 1.0)), float(op.attr("beta", 1.0))
    trans_a, trans_b = int(op.attr("transA", 0)), int(op.attr("transB", 0))
    b_name, c_name = op.input(1), op.input(2)
    x = ctx.tensor(op.x)
    if trans_a:
        x = ctx.transpose(x, (1, 0), f"{op.y}{HIDDEN}a")
    if len(ctx.graph.tensor(x).shape) != 2:
        raise UnsupportedError("its input does not have rank 2")
    scaled = alpha != 1.0
    if ctx.is_const(b_name) and not (scaled and b_name in ctx.quants):

        def rows(a: np.ndarray) -> np.ndarray:
            a = a if trans_b else a.T
            return a * np.float32(alpha) if scaled else a

        w = ctx.weight(b_name, rows, 0)
        units = ctx.graph.tensor(w).shape[0]
        bias, added = None, c_name
        c_shape = ctx.shape(c_name) if c_name else ()
        n_c = int(np.prod(c_shape)) if c_name else 0
        if c_name and ctx.is_const(c_name) and n_c == (c_shape[-1] if c_shape else 1):
            if c_name in ctx.quants and n_c == units and beta == 1.0:
                bias, added = ctx.weight(c_name, np.ravel, 0), None
            elif c_name in ctx.values:
                v = np.broadcast_to(np.ravel(ctx.values[c_name]), (units,)) * np.float32(beta)
                bias, added = ctx.const(c_name, v), None
        y = _dense(ctx, op, x, w, bias, op.y if added is None else f"{op.y}{HIDDEN}gemm")
    else:
        y = ctx.emit(
            "BATCH_MATMUL",
            [x, ctx.tensor(b_name)],
            {"adj_x": False, "adj_y": bool(trans_b)},
            out=f"{op.y}{HIDDEN}gemm",
            name=op.name,
        )
        if scaled:
            y = ctx.emit("MUL", [y, ctx.scalar(alpha, op.y)], NONE, out=f"{op.y}{HIDDEN}alpha")
        added = c_name
    if added is not None:
        c = ctx.tensor(added)
        if beta != 1.0:
            c = ctx.emit("MUL", [c, ctx.scalar(beta, op.y)], NONE, out=f"{op.y}{HIDDEN}beta")
        y = ctx.emit("ADD", [y, c], NONE, out=op.y)
    ctx.bind(op.y, y)


def matmul(ctx: Context, op: Op) -> None:
    b = op.input(1)
    a_shape, b_shape = ctx.shape(op.x), ctx.shape(b)
    if len(a_shape) < 2 or len(b_shape) < 2:
        raise UnsupportedError("a product with a vector is not implemented")
    if ctx.is_const(b) and len(b_shape) == 2 and not ctx.is_const(op.x):
        w = ctx.weight(b, lambda v: v.T, 0)
        y = _dense(ctx, op, ctx.tensor(op.x), w, None, op.y)
    else:
        y = ctx.emit(
            "BATCH_MATMUL",
            [ctx.tensor(op.x), ctx.tensor(b)],
            {"adj_x": False, "adj_y": False},
            out=op.y,
            name=op.name,
        )
    ctx.bind(op.y, y)


def batch_normalization(ctx: Context, op: Op) -> None:
    if int(op.attr("training_mode", 0)):
        raise UnsupportedError("training mode is not implemented")
    scale, shift, mean, var = (
        np.asarray(ctx.real(op, i, what), np.float64)
        for i, what in enumerate(("scale", "bias", "mean", "variance"), start=1)
    )
    x = ctx.tensor(op.x)
    rank = len(ctx.graph.tensor(x).shape)
    factor = scale / np.sqrt(var + float(op.attr("epsilon", 1e-5)))
    shape = (-1, *[1] * (rank - 2))
    mul = ctx.const(f"{op.name}{HIDDEN}scale", factor.astype(np.float32).reshape(shape))
    add = ctx.const(
        f"{op.name}{HIDDEN}shift", (shift - mean * factor).astype(np.float32).reshape(shape)
    )
    y = ctx.emit("MUL", [x, mul], NONE, out=f"{op.y}{HIDDEN}scaled", name=op.name)
    ctx.bind(op.y, ctx.emit("ADD", [y, add], NONE, out=op.y))


def layer_normalization(ctx: Context, op: Op) -> None:
    x = ctx.tensor(op.x)
    shape = ctx.graph.tensor(x).shape
    axis = ctx.axis(int(op.attr("axis", -1)), len(shape))
    if any(op.outputs[1:]):
        raise UnsupportedError("its mean and deviation outputs are not implemented")
    features = int(np.prod(shape[axis:]))
    gamma = np.broadcast_to(ctx.real(op, 1, "scale"), shape[axis:]).reshape(-1)
    beta = np.zeros(features, np.float32)
    if op.input(2):
        beta = np.broadcast_to(ctx.real(op, 2, "bias"), shape[axis:]).reshape(-1)
    flat = axis != len(shape) - 1
    if flat:
        x = ctx.reshape(x, (*shape[:axis], features), f"{op.y}{HIDDEN}flat")
    y = ctx.emit(
        "LAYER_NORM",
        [
            x,
            ctx.const(f"{op.name}{HIDDEN}gamma", gamma),
            ctx.const(f"{op.name}{HIDDEN}beta", beta),
        ],
        {"epsilon": float(op.attr("epsilon", 1e-5))},
        out=op.y if not flat else f"{op.y}{HIDDEN}norm",
        name=op.name,
    )
    ctx.bind(op.y, ctx.reshape(y, shape, op.y) if flat else y)


def depth_to_space(ctx: Context, op: Op) -> None:
    x = ctx.tensor(op.x)
    n, c, h, w = ctx.graph.tensor(x).shape
    b = int(op.attr("blocksize", 1))
    if c % (b * b):
        raise UnsupportedError(f"{c} channels are not a multiple of {b * b}")
    o = c // (b * b)
    if op.attr("mode", "DCR") == "DCR":
        split, perm = (n, b, b, o, h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, perm = (n, o, b, b, h, w), (0, 1, 4, 2, 5, 3)
    y = ctx.reshape(x, split, f"{op.y}{HIDDEN}blocks")
    y = ctx.transpose(y, perm, f"{op.y}{HIDDEN}moved")
    ctx.bind(op.y, ctx.reshape(y, (n, o, h * b, w * b), op.y))


def space_to_depth(ctx: Context, op: Op) -> None:
    x = ctx.tensor(op.x)
    n, c, h, w = ctx.graph.tensor(x).shape
    b = int(op.attr("blocksize", 1))
    if h % b or w % b:
        raise UnsupportedError(f"an image of {h}x{w} is not a multiple of {b}")
    y = ctx.reshape(x, (n, c, h // b, b, w // b, b), f"{op.y}{HIDDEN}blocks")
    y = ctx.transpose(y, (0, 3, 5, 1, 2, 4), f"{op.y}{HIDDEN}moved")
    ctx.bind(op.y, ctx.reshape(y, (n, c * b * b, h // b, w // b), op.y))


CONVERTERS: dict[str, Converter] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_pool("MEAN"),
    "GlobalMaxPool": global_pool("REDUCE_MAX"),
    "Gemm": gemm,
    "MatMul": matmul,
    "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
