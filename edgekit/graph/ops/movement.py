"""Operators that move data: CONCATENATION PAD RESHAPE SQUEEZE TRANSPOSE STRIDED_SLICE SPLIT GATHER.

They copy values of any dtype, so the integer forms are the float forms on bytes, as in TensorFlow
Lite Micro's kernels (``concatenation.cc``, ``pad.cc``, ``reshape.cc``, ``transpose.cc``,
``strided_slice.cc``, ``split.cc``, ``gather.cc``): the quantization of the output is taken to be
that of the input. CONCATENATION alone may join tensors of different quantization, see there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.errors import GraphError
from edgekit.graph import numerics as nx
from edgekit.graph.ir import Node, Tensor
from edgekit.graph.ops import Call, OpSpec, register

Shape = tuple[int, ...]
Ins = Sequence[Tensor | None]


def _shape(ins: Ins, index: int = 0) -> Shape:
    t = ins[index]
    if t is None:
        raise GraphError(f"input {index} is missing")
    return t.shape


def _axis(node: Node, rank: int) -> int:
    axis = int(node.attrs["axis"])
    if not 0 <= axis < rank:
        raise GraphError(f"axis {axis} is not one of the {rank} axes of the input")
    return axis


def _samples(call: Call) -> int:
    """How many samples are stacked along axis 0 (1 when all inputs are constants or scalars)."""
    for t, v in zip(call.ins, call.x, strict=True):
        if t is not None and not t.is_const and v is not None and t.shape:
            return max(1, v.shape[0] // t.shape[0])
    return 1


# -- CONCATENATION -------------------------------------------------------------------------------


def _concat_infer(node: Node, ins: Ins) -> list[Shape]:
    first = _shape(ins)
    axis = _axis(node, len(first))
    total = 0
    for i in range(len(ins)):
        s = _shape(ins, i)
        if len(s) != len(first) or any(
            a != b for d, (a, b) in enumerate(zip(s, first, strict=True)) if d != axis
        ):
            raise GraphError(
                f"inputs of shapes {list(first)} and {list(s)} do not join along axis {axis}"
            )
        total += s[axis]
    return [(*first[:axis], total, *first[axis + 1 :])]


def _concat(call: Call) -> list[np.ndarray]:
    """Join along ``axis``, then apply the fused activation.

    Integer inputs whose quantization differs from the output's are requantized first, exactly as
    the QUANTIZE operator does it. TFLite refuses such int8 nodes and TFLite Micro copies the bytes
    without a word, so this is edgekit's definition; equal quantization gives the same bytes.
    """
    from edgekit.graph.ops.quant import clamp_activation, requantize

    out = call.outs[0]
    samples = _samples(call)
    parts = []
    for t, v in zip(call.ins, call.x, strict=True):
        assert t is not None and v is not None
        if (
            not t.is_float
            and t.quant is not None
            and out.quant is not None
            and not t.quant.same_as(out.quant)
        ):
            v = requantize(v, t, out)
        if samples > 1 and v.shape[0] == t.shape[0]:  # a constant among stacked samples
            v = np.tile(v, (samples,) + (1,) * (v.ndim - 1))
        parts.append(v)
    y = np.concatenate(parts, axis=int(call.node.attrs["axis"]))
    return [clamp_activation(y, call.node.attr("activation", "NONE"), out)]


register(
    OpSpec(
        "CONCATENATION",
        _concat_infer,
        _concat,
        batchable=lambda n, i, o: int(n.attrs["axis"]) != 0 and o[0].shape[0] == 1,
        n_inputs=(1, 1 << 16),
    )
)


# -- PAD -----------------------------------------------------------------------------------------


def _pad_infer(node: Node, ins: Ins) -> list[Shape]:
    s = _shape(ins)
    pads = node.attrs["paddings"]
    if len(pads) != len(s):
        raise GraphError(f"paddings for {len(pads)} dimensions, but the input has {len(s)}")
    if any(a < 0 or b < 0 for a, b in pads):
        raise GraphError(f"paddings {pads} are negative")
    return [tuple(d + a + b for d, (a, b) in zip(s, pads, strict=True))]


def pad_value(node: Node, out: Tensor) -> float | int:
    """What PAD fills with, in the output tensor's own dtype: real ``value``, quantized.

    A value of 0 is the zero point itself, as in TFLite.
    """
    value = float(node.attr("value", 0.0))
    if out.is_float or out.quant is None:
        return value if out.is_float else int(value)
    return int(nx.quantize(np.asarray(value, np.float32), out.quant, out.dtype))


def _pad(call: Call) -> list[np.ndarray]:
    x = call.x[0]
    assert x is not None
    fill = pad_value(call.node, call.outs[0])
    return [np.pad(x, call.node.attrs["paddings"], constant_values=x.dtype.type(fill))]


register(
    OpSpec(
        "PAD", _pad_infer, _pad, batchable=lambda n, i, o: tuple(n.attrs["paddings"][0]) == (0, 0)
    )
)


# -- RESHAPE, SQUEEZE, TRANSPOSE -----------------------------------------------------------------


def _reshape_infer(node: Node, ins: Ins) -> list[Shape]:
    s = _shape(ins)
    new = tuple(int(d) for d in node.attrs["new_shape"])
    if any(d < 0 for d in new) or int(np.prod(new, dtype=np.int64)) != int(
        np.prod(s, dtype=np.int64)
    ):
        raise GraphError(f"{list(s)} cannot be reshaped to {list(new)}")
    return [new]


def _squeeze_infer(node: Node, ins: Ins) -> list[Shape]:
    s = _shape(ins)
    axes = tuple(int(a) for a in node.attrs["axes"])
    for a in axes:
        if not 0 <= a < len(s) or s[a] != 1:
            raise GraphError(f"axis {a} of {list(s)} cannot be squeezed; it must be of size 1")
    return [tuple(d for i, d in enumerate(s) if i not in axes)]


def _keeps_samples(node: Node, ins: Ins, outs: Sequence[Tensor]) -> bool:
    i, o = _shape(ins), outs[0].shape
    return bool(i) and bool(o) and i[0] == 1 and o[0] == 1


def _reshape(call: Call) -> list[np.ndarray]:
    x = call.x[0]
    assert x is not None
    shape = call.outs[0].shape
    samples = _samples(call)
    return [x.reshape((shape[0] * samples, *shape[1:]) if samples > 1 else shape)]


def _transpose_infer(node: Node, ins: Ins) -> list[Shape]:
    s = _shape(ins)
    perm = tuple(int(p) for p in node.attrs["perm"])
    if sorted(perm) != list(range(len(s))):
        raise GraphError(f"perm {perm} is not a permutation of the {len(s)} axes of the input")
    return [tuple(s[p] for p in perm)]


def _transpose(call: Call) -> list[np.ndarray]:
    x = call.x[0]
    assert x is not None
    return [
        np.ascontiguousarray(np.transpose(x, call.node.attrs["perm"])).reshape(
            tuple(x.shape[p] for p in call.node.attrs["perm"])
        )
    ]


register(OpSpec("RESHAPE", _reshape_infer, _reshape, batchable=_keeps_samples))
register(OpSpec("SQUEEZE", _squeeze_infer, _reshape, batchable=_keeps_samples))
register(
    OpSpec(
        "TRANSPOSE",
        _transpose_infer,
        _transpose,
        batchable=lambda n, i, o: len(n.attrs["perm"]) > 0 and int(n.attrs["perm"][0]) == 0,
    )
)


# -- STRIDED_SLICE, SPLIT, GATHER ----------------------------------------------------------------


def _ranges(node: Node, rank: int) -> list[range]:
    begin, end, strides = (node.attrs[k] for k in ("begin", "end", "strides"))
    if not len(begin) == len(end) == len(strides) == rank:
        raise GraphError(
            f"begin, end and strides have {len(begin)}, {len(end)} and {len(strides)} entries, "
            f"but the input has {rank} dimensions"
        )
    if any(int(s) == 0 for s in strides):
        raise GraphError("a stride is 0")
    return [range(int(b), int(e), int(s)) for b, e, s in zip(begin, end, strides, strict=True)]


def _slice_infer(node: Node, ins: Ins) -> list[Shape]:
    s = _shape(ins)
    ranges = _ranges(node, len(s))
    shrink = {int(a) for a in node.attr("shrink_axes", ())}
    for d, (r, n) in enumerate(zip(ranges, s, strict=True)):
        if len(r) == 0:
            raise GraphError(f"the slice of axis {d} ({r.start}:{r.stop}:{r.step}) is empty")
        if not (0 <= r[0] < n and 0 <= r[-1] < n):
            raise GraphError(f"the slice of axis {d} leaves its {n} elements")
        if d in shrink and len(r) != 1:
            raise GraphError(f"axis {d} is shrunk but its slice has {len(r)} elements")
    return [tuple(len(r) for d, r in enumerate(ranges) if d not in shrink)]


def _as_slice(r: range) -> slice:
    return slice(r.start, r.stop if r.stop >= 0 else None, r.step)


def _slice_batchable(node: Node, ins: Ins, outs: Sequence[Tensor]) -> bool:
    s = _shape(ins)
    if not s:
        return False
    whole = _ranges(node, len(s))[0] == range(s[0])
    return whole and s[0] == 1 and 0 not in {int(a) for a in node.attr("shrink_axes", ())}


def _slice(call: Call) -> list[np.ndarray]:
    x, t = call.x[0], call.ins[0]
    assert x is not None and t is not None
    index = [_as_slice(r) for r in _ranges(call.node, len(t.shape))]
    if t.shape and x.shape[0] != t.shape[0]:
        index[0] = slice(None)
    y = x[tuple(index)]
    shrink = tuple(int(a) for a in call.node.attr("shrink_axes", ()))
    return [np.array(np.squeeze(y, shrink) if shrink else y, order="C")]


def _split_infer(node: Node, ins: Ins) -> list[Shape]:
    s = _shape(ins)
    axis = _axis(node, len(s))
    sizes = tuple(int(v) for v in node.attrs["sizes"])
    if sum(sizes) != s[axis] or any(v <= 0 for v in sizes):
        raise GraphError(f"sizes {sizes} do not split the {s[axis]} elements of axis {axis}")
    return [(*s[:axis], v, *s[axis + 1 :]) for v in sizes]


def _split(call: Call) -> list[np.ndarray]:
    x = call.x[0]
    assert x is not None
    cuts = np.cumsum([int(v) for v in call.node.attrs["sizes"]])[:-1].tolist()
    parts = np.split(x, cuts, axis=int(call.node.attrs["axis"]))
    return [np.ascontiguousarray(p) for p in parts]


def _gather_infer(node: Node, ins: Ins) -> list[Shape]:
    s = _shape(ins)
    axis = _axis(node, len(s))
    idx = np.asarray(node.attrs["indices"], np.int64)
    if idx.size and (idx.min() < 0 or idx.max() >= s[axis]):
        raise GraphError(f"an index is outside of the {s[axis]} elements of axis {axis}")
    return [(*s[:axis], *idx.shape, *s[axis + 1 :])]


def _gather(call: Call) -> list[np.ndarray]:
    x = call.x[0]
    assert x is not None
    idx = np.asarray(call.node.attrs["indices"], np.int64)
    return [np.array(np.take(x, idx, axis=int(call.node.attrs["axis"])), order="C")]


register(OpSpec("STRIDED_SLICE", _slice_infer, _slice, batchable=_slice_batchable))
register(OpSpec("SPLIT", _split_infer, _split, batchable=lambda n, i, o: int(n.attrs["axis"]) != 0))
register(
    OpSpec("GATHER", _gather_infer, _gather, batchable=lambda n, i, o: int(n.attrs["axis"]) != 0)
)
