"""Keras layers as graph nodes: ``convert(k, layer, inputs) -> output tensor``, channels last.

Layer semantics: https://keras.io/api/layers/; weights are HWIO in Keras, OHWI here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.formats.builder import HIDDEN

if TYPE_CHECKING:
    from edgekit.formats.keras_ import Importer, Layer

Convert = Callable[["Importer", "Layer", list[str]], str]
NONE = {"activation": "NONE"}

_SIMPLE = {
    "relu": "RELU",
    "relu6": "RELU6",
    "sigmoid": "LOGISTIC",
    "tanh": "TANH",
    "exponential": "EXP",
    "hard_swish": "HARD_SWISH",
    "hard_silu": "HARD_SWISH",
}
_ACTIVATIONS = {
    *_SIMPLE, "linear", "softmax", "elu", "swish", "silu", "hard_sigmoid", "gelu", "leaky_relu",
}  # fmt: skip


def _activation_name(value: Any) -> str:
    if isinstance(value, dict):
        inner = value.get("config")
        value = inner if isinstance(inner, str) else value.get("class_name")
    return "linear" if value is None else str(value).lower()


def check(cls: str, config: dict[str, Any]) -> str:
    """Why a layer of a known class cannot be read, "" when it can."""
    if config.get("data_format") == "channels_first":
        return "channels_first is not implemented; save the model with channels_last"
    name = _activation_name(config.get("activation"))
    if name not in _ACTIVATIONS:
        return f"activation '{name}' is not implemented"
    return ""


def _shape(k: Importer, x: str) -> tuple[int, ...]:
    return k.graph.tensor(x).shape


def _pair(value: Any, default: int = 1) -> tuple[int, int]:
    if value is None:
        return (default, default)
    if isinstance(value, int):
        return (value, value)
    v = [int(i) for i in value]
    return (v[0], v[-1])


def _padding(layer: Layer) -> str:
    p = str(layer.get("padding", "valid")).upper()
    if p not in ("SAME", "VALID"):
        raise UnsupportedError(f"padding '{p.lower()}' is not implemented; same and valid are")
    return p


def _hard_sigmoid(k: Importer, x: str, name: str, slope: float) -> str:
    y = k.emit("MUL", [x, k.scalar(slope, name)], NONE, out=f"{name}{HIDDEN}slope")
    y = k.emit("ADD", [y, k.scalar(0.5, name)], NONE, out=f"{name}{HIDDEN}half")
    y = k.emit("RELU", [y], out=f"{name}{HIDDEN}low")
    return k.emit("MINIMUM", [y, k.scalar(1.0, name)], out=f"{name}{HIDDEN}high")


def _elu(k: Importer, x: str, name: str, alpha: float) -> str:
    p = k.emit("RELU", [x], out=f"{name}{HIDDEN}p")
    e = k.emit("MINIMUM", [x, k.scalar(0.0, name)], out=f"{name}{HIDDEN}m")
    e = k.emit("EXP", [e], out=f"{name}{HIDDEN}e")
    e = k.emit("SUB", [e, k.scalar(1.0, name)], NONE, out=f"{name}{HIDDEN}e1")
    if alpha != 1.0:
        e = k.emit("MUL", [e, k.scalar(alpha, name)], NONE, out=f"{name}{HIDDEN}ea")
    return k.emit("ADD", [p, e], NONE, out=f"{name}{HIDDEN}elu")


def activate(k: Importer, layer: Layer, x: str, value: Any) -> str:
    """Apply an activation given by name; the result has a hidden name."""
    name = _activation_name(value)
    out = f"{layer.name}{HIDDEN}{name}"
    if name in _SIMPLE:
        return k.emit(_SIMPLE[name], [x], out=out)
    if name == "softmax":
        return k.emit("SOFTMAX", [x], {"beta": 1.0}, out=out)
    if name == "gelu":
        return k.emit("GELU", [x], {"approximate": False}, out=out)
    if name == "leaky_relu":
        return k.emit("LEAKY_RELU", [x], {"alpha": 0.2}, out=out)
    if name in ("swish", "silu"):
        s = k.emit("LOGISTIC", [x], out=f"{layer.name}{HIDDEN}gate")
        return k.emit("MUL", [x, s], NONE, out=out)
    if name == "elu":
        return _elu(k, x, layer.name, 1.0)
    if name == "hard_sigmoid":
        return _hard_sigmoid(k, x, layer.name, 0.2 if layer.keras2 else 1 / 6)
    if name == "linear":
        return x
    raise UnsupportedError(f"activation '{name}' is not implemented")


def _out(layer: Layer) -> str:
    """The layer's output name, when no activation follows."""
    linear = _activation_name(layer.get("activation")) == "linear"
    return layer.name if linear else f"{layer.name}{HIDDEN}linear"


