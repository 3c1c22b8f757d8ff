"""InstanceNormalization and GroupNormalization as LAYER_NORM over the positions of a group.

Both subtract the mean and divide by the deviation over some channels' positions, which is a layer
normalization of those values laid out in one row; scale and bias a channel follow as MUL and ADD.
"""

from __future__ import annotations

import numpy as np

from edgekit.errors import FormatError, UnsupportedError
from edgekit.formats.onnx_context import HIDDEN, Context, Converter, Op


def _normalize(ctx: Context, op: Op, groups: int, scale: np.ndarray, bias: np.ndarray) -> None:
    """scale, bias: one value a channel."""
    x = ctx.tensor(op.x)
    shape = ctx.graph.tensor(x).shape
    if len(shape) < 3 or groups < 1 or shape[1] % groups:
        raise UnsupportedError(f"a tensor of shape {list(shape)} has no {groups} groups of images")
    rows = (shape[0], groups, int(np.prod(shape[1:])) // groups)
    x = ctx.reshape(x, rows, f"{op.y}{HIDDEN}rows")
    y = ctx.emit(
        "LAYER_NORM",
        [
            x,
            ctx.const(f"{op.name}{HIDDEN}ones", np.ones(rows[2], np.float32)),
            ctx.const(f"{op.name}{HIDDEN}zeros", np.zeros(rows[2], np.float32)),
        ],
        {"epsilon": float(op.attr("epsilon", 1e-5))},
        out=f"{op.y}{HIDDEN}norm",
        name=op.name,
    )
    y = ctx.reshape(y, shape, f"{op.y}{HIDDEN}image")
    each = (1, shape[1], *(1 for _ in shape[2:]))
    for kind, values, idle in (("MUL", scale, 1.0), ("ADD", bias, 0.0)):
        if values.size != shape[1]:
            raise FormatError(f"{values.size} scales or biases stand for {shape[1]} channels")
        if not np.all(values == idle):
            c = ctx.const(f"{op.name}{HIDDEN}{kind.lower()}", values.reshape(each))
            y = ctx.emit(kind, [y, c], {"activation": "NONE"}, out=f"{op.y}{HIDDEN}{kind.lower()}")
    ctx.bind(op.y, y)


def instance_normalization(ctx: Context, op: Op) -> None:
    groups = ctx.shape(op.x)[1] if len(ctx.shape(op.x)) > 1 else 0
    _normalize(ctx, op, groups, *(np.ravel(ctx.real(op, i, "scale and bias")) for i in (1, 2)))


def group_normalization(ctx: Context, op: Op) -> None:
    """Scale and bias a channel (opset 21) or, before that, a group."""
    groups = int(op.attr("num_groups", 1))
    channels = ctx.shape(op.x)[1] if len(ctx.shape(op.x)) > 1 else 0
    values = [np.ravel(ctx.real(op, i, "scale and bias")) for i in (1, 2)]
    if ctx.opset < 21 and channels % max(groups, 1) == 0:
        values = [np.repeat(v, channels // groups) if v.size == groups else v for v in values]
    _normalize(ctx, op, groups, values[0], values[1])


CONVERTERS: dict[str, Converter] = {
    "InstanceNormalization": instance_normalization,
    "GroupNormalization": group_normalization,
}
