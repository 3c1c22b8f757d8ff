"""Graph operators as ONNX nodes: ``emit(writer, node)``; see :mod:`edgekit.formats.onnx_write`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import UnsupportedError

if TYPE_CHECKING:
    from edgekit.formats.onnx_write import Order, Writer
    from edgekit.graph.ir import Node

Emit = Callable[["Writer", "Node"], None]

#: NHWC axis -> NCHW axis.
_AXIS = (0, 2, 3, 1)
_NCHW = (0, 3, 1, 2)


def _axis(axis: int, order: Order) -> int:
    return _AXIS[axis] if order == "nchw" else axis


def _reorder(values: Any, order: Order) -> list[Any]:
    """One value an axis, in the given order."""
    return [values[i] for i in _NCHW] if order == "nchw" else list(values)


def _activated(w: Writer, n: Node, value: str, key: str | None = None) -> str:
    a = key or n.attr("activation", "NONE")
    base = f"{n.outputs[0]}_activated"
    if a == "NONE":
        return value
    if a == "RELU":
        return w.node("Relu", [value], base=base)
    low, high = (0.0, 6.0) if a == "RELU6" else (-1.0, 1.0)
    bounds = [w.number(f"{base}_min", low), w.number(f"{base}_max", high)]
    return w.node("Clip", [value, *bounds], base=base)


def _base(n: Node) -> str:
    return f"{n.outputs[0]}_value"


def _pads(w: Writer, n: Node, size: Any, kernel: Any, stride: Any, dilation: Any) -> list[int]:
    from edgekit.graph import numerics

    pads, _ = numerics.conv_padding(
        tuple(size), tuple(kernel), stride, n.attrs["padding"], dilation
    )
    top, bottom, left, right = pads
    return [int(top), int(left), int(bottom), int(right)]


# -- weights and windows -----------------------------------------------------------------------


def _bias(w: Writer, n: Node) -> str | None:
    b = n.inputs[2] if len(n.inputs) > 2 else None
    if b is None:
        return None
    t = w.tensor(b)
    if not t.is_const:
        raise UnsupportedError(f"node '{n.name}' ({n.type}): its bias is not a constant")
    return w.constant(t, tuple(range(len(t.shape))), (t.elements,))


def _constant_weights(w: Writer, n: Node) -> Any:
    t = w.tensor(n.inputs[1])
    if not t.is_const:
        raise UnsupportedError(f"node '{n.name}' ({n.type}): its weights are not constant")
    return t


def conv(w: Writer, n: Node) -> None:
    x, t = w.tensor(n.inputs[0]), _constant_weights(w, n)
    depthwise = n.type == "DEPTHWISE_CONV_2D"
    kernel = t.shape[1:3]
    # [1, kh, kw, O] -> [O, 1, kh, kw]; OHWI -> OIHW
    weights = w.constant(t, (3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
    group = x.shape[3] if depthwise else x.shape[3] // t.shape[3]
    stride, dilation = n.attrs["stride"], n.attrs["dilation"]
    y = w.node(
        "Conv",
        [w.real(n.inputs[0], "nchw"), weights, _bias(w, n)],
        base=_base(n),
        name=n.name,
        kernel_shape=list(kernel),
        strides=list(stride),
        dilations=list(dilation),
        group=int(group),
        pads=_pads(w, n, x.shape[1:3], kernel, stride, dilation),
    )
    w.put(n.outputs[0], _activated(w, n, y), "nchw")


def transpose_conv(w: Writer, n: Node) -> None:
    x, t = w.tensor(n.inputs[0]), _constant_weights(w, n)
    kernel, stride = t.shape[1:3], n.attrs["stride"]
    out = n.attrs["output_shape"][1:3]
    pads = _pads(w, n, out, kernel, stride, (1, 1))
    extra = [
        int(o - (s * (i - 1) + k - a - b))
        for o, s, i, k, a, b in zip(
            out, stride, x.shape[1:3], kernel, pads[:2], pads[2:], strict=True
        )
    ]
    for i, e in enumerate(extra):  # what is cut off at the end is padding after
        if e < 0:
            pads[2 + i] -= e
            extra[i] = 0
    y = w.node(
        "ConvTranspose",
        [w.real(n.inputs[0], "nchw"), w.constant(t, (3, 0, 1, 2)), _bias(w, n)],
        base=_base(n),
        name=n.name,
        kernel_shape=list(kernel),
        strides=list(stride),
        pads=pads,
        output_padding=extra,
    )
    w.put(n.outputs[0], _activated(w, n, y), "nchw")


def pool(w: Writer, n: Node) -> None:
    x = w.tensor(n.inputs[0])
    kernel, stride = n.attrs["filter"], n.attrs["stride"]
    y = w.node(
        "MaxPool" if n.type == "MAX_POOL_2D" else "AveragePool",
        [w.real(n.inputs[0], "nchw")],
        base=_base(n),
        name=n.name,
        kernel_shape=list(kernel),
        strides=list(stride),
        pads=_pads(w, n, x.shape[1:3], kernel, stride, (1, 1)),
    )
    w.put(n.outputs[0], _activated(w, n, y), "nchw")


def dense(w: Writer, n: Node) -> None:
    x, t = w.tensor(n.inputs[0]), _constant_weights(w, n)
    out = w.tensor(n.outputs[0])
    value = w.real(n.inputs[0])
    flat = (x.elements // t.shape[1], t.shape[1])
    if x.shape != flat:
        value = w.node("Reshape", [value, w.ints("shape", flat)], base=f"{x.name}_rows")
    y = w.node(
        "Gemm",
        [value, w.constant(t, (0, 1)), _bias(w, n)],
        base=_base(n),
        name=n.name,
        transB=1,
    )
    y = _activated(w, n, y)
    if out.shape != (flat[0], t.shape[0]):
        y = w.node("Reshape", [y, w.ints("shape", out.shape)], base=f"{_base(n)}_shaped")
    w.put(n.outputs[0], y)


def batch_matmul(w: Writer, n: Node) -> None:
    ins = []
    for i, key in zip(n.inputs, ("adj_x", "adj_y"), strict=True):
        value = w.real(i)
        if n.attrs[key]:
            r = len(w.tensor(i).shape)
            value = w.node(
                "Transpose", [value], base=f"{i}_adj", perm=[*range(r - 2), r - 1, r - 2]
            )
        ins.append(value)
    w.put(n.outputs[0], w.node("MatMul", ins, base=_base(n), name=n.name))


def layer_norm(w: Writer, n: Node) -> None:
    ins = [w.real(i) for i in n.inputs]
    y = w.node(
        "LayerNormalization",
        ins,
        base=_base(n),
        name=n.name,
        axis=-1,
        epsilon=float(n.attrs["epsilon"]),
    )
    w.put(n.outputs[0], y)


def resize(w: Writer, n: Node) -> None:
    out = w.tensor(n.outputs[0]).shape
    align, half = n.attrs["align_corners"], n.attrs["half_pixel_centers"]
    attrs: dict[str, Any] = {
        "coordinate_transformation_mode": "align_corners"
        if align
        else "half_pixel"
        if half
        else "asymmetric",
        "mode": "linear",
    }
    if n.type == "RESIZE_NEAREST_NEIGHBOR":
        attrs["mode"] = "nearest"
        attrs["nearest_mode"] = "round_prefer_ceil" if align or half else "floor"
    sizes = w.ints("sizes", [out[i] for i in _NCHW])
    x = w.real(n.inputs[0], "nchw")
    y = w.node("Resize", [x, None, None, sizes], base=_base(n), name=n.name, **attrs)
    w.put(n.outputs[0], y, "nchw")


# -- element by element ------------------------------------------------------------------------


def unary(type: str, **fixed: Any) -> Emit:
    def emit(w: Writer, n: Node) -> None:
        order = w.order(n.inputs[0])
        y = w.node(type, [w.real(n.inputs[0], order)], base=_base(n), name=n.name, **fixed)
        w.put(n.outputs[0], y, order)

    return emit


def clamp(w: Writer, n: Node) -> None:
    order = w.order(n.inputs[0])
    w.put(n.outputs[0], _activated(w, n, w.real(n.inputs[0], order), n.type), order)


def rsqrt(w: Writer, n: Node) -> None:
    order = w.order(n.inputs[0])
    y = w.node("Sqrt", [w.real(n.inputs[0], order)], base=f"{_base(n)}_sqrt", name=n.name)
    w.put(n.outputs[0], w.node("Reciprocal", [y], base=_base(n)), order)


def leaky_relu(w: Writer, n: Node) -> None:
    unary("LeakyRelu", alpha=float(n.attrs["alpha"]))(w, n)


def gelu(w: Writer, n: Node) -> None:
    unary("Gelu", approximate="tanh" if n.attrs["approximate"] else "none")(w, n)


def requantize(w: Writer, n: Node) -> None:
    """QUANTIZE and DEQUANTIZE: the tensors' own Q and DQ do it all."""
    order = w.order(n.inputs[0])
    w.put(n.outputs[0], w.real(n.inputs[0], order), order)


