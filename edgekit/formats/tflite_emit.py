"""One node of a graph -> operators of a .tflite file.

What is an attribute in the graph (shapes, permutations, axes, paddings) becomes a constant int32
tensor here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.errors import GraphError, UnsupportedError
from edgekit.formats.tflite_versions import version_of
from edgekit.formats.tflite_write import ModelBuilder
from edgekit.graph.ir import Node, Tensor

#: Name of the custom operator that carries an integer LAYER_NORM; its options are JSON.
LAYER_NORM_CUSTOM = "EdgekitLayerNorm"

ACTIVATIONS = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
PADDINGS = {"SAME": 0, "VALID": 1}

Handler = Callable[[ModelBuilder, Node], None]


def emit(b: ModelBuilder, node: Node) -> None:
    """Append the operators that compute ``node``; UnsupportedError names it when there are none."""
    handler = _HANDLERS.get(node.type)
    if handler is None:
        raise UnsupportedError(
            f"node '{node.name}' ({node.type}) cannot be written as .tflite: no such operator"
        )
    handler(b, node)


# -- small helpers -----------------------------------------------------------------------------


def _x(b: ModelBuilder, node: Node, i: int = 0) -> Tensor:
    name = node.inputs[i] if i < len(node.inputs) else None
    if name is None:
        raise GraphError(f"node '{node.name}' ({node.type}) has no input {i}")
    return b.graph.tensor(name)


def _ins(b: ModelBuilder, node: Node) -> list[int]:
    return [b.tensor(i) for i in node.inputs]


def _outs(b: ModelBuilder, node: Node) -> list[int]:
    return [b.tensor(o) for o in node.outputs]


def _activation(node: Node) -> int:
    return ACTIVATIONS[node.attr("activation", "NONE")]


def _options(b: ModelBuilder, name: str, **fields: Any) -> Any:
    out = getattr(b.schema, f"{name}OptionsT")()
    for key, value in fields.items():
        if not hasattr(out, key):
            raise AttributeError(f"{name}Options has no field {key}")
        setattr(out, key, value)
    return out


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """(before, after) of TFLite's SAME along one dimension."""
    out = -(-size // stride)
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def _padding_name(
    padding: Any, x: Tensor, kernel: tuple[int, int], stride: Any, dilation: Any
) -> str | None:
    """``SAME`` or ``VALID`` when ``padding`` is that, None when it is neither."""
    if isinstance(padding, str):
        return padding
    if not any(padding):
        return "VALID"
    same = [same_padding(x.shape[1 + i], kernel[i], stride[i], dilation[i]) for i in (0, 1)]
    return "SAME" if tuple(padding) == (*same[0], *same[1]) else None


def _pad(b: ModelBuilder, node: Node, x: Tensor, padding: Any, fill: float | None = None) -> int:
    """PAD height and width of ``x``; ``fill``: stored value (not real), None for real zero."""
    top, bottom, left, right = padding
    shape = (x.shape[0], x.shape[1] + top + bottom, x.shape[2] + left + right, x.shape[3])
    pads = b.ints(f"{node.name}/paddings", [[0, 0], [top, bottom], [left, right], [0, 0]])
    out = b.temp(x, f"{node.name}/padded", shape)
    if fill is None:
        b.op("PAD", [b.tensor(x.name), pads], [out], _options(b, "Pad"), version_of("PAD", x))
    else:
        value = b.const(f"{node.name}/pad_value", np.asarray([fill], x.dtype), x.quant)
        b.op(
            "PADV2",
            [b.tensor(x.name), pads, value],
            [out],
            _options(b, "PadV2"),
            version_of("PADV2", x),
        )
    return out


def _window(b: ModelBuilder, node: Node, kernel: tuple[int, int]) -> tuple[int, str]:
    """Tensor index of the input, padded when the padding is explicit, and the padding's name."""
    x = _x(b, node)
    dilation = node.attr("dilation", (1, 1))
    name = _padding_name(node.attrs["padding"], x, kernel, node.attrs["stride"], dilation)
    if name is not None:
        return b.tensor(x.name), name
    return _pad(b, node, x, node.attrs["padding"]), "VALID"


def _weights_and_bias(b: ModelBuilder, node: Node, *, channels: int = 0) -> list[int]:
    """Weights and bias; ``channels``: how many zeros to write where there is no bias (LiteRT wants
    one for a convolution), 0 to leave it out."""
    x, w = _x(b, node), _x(b, node, 1)
    out = [b.tensor(w.name)]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        out.append(b.bias(node.inputs[2], _x(b, node, 2), x, w))
    elif channels:
        dtype = x.dtype if x.is_float else "int64" if x.dtype == "int16" else "int32"
        quant = b.bias_quant(x, w)
        out.append(b.const(f"{node.name}/bias", np.zeros(channels, dtype), quant))
    return out


# -- convolutions and matrix products ----------------------------------------------------------


def _conv(b: ModelBuilder, node: Node) -> None:
    x, w = _x(b, node), _x(b, node, 1)
    source, padding = _window(b, node, (w.shape[1], w.shape[2]))
    (sh, sw), (dh, dw) = node.attrs["stride"], node.attrs["dilation"]
    fields: dict[str, Any] = {
        "padding": PADDINGS[padding],
        "strideH": sh,
        "strideW": sw,
        "dilationHFactor": dh,
        "dilationWFactor": dw,
        "fusedActivationFunction": _activation(node),
    }
    version = version_of(node.type, x)
    if node.type == "DEPTHWISE_CONV_2D":
        options = _options(b, "DepthwiseConv2D", depthMultiplier=w.shape[3] // x.shape[3], **fields)
        if (dh, dw) != (1, 1):
            version = max(version, 2)
    else:
        options = _options(b, "Conv2D", **fields)
        if x.is_float and w.shape[3] != x.shape[3]:
            version = 6  # grouped
    channels = b.graph.tensor(node.outputs[0]).shape[-1]
    weights = _weights_and_bias(b, node, channels=channels)
    b.op(node.type, [source, *weights], _outs(b, node), options, version)


def _transpose_conv(b: ModelBuilder, node: Node) -> None:
    x, w, out = _x(b, node), _x(b, node, 1), b.graph.tensor(node.outputs[0])
    shape = tuple(node.attrs["output_shape"])
    stride = node.attrs["stride"]
    kernel = (w.shape[1], w.shape[2])
    y = out.with_(shape=shape)
    padding = _padding_name(node.attrs["padding"], y, kernel, stride, (1, 1))
    full = tuple((x.shape[1 + i] - 1) * stride[i] + kernel[i] for i in (0, 1))
    target = _outs(b, node)[0]
    crop = None
    if (
        padding is None
    ):  # the whole result, then cut: what explicit padding of the forward conv does
        top, _, left, _ = node.attrs["padding"]
        big = tuple(max(full[i], (top, left)[i] + shape[1 + i]) for i in (0, 1))
        crop = (target, top, left)
        shape = (shape[0], *big, shape[3])
        target = b.temp(out, f"{node.name}/full", shape)
    options = _options(
        b,
        "TransposeConv",
        padding=PADDINGS[padding or "VALID"],
        strideH=stride[0],
        strideW=stride[1],
        fusedActivationFunction=_activation(node),
    )
    weights = _weights_and_bias(b, node)
    version = version_of(node.type, x)
    if len(weights) > 1:
        version = 3
    if _activation(node):
        version = 4
    inputs = [b.ints(f"{node.name}/output_shape", shape), weights[0], b.tensor(x.name)]
    b.op(node.type, inputs + weights[1:], [target], options, version)
    if crop is not None:
        final, top, left = crop
        begin = (0, top, left, 0)
        end = tuple(begin[i] + out.shape[i] for i in range(4))
        _slice(b, node, out, (target, final), (begin, end, (1, 1, 1, 1)))


def _fully_connected(b: ModelBuilder, node: Node) -> None:
    x, w = _x(b, node), _x(b, node, 1)
    inputs = [b.tensor(x.name), *_weights_and_bias(b, node)]
    version = version_of(node.type, x)
    if node.attrs["keep_num_dims"]:
        version = max(version, 5)
    if len(inputs) == 2:
        inputs.append(-1)
        version = max(version, 6)
    if w.quant is not None and w.quant.is_per_channel:
        version = 12
    options = _options(
        b,
        "FullyConnected",
        fusedActivationFunction=_activation(node),
        keepNumDims=bool(node.attrs["keep_num_dims"]),
    )
    b.op(node.type, inputs, _outs(b, node), options, version)


def _batch_matmul(b: ModelBuilder, node: Node) -> None:
    options = _options(
        b, "BatchMatMul", adjX=bool(node.attrs["adj_x"]), adjY=bool(node.attrs["adj_y"])
    )
    b.op(node.type, _ins(b, node), _outs(b, node), options, version_of(node.type, _x(b, node)))


# -- pooling and reductions --------------------------------------------------------------------


def _pool(b: ModelBuilder, node: Node) -> None:
    x = _x(b, node)
    kernel, stride = tuple(node.attrs["filter"]), node.attrs["stride"]
    padding = _padding_name(node.attrs["padding"], x, kernel, stride, (1, 1))
    source = b.tensor(x.name)
    if padding is None:
        if node.type == "AVERAGE_POOL_2D":
            raise UnsupportedError(
                f"node '{node.name}' (AVERAGE_POOL_2D) has padding "
                f"{tuple(node.attrs['padding'])} that is not counted; .tflite has only SAME, VALID"
            )
        lowest = np.finfo(x.dtype).min if x.is_float else np.iinfo(x.dtype).min
        source, padding = _pad(b, node, x, node.attrs["padding"], float(lowest)), "VALID"
    options = _options(
        b,
        "Pool2D",
        padding=PADDINGS[padding],
        strideH=stride[0],
        strideW=stride[1],
        filterHeight=kernel[0],
        filterWidth=kernel[1],
        fusedActivationFunction=_activation(node),
    )
    b.op(node.type, [source], _outs(b, node), options, version_of(node.type, x))


def _reduce(b: ModelBuilder, node: Node) -> None:
    x = _x(b, node)
    axes = b.ints(f"{node.name}/axes", list(node.attrs["axes"]))
    options = _options(b, "Reducer", keepDims=bool(node.attrs["keep_dims"]))
    b.op(node.type, [b.tensor(x.name), axes], _outs(b, node), options, version_of(node.type, x))


def _arg_max(b: ModelBuilder, node: Node) -> None:
    x, out = _x(b, node), b.graph.tensor(node.outputs[0])
    axis = b.ints(f"{node.name}/axis", node.attrs["axis"])
    options = _options(b, "ArgMax", outputType={"int32": 2, "int64": 4}[out.dtype])
    b.op("ARG_MAX", [b.tensor(x.name), axis], _outs(b, node), options, version_of("ARG_MAX", x))


# -- element by element ------------------------------------------------------------------------


def _arithmetic(b: ModelBuilder, node: Node) -> None:
    x = _x(b, node)
    fields: dict[str, Any] = {"fusedActivationFunction": _activation(node)}
    if node.type in ("ADD", "SUB"):
        fields["potScaleInt16"] = False
    options = _options(b, node.type.capitalize(), **fields)
    b.op(node.type, _ins(b, node), _outs(b, node), options, version_of(node.type, x))


def _plain(options_name: str | None = None) -> Handler:
    """An operator whose inputs and outputs go through as they are, with empty options."""

    def handler(b: ModelBuilder, node: Node) -> None:
        options = None if options_name is None else _options(b, options_name)
        version = version_of(node.type, _x(b, node))
        b.op(node.type, _ins(b, node), _outs(b, node), options, version)

    return handler


def _softmax(b: ModelBuilder, node: Node) -> None:
    options = _options(b, "Softmax", beta=float(node.attrs["beta"]))
    b.op("SOFTMAX", _ins(b, node), _outs(b, node), options, version_of("SOFTMAX", _x(b, node)))


def _leaky_relu(b: ModelBuilder, node: Node) -> None:
    options = _options(b, "LeakyRelu", alpha=float(node.attrs["alpha"]))
    b.op(
        "LEAKY_RELU", _ins(b, node), _outs(b, node), options, version_of("LEAKY_RELU", _x(b, node))
    )


def _gelu(b: ModelBuilder, node: Node) -> None:
    options = _options(b, "Gelu", approximate=bool(node.attrs["approximate"]))
    b.op("GELU", _ins(b, node), _outs(b, node), options, version_of("GELU", _x(b, node)))


def _layer_norm(b: ModelBuilder, node: Node) -> None:
    x, gamma, beta = _x(b, node), node.inputs[1], node.inputs[2]
    if not x.is_float:
        options = json.dumps({"epsilon": float(node.attrs["epsilon"])}, sort_keys=True)
        custom = (LAYER_NORM_CUSTOM, options.encode())
        b.op("CUSTOM", _ins(b, node), _outs(b, node), custom=custom)
        return
    name, axis = node.name, len(x.shape) - 1
    mean_shape = (*x.shape[:-1], 1)
    keep = _options(b, "Reducer", keepDims=True)
    axes = b.ints(f"{name}/axes", [axis])
    mean = b.temp(x, f"{name}/mean", mean_shape)
    b.op("MEAN", [b.tensor(x.name), axes], [mean], keep)
    centred = b.temp(x, f"{name}/centred")
    b.op("SUB", [b.tensor(x.name), mean], [centred], _options(b, "Sub"))
    square = b.temp(x, f"{name}/square")
    b.op("MUL", [centred, centred], [square], _options(b, "Mul"))
    variance = b.temp(x, f"{name}/variance", mean_shape)
    b.op("MEAN", [square, axes], [variance], keep)
    epsilon = b.const(f"{name}/epsilon", np.asarray(node.attrs["epsilon"], np.float32))
    stable = b.temp(x, f"{name}/stable", mean_shape)
    b.op("ADD", [variance, epsilon], [stable], _options(b, "Add"))
    inverse = b.temp(x, f"{name}/inverse", mean_shape)
    b.op("RSQRT", [stable], [inverse])
    normal = b.temp(x, f"{name}/normal")
    b.op("MUL", [centred, inverse], [normal], _options(b, "Mul"))
    scaled = b.temp(x, f"{name}/scaled")
    b.op("MUL", [normal, b.tensor(gamma)], [scaled], _options(b, "Mul"))
    b.op("ADD", [scaled, b.tensor(beta)], _outs(b, node), _options(b, "Add"))


# -- data movement -----------------------------------------------------------------------------


def _concatenation(b: ModelBuilder, node: Node) -> None:
    options = _options(
        b, "Concatenation", axis=node.attrs["axis"], fusedActivationFunction=_activation(node)
    )
    b.op(node.type, _ins(b, node), _outs(b, node), options, version_of(node.type, _x(b, node)))


def _pad_node(b: ModelBuilder, node: Node) -> None:
    x = _x(b, node)
    inputs = [b.tensor(x.name), b.ints(f"{node.name}/paddings", node.attrs["paddings"])]
    value = float(node.attrs["value"])
    if value == 0:
        b.op("PAD", inputs, _outs(b, node), _options(b, "Pad"), version_of("PAD", x))
        return
    stored: float = value
    if not x.is_float:
        if x.quant is None:
            raise UnsupportedError(
                f"node '{node.name}' (PAD) fills an unquantized integer tensor with {value}"
            )
        info = np.iinfo(x.dtype)
        stored = int(np.clip(np.rint(value / x.quant.s) + x.quant.zp, info.min, info.max))
    inputs.append(b.const(f"{node.name}/value", np.asarray([stored], x.dtype), x.quant))
    b.op("PADV2", inputs, _outs(b, node), _options(b, "PadV2"), version_of("PADV2", x))


def _reshape(b: ModelBuilder, node: Node) -> None:
    shape = np.asarray(node.attrs["new_shape"], np.int32)
    inputs = [b.tensor(_x(b, node).name), b.const(f"{node.name}/shape", shape)]
    b.op("RESHAPE", inputs, _outs(b, node), _options(b, "Reshape", newShape=shape))


def _squeeze(b: ModelBuilder, node: Node) -> None:
    axes = np.asarray(node.attrs["axes"], np.int32)
    b.op("SQUEEZE", _ins(b, node), _outs(b, node), _options(b, "Squeeze", squeezeDims=axes))


def _transpose(b: ModelBuilder, node: Node) -> None:
    x = _x(b, node)
    inputs = [b.tensor(x.name), b.ints(f"{node.name}/perm", node.attrs["perm"])]
    version = version_of("TRANSPOSE", x)
    b.op("TRANSPOSE", inputs, _outs(b, node), _options(b, "Transpose"), version)


def _strided_slice(b: ModelBuilder, node: Node) -> None:
    x = _x(b, node)
    a = node.attrs
    shrink = sum(1 << int(axis) for axis in a["shrink_axes"])
    source, target = b.tensor(x.name), _outs(b, node)[0]
    _slice(b, node, x, (source, target), (a["begin"], a["end"], a["strides"]), shrink=shrink)


def _slice(
    b: ModelBuilder,
    node: Node,
    like: Tensor,
    tensors: tuple[int, int],
    ranges: tuple[Any, Any, Any],
    *,
    shrink: int = 0,
) -> None:
    """STRIDED_SLICE; tensors: (from, to); ranges: (begin, end, strides) as ``range`` takes them."""
    (source, target), (begin, end, strides) = tensors, ranges
    # An end of -1 means "down to the first element" here, but "the last element" in the file.
    down = [i for i, (e, s) in enumerate(zip(end, strides, strict=True)) if s < 0 and e < 0]
    inputs = [
        source,
        b.ints(f"{node.name}/begin", list(begin)),
        b.ints(f"{node.name}/end", [0 if i in down else e for i, e in enumerate(end)]),
        b.ints(f"{node.name}/strides", list(strides)),
    ]
    options = _options(b, "StridedSlice", endMask=sum(1 << i for i in down), shrinkAxisMask=shrink)
    b.op("STRIDED_SLICE", inputs, [target], options, version_of("STRIDED_SLICE", like))


def _split(b: ModelBuilder, node: Node) -> None:
    x = _x(b, node)
    sizes = list(node.attrs["sizes"])
    axis = b.ints(f"{node.name}/axis", node.attrs["axis"])
    if len(set(sizes)) == 1:
        options = _options(b, "Split", numSplits=len(sizes))
        inputs = [axis, b.tensor(x.name)]
        b.op("SPLIT", inputs, _outs(b, node), options, version_of("SPLIT", x))
        return
    inputs = [b.tensor(x.name), b.ints(f"{node.name}/sizes", sizes), axis]
    options = _options(b, "SplitV", numSplits=len(sizes))
    b.op("SPLIT_V", inputs, _outs(b, node), options, version_of("SPLIT_V", x))


def _resize(b: ModelBuilder, node: Node) -> None:
    x = _x(b, node)
    name = {"RESIZE_BILINEAR": "ResizeBilinear"}.get(node.type, "ResizeNearestNeighbor")
    fields = {
        "alignCorners": bool(node.attrs["align_corners"]),
        "halfPixelCenters": bool(node.attrs["half_pixel_centers"]),
    }
    version = version_of(node.type, x)
    if any(fields.values()):
        version = max(version, 3)
    inputs = [b.tensor(x.name), b.ints(f"{node.name}/size", list(node.attrs["size"]))]
    b.op(node.type, inputs, _outs(b, node), _options(b, name, **fields), version)


def _gather(b: ModelBuilder, node: Node) -> None:
    x = _x(b, node)
    inputs = [b.tensor(x.name), b.ints(f"{node.name}/indices", list(node.attrs["indices"]))]
    options = _options(b, "Gather", axis=node.attrs["axis"])
    b.op("GATHER", inputs, _outs(b, node), options, version_of("GATHER", x))


def _dequantize(b: ModelBuilder, node: Node) -> None:
    x = _x(b, node)
    version = version_of("DEQUANTIZE", x)
    if x.quant is not None and x.quant.is_per_channel:
        version = 5
    b.op("DEQUANTIZE", _ins(b, node), _outs(b, node), _options(b, "Dequantize"), version)


_HANDLERS: dict[str, Handler] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _conv,
    "TRANSPOSE_CONV": _transpose_conv,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
    "MAX_POOL_2D": _pool,
    "AVERAGE_POOL_2D": _pool,
    "MEAN": _reduce,
    "SUM": _reduce,
    "REDUCE_MAX": _reduce,
    "ARG_MAX": _arg_max,
    "ADD": _arithmetic,
    "SUB": _arithmetic,
    "MUL": _arithmetic,
    "DIV": _arithmetic,
    "MAXIMUM": _plain("MaximumMinimum"),
    "MINIMUM": _plain("MaximumMinimum"),
    "SQUARED_DIFFERENCE": _plain("SquaredDifference"),
    "SOFTMAX": _softmax,
    "LOGISTIC": _plain(),
    "TANH": _plain(),
    "RELU": _plain(),
    "RELU6": _plain(),
    "RELU_N1_TO_1": _plain(),
    "HARD_SWISH": _plain("HardSwish"),
    "ABS": _plain("Abs"),
    "EXP": _plain("Exp"),
    "LOG": _plain(),
    "NEG": _plain("Neg"),
    "SQRT": _plain(),
    "RSQRT": _plain(),
    "LEAKY_RELU": _leaky_relu,
    "PRELU": _plain(),
    "GELU": _gelu,
    "LAYER_NORM": _layer_norm,
    "QUANTIZE": _plain("Quantize"),
    "DEQUANTIZE": _dequantize,
    "CONCATENATION": _concatenation,
    "PAD": _pad_node,
    "RESHAPE": _reshape,
    "SQUEEZE": _squeeze,
    "TRANSPOSE": _transpose,
    "STRIDED_SLICE": _strided_slice,
    "SPLIT": _split,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "RESIZE_BILINEAR": _resize,
    "GATHER": _gather,
}
