"""One operator of a .tflite file -> nodes of a graph; those that move data are in
``tflite_movement``.

Constant parameter tensors become complete attributes (no masks, no -1, no negative axes), operators
that are others in disguise (EXPAND_DIMS, PACK, SLICE, ...) are lowered.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from edgekit.errors import FormatError
from edgekit.formats.tflite_checks import activation, axis_of, only, padding, positive, required
from edgekit.formats.tflite_emit import LAYER_NORM_CUSTOM
from edgekit.formats.tflite_flat import RawOperator
from edgekit.formats.tflite_movement import MOVEMENT
from edgekit.formats.tflite_read import NotSupported, Reader

Handler = Callable[[Reader, RawOperator], None]


def add_operator(r: Reader, op: RawOperator) -> None:
    """Append the nodes of ``op``; NotSupported when there are none for it."""
    if op.custom:
        if op.type != LAYER_NORM_CUSTOM:
            raise NotSupported(f"the custom operator '{op.type}' is unknown")
        _layer_norm(r, op)
        return
    handler = _HANDLERS.get(op.type)
    if handler is None:
        raise NotSupported("the operator is not implemented")
    handler(r, op)


# -- convolutions and matrix products ------------------------------------------------------------


def _weights(r: Reader, op: RawOperator, x: int, w: int) -> str:
    """The name of a constant weight tensor that fits to the activations' dtype."""
    data = r.const(w)
    if data is None:
        raise NotSupported("its weights are computed at run time; they have to be constant")
    x_dtype, w_dtype = r.raw(x).dtype, str(data.dtype)
    if x_dtype.startswith("float") and w_dtype != x_dtype:
        raise NotSupported(
            f"hybrid: {x_dtype} activations with {w_dtype} weights; "
            "quantize the whole model, or leave it float"
        )
    if not x_dtype.startswith("float") and (
        w_dtype not in ("int8", "uint8") or r.raw(w).quant is None or r.raw(x).quant is None
    ):
        raise NotSupported(
            f"{x_dtype} activations with {w_dtype} weights; both have to be quantized integers"
        )
    return r.value(w)


def _bias(r: Reader, op: RawOperator, k: int, x: int) -> list[str]:
    index = r.optional(op, k)
    if index is None:
        return []
    data = r.const(index)
    if data is None:
        raise NotSupported("its bias is computed at run time; it has to be constant")
    is_float = r.raw(x).dtype.startswith("float")
    if (data.dtype.kind == "f") != is_float or (not is_float and data.dtype.itemsize < 4):
        raise NotSupported(f"{r.raw(x).dtype} activations with a {data.dtype} bias")
    return [r.value(index)]


def _conv(r: Reader, op: RawOperator) -> None:
    only(op, 2)
    depthwise = op.type == "DEPTHWISE_CONV_2D"
    options = required(op, "DepthwiseConv2D" if depthwise else "Conv2D")
    x, w = r.arg(op, 0), r.arg(op, 1)
    attrs = {
        "stride": positive(op, "stride", options.StrideH(), options.StrideW()),
        "dilation": positive(op, "dilation", options.DilationHFactor(), options.DilationWFactor()),
        "padding": padding(op, options),
        "activation": activation(options),
    }
    r.add(op, op.type, [r.value(x), _weights(r, op, x, w), *_bias(r, op, 2, x)], attrs)


def _transpose_conv(r: Reader, op: RawOperator) -> None:
    only(op, 3)
    options = required(op, "TransposeConv")
    w, x = r.arg(op, 1), r.arg(op, 2)
    shape = tuple(r.ints(op, 0, "output shape"))
    attrs = {
        "stride": positive(op, "stride", options.StrideH(), options.StrideW()),
        "padding": padding(op, options),
        "output_shape": positive(op, "output shape", *shape, 1)[: len(shape)],
        "activation": activation(options),
    }
    r.add(op, op.type, [r.value(x), _weights(r, op, x, w), *_bias(r, op, 3, x)], attrs)


def _fully_connected(r: Reader, op: RawOperator) -> None:
    only(op, 2)
    options = op.options("FullyConnected")
    if options is not None and options.WeightsFormat() != 0:
        raise NotSupported("its weights are shuffled; only the default layout is accepted")
    x, w = r.arg(op, 0), r.arg(op, 1)
    attrs = {
        "activation": activation(options),
        "keep_num_dims": bool(options is not None and options.KeepNumDims()),
    }
    r.add(op, op.type, [r.value(x), _weights(r, op, x, w), *_bias(r, op, 2, x)], attrs)


def _batch_matmul(r: Reader, op: RawOperator) -> None:
    only(op, 2)
    options = op.options("BatchMatMul")
    x, y = r.arg(op, 0), r.arg(op, 1)
    if r.raw(x).dtype != r.raw(y).dtype and r.const(y) is None:
        raise NotSupported(f"factors of {r.raw(x).dtype} and {r.raw(y).dtype}")
    second = r.value(y) if r.const(y) is None else _weights(r, op, x, y)
    attrs = {
        "adj_x": bool(options is not None and options.AdjX()),
        "adj_y": bool(options is not None and options.AdjY()),
    }
    r.add(op, op.type, [r.value(x), second], attrs)