def _operands(w: Writer, n: Node) -> tuple[list[str], Order]:
    """Operands of a broadcasting operator in one order."""
    rank = len(w.tensor(n.outputs[0]).shape)
    live = [i for i in n.inputs if not w.tensor(i).is_const]
    same = rank == 4 and all(len(w.tensor(i).shape) == 4 for i in live)
    order = w.order(*live) if same else "plain"
    ins = []
    for i in n.inputs:
        t = w.tensor(i)
        if order == "nchw" and t.is_const and len(t.shape) < 4:
            if t.quant is not None and t.quant.is_per_channel:
                raise UnsupportedError(f"node '{n.name}' ({n.type}): a per-channel operand")
            wide = t.with_(
                shape=(1,) * (4 - len(t.shape)) + t.shape,
                data=np.asarray(t.data).reshape((1,) * (4 - len(t.shape)) + t.shape),
            )
            ins.append(w.constant(wide, _NCHW))
        else:
            ins.append(w.real(i, order))
    return ins, order


def binary(type: str) -> Emit:
    def emit(w: Writer, n: Node) -> None:
        ins, order = _operands(w, n)
        y = w.node(type, ins, base=_base(n), name=n.name)
        w.put(n.outputs[0], _activated(w, n, y), order)

    return emit


def squared_difference(w: Writer, n: Node) -> None:
    ins, order = _operands(w, n)
    d = w.node("Sub", ins, base=f"{_base(n)}_difference", name=n.name)
    w.put(n.outputs[0], w.node("Mul", [d, d], base=_base(n)), order)


