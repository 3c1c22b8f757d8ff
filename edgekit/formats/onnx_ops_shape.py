"""ONNX operators that move data, and quantization: reshape, slice, pad, gather, Q and DQ."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.errors import FormatError, UnsupportedError
from edgekit.formats.onnx_context import HIDDEN, Context, Converter, Op, QuantConst
from edgekit.graph.ir import QuantParams

NONE = {"activation": "NONE"}
_FLOATS = ("float32", "float16", "float64", "bfloat16")


def reshape(ctx: Context, op: Op) -> None:
    old = ctx.shape(op.x)
    new = [int(v) for v in ctx.need(op, 1, "shape")]
    if not op.attr("allowzero", 0):
        new = [old[i] if v == 0 and i < len(old) else v for i, v in enumerate(new)]
    if new.count(-1) == 1:
        rest = int(np.prod([v for v in new if v != -1], dtype=np.int64))
        total = int(np.prod(old, dtype=np.int64))
        if rest <= 0 or total % rest:
            raise FormatError(f"node '{op.name}' reshapes {list(old)} to {new}")
        new[new.index(-1)] = total // rest
    ctx.bind(op.y, _reshaped(ctx, op, new))


def _reshaped(ctx: Context, op: Op, shape: list[int] | tuple[int, ...]) -> str:
    x = ctx.tensor(op.x)
    return ctx.emit("RESHAPE", [x], {"new_shape": tuple(shape)}, out=op.y, name=op.name)


def flatten(ctx: Context, op: Op) -> None:
    s = ctx.shape(op.x)
    axis = int(op.attr("axis", 1))
    axis = axis + len(s) if axis < 0 else axis
    ctx.bind(op.y, _reshaped(ctx, op, (int(np.prod(s[:axis])), int(np.prod(s[axis:])))))


def squeeze(ctx: Context, op: Op) -> None:
    s = ctx.shape(op.x)
    axes = ctx.ints(op, 1, "axes", "axes")
    if axes is None:
        drop = {i for i, d in enumerate(s) if d == 1}
    else:
        drop = {ctx.axis(a, len(s)) for a in axes}
    ctx.bind(op.y, _reshaped(ctx, op, [d for i, d in enumerate(s) if i not in drop]))


def unsqueeze(ctx: Context, op: Op) -> None:
    s = list(ctx.shape(op.x))
    axes = ctx.ints(op, 1, "axes", "axes") or []
    rank = len(s) + len(axes)
    for a in sorted(ctx.axis(a, rank) for a in axes):
        s.insert(a, 1)
    ctx.bind(op.y, _reshaped(ctx, op, s))


def transpose(ctx: Context, op: Op) -> None:
    x = ctx.tensor(op.x)
    rank = len(ctx.graph.tensor(x).shape)
    perm = [int(p) for p in (op.attr("perm") or range(rank)[::-1])]
    if sorted(perm) != list(range(rank)):
        raise FormatError(f"node '{op.name}' has the permutation {perm} for rank {rank}")
    ctx.bind(op.y, ctx.emit("TRANSPOSE", [x], {"perm": tuple(perm)}, out=op.y, name=op.name))


def expand(ctx: Context, op: Op) -> None:
    s = ctx.shape(op.x)
    target = tuple(int(v) for v in ctx.need(op, 1, "shape"))
    full = np.broadcast_shapes(s, target)
    x = ctx.tensor(op.x)
    if full == tuple(s):
        return ctx.bind(op.y, x)
    if len(full) != len(s):
        x = ctx.reshape(x, (*[1] * (len(full) - len(s)), *s), f"{op.y}{HIDDEN}rank")
    for axis, n in enumerate(full):
        have = ctx.graph.tensor(x).shape[axis]
        if have != n:
            if n > 4096:
                raise UnsupportedError(f"repeating a dimension {n} times is not implemented")
            attrs = {"axis": axis, **NONE}
            x = ctx.emit("CONCATENATION", [x] * n, attrs, out=f"{op.y}{HIDDEN}{axis}")
    return ctx.bind(op.y, x)


def concat(ctx: Context, op: Op) -> None:
    names = [ctx.tensor(i) for i in op.inputs if ctx.shape(i) != (0,)]
    rank = len(ctx.graph.tensor(names[0]).shape)
    axis = ctx.axis(int(op.attr("axis", 0)), rank)
    if len(names) == 1:
        return ctx.bind(op.y, names[0])
    y = ctx.emit("CONCATENATION", names, {"axis": axis, **NONE}, out=op.y, name=op.name)
    return ctx.bind(op.y, y)


_PAD_MODES: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def tile(ctx: Context, op: Op) -> None:
    """Copies side by side, one axis after the other."""
    x = ctx.tensor(op.x)
    for a, n in enumerate(np.ravel(ctx.need(op, 1, "repeats")).tolist()):
        if n < 1:
            raise UnsupportedError("its result is empty")
        if n > 1:
            attrs = {"axis": a, "activation": "NONE"}
            x = ctx.emit("CONCATENATION", [x] * int(n), attrs, out=f"{op.y}{HIDDEN}tile{a}")
    ctx.bind(op.y, x)


def pad(ctx: Context, op: Op) -> None:
    mode = op.attr("mode", "constant")
    if mode not in ("constant", *_PAD_MODES):
        raise UnsupportedError(f"padding mode '{mode}' is not implemented")
    x = ctx.tensor(op.x)
    rank = len(ctx.graph.tensor(x).shape)
    pads = ctx.ints(op, 1, "pads", "pads") or []
    axes = list(range(rank))
    if op.input(3):
        axes = [ctx.axis(int(a), rank) for a in np.ravel(ctx.need(op, 3, "axes"))]
    if len(pads) != 2 * len(axes):
        raise FormatError(f"node '{op.name}' has {len(pads)} pads for {len(axes)} axes")
    if min(pads, default=0) < 0:
        raise UnsupportedError("negative padding is not implemented")
    if mode != "constant":
        for i, a in enumerate(axes):
            before, after = pads[i], pads[len(axes) + i]
            n = ctx.graph.tensor(x).shape[a]
            if mode == "reflect" and max(before, after) >= n:
                raise UnsupportedError(f"reflection of more than an axis of {n} is not implemented")
            if before or after:
                # NumPy's modes have ONNX's names and meaning.
                picked = np.pad(np.arange(n), (before, after), mode=_PAD_MODES[mode])
                attrs = {"axis": a, "indices": tuple(int(k) for k in picked)}
                x = ctx.emit("GATHER", [x], attrs, out=f"{op.y}{HIDDEN}pad{a}", name=op.name)
        return ctx.bind(op.y, x)
    value = 0.0
    if op.input(2):
        value = float(np.ravel(ctx.need(op, 2, "value"))[0])
    value = float(op.attr("value", value))
    if not np.isfinite(value):
        raise UnsupportedError(f"padding with {value} is not implemented")
    pairs = [(0, 0)] * rank
    for i, a in enumerate(axes):
        pairs[a] = (pads[i], pads[len(axes) + i])
    if not any(map(any, pairs)):
        return ctx.bind(op.y, x)
    attrs = {"paddings": tuple(pairs), "value": value}
    return ctx.bind(op.y, ctx.emit("PAD", [x], attrs, out=op.y, name=op.name))


def slice_(ctx: Context, op: Op) -> None:
    x = ctx.tensor(op.x)
    s = ctx.graph.tensor(x).shape
    starts = ctx.ints(op, 1, "starts", "starts") or []
    ends = ctx.ints(op, 2, "ends", "ends") or []
    axes = ctx.ints(op, 3, "axes", "axes") or list(range(len(starts)))
    steps = ctx.ints(op, 4, "steps", "steps") or [1] * len(starts)
    begin, end, step = [0] * len(s), list(s), [1] * len(s)
    for a, lo, hi, st in zip(axes, starts, ends, steps, strict=True):
        i = ctx.axis(a, len(s))
        if st == 0:
            raise FormatError(f"node '{op.name}' slices with step 0")
        r = range(s[i])[slice(lo, hi, st)]
        if len(r) == 0:
            raise UnsupportedError("its result is empty")
        begin[i], end[i], step[i] = r.start, r.stop, r.step
    if begin == [0] * len(s) and end == list(s) and step == [1] * len(s):
        return ctx.bind(op.y, x)
    attrs = {
        "begin": tuple(begin),
        "end": tuple(end),
        "strides": tuple(step),
        "shrink_axes": (),
    }
    return ctx.bind(op.y, ctx.emit("STRIDED_SLICE", [x], attrs, out=op.y, name=op.name))


def split(ctx: Context, op: Op) -> None:
    x = ctx.tensor(op.x)
    s = ctx.graph.tensor(x).shape
    axis = ctx.axis(int(op.attr("axis", 0)), len(s))
    sizes = ctx.ints(op, 1, "split", "split sizes")
    n = len(op.outputs)
    if sizes is None:
        each = -(-s[axis] // n)
        sizes = [min(each, s[axis] - k * each) for k in range(n)]
    if sum(sizes) != s[axis] or min(sizes) < 1 or len(sizes) != n:
        raise UnsupportedError(f"splitting {s[axis]} elements into {sizes} is not possible")
    if n == 1:
        return ctx.bind(op.y, x)
    outs = [o or f"{op.name}{HIDDEN}{k}" for k, o in enumerate(op.outputs)]
    attrs = {"axis": axis, "sizes": tuple(sizes)}
    for o, t in zip(outs, ctx.emit_many("SPLIT", [x], attrs, outs=outs, name=op.name), strict=True):
        ctx.bind(o, t)
    return None


def gather(ctx: Context, op: Op) -> None:
    x = ctx.tensor(op.x)
    s = ctx.graph.tensor(x).shape
    axis = ctx.axis(int(op.attr("axis", 0)), len(s))
    indices = ctx.need(op, 1, "list of indices")
    flat = [int(i) for i in np.ravel(indices)]
    if any(not -s[axis] <= i < s[axis] for i in flat):
        raise FormatError(f"node '{op.name}' gathers outside its input of {s[axis]} elements")
    flat = [i % s[axis] for i in flat]
    if indices.ndim == 0:
        at = {
            "begin": tuple(flat[0] if k == axis else 0 for k in range(len(s))),
            "end": tuple(flat[0] + 1 if k == axis else d for k, d in enumerate(s)),
            "strides": (1,) * len(s),
            "shrink_axes": (axis,),
        }
        return ctx.bind(op.y, ctx.emit("STRIDED_SLICE", [x], at, out=op.y, name=op.name))
    attrs = {"axis": axis, "indices": tuple(flat)}
    out = op.y if indices.ndim == 1 else f"{op.y}{HIDDEN}flat"
    y = ctx.emit("GATHER", [x], attrs, out=out, name=op.name)
    if indices.ndim != 1:
        y = ctx.reshape(y, (*s[:axis], *indices.shape, *s[axis + 1 :]), op.y)
    return ctx.bind(op.y, y)


def identity(ctx: Context, op: Op) -> None:
    ctx.alias(op)


def cast(ctx: Context, op: Op) -> None:
    from onnx import helper

    target = str(np.dtype(helper.tensor_dtype_to_np_dtype(int(op.attr("to", 1)))))
    t = ctx.graph.tensor(ctx.tensor(op.x))
    if (t.is_float and target in _FLOATS) or t.dtype == target:
        return ctx.alias(op)
    producers = {o: n for n in ctx.graph.nodes for o in n.outputs}
    p = producers.get(t.name)
    if p is not None and p.type == "ARG_MAX" and target in ("int32", "int64"):
        y = ctx.emit("ARG_MAX", p.inputs, p.attrs, out=op.y, dtype=target, name=op.name)
        return ctx.bind(op.y, y)
    if t.dtype in ("uint8", "int8") and target in _FLOATS and t.quant is None:
        # An integer input that is used as a number: scale 1, zero point 0.
        ctx.graph.tensors[t.name] = t.with_(quant=QuantParams.per_tensor(1.0, 0))
        return ctx.bind(op.y, ctx.emit("DEQUANTIZE", [t.name], out=op.y, name=op.name))
    raise UnsupportedError(f"a cast of {t.dtype} to {target} is not implemented")


# -- quantization ------------------------------------------------------------------------------

#: ONNX integer type -> (ours, what is subtracted from values and zero point).
_SHIFT = {"int8": ("int8", 0), "uint8": ("int8", 128), "int16": ("int16", 0)}


def _params(ctx: Context, op: Op) -> tuple[np.ndarray, np.ndarray, str | None]:
    scale = np.atleast_1d(np.asarray(ctx.need(op, 1, "scale"), np.float32))
    if scale.ndim != 1 or op.attr("block_size", 0):
        raise UnsupportedError("blockwise quantization is not implemented")
    if not np.all(np.isfinite(scale)) or np.any(scale <= 0):
        raise FormatError(f"node '{op.name}' has a scale that is not a positive number")
    if op.input(2) is None:
        return scale, np.zeros(scale.shape, np.int64), None
    zp = ctx.need(op, 2, "zero point")
    zeros = np.broadcast_to(np.asarray(zp).astype(np.int64).ravel(), scale.shape)
    return scale, zeros, str(zp.dtype)


def quantize_linear(ctx: Context, op: Op) -> None:
    scale, zp, dtype = _params(ctx, op)
    if dtype is None:
        to = int(op.attr("output_dtype", 0))
        dtype = {0: "uint8", 2: "uint8", 3: "int8", 5: "int16"}.get(to, f"type {to}")
    if scale.size != 1:
        raise UnsupportedError("activations quantized per channel are not implemented")
    if dtype not in _SHIFT:
        raise UnsupportedError(f"quantization to {dtype} is not implemented")
    ours, shift = _SHIFT[dtype]
    quant = QuantParams.per_tensor(float(scale[0]), int(zp[0]) - shift)
    y = ctx.emit("QUANTIZE", [ctx.tensor(op.x)], out=op.y, dtype=ours, quant=quant, name=op.name)
    ctx.bind(op.y, y)


def dequantize_linear(ctx: Context, op: Op) -> None:
    scale, zp, _ = _params(ctx, op)
    data = ctx.value(op.x)
    if data is not None:
        ctx.quants[op.y] = _constant(op, data, scale, zp)
        return
    if scale.size != 1:
        raise UnsupportedError("activations quantized per channel are not implemented")
    t = ctx.graph.tensor(ctx.tensor(op.x))
    x = t.name
    if t.dtype not in _SHIFT:
        raise UnsupportedError(f"dequantization of {t.dtype} is not implemented")
    if t.dtype == "uint8":  # a model input: everything inside is int8
        given = QuantParams.per_tensor(float(scale[0]), int(zp[0]))
        if t.quant is None:
            ctx.graph.tensors[x] = t.with_(quant=given)
        quant = QuantParams.per_tensor(float(scale[0]), int(zp[0]) - 128)
        x = ctx.emit("QUANTIZE", [x], out=f"{op.y}{HIDDEN}s8", dtype="int8", quant=quant)
    elif t.quant is None:
        quant = QuantParams.per_tensor(float(scale[0]), int(zp[0]))
        ctx.graph.tensors[x] = t.with_(quant=quant)
    elif t.quant.scale[0] != scale[0]:
        raise UnsupportedError("it reads a tensor with another scale than it was written with")
    ctx.bind(op.y, ctx.emit("DEQUANTIZE", [x], out=op.y, name=op.name))


def _constant(op: Op, data: np.ndarray, scale: np.ndarray, zp: np.ndarray) -> QuantConst:
    """An integer initializer with its meaning, as int8 (int16, int32) with zero point 0."""
    dtype = str(data.dtype)
    if dtype not in ("int8", "uint8", "int16", "int32"):
        raise UnsupportedError(f"dequantization of {dtype} is not implemented")
    axis = None
    if scale.size > 1:
        axis = int(op.attr("axis", 1)) % max(data.ndim, 1)
        if data.ndim == 0 or data.shape[axis] != scale.size:
            raise FormatError(
                f"node '{op.name}' has {scale.size} scales for data of shape {list(data.shape)}"
            )
    if dtype == "int32":
        if np.any(zp):
            raise UnsupportedError("int32 constants with a zero point are not implemented")
        return QuantConst(data, QuantParams(scale, np.zeros(scale.shape, np.int32), axis))
    along = (
        zp.reshape([-1 if i == axis else 1 for i in range(data.ndim)])
        if axis is not None
        else zp[0]
    )
    centred = data.astype(np.int32) - along
    low, high = (-32768, 32767) if dtype == "int16" else (-128, 127)
    if centred.size == 0 or (centred.min() >= low and centred.max() <= high):
        ours = "int16" if dtype == "int16" else "int8"
        quant = QuantParams(scale, np.zeros(scale.shape, np.int32), axis)
        return QuantConst(centred.astype(ours), quant)
    if axis is not None:
        raise UnsupportedError("constants with a zero point per channel are not implemented")
    shift = 128 if dtype == "uint8" else 0
    quant = QuantParams.per_tensor(float(scale[0]), int(zp[0]) - shift)
    return QuantConst((data.astype(np.int32) - shift).astype("int8"), quant)


CONVERTERS: dict[str, Converter] = {
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Expand": expand,
    "Concat": concat,
    "Pad": pad,
    "Tile": tile,
    "Slice": slice_,
    "Split": split,
    "Gather": gather,
    "Identity": identity,
    "Dropout": identity,
    "Cast": cast,
    "CastLike": identity,
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
}
