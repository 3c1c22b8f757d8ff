"""Windowed and whole-axis reductions: MAX_POOL_2D, AVERAGE_POOL_2D, MEAN, SUM, REDUCE_MAX.

Integer pools keep the input's scale, as in TensorFlow Lite: the average is a division that rounds
half away from zero, padding does not count. Integer MEAN and SUM rescale; MEAN folds
1/elements into the multiplier (TFLite's ``QuantizedMeanOrSum``). REDUCE_MAX compares stored values.
What TensorFlow Lite Micro lacks is defined so: uint8 is computed like int8, explicit padding is
never part of a maximum or of an average's count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from edgekit.errors import GraphError, UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Node, Tensor
from edgekit.graph.ops import Call, OpSpec, register
from edgekit.graph.ops.conv import check_shapes

_INTEGERS = ("int8", "uint8", "int16")


def _window(node: Node, hw: tuple[int, int]) -> tuple[nm.Padding4, tuple[int, int]]:
    a = node.attrs
    return nm.conv_padding(hw, a["filter"], a["stride"], a["padding"])


def _infer_pool(node: Node, ins: Sequence[Tensor | None]) -> list[tuple[int, ...]]:
    (x,) = check_shapes(ins, (4,))
    pads, out = _window(node, (x.shape[1], x.shape[2]))
    nm.activation_bounds(node.attrs["activation"])
    fh, fw = node.attrs["filter"]
    if max(pads[:2]) >= fh or max(pads[2:]) >= fw:
        raise GraphError(
            f"padding {list(pads)} is not smaller than the window {[fh, fw]}: "
            "some windows would hold nothing"
        )
    return [(x.shape[0], *out, x.shape[3])]


def _same_type(call: Call) -> str:
    t, out = call.ins[0], call.outs[0]
    assert t is not None
    if t.dtype != out.dtype or t.dtype not in (*_INTEGERS, "float32"):
        raise UnsupportedError(
            f"{call.node.type} of {t.dtype} to {out.dtype}; one of float32, int8, uint8, int16 "
            "for both is implemented"
        )
    return t.dtype


def _clamp(call: Call, values: np.ndarray) -> np.ndarray:
    out = call.outs[0]
    if out.dtype == "float32":
        return nm.clamp_float(values, call.node.attrs["activation"]).astype(np.float32, copy=False)
    lo, hi = nm.activation_range(call.node.attrs["activation"], out.quant, out.dtype)
    return nm.clamp_limits(values, lo, hi).astype(out.dtype)


def _taps(
    node: Node, hw: tuple[int, int]
) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """For each cell of the window: where it lies in the output, and what it reads of the input."""
    (top, _, left, _), out = _window(node, hw)
    for i in range(node.attrs["filter"][0]):
        for j in range(node.attrs["filter"][1]):
            spans: list[tuple[slice, slice]] = []
            for axis, start in ((0, i - top), (1, j - left)):
                stride = node.attrs["stride"][axis]
                first = max(0, -(start // stride)) if start < 0 else 0
                last = min(out[axis] - 1, (hw[axis] - 1 - start) // stride)
                if last < first:
                    break
                begin = start + first * stride
                end = start + last * stride + 1
                spans.append((slice(first, last + 1), slice(begin, end, stride)))
            if len(spans) == 2:
                yield (spans[0][0], spans[1][0]), (spans[0][1], spans[1][1])


def _reference_max_pool(call: Call) -> list[np.ndarray]:
    dtype = _same_type(call)
    x = call.x[0]
    assert x is not None
    n, h, w, c = x.shape
    _, (oh, ow) = _window(call.node, (h, w))
    lowest = -np.inf if dtype == "float32" else nm.LIMITS[dtype][0]
    out = np.full((n, oh, ow, c), lowest, x.dtype)
    for (oy, ox), (iy, ix) in _taps(call.node, (h, w)):
        part = out[:, oy, ox]
        np.maximum(part, x[:, iy, ix], out=part)
    return [_clamp(call, out)]


def _reference_average_pool(call: Call) -> list[np.ndarray]:
    dtype = _same_type(call)
    x = call.x[0]
    assert x is not None
    n, h, w, c = x.shape
    _, (oh, ow) = _window(call.node, (h, w))
    acc = np.zeros((n, oh, ow, c), np.float32 if dtype == "float32" else np.int64)
    count = np.zeros((oh, ow, 1), np.int64)
    for (oy, ox), (iy, ix) in _taps(call.node, (h, w)):
        acc[:, oy, ox] += x[:, iy, ix]
        count[oy, ox] += 1
    if dtype == "float32":
        return [_clamp(call, acc / count.astype(np.float32))]
    # half away from zero, by truncating division of the magnitudes
    magnitude = (np.abs(acc) + count // 2) // count
    return [_clamp(call, np.where(acc < 0, -magnitude, magnitude))]


# -- whole axes --------------------------------------------------------------------------------


def _infer_reduce(node: Node, ins: Sequence[Tensor | None]) -> list[tuple[int, ...]]:
    x = ins[0]
    if x is None:
        raise GraphError("the input is missing")
    axes = tuple(node.attrs["axes"])
    if any(not 0 <= a < len(x.shape) for a in axes) or len(set(axes)) != len(axes):
        raise GraphError(
            f"axes {list(axes)} of an input {list(x.shape)}; distinct axes from 0 to "
            f"{len(x.shape) - 1} are needed"
        )
    if min(x.shape, default=1) < 1:
        raise GraphError(f"the input has shape {list(x.shape)}, with an empty dimension")
    if node.attrs["keep_dims"]:
        return [tuple(1 if i in axes else d for i, d in enumerate(x.shape))]
    return [tuple(d for i, d in enumerate(x.shape) if i not in axes)]


def _batchable_reduce(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> bool:
    return 0 not in node.attrs["axes"]


def mean_multiplier(s_in: float, s_out: float, elements: int) -> tuple[int, int]:
    """Multiplier and shift that turn a sum of ``elements`` zero-point-free inputs into a mean.

    The multiplier is divided by ``elements`` in 64 bits, after as much left shift as fits
    (TFLite ``reference_ops::QuantizedMeanOrSum``).
    """
    mult, shift = nm.quantize_multiplier(s_in / s_out)
    up = min(elements.bit_length() - 1, 32, 31 + shift)
    return (mult << up) // elements, shift - up


def _reference_mean_or_sum(call: Call) -> list[np.ndarray]:
    dtype = _same_type(call)
    t, out, x = call.ins[0], call.outs[0], call.x[0]
    assert t is not None and x is not None
    axes, keep = tuple(call.node.attrs["axes"]), bool(call.node.attrs["keep_dims"])
    mean = call.node.type == "MEAN"
    if dtype == "float32":
        reduce: Callable[..., np.ndarray] = np.mean if mean else np.sum
        return [np.asarray(reduce(x, axis=axes, keepdims=keep), np.float32)]
    if t.quant is None or out.quant is None:
        raise UnsupportedError(f"an integer {call.node.type} without quantization parameters")
    elements = 1
    for a in axes:
        elements *= t.shape[a]
    total = np.asarray(np.sum(x, axis=axes, keepdims=keep, dtype=np.int64))
    total = nm.wrap32(total - t.quant.zp * elements)
    if mean:
        mult, shift = mean_multiplier(t.quant.s, out.quant.s, elements)
    else:
        mult, shift = nm.quantize_multiplier(t.quant.s / out.quant.s)
    limits = nm.LIMITS[dtype]
    return [nm.requantize(total, mult, shift, zero_point=out.quant.zp, limits=limits, dtype=dtype)]


def _reference_reduce_max(call: Call) -> list[np.ndarray]:
    _same_type(call)
    x = call.x[0]
    assert x is not None
    axes, keep = tuple(call.node.attrs["axes"]), bool(call.node.attrs["keep_dims"])
    return [np.asarray(np.max(x, axis=axes, keepdims=keep))]


# Sums without weights are no multiply-accumulates (MLPerf Tiny counts alike): no ``macs``.
register(OpSpec("MAX_POOL_2D", _infer_pool, _reference_max_pool))
register(OpSpec("AVERAGE_POOL_2D", _infer_pool, _reference_average_pool))
for _op in ("MEAN", "SUM"):
    register(OpSpec(_op, _infer_reduce, _reference_mean_or_sum, batchable=_batchable_reduce))
register(OpSpec("REDUCE_MAX", _infer_reduce, _reference_reduce_max, batchable=_batchable_reduce))
