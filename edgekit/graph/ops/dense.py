"""FULLY_CONNECTED and BATCH_MATMUL.

float32 through BLAS; int8 (and int16 activations) exactly as TensorFlow Lite Micro's reference
kernels: a zero point of the weights (or of the right-hand side) counts, int16 sums are taken in 64
bits. The multiplier is ``s_x * s_w / s_out`` in double, also where the weights have one scale: older
releases of TensorFlow Lite rounded ``s_x * s_w`` to float32 first, the oracle does not.
What Micro lacks: uint8 follows TensorFlow Lite; int16 activations with per-channel weights use the
per-channel multipliers of int8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.errors import GraphError, UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Node, Tensor
from edgekit.graph.ops import Call, OpSpec, register
from edgekit.graph.ops.conv import check_bias, linear


def _infer_fc(node: Node, ins: Sequence[Tensor | None]) -> list[tuple[int, ...]]:
    x, w = ins[0], ins[1]
    if x is None or w is None:
        raise GraphError("input or weights are missing")
    if len(w.shape) != 2 or min(w.shape) < 1 or min(x.shape, default=0) < 1:
        raise GraphError(
            f"input {list(x.shape)} and weights {list(w.shape)}; weights [outputs, inputs] and an "
            "input without empty dimensions are needed"
        )
    outputs, inputs = w.shape
    check_bias(ins, 2, outputs)
    nm.activation_bounds(node.attrs["activation"])
    if node.attrs["keep_num_dims"]:
        if x.shape[-1] != inputs:
            raise GraphError(f"weights {list(w.shape)} do not fit an input of {list(x.shape)}")
        return [(*x.shape[:-1], outputs)]
    if x.elements % inputs:
        raise GraphError(
            f"weights {list(w.shape)} do not fit an input of {list(x.shape)}: "
            f"{x.elements} is no multiple of {inputs}"
        )
    return [(x.elements // inputs, outputs)]


def _macs_fc(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> int:
    w = ins[1]
    assert w is not None
    return outs[0].elements * w.shape[1]


def _batchable_fc(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> bool:
    x = ins[0]
    assert x is not None
    if any(t is not None and not t.is_const for t in ins[1:]):
        return False
    return len(x.shape) > 1 or not node.attrs["keep_num_dims"]


def _reference_fc(call: Call) -> list[np.ndarray]:
    lin = linear(call, 0)
    out_shape = call.outs[0].shape
    acc = lin.x.reshape(-1, lin.w.shape[1]) @ lin.w.T
    return [lin.finish(acc).reshape(-1, *out_shape[1:])]


def _adjust(shape: tuple[int, ...], adjoint: bool) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2]) if adjoint else shape


def _infer_bmm(node: Node, ins: Sequence[Tensor | None]) -> list[tuple[int, ...]]:
    x, y = ins[0], ins[1]
    if x is None or y is None:
        raise GraphError("an input is missing")
    if min(len(x.shape), len(y.shape)) < 2 or min(*x.shape, *y.shape) < 1:
        raise GraphError(
            f"inputs {list(x.shape)} and {list(y.shape)}; two or more non-empty dimensions each "
            "are needed"
        )
    a, b = _adjust(x.shape, node.attrs["adj_x"]), _adjust(y.shape, node.attrs["adj_y"])
    if a[-1] != b[-2]:
        raise GraphError(f"matrices {list(a[-2:])} and {list(b[-2:])} cannot be multiplied")
    try:
        batch = np.broadcast_shapes(a[:-2], b[:-2])
    except ValueError:
        raise GraphError(
            f"batch dimensions {list(a[:-2])} and {list(b[:-2])} do not broadcast"
        ) from None
    return [(*batch, a[-2], b[-1])]


def _macs_bmm(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> int:
    x = ins[0]
    assert x is not None
    return outs[0].elements * _adjust(x.shape, node.attrs["adj_x"])[-1]


def _batchable_bmm(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> bool:
    x, y = ins[0], ins[1]
    assert x is not None and y is not None
    rank = len(outs[0].shape)
    if rank == 2:  # rows of x are samples where each sample has one row
        return y.is_const and not node.attrs["adj_x"]
    return all(t.is_const or len(t.shape) == rank for t in (x, y))


def _reference_bmm(call: Call) -> list[np.ndarray]:
    xt, yt, out = call.ins[0], call.ins[1], call.outs[0]
    x, y = call.x[0], call.x[1]
    assert xt is not None and yt is not None and x is not None and y is not None
    if call.node.attrs["adj_x"]:
        x = np.swapaxes(x, -1, -2)
    if call.node.attrs["adj_y"]:
        y = np.swapaxes(y, -1, -2)
    kinds = {xt.dtype, yt.dtype, out.dtype}
    if kinds == {"float32"}:
        return [np.matmul(x, y)]
    if kinds not in ({"int8"}, {"int16"}):
        raise UnsupportedError(
            f"BATCH_MATMUL of {xt.dtype} and {yt.dtype} to {out.dtype}; all float32, all int8 or "
            "all int16 are implemented"
        )
    if xt.quant is None or yt.quant is None or out.quant is None:
        raise UnsupportedError("an integer BATCH_MATMUL without quantization parameters")
    wide = xt.dtype == "int16"
    if wide and (xt.quant.zp or yt.quant.zp or out.quant.zp):
        raise UnsupportedError("int16 activations with a zero point; they must be symmetric")
    if yt.quant.is_per_channel or xt.quant.is_per_channel:
        raise UnsupportedError("BATCH_MATMUL with per-channel scales; one scale is implemented")
    span = 1 << (16 if wide else 8)
    ftype = np.float32 if x.shape[-1] * span * span < 1 << 24 else np.float64
    acc = np.matmul(
        x.astype(ftype) - np.asarray(xt.quant.zp, ftype),
        y.astype(ftype) - np.asarray(yt.quant.zp, ftype),
    )
    mult, shift = nm.quantize_multiplier(xt.quant.s * yt.quant.s / out.quant.s)
    return [
        nm.requantize(
            acc.astype(np.int64),
            mult,
            shift,
            zero_point=out.quant.zp,
            limits=nm.LIMITS[out.dtype],
            dtype=out.dtype,
            wide=wide,
        )
    ]


register(OpSpec("FULLY_CONNECTED", _infer_fc, _reference_fc, _macs_fc, _batchable_fc, (2, 3)))
register(OpSpec("BATCH_MATMUL", _infer_bmm, _reference_bmm, _macs_bmm, _batchable_bmm, (2, 2)))