def softmax(w: Writer, n: Node) -> None:
    x = n.inputs[0]
    order = w.order(x)
    value, beta = w.real(x, order), float(n.attrs["beta"])
    if beta != 1.0:
        value = w.node("Mul", [value, w.number("beta", beta)], base=f"{_base(n)}_scaled")
    axis = _axis(len(w.tensor(x).shape) - 1, order)
    w.put(n.outputs[0], w.node("Softmax", [value], base=_base(n), name=n.name, axis=axis), order)


# -- reductions and movement -------------------------------------------------------------------


def reduce(type: str) -> Emit:
    def emit(w: Writer, n: Node) -> None:
        x, axes, keep = n.inputs[0], n.attrs["axes"], n.attrs["keep_dims"]
        order = w.order(x)
        left = [i for i in range(len(w.tensor(x).shape)) if i not in axes]
        if not keep and [_axis(i, order) for i in left] != sorted(_axis(i, order) for i in left):
            order = "plain"
        named = w.ints("axes", sorted(_axis(a, order) for a in axes))
        y = w.node(type, [w.real(x, order), named], base=_base(n), name=n.name, keepdims=int(keep))
        w.put(n.outputs[0], y, order if keep else "plain")

    return emit


def arg_max(w: Writer, n: Node) -> None:
    x, axis = n.inputs[0], n.attrs["axis"]
    order = w.order(x) if axis == 3 else "plain"
    y = w.node(
        "ArgMax",
        [w.real(x, order)],
        base=_base(n),
        name=n.name,
        axis=_axis(axis, order),
        keepdims=0,
    )
    if w.tensor(n.outputs[0]).dtype == "int32":
        y = w.node("Cast", [y], base=f"{_base(n)}_int32", to=6)
    w.put(n.outputs[0], y)


def concatenation(w: Writer, n: Node) -> None:
    order = w.order(*n.inputs)
    ins = [w.real(i, order) for i in n.inputs]
    axis = _axis(n.attrs["axis"], order)
    y = w.node("Concat", ins, base=_base(n), name=n.name, axis=axis)
    w.put(n.outputs[0], _activated(w, n, y), order)


def pad(w: Writer, n: Node) -> None:
    order = w.order(n.inputs[0])
    pairs = _reorder(n.attrs["paddings"], order)
    pads = w.ints("pads", [p[0] for p in pairs] + [p[1] for p in pairs])
    value = w.number("pad_value", float(n.attrs["value"]))
    y = w.node("Pad", [w.real(n.inputs[0], order), pads, value], base=_base(n), name=n.name)
    w.put(n.outputs[0], y, order)


