"""ONNX Resize and Upsample as TFLite's resizes, where both choose the same pixels.

The source coordinates of every output pixel are computed as ONNX defines them and as TFLite does
for each of its flags; equal ones are the same operator, anything else is a gather (nearest) or
refused (linear).
"""

from __future__ import annotations

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.formats.onnx_context import HIDDEN, Context, Converter, Op


def _coordinates(mode: str, n_in: int, n_out: int, scale: float) -> np.ndarray:
    """x_original of every output index (ONNX Resize, ``coordinate_transformation_mode``)."""
    x = np.arange(n_out, dtype=np.float64)
    if mode == "asymmetric":
        return x / scale
    if mode == "align_corners":
        return x * ((n_in - 1) / (n_out - 1)) if n_out > 1 else np.zeros(1)
    if mode == "pytorch_half_pixel" and n_out == 1:
        return np.zeros(1)
    if mode == "half_pixel_symmetric":
        adjust = n_out / (n_in * scale)
        return n_in / 2 * (1 - adjust) + (x + 0.5) / scale - 0.5
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (x + 0.5) / scale - 0.5
    raise UnsupportedError(f"coordinate_transformation_mode '{mode}' is not implemented")


def _nearest(x: np.ndarray, mode: str, n_in: int) -> np.ndarray:
    rounded = {
        "floor": np.floor(x),
        "ceil": np.ceil(x),
        "round_prefer_floor": np.ceil(x - 0.5),
        "round_prefer_ceil": np.floor(x + 0.5),
    }.get(mode)
    if rounded is None:
        raise UnsupportedError(f"nearest_mode '{mode}' is not implemented")
    return np.clip(rounded, 0, n_in - 1).astype(int)


def _tflite_coordinates(n_in: int, n_out: int, align: bool, half: bool) -> np.ndarray:
    x = np.arange(n_out, dtype=np.float64)
    if align and n_out > 1:
        return x * ((n_in - 1) / (n_out - 1))
    return (x + 0.5) * (n_in / n_out) if half else x * (n_in / n_out)


_FLAGS = ((False, False), (False, True), (True, False))  # (align_corners, half_pixel_centers)


def resize(ctx: Context, op: Op) -> None:
    x = ctx.tensor(op.x)
    shape = ctx.graph.tensor(x).shape
    if len(shape) != 4:
        raise UnsupportedError(f"its input has rank {len(shape)}; images have 4")
    upsample = op.type == "Upsample"
    if op.attr("axes") is not None:
        raise UnsupportedError("its axes attribute is not implemented")
    size_in = 1 if upsample else 2
    scales = ctx.need(op, size_in, "scales") if op.input(size_in) else np.zeros(0)
    sizes = ctx.need(op, 3, "sizes") if not upsample and op.input(3) else np.zeros(0)
    if sizes.size == 4:
        out = [int(v) for v in sizes]
        if op.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise UnsupportedError("keep_aspect_ratio_policy is not implemented")
        factor = [o / i for o, i in zip(out, shape, strict=True)]
    elif scales.size == 4:
        factor = [float(v) for v in scales]
        out = [int(np.floor(f * i)) for f, i in zip(factor, shape, strict=True)]
    else:
        raise UnsupportedError("it has neither 4 scales nor 4 sizes")
    if tuple(out[:2]) != tuple(shape[:2]) or min(out) < 1 or max(out) > 1 << 16:
        raise UnsupportedError(f"a resize from {list(shape)} to {out} is not one of an image")
    mode = op.attr("mode", "nearest")
    coord = "asymmetric" if upsample else op.attr("coordinate_transformation_mode", "half_pixel")
    if mode not in ("nearest", "linear"):
        raise UnsupportedError(f"mode '{mode}' is not implemented; nearest and linear are")
    if op.attr("antialias", 0):
        raise UnsupportedError("antialiasing is not implemented")
    spatial = [(shape[i], out[i]) for i in (2, 3)]
    wanted = [_coordinates(coord, shape[i], out[i], factor[i]) for i in (2, 3)]
    if mode == "nearest":
        near = "floor" if upsample else op.attr("nearest_mode", "round_prefer_floor")
        index = [_nearest(w, near, i) for w, (i, _) in zip(wanted, spatial, strict=True)]
        for align, half in _FLAGS:
            if all(
                np.array_equal(_tflite_nearest(i, o, align, half), ix)
                for (i, o), ix in zip(spatial, index, strict=True)
            ):
                return _emit_resize(ctx, op, x, "RESIZE_NEAREST_NEIGHBOR", out, align, half)
        y = x  # any other choice of source pixels is a gather along each axis
        for axis, ix in zip((2, 3), index, strict=True):
            y = ctx.emit(
                "GATHER",
                [y],
                {"axis": axis, "indices": tuple(int(v) for v in ix)},
                out=f"{op.y}{HIDDEN}axis{axis}",
            )
        return ctx.bind(op.y, y)
    for align, half in _FLAGS:
        if all(
            np.allclose(
                np.clip(
                    _tflite_coordinates(i, o, align, half) - 0.5 * (half and not align), 0, i - 1
                ),
                np.clip(w, 0, i - 1),
                rtol=0,
                atol=1e-4,
            )
            for (i, o), w in zip(spatial, wanted, strict=True)
        ):
            return _emit_resize(ctx, op, x, "RESIZE_BILINEAR", out, align, half)
    raise UnsupportedError(
        f"linear resizing with '{coord}' and scales {[round(f, 4) for f in factor]} is none "
        "of asymmetric, half_pixel, align_corners"
    )


def _tflite_nearest(n_in: int, n_out: int, align: bool, half: bool) -> np.ndarray:
    x = _tflite_coordinates(n_in, n_out, align, half).astype(np.float32)
    index = np.floor(x + np.float32(0.5)) if align else np.floor(x)
    return np.clip(index, 0, n_in - 1).astype(int)


def _emit_resize(
    ctx: Context, op: Op, x: str, type: str, out: list[int], align: bool, half: bool
) -> None:
    y = ctx.emit(
        type,
        [ctx.nhwc(op, x)],
        {"size": (out[2], out[3]), "align_corners": align, "half_pixel_centers": half},
        out=f"{op.y}{HIDDEN}nhwc",
        name=op.name,
    )
    ctx.from_nhwc(op, y)


CONVERTERS: dict[str, Converter] = {"Resize": resize, "Upsample": resize}
