"""Operators of a .tflite file that move data -> nodes: slices without masks, shapes without -1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.errors import FormatError
from edgekit.formats.tflite_checks import (
    activation,
    axis_of,
    elements,
    few,
    only,
    positive,
    required,
)
from edgekit.formats.tflite_flat import RawOperator
from edgekit.formats.tflite_read import NotSupported, Reader, quantized_value


def _concatenation(r: Reader, op: RawOperator) -> None:
    only(op, 1)
    options = required(op, "Concatenation")
    inputs = [r.value(r.arg(op, k)) for k in range(len(op.inputs))]
    axis = axis_of(op, options.Axis(), len(r.shape(r.arg(op, 0))))
    r.add(op, op.type, inputs, {"axis": axis, "activation": activation(options)})


def _pad(r: Reader, op: RawOperator) -> None:
    only(op, 2)
    x = r.arg(op, 0)
    flat = r.ints(op, 1, "paddings")
    rank = len(r.shape(x))
    if len(flat) != 2 * rank or min(flat, default=0) < 0:
        raise FormatError(f"{op.name} has the paddings {flat[:16]} for {rank} dimensions")
    value = 0.0
    fill = r.optional(op, 2)
    if op.type == "PADV2" and fill is not None:
        data = r.const(fill)
        if data is None:
            raise NotSupported("its pad value is computed at run time; it has to be constant")
        if data.size != 1:
            raise FormatError(f"{op.name} has {data.size} pad values")
        stored = data.reshape(-1)[0]
        value = quantized_value(r.raw(fill).quant or r.raw(x).quant, stored)
        if np.isnan(value):
            raise FormatError(f"{op.name} pads with a value that is not a number")
    pairs = tuple((flat[i], flat[i + 1]) for i in range(0, len(flat), 2))
    r.add(op, "PAD", [r.value(x)], {"paddings": pairs, "value": value})


def _reshape(r: Reader, op: RawOperator) -> None:
    only(op, 1)
    x = r.arg(op, 0)
    _add_reshape(r, op, x, _new_shape(r, op, r.shape(x)))


def _new_shape(r: Reader, op: RawOperator, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The target shape: the second input, else the options, else what the file declares."""
    options = op.options("Reshape")
    index = r.optional(op, 1)
    declared = r.raw(op.outputs[0])
    if index is not None and r.const(index) is not None:
        target = r.ints(op, 1, "target shape")
    elif index is not None and (r.reinfer or declared.dynamic):
        raise NotSupported("its target shape is computed at run time; it has to be constant")
    elif index is None and options is not None and not options.NewShapeIsNone():
        target = few(op, options.NewShapeAsNumpy())
    else:
        target = list(declared.shape)
    if -1 in target:
        known = elements([d for d in target if d != -1])
        if target.count(-1) > 1 or known < 1 or elements(shape) % known:
            raise FormatError(f"{op.name} cannot reshape {list(shape)} to {target[:16]}")
        target[target.index(-1)] = elements(shape) // known
    return tuple(target)


def _add_reshape(r: Reader, op: RawOperator, x: int, target: tuple[int, ...]) -> None:
    if elements(target) != elements(r.shape(x)) or min(target, default=1) < 1:
        raise FormatError(f"{op.name} cannot reshape {list(r.shape(x))} to {list(target)[:16]}")
    r.add(op, "RESHAPE", [r.value(x)], {"new_shape": target})


def _expand_dims(r: Reader, op: RawOperator) -> None:
    only(op, 2)
    x = r.arg(op, 0)
    axes = r.ints(op, 1, "axis")
    shape = list(r.shape(x))
    shape.insert(axis_of(op, axes[0] if axes else 0, len(shape) + 1), 1)
    _add_reshape(r, op, x, tuple(shape))


def _squeeze(r: Reader, op: RawOperator) -> None:
    only(op, 1)
    options = op.options("Squeeze")
    x = r.arg(op, 0)
    shape = r.shape(x)
    none = options is None or options.SqueezeDimsIsNone()
    given = [] if none else few(op, options.SqueezeDimsAsNumpy())
    axes = sorted({axis_of(op, a, len(shape)) for a in given})
    if not axes:
        axes = [i for i, d in enumerate(shape) if d == 1]
    r.add(op, op.type, [r.value(x)], {"axes": tuple(axes)})


def _transpose(r: Reader, op: RawOperator) -> None:
    only(op, 2)
    x = r.arg(op, 0)
    rank = len(r.shape(x))
    perm = tuple(axis_of(op, p, rank) for p in r.ints(op, 1, "permutation"))
    if sorted(perm) != list(range(rank)):
        raise FormatError(f"{op.name} has the permutation {list(perm)[:16]} of {rank} axes")
    r.add(op, op.type, [r.value(x)], {"perm": perm})


@dataclass(frozen=True)
class Slice:
    """A strided slice without masks: ``range(begin, end, stride)`` along every dimension.

    result_shape: after the shrunk axes are gone; final_shape: with the new axes, too.
    """

    begin: tuple[int, ...]
    end: tuple[int, ...]
    strides: tuple[int, ...]
    shrink_axes: tuple[int, ...]
    result_shape: tuple[int, ...]
    final_shape: tuple[int, ...]


