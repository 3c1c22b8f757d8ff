"""Conversions of number formats: QUANTIZE DEQUANTIZE ARG_MAX, and what other families share of them.

QUANTIZE of a float tensor divides in float32 and rounds half away from zero; of an integer tensor
it requantizes with a fixed-point multiplier. DEQUANTIZE is ``scale * (q - zero_point)`` in float32.
Sources: TensorFlow Lite ``reference/quantize.h``, ``reference/requantize.h``,
``reference/dequantize.h`` and TensorFlow Lite Micro's ``quantize_common.cc``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.errors import GraphError, UnsupportedError
from edgekit.graph import numerics as nx
from edgekit.graph.ir import Node, QuantParams, Tensor
from edgekit.graph.ops import Call, OpSpec, register

Shape = tuple[int, ...]
Ins = Sequence[Tensor | None]


def first(ins: Ins) -> Tensor:
    """The first input; GraphError when it is absent."""
    if not ins or ins[0] is None:
        raise GraphError("input 0 is missing")
    return ins[0]


def same_shape(node: Node, ins: Ins) -> list[Shape]:
    """Shape inference of everything elementwise."""
    return [first(ins).shape]


def per_tensor(t: Tensor) -> QuantParams:
    """The per-tensor quantization of ``t``; UnsupportedError when it has none."""
    if t.quant is None or t.quant.is_per_channel:
        raise UnsupportedError(
            f"tensor '{t.name}' ({t.dtype}) needs a per-tensor quantization for this operator"
        )
    return t.quant


def saturate(x: np.ndarray, dtype: str) -> np.ndarray:
    """Clamp integer values to ``dtype`` and convert."""
    lo, hi = nx.LIMITS[dtype]
    return np.clip(x, lo, hi).astype(dtype)


def clamp_activation(x: np.ndarray, activation: str, out: Tensor) -> np.ndarray:
    """A fused activation applied to values of tensor ``out`` (its dtype is kept)."""
    if activation == "NONE":
        return x
    if out.is_float:
        return nx.clamp_float(x, activation)
    lo, hi = nx.activation_range(activation, out.quant, out.dtype)
    return nx.clamp_limits(x, lo, hi).astype(x.dtype)


def requantize(q: np.ndarray, src: Tensor, dst: Tensor) -> np.ndarray:
    """Integers of ``src``'s quantization as integers of ``dst``'s (TFLite ``Requantize``)."""
    a, b = per_tensor(src), per_tensor(dst)
    mult, shift = nx.quantize_multiplier(a.s / b.s)
    x = nx.wrap32(np.asarray(q, np.int64) - a.zp)
    y = nx.multiply_by_quantized_multiplier(x, mult, shift) + b.zp
    return saturate(nx.wrap32(y), dst.dtype)


def _quantize(call: Call) -> list[np.ndarray]:
    """Float -> integer, or integer -> integer (every pair of int8, uint8, int16, int32).

    A float beyond the integer range clamps. TFLite's own cast is undefined beyond 2**31 steps.
    """
    x, src, dst = call.x[0], first(call.ins), call.outs[0]
    assert x is not None
    if dst.is_float or dst.dtype == "bool":
        raise UnsupportedError(f"QUANTIZE gives integers; its output is {dst.dtype}")
    if src.is_float:
        if dst.quant is None:
            raise UnsupportedError(f"QUANTIZE needs a quantized output; '{dst.name}' has no scale")
        return [nx.quantize(x.astype(np.float32), dst.quant, dst.dtype)]
    return [requantize(x, src, dst)]


def _dequantize(call: Call) -> list[np.ndarray]:
    x, src = call.x[0], first(call.ins)
    assert x is not None
    if src.is_float:
        return [x.astype(np.float32)]
    if src.quant is None:
        raise UnsupportedError(f"DEQUANTIZE needs a quantized input; '{src.name}' has no scale")
    return [nx.dequantize(x, src.quant)]


def _arg_max_infer(node: Node, ins: Ins) -> list[Shape]:
    s, axis = first(ins).shape, int(node.attrs["axis"])
    if not 0 <= axis < len(s):
        raise GraphError(f"axis {axis} is not one of the {len(s)} axes of the input")
    return [s[:axis] + s[axis + 1 :]]


def _arg_max(call: Call) -> list[np.ndarray]:
    """Index of the first largest value along ``axis``, in the output's dtype (int32 or int64)."""
    x = call.x[0]
    assert x is not None
    return [np.argmax(x, axis=int(call.node.attrs["axis"])).astype(call.outs[0].dtype)]


register(OpSpec("QUANTIZE", same_shape, _quantize))
register(OpSpec("DEQUANTIZE", same_shape, _dequantize))
register(
    OpSpec("ARG_MAX", _arg_max_infer, _arg_max, batchable=lambda n, i, o: int(n.attrs["axis"]) != 0)
)