def _bias(k: Importer, layer: Layer, index: int) -> str | None:
    if not layer.get("use_bias", True):
        return None
    return k.const(f"{layer.name}/bias", layer.var(index, "bias"))


def _done(k: Importer, layer: Layer, y: str) -> str:
    return activate(k, layer, y, layer.get("activation"))


# -- weights -----------------------------------------------------------------------------------


def conv2d(k: Importer, layer: Layer, ins: list[str]) -> str:
    w = layer.var(0, "kernel").transpose(3, 0, 1, 2)  # HWIO -> OHWI
    attrs = {
        "stride": _pair(layer.get("strides")),
        "dilation": _pair(layer.get("dilation_rate")),
        "padding": _padding(layer),
        **NONE,
    }
    names = [ins[0], k.const(f"{layer.name}/kernel", w), _bias(k, layer, 1)]
    return _done(k, layer, k.emit("CONV_2D", names, attrs, out=_out(layer), name=layer.name))


def _up(k: Importer, layer: Layer, x: str) -> str:
    n, w, c = _shape(k, x)
    return k.reshape(x, (n, 1, w, c), f"{layer.name}{HIDDEN}2d")


def _down(k: Importer, layer: Layer, y: str) -> str:
    n, _, w, c = _shape(k, y)
    return k.reshape(y, (n, w, c), f"{layer.name}{HIDDEN}1d")


def conv1d(k: Importer, layer: Layer, ins: list[str]) -> str:
    """Conv1D as a convolution of height 1; causal padding is explicit padding on the left."""
    w = layer.var(0, "kernel").transpose(2, 0, 1)[:, None]
    x = _up(k, layer, ins[0])
    stride, dilation = _pair(layer.get("strides"))[0], _pair(layer.get("dilation_rate"))[0]
    padding: Any = layer.get("padding", "valid")
    if padding == "causal":
        padding = (0, 0, (w.shape[2] - 1) * dilation, 0)
    else:
        padding = _padding(layer)
    attrs = {"stride": (1, stride), "dilation": (1, dilation), "padding": padding, **NONE}
    names = [x, k.const(f"{layer.name}/kernel", w), _bias(k, layer, 1)]
    y = k.emit("CONV_2D", names, attrs, out=f"{layer.name}{HIDDEN}conv", name=layer.name)
    return _done(k, layer, _down(k, layer, y))


def _depthwise(k: Importer, layer: Layer, x: str, bias: str | None, out: str) -> str:
    w = layer.var(0, "depthwise_kernel", "kernel")
    kh, kw, c, m = w.shape
    attrs = {
        "stride": _pair(layer.get("strides")),
        "dilation": _pair(layer.get("dilation_rate")),
        "padding": _padding(layer),
        **NONE,
    }
    names = [x, k.const(f"{layer.name}/depthwise", w.reshape(1, kh, kw, c * m)), bias]
    return k.emit("DEPTHWISE_CONV_2D", names, attrs, out=out, name=layer.name)