def resolve_slice(
    op: RawOperator, shape: Sequence[int], begin: list[int], end: list[int], strides: list[int]
) -> Slice:
    """Apply the five masks of STRIDED_SLICE (``strided_slice_logic.h``) to a known shape."""
    options = op.options("StridedSlice") if op.type == "STRIDED_SLICE" else None
    masks = [0] * 5
    if options is not None:
        masks = [
            options.BeginMask(),
            options.EndMask(),
            options.EllipsisMask(),
            options.NewAxisMask(),
            options.ShrinkAxisMask(),
        ]
        if options.Offset():
            end = [b + e for b, e in zip(begin, end, strict=False)]
    begin_mask, end_mask, ellipsis, new_axis, shrink = masks
    n = len(begin)
    if not len(end) == len(strides) == n or 0 in strides:
        raise FormatError(f"{op.name} has {n} begins, {len(end)} ends, strides {strides[:16]}")
    used = sum(1 for i in range(n) if not (ellipsis | new_axis) >> i & 1)
    if used > len(shape):
        raise FormatError(f"{op.name} slices {used} of {len(shape)} dimensions")
    ranges: list[tuple[int, int, int]] = []
    shrunk: list[int] = []
    final: list[int] = []  # -1 marks a dimension that stays

    def whole(count: int) -> None:
        for _ in range(count):
            ranges.append((0, shape[len(ranges)], 1))
            final.append(-1)

    for i in range(n):
        if ellipsis >> i & 1:
            whole(len(shape) - used if not ellipsis & ((1 << i) - 1) else 0)
        elif new_axis >> i & 1:
            final.append(1)
        elif shrink >> i & 1:
            size = shape[len(ranges)]
            at = axis_of(op, begin[i], size)
            shrunk.append(len(ranges))
            ranges.append((at, at + 1, 1))
        else:
            size = shape[len(ranges)]
            ranges.append(
                _resolve_range(
                    size,
                    None if begin_mask >> i & 1 else begin[i],
                    None if end_mask >> i & 1 else end[i],
                    strides[i],
                )
            )
            final.append(-1)
    whole(len(shape) - len(ranges))
    kept = [len(range(*rng)) for k, rng in enumerate(ranges) if k not in shrunk]
    rest = iter(kept)
    return Slice(
        tuple(b for b, _, _ in ranges),
        tuple(e for _, e, _ in ranges),
        tuple(s for _, _, s in ranges),
        tuple(shrunk),
        tuple(kept),
        tuple(next(rest) if f == -1 else f for f in final),
    )


def _resolve_range(
    size: int, begin: int | None, end: int | None, stride: int
) -> tuple[int, int, int]:
    low, high = (0, size) if stride > 0 else (-1, size - 1)

    def clamp(v: int) -> int:
        return min(max(v + size if v < 0 else v, low), high)

    first, last = (0, size) if stride > 0 else (size - 1, -1)
    return first if begin is None else clamp(begin), last if end is None else clamp(end), stride


def _strided_slice(r: Reader, op: RawOperator) -> None:
    only(op, 4)
    x = r.arg(op, 0)
    begin, end, strides = (
        r.ints(op, k, what) for k, what in ((1, "begin"), (2, "end"), (3, "strides"))
    )
    _add_slice(r, op, x, resolve_slice(op, r.shape(x), begin, end, strides))


def _slice(r: Reader, op: RawOperator) -> None:
    only(op, 3)
    x = r.arg(op, 0)
    shape = r.shape(x)
    begin, size = r.ints(op, 1, "begin"), r.ints(op, 2, "size")
    if not len(begin) == len(size) == len(shape):
        raise FormatError(f"{op.name} slices {len(begin)} of {len(shape)} dimensions")
    end = [d if n == -1 else b + n for b, n, d in zip(begin, size, shape, strict=True)]
    if any(not 0 <= b < e <= d for b, e, d in zip(begin, end, shape, strict=True)):
        raise FormatError(f"{op.name} cuts {begin} to {end} out of the shape {list(shape)}")
    _add_slice(r, op, x, resolve_slice(op, shape, begin, end, [1] * len(begin)))


def _add_slice(r: Reader, op: RawOperator, x: int, s: Slice) -> None:
    if 0 in s.final_shape:
        raise FormatError(f"{op.name} cuts nothing out of the shape {list(r.shape(x))}")
    attrs = {"begin": s.begin, "end": s.end, "strides": s.strides, "shrink_axes": s.shrink_axes}
    if s.final_shape == s.result_shape:
        r.add(op, "STRIDED_SLICE", [r.value(x)], attrs)
        return
    cut = r.temp(op, op.outputs[0], s.result_shape, "cut")
    r.node(f"{op.name}/cut", "STRIDED_SLICE", [r.value(x)], [cut], attrs)
    r.add(op, "RESHAPE", [cut], {"new_shape": s.final_shape})