def strided_slice(w: Writer, n: Node) -> None:
    x, shrink = n.inputs[0], n.attrs["shrink_axes"]
    order: Order = "plain" if shrink else w.order(x)
    begin, end, step = (_reorder(n.attrs[k], order) for k in ("begin", "end", "strides"))
    end = [e if e >= 0 else -(1 << 31) for e in end]  # ``range`` ends before element 0
    ins = [w.ints("starts", begin), w.ints("ends", end)]
    ins += [w.ints("axes", range(len(begin))), w.ints("steps", step)]
    y = w.node("Slice", [w.real(x, order), *ins], base=_base(n), name=n.name)
    if shrink:
        shape = w.ints("shape", w.tensor(n.outputs[0]).shape)
        y = w.node("Reshape", [y, shape], base=f"{_base(n)}_shrunk")
    w.put(n.outputs[0], y, order)


def split(w: Writer, n: Node) -> None:
    order = w.order(n.inputs[0])
    outs = [w.fresh(f"{o}_value") for o in n.outputs]
    w.node(
        "Split",
        [w.real(n.inputs[0], order), w.ints("sizes", n.attrs["sizes"])],
        outputs=outs,
        name=n.name,
        axis=_axis(n.attrs["axis"], order),
    )
    for o, value in zip(n.outputs, outs, strict=True):
        w.put(o, value, order)


def gather(w: Writer, n: Node) -> None:
    order = w.order(n.inputs[0])
    axis = _axis(n.attrs["axis"], order)
    ins = [w.real(n.inputs[0], order), w.ints("indices", n.attrs["indices"])]
    w.put(n.outputs[0], w.node("Gather", ins, base=_base(n), name=n.name, axis=axis), order)


def reshape(w: Writer, n: Node) -> None:
    x = w.tensor(n.inputs[0])
    free = len(x.shape) == 4 and (x.shape[3] == 1 or x.shape[1] * x.shape[2] == 1)
    order = w.order(n.inputs[0]) if free else "plain"
    shape = w.ints("shape", w.tensor(n.outputs[0]).shape)
    y = w.node("Reshape", [w.real(n.inputs[0], order), shape], base=_base(n), name=n.name)
    w.put(n.outputs[0], y)


def transpose(w: Writer, n: Node) -> None:
    y = w.node(
        "Transpose", [w.real(n.inputs[0])], base=_base(n), name=n.name, perm=list(n.attrs["perm"])
    )
    w.put(n.outputs[0], y)


EMITTERS: dict[str, Emit] = {
    "CONV_2D": conv,
    "DEPTHWISE_CONV_2D": conv,
    "TRANSPOSE_CONV": transpose_conv,
    "MAX_POOL_2D": pool,
    "AVERAGE_POOL_2D": pool,
    "FULLY_CONNECTED": dense,
    "BATCH_MATMUL": batch_matmul,
    "LAYER_NORM": layer_norm,
    "RESIZE_BILINEAR": resize,
    "RESIZE_NEAREST_NEIGHBOR": resize,
    "ADD": binary("Add"),
    "SUB": binary("Sub"),
    "MUL": binary("Mul"),
    "DIV": binary("Div"),
    "MAXIMUM": binary("Max"),
    "MINIMUM": binary("Min"),
    "PRELU": binary("PRelu"),
    "SQUARED_DIFFERENCE": squared_difference,
    "LOGISTIC": unary("Sigmoid"),
    "TANH": unary("Tanh"),
    "RELU": clamp,
    "RELU6": clamp,
    "RELU_N1_TO_1": clamp,
    "HARD_SWISH": unary("HardSwish"),
    "ABS": unary("Abs"),
    "EXP": unary("Exp"),
    "LOG": unary("Log"),
    "NEG": unary("Neg"),
    "SQRT": unary("Sqrt"),
    "RSQRT": rsqrt,
    "LEAKY_RELU": leaky_relu,
    "GELU": gelu,
    "SOFTMAX": softmax,
    "MEAN": reduce("ReduceMean"),
    "SUM": reduce("ReduceSum"),
    "REDUCE_MAX": reduce("ReduceMax"),
    "ARG_MAX": arg_max,
    "CONCATENATION": concatenation,
    "PAD": pad,
    "STRIDED_SLICE": strided_slice,
    "SPLIT": split,
    "GATHER": gather,
    "RESHAPE": reshape,
    "SQUEEZE": reshape,
    "TRANSPOSE": transpose,
    "QUANTIZE": requantize,
    "DEQUANTIZE": requantize,
}