def depthwise(k: Importer, layer: Layer, ins: list[str]) -> str:
    return _done(k, layer, _depthwise(k, layer, ins[0], _bias(k, layer, 1), _out(layer)))


def separable(k: Importer, layer: Layer, ins: list[str]) -> str:
    x = _depthwise(k, layer, ins[0], None, f"{layer.name}{HIDDEN}depthwise")
    w = layer.var(1, "pointwise_kernel").transpose(3, 0, 1, 2)
    attrs = {"stride": (1, 1), "dilation": (1, 1), "padding": "VALID", **NONE}
    names = [x, k.const(f"{layer.name}/pointwise", w), _bias(k, layer, 2)]
    y = k.emit("CONV_2D", names, attrs, out=_out(layer), name=f"{layer.name}_pointwise")
    return _done(k, layer, y)


def conv2d_transpose(k: Importer, layer: Layer, ins: list[str]) -> str:
    w = layer.var(0, "kernel").transpose(2, 0, 1, 3)  # [kh, kw, out, in] -> [out, kh, kw, in]
    if _pair(layer.get("dilation_rate")) != (1, 1):
        raise UnsupportedError("dilated transposed convolution is not implemented")
    if layer.get("output_padding") is not None:
        raise UnsupportedError("output_padding is not implemented")
    n, h, width, _ = _shape(k, ins[0])
    stride, padding = _pair(layer.get("strides")), _padding(layer)
    size = [
        s * st + (max(f - st, 0) if padding == "VALID" else 0)
        for s, st, f in zip((h, width), stride, w.shape[1:3], strict=True)
    ]
    attrs = {
        "stride": stride,
        "padding": padding,
        "output_shape": (n, *size, w.shape[0]),
        **NONE,
    }
    names = [ins[0], k.const(f"{layer.name}/kernel", w), _bias(k, layer, 1)]
    return _done(k, layer, k.emit("TRANSPOSE_CONV", names, attrs, out=_out(layer), name=layer.name))


def dense(k: Importer, layer: Layer, ins: list[str]) -> str:
    w = layer.var(0, "kernel").T
    keep = len(_shape(k, ins[0])) != 2
    names = [ins[0], k.const(f"{layer.name}/kernel", w), _bias(k, layer, 1)]
    attrs = {"keep_num_dims": keep, **NONE}
    y = k.emit("FULLY_CONNECTED", names, attrs, out=_out(layer), name=layer.name)
    return _done(k, layer, y)


def _last(k: Importer, layer: Layer, x: str) -> int:
    """The last axis, UnsupportedError when the layer normalizes another one."""
    rank = len(_shape(k, x))
    axis = layer.get("axis", -1)
    axes = [int(a) % rank for a in (axis if isinstance(axis, list) else [axis])]
    if axes != [rank - 1]:
        raise UnsupportedError(f"axis {axis} is not implemented; the last one is")
    return rank - 1


def _affine(k: Importer, layer: Layer, x: str, scale: np.ndarray, shift: np.ndarray) -> str:
    s = k.const(f"{layer.name}/scale", scale.astype(np.float32))
    b = k.const(f"{layer.name}/shift", shift.astype(np.float32))
    y = k.emit("MUL", [x, s], NONE, out=f"{layer.name}{HIDDEN}scaled", name=layer.name)
    return k.emit("ADD", [y, b], NONE, out=layer.name)


def batch_norm(k: Importer, layer: Layer, ins: list[str]) -> str:
    c = _shape(k, ins[0])[_last(k, layer, ins[0])]
    at = 0
    gamma, beta = np.ones(c), np.zeros(c)
    if layer.get("scale", True):
        gamma, at = layer.var(at, "gamma").astype(np.float64), at + 1
    if layer.get("center", True):
        beta, at = layer.var(at, "beta").astype(np.float64), at + 1
    mean = layer.var(at, "moving_mean").astype(np.float64)
    var = layer.var(at + 1, "moving_variance").astype(np.float64)
    factor = gamma / np.sqrt(var + float(layer.get("epsilon", 1e-3)))
    return _affine(k, layer, ins[0], factor, beta - mean * factor)