def _split(r: Reader, op: RawOperator) -> None:
    x, axis_input = (r.arg(op, 1), 0) if op.type == "SPLIT" else (r.arg(op, 0), 2)
    axes = r.ints(op, axis_input, "axis")
    shape = r.shape(x)
    axis = axis_of(op, axes[0] if axes else 0, len(shape))
    n = len(op.outputs)
    if op.type == "SPLIT":
        if shape[axis] % n:
            raise FormatError(f"{op.name} splits {shape[axis]} into {n} parts")
        sizes = [shape[axis] // n] * n
    else:
        sizes = r.ints(op, 1, "sizes")
        if sizes.count(-1) == 1:
            sizes[sizes.index(-1)] = shape[axis] - sum(s for s in sizes if s != -1)
        if len(sizes) != n or min(sizes) < 1 or sum(sizes) != shape[axis]:
            raise FormatError(f"{op.name} splits {shape[axis]} into {sizes[:16]}")
    r.add(op, "SPLIT", [r.value(x)], {"axis": axis, "sizes": tuple(sizes)})


def _pack(r: Reader, op: RawOperator) -> None:
    only(op, 1)
    options = op.options("Pack")
    first = r.shape(r.arg(op, 0))
    axis = axis_of(op, 0 if options is None else options.Axis(), len(first) + 1)
    shape = (*first[:axis], 1, *first[axis:])
    parts = []
    for k in range(len(op.inputs)):
        x = r.arg(op, k)
        if r.shape(x) != first:
            raise FormatError(f"{op.name} packs tensors of different shapes")
        part = r.temp(op, x, shape, f"part_{k}")
        attrs = {"new_shape": shape}
        r.node(f"{op.name}/part_{k}", "RESHAPE", [r.value(x)], [part], attrs)
        parts.append(part)
    r.add(op, "CONCATENATION", parts, {"axis": axis, "activation": "NONE"})


def _unpack(r: Reader, op: RawOperator) -> None:
    options = op.options("Unpack")
    x = r.arg(op, 0)
    shape = r.shape(x)
    axis = axis_of(op, 0 if options is None else options.Axis(), len(shape))
    if shape[axis] != len(op.outputs):
        raise FormatError(f"{op.name} unpacks {shape[axis]} parts to {len(op.outputs)} outputs")
    for k, o in enumerate(op.outputs):
        attrs = {
            "begin": tuple(k if i == axis else 0 for i in range(len(shape))),
            "end": tuple(k + 1 if i == axis else d for i, d in enumerate(shape)),
            "strides": (1,) * len(shape),
            "shrink_axes": (axis,),
        }
        r.add(op, "STRIDED_SLICE", [r.value(x)], attrs, [o])


def _resize(r: Reader, op: RawOperator) -> None:
    only(op, 2)
    bilinear = op.type == "RESIZE_BILINEAR"
    options = op.options("ResizeBilinear" if bilinear else "ResizeNearestNeighbor")
    size = r.ints(op, 1, "size")
    if len(size) != 2:
        raise FormatError(f"{op.name} has {len(size)} sizes; height and width are valid")
    attrs = {
        "size": positive(op, "size", *size),
        "align_corners": bool(options is not None and options.AlignCorners()),
        "half_pixel_centers": bool(options is not None and options.HalfPixelCenters()),
    }
    r.add(op, op.type, [r.value(r.arg(op, 0))], attrs)


def _gather(r: Reader, op: RawOperator) -> None:
    only(op, 2)
    options = op.options("Gather")
    x, at = r.arg(op, 0), r.arg(op, 1)
    if options is not None and options.BatchDims():
        raise NotSupported("it gathers other indices for every batch")
    indices = r.ints(op, 1, "indices")
    shape = r.shape(x)
    axis = axis_of(op, 0 if options is None else options.Axis(), len(shape))
    if not indices or any(not 0 <= i < shape[axis] for i in indices):
        raise FormatError(f"{op.name} gathers indices that are not in 0 to {shape[axis] - 1}")
    attrs = {"axis": axis, "indices": tuple(indices)}
    picked = r.shape(at)
    if len(picked) == 1:
        r.add(op, "GATHER", [r.value(x)], attrs)
        return
    flat = r.temp(op, op.outputs[0], (*shape[:axis], len(indices), *shape[axis + 1 :]), "flat")
    r.node(f"{op.name}/flat", "GATHER", [r.value(x)], [flat], attrs)
    r.add(op, "RESHAPE", [flat], {"new_shape": (*shape[:axis], *picked, *shape[axis + 1 :])})


MOVEMENT: dict[str, Callable[[Reader, RawOperator], None]] = {
    "CONCATENATION": _concatenation,
    "PAD": _pad,
    "PADV2": _pad,
    "RESHAPE": _reshape,
    "EXPAND_DIMS": _expand_dims,
    "SQUEEZE": _squeeze,
    "TRANSPOSE": _transpose,
    "STRIDED_SLICE": _strided_slice,
    "SLICE": _slice,
    "SPLIT": _split,
    "SPLIT_V": _split,
    "PACK": _pack,
    "UNPACK": _unpack,
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "GATHER": _gather,
}
