"""Operator versions of .tflite files: an interpreter refuses an int8 operator that claims version 1.

From TensorFlow Lite's ``tools/versioning/op_version.cc``; what depends on more than the dtype of the
first activation (dilation, a missing bias, per-channel weights) is decided where the operator is
written.
"""

from __future__ import annotations

from edgekit.graph.ir import Tensor

#: Operator -> version by dtype of its first activation; 1 where nothing is said.
_VERSIONS: dict[str, dict[str, int]] = {
    "CONV_2D": {"int8": 3, "int16": 4},
    "DEPTHWISE_CONV_2D": {"int8": 3, "int16": 5},
    "TRANSPOSE_CONV": {"int8": 2, "int16": 2},
    "FULLY_CONNECTED": {"int8": 4, "int16": 7},
    "BATCH_MATMUL": {"int8": 2, "int16": 3},
    "MAX_POOL_2D": {"int8": 2, "int16": 3},
    "AVERAGE_POOL_2D": {"int8": 2, "int16": 3},
    "MEAN": {"int8": 2, "int16": 3},
    "SUM": {"int8": 2, "int16": 2},
    "REDUCE_MAX": {"int8": 2, "int16": 3},
    "ADD": {"int8": 2, "int16": 3},
    "SUB": {"int8": 2, "int16": 5},
    "MUL": {"int8": 2, "int16": 4},
    "DIV": {},
    "MAXIMUM": {"int8": 2, "int16": 3},
    "MINIMUM": {"int8": 2, "int16": 3},
    "SQUARED_DIFFERENCE": {"int8": 2},
    "CONCATENATION": {"int8": 2, "int16": 3},
    "PAD": {"int8": 2, "int16": 3},
    "PADV2": {"int8": 2, "int16": 3},
    "TRANSPOSE": {"int8": 2, "int16": 4},
    "STRIDED_SLICE": {"int8": 2, "int16": 4},
    "SPLIT": {"int8": 2, "int16": 4},
    "SPLIT_V": {"int8": 2, "int16": 2},
    "RESIZE_BILINEAR": {"int8": 2, "int16": 4},
    "RESIZE_NEAREST_NEIGHBOR": {"int8": 2, "int16": 4},
    "SOFTMAX": {"int8": 2, "int16": 3},
    "LOGISTIC": {"int8": 2, "int16": 3},
    "TANH": {"int8": 2, "int16": 3},
    "RELU": {"int8": 2, "int16": 3},
    "RELU6": {"int8": 2, "int16": 3},
    "LEAKY_RELU": {"int8": 2, "int16": 2},
    "ABS": {"int8": 2, "int16": 3},
    "EXP": {"int8": 2, "int16": 2},
    "LOG": {"int8": 2, "int16": 2},
    "RSQRT": {"int8": 2, "int16": 2},
    "GELU": {"int8": 2},
    "QUANTIZE": {"int16": 2},
    "DEQUANTIZE": {"int8": 2, "int16": 3, "float16": 3},
    "ARG_MAX": {"int8": 2},
    "GATHER": {"int8": 2, "int16": 4},
}


def version_of(op: str, x: Tensor) -> int:
    """The version of operator ``op`` whose first activation is ``x``."""
    return _VERSIONS.get(op, {}).get(x.dtype, 1)