def layer_norm(k: Importer, layer: Layer, ins: list[str]) -> str:
    c = _shape(k, ins[0])[_last(k, layer, ins[0])]
    if layer.get("rms_scaling"):
        raise UnsupportedError("rms_scaling is not implemented")
    at = 0
    gamma, beta = np.ones(c, np.float32), np.zeros(c, np.float32)
    if layer.get("scale", True):
        gamma, at = layer.var(at, "gamma"), at + 1
    if layer.get("center", True):
        beta = layer.var(at, "beta")
    names = [
        ins[0],
        k.const(f"{layer.name}/gamma", gamma.reshape(-1)),
        k.const(f"{layer.name}/beta", beta.reshape(-1)),
    ]
    attrs = {"epsilon": float(layer.get("epsilon", 1e-3))}
    return k.emit("LAYER_NORM", names, attrs, out=layer.name, name=layer.name)


def rescaling(k: Importer, layer: Layer, ins: list[str]) -> str:
    scale = np.atleast_1d(np.asarray(layer.get("scale", 1.0), np.float64))
    return _affine(
        k, layer, ins[0], scale, np.atleast_1d(np.asarray(layer.get("offset", 0.0), np.float64))
    )


def normalization(k: Importer, layer: Layer, ins: list[str]) -> str:
    """(x - mean) / max(sqrt(variance), 1e-7)."""
    if layer.get("invert"):
        raise UnsupportedError("invert is not implemented")
    mean, var = layer.get("mean"), layer.get("variance")
    if mean is None or var is None:
        _last(k, layer, ins[0]) if layer.get("axis") is not None else None
        mean, var = layer.var(0, "mean"), layer.var(1, "variance")
    m = np.atleast_1d(np.asarray(mean, np.float64)).reshape(-1)
    s = np.atleast_1d(np.asarray(var, np.float64)).reshape(-1)
    factor = 1 / np.maximum(np.sqrt(s), 1e-7)
    return _affine(k, layer, ins[0], factor, -m * factor)


# -- activations -------------------------------------------------------------------------------


def activation(k: Importer, layer: Layer, ins: list[str]) -> str:
    return activate(k, layer, ins[0], layer.get("activation"))


def relu(k: Importer, layer: Layer, ins: list[str]) -> str:
    top, slope = layer.get("max_value"), layer.get("negative_slope") or 0.0
    if isinstance(slope, list) or layer.get("threshold"):
        raise UnsupportedError("a threshold is not implemented")
    if slope:
        x = k.emit("LEAKY_RELU", ins, {"alpha": float(slope)}, out=f"{layer.name}{HIDDEN}l")
    elif top == 6:
        return k.emit("RELU6", ins, out=layer.name, name=layer.name)
    else:
        x = k.emit("RELU", ins, out=f"{layer.name}{HIDDEN}r", name=layer.name)
    if top is None:
        return x
    return k.emit("MINIMUM", [x, k.scalar(float(top), layer.name)], out=layer.name)


def leaky_relu(k: Importer, layer: Layer, ins: list[str]) -> str:
    alpha = float(layer.get("negative_slope", layer.get("alpha", 0.3)))
    return k.emit("LEAKY_RELU", ins, {"alpha": alpha}, out=layer.name, name=layer.name)


def prelu(k: Importer, layer: Layer, ins: list[str]) -> str:
    alpha = k.const(f"{layer.name}/alpha", layer.var(0, "alpha"))
    return k.emit("PRELU", [ins[0], alpha], out=layer.name, name=layer.name)


def elu(k: Importer, layer: Layer, ins: list[str]) -> str:
    return _elu(k, ins[0], layer.name, float(layer.get("alpha", 1.0)))