def _layer_norm(r: Reader, op: RawOperator) -> None:
    only(op, 3)
    try:
        epsilon = float(json.loads(op.custom_options.decode())["epsilon"])
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise FormatError(f"{op.name} has no readable options") from e
    if not 0 <= epsilon < np.inf:
        raise FormatError(f"{op.name} has the epsilon {epsilon}")
    inputs = [r.value(r.arg(op, k)) for k in range(3)]
    r.add(op, "LAYER_NORM", inputs, {"epsilon": epsilon})


# -- pooling and reductions ----------------------------------------------------------------------


def _pool(r: Reader, op: RawOperator) -> None:
    only(op, 1)
    options = required(op, "Pool2D")
    attrs = {
        "filter": positive(op, "filter", options.FilterHeight(), options.FilterWidth()),
        "stride": positive(op, "stride", options.StrideH(), options.StrideW()),
        "padding": padding(op, options),
        "activation": activation(options),
    }
    r.add(op, op.type, [r.value(r.arg(op, 0))], attrs)


def _reduce(r: Reader, op: RawOperator) -> None:
    only(op, 2)
    options = op.options("Reducer")
    x = r.arg(op, 0)
    rank = len(r.shape(x))
    axes = sorted({axis_of(op, a, rank) for a in r.ints(op, 1, "axes")})
    keep = bool(options is not None and options.KeepDims())
    r.add(op, op.type, [r.value(x)], {"axes": tuple(axes), "keep_dims": keep})


def _arg_max(r: Reader, op: RawOperator) -> None:
    only(op, 2)
    x = r.arg(op, 0)
    axis = r.ints(op, 1, "axis")
    if len(axis) != 1:
        raise FormatError(f"{op.name} has {len(axis)} axes; 1 is valid")
    r.add(op, "ARG_MAX", [r.value(x)], {"axis": axis_of(op, axis[0], len(r.shape(x)))})


# -- element by element --------------------------------------------------------------------------


def _arithmetic(r: Reader, op: RawOperator) -> None:
    only(op, 2)
    options = op.options(op.type.capitalize())
    x, y = r.arg(op, 0), r.arg(op, 1)
    if r.raw(x).dtype != r.raw(y).dtype:
        raise NotSupported(f"operands of {r.raw(x).dtype} and {r.raw(y).dtype}")
    r.add(op, op.type, [r.value(x), r.value(y)], {"activation": activation(options)})


def _two(r: Reader, op: RawOperator) -> None:
    only(op, 2)
    r.add(op, op.type, [r.value(r.arg(op, 0)), r.value(r.arg(op, 1))])


def _one(r: Reader, op: RawOperator) -> None:
    only(op, 1)
    r.add(op, op.type, [r.value(r.arg(op, 0))])


def _square(r: Reader, op: RawOperator) -> None:
    only(op, 1)
    x = r.value(r.arg(op, 0))
    r.add(op, "MUL", [x, x], {"activation": "NONE"})


def _prelu(r: Reader, op: RawOperator) -> None:
    only(op, 2)
    if r.const(r.arg(op, 1)) is None:
        raise NotSupported("its alpha is computed at run time; it has to be constant")
    _two(r, op)


def _softmax(r: Reader, op: RawOperator) -> None:
    only(op, 1)
    beta = required(op, "Softmax").Beta()
    if not np.isfinite(beta):
        raise FormatError(f"{op.name} has the beta {beta}")
    r.add(op, op.type, [r.value(r.arg(op, 0))], {"beta": float(beta)})


def _leaky_relu(r: Reader, op: RawOperator) -> None:
    only(op, 1)
    alpha = required(op, "LeakyRelu").Alpha()
    if not np.isfinite(alpha):
        raise FormatError(f"{op.name} has the alpha {alpha}")
    r.add(op, op.type, [r.value(r.arg(op, 0))], {"alpha": float(alpha)})


def _gelu(r: Reader, op: RawOperator) -> None:
    only(op, 1)
    options = op.options("Gelu")
    approximate = bool(options is not None and options.Approximate())
    r.add(op, op.type, [r.value(r.arg(op, 0))], {"approximate": approximate})


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
    **dict.fromkeys(("ADD", "SUB", "MUL", "DIV"), _arithmetic),
    **dict.fromkeys(("MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"), _two),
    **dict.fromkeys(
        (
            "LOGISTIC",
            "TANH",
            "RELU",
            "RELU6",
            "RELU_N1_TO_1",
            "HARD_SWISH",
            "ABS",
            "EXP",
            "LOG",
            "NEG",
            "SQRT",
            "RSQRT",
            "QUANTIZE",
            "DEQUANTIZE",
        ),
        _one,
    ),
    "SQUARE": _square,
    "PRELU": _prelu,
    "SOFTMAX": _softmax,
    "LEAKY_RELU": _leaky_relu,
    "GELU": _gelu,
    **MOVEMENT,
}