def softmax(k: Importer, layer: Layer, ins: list[str]) -> str:
    _last(k, layer, ins[0])
    return k.emit("SOFTMAX", ins[:1], {"beta": 1.0}, out=layer.name, name=layer.name)


# -- joining -----------------------------------------------------------------------------------


def merge(type: str, average: bool = False) -> Convert:
    attrs = NONE if type in ("ADD", "SUB", "MUL") else {}

    def convert(k: Importer, layer: Layer, ins: list[str]) -> str:
        y = ins[0]
        for i, other in enumerate(ins[1:]):
            last = i == len(ins) - 2 and not average
            out = layer.name if last else f"{layer.name}{HIDDEN}{i}"
            y = k.emit(type, [y, other], attrs, out=out, name=layer.name)
        if average:
            y = k.emit("MUL", [y, k.scalar(1 / len(ins), layer.name)], NONE, out=layer.name)
        return y

    return convert


def concatenate(k: Importer, layer: Layer, ins: list[str]) -> str:
    if len(ins) == 1:
        return ins[0]
    axis = int(layer.get("axis", -1)) % len(_shape(k, ins[0]))
    attrs = {"axis": axis, **NONE}
    return k.emit("CONCATENATION", ins, attrs, out=layer.name, name=layer.name)


# -- pooling -----------------------------------------------------------------------------------


def pool(type: str, rank: int = 2) -> Convert:
    def convert(k: Importer, layer: Layer, ins: list[str]) -> str:
        size = _pair(layer.get("pool_size"), 2)
        stride = _pair(layer.get("strides")) if layer.get("strides") is not None else size
        x = ins[0]
        if rank == 1:
            x = _up(k, layer, x)
            size, stride = (1, size[0]), (1, stride[0])
        attrs = {"filter": size, "stride": stride, "padding": _padding(layer), **NONE}
        y = k.emit(type, [x], attrs, out=f"{layer.name}{HIDDEN}pool", name=layer.name)
        return _down(k, layer, y) if rank == 1 else y

    return convert


def global_pool(type: str) -> Convert:
    def convert(k: Importer, layer: Layer, ins: list[str]) -> str:
        axes = tuple(range(1, len(_shape(k, ins[0])) - 1))
        attrs = {"axes": axes, "keep_dims": bool(layer.get("keepdims", False))}
        return k.emit(type, ins, attrs, out=layer.name, name=layer.name)

    return convert


# -- shapes ------------------------------------------------------------------------------------


def flatten(k: Importer, layer: Layer, ins: list[str]) -> str:
    s = _shape(k, ins[0])
    return k.reshape(ins[0], (s[0], int(np.prod(s[1:]))), layer.name)


def reshape(k: Importer, layer: Layer, ins: list[str]) -> str:
    s = _shape(k, ins[0])
    target = [int(v) for v in layer.get("target_shape", [])]
    if -1 in target:
        rest = -int(np.prod(target))
        target[target.index(-1)] = int(np.prod(s[1:])) // max(rest, 1)
    return k.reshape(ins[0], (s[0], *target), layer.name)


def permute(k: Importer, layer: Layer, ins: list[str]) -> str:
    return k.transpose(ins[0], (0, *(int(d) for d in layer.get("dims", []))), layer.name)


def _sides(value: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Keras's padding or cropping: n, (h, w) or ((top, bottom), (left, right))."""
    if isinstance(value, int):
        return ((value, value), (value, value))
    a, b = ((v, v) if isinstance(v, int) else tuple(v) for v in value)
    return ((int(a[0]), int(a[1])), (int(b[0]), int(b[1])))


def zero_padding(k: Importer, layer: Layer, ins: list[str]) -> str:
    h, w = _sides(layer.get("padding", 1))
    attrs = {"paddings": ((0, 0), h, w, (0, 0)), "value": 0.0}
    return k.emit("PAD", ins, attrs, out=layer.name, name=layer.name)


def cropping(k: Importer, layer: Layer, ins: list[str]) -> str:
    (t, b), (left, right) = _sides(layer.get("cropping", 0))
    n, h, w, c = _shape(k, ins[0])
    attrs = {
        "begin": (0, t, left, 0),
        "end": (n, h - b, w - right, c),
        "strides": (1, 1, 1, 1),
        "shrink_axes": (),
    }
    return k.emit("STRIDED_SLICE", ins, attrs, out=layer.name, name=layer.name)


def _resize(k: Importer, layer: Layer, x: str, size: tuple[int, int]) -> str:
    how = str(layer.get("interpolation", "nearest")).lower()
    types = {"nearest": "RESIZE_NEAREST_NEIGHBOR", "bilinear": "RESIZE_BILINEAR"}
    if how not in types:
        raise UnsupportedError(f"interpolation '{how}' is not implemented")
    attrs = {"size": size, "align_corners": False, "half_pixel_centers": True}
    return k.emit(types[how], [x], attrs, out=layer.name, name=layer.name)


def upsampling(k: Importer, layer: Layer, ins: list[str]) -> str:
    _, h, w, _ = _shape(k, ins[0])
    a, b = _pair(layer.get("size"), 2)
    return _resize(k, layer, ins[0], (h * a, w * b))


def resizing(k: Importer, layer: Layer, ins: list[str]) -> str:
    if layer.get("crop_to_aspect_ratio") or layer.get("pad_to_aspect_ratio"):
        raise UnsupportedError("keeping the aspect ratio is not implemented")
    if layer.get("antialias"):
        raise UnsupportedError("antialiasing is not implemented")
    return _resize(k, layer, ins[0], (int(layer.get("height")), int(layer.get("width"))))


def nothing(k: Importer, layer: Layer, ins: list[str]) -> str:
    return ins[0]


_NOTHING = (
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise", "GaussianDropout",
    "AlphaDropout", "ActivityRegularization", "Identity", "RandomFlip", "RandomRotation",
    "RandomTranslation", "RandomZoom", "RandomContrast", "RandomBrightness",
)  # fmt: skip

CONVERTERS: dict[str, Convert] = {
    "Conv2D": conv2d,
    "Conv1D": conv1d,
    "DepthwiseConv2D": depthwise,
    "SeparableConv2D": separable,
    "Conv2DTranspose": conv2d_transpose,
    "Dense": dense,
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "Rescaling": rescaling,
    "Normalization": normalization,
    "Activation": activation,
    "ReLU": relu,
    "LeakyReLU": leaky_relu,
    "PReLU": prelu,
    "ELU": elu,
    "Softmax": softmax,
    "Add": merge("ADD"),
    "Subtract": merge("SUB"),
    "Multiply": merge("MUL"),
    "Average": merge("ADD", average=True),
    "Maximum": merge("MAXIMUM"),
    "Minimum": merge("MINIMUM"),
    "Concatenate": concatenate,
    "AveragePooling2D": pool("AVERAGE_POOL_2D"),
    "MaxPooling2D": pool("MAX_POOL_2D"),
    "AveragePooling1D": pool("AVERAGE_POOL_2D", 1),
    "MaxPooling1D": pool("MAX_POOL_2D", 1),
    "GlobalAveragePooling2D": global_pool("MEAN"),
    "GlobalMaxPooling2D": global_pool("REDUCE_MAX"),
    "GlobalAveragePooling1D": global_pool("MEAN"),
    "GlobalMaxPooling1D": global_pool("REDUCE_MAX"),
    "Flatten": flatten,
    "Reshape": reshape,
    "Permute": permute,
    "ZeroPadding2D": zero_padding,
    "Cropping2D": cropping,
    "UpSampling2D": upsampling,
    "Resizing": resizing,
    **dict.fromkeys(_NOTHING, nothing),
}
