"""Interval analysis: which channels are provably constant for every possible input.

Each activation tensor gets, for each index of its last axis (its *channels*), an interval
``[lo, hi]`` that holds the stored values of that channel at every position for every input. Integer
tensors use exact integer arithmetic on the stored values: weights, bias, requantization and clamp as
the kernels compute them, so ``lo == hi`` means that the bytes never change. Convolutions bound each
accumulator by ``sum(min(w * lo, w * hi))``; taps that may fall into the padding also admit 0.
Everything between that is monotone is evaluated at its end points by the reference kernels
themselves.

Float tensors take part with real values; only channels whose weights are all zero (or whose bounds
meet exactly) come out constant there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.errors import EdgekitError
from edgekit.graph.ir import Graph, Node, Tensor
from edgekit.graph.numerics import (
    INT32_MAX,
    activation_range,
    conv_multipliers,
    conv_padding,
    multiply_by_quantized_multiplier,
)
from edgekit.graph.ops import Call, spec


@dataclass(frozen=True)
class Interval:
    """Bounds of the stored values, one entry a channel (index of the last axis; one for scalars)."""

    lo: np.ndarray
    hi: np.ndarray

    @property
    def constant(self) -> np.ndarray:
        """bool ``[C]``: the channel has one and the same value everywhere, always."""
        return self.lo == self.hi


#: Elementwise operators that grow with their input: their bounds are the images of the bounds.
_MONOTONE = frozenset(
    {
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "LOGISTIC",
        "TANH",
        "QUANTIZE",
        "DEQUANTIZE",
        "MAX_POOL_2D",
        "MEAN",
        "SUM",
        "REDUCE_MAX",
        "RESIZE_NEAREST_NEIGHBOR",
        "RESIZE_BILINEAR",
    }
)
#: Elementwise operators without that property; on 8-bit tensors all their values are tried.
_UNARY = frozenset(
    {"HARD_SWISH", "LEAKY_RELU", "GELU", "ABS", "NEG", "EXP", "LOG", "SQRT", "RSQRT"}
)
_BINARY = frozenset({"ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM"})


def channels_of(t: Tensor) -> int:
    return t.shape[-1] if t.shape else 1


def full_range(t: Tensor) -> Interval:
    """Everything the dtype can hold."""
    c = channels_of(t)
    if t.is_float or t.dtype == "bool":
        lo, hi = (-np.inf, np.inf) if t.is_float else (0.0, 1.0)
        return Interval(np.full(c, lo), np.full(c, hi))
    info = np.iinfo(t.dtype)
    # float64 holds every 8/16/32-bit value exactly; int64 tensors are never narrowed anyway.
    return Interval(np.full(c, float(info.min)), np.full(c, float(info.max)))


def analyse(graph: Graph) -> dict[str, Interval]:
    """Tensor name -> interval, for every tensor of the graph."""
    bounds: dict[str, Interval] = {}
    for t in graph.tensors.values():
        if t.data is not None:
            flat = t.data.reshape(-1, channels_of(t)).astype(np.float64)
            bounds[t.name] = Interval(flat.min(axis=0), flat.max(axis=0))
    for name in graph.inputs:
        bounds[name] = full_range(graph.tensor(name))
    for node in graph.nodes:
        outs = graph.outs(node)
        try:
            found = _transfer(node, graph, bounds)
        except EdgekitError:
            found = None  # an operator the reference cannot evaluate bounds nothing
        for k, t in enumerate(outs):
            top = full_range(t)
            if found is None:
                bounds[t.name] = top
                continue
            lo, hi = np.maximum(found[k].lo, top.lo), np.minimum(found[k].hi, top.hi)
            bad = ~(lo <= hi)  # also NaN
            bounds[t.name] = Interval(np.where(bad, top.lo, lo), np.where(bad, top.hi, hi))
    return bounds


def _transfer(node: Node, g: Graph, bounds: dict[str, Interval]) -> list[Interval] | None:
    """Output intervals of a node, or None for "anything"."""
    kind = node.type
    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        found = _weighted(node, g, bounds)
        return None if found is None else [found]
    if kind in _MONOTONE:
        return [_at_ends(node, g, bounds)]
    if kind == "AVERAGE_POOL_2D":
        return [_at_ends(node, g, bounds)]
    if kind in _BINARY:
        return [_corners(node, g, bounds)]
    if kind in _UNARY:
        found = _all_values(node, g, bounds)
        return None if found is None else [found]
    if kind == "PAD":
        return [_pad(node, g, bounds)]
    return _moved(node, g, bounds)


# -- layers with weights ---------------------------------------------------------------------------


def padded_taps(node: Node, x: Tensor, w: Tensor) -> np.ndarray:
    """bool ``[kh, kw]``: the tap reads padding at some output position."""
    kh, kw = w.shape[1], w.shape[2]
    stride, dilation = node.attrs["stride"], node.attrs["dilation"]
    (top, _, left, _), (oh, ow) = conv_padding(
        (x.shape[1], x.shape[2]), (kh, kw), stride, node.attrs["padding"], dilation
    )

    def axis(k: int, size: int, out: int, st: int, di: int, before: int) -> np.ndarray:
        first = np.arange(k) * di - before
        return (first < 0) | ((out - 1) * st + first >= size)

    rows = axis(kh, x.shape[1], oh, stride[0], dilation[0], top)
    cols = axis(kw, x.shape[2], ow, stride[1], dilation[1], left)
    return rows[:, None] | cols[None, :]


def _weighted(node: Node, g: Graph, bounds: dict[str, Interval]) -> Interval | None:
    x, w = g.tensor(node.inputs[0]), g.tensor(node.inputs[1])
    y = g.tensor(node.outputs[0])
    bias = g.tensor(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if w.data is None or (bias is not None and bias.data is None):
        return None
    b = bounds[x.name]
    zp = 0.0 if x.is_float or x.quant is None else float(x.quant.zp)
    if not x.is_float and (x.quant is None or w.quant is None or w.quant.zero_point.any()):
        return None
    lo, hi = b.lo - zp, b.hi - zp
    weights = w.data.astype(np.float64)
    if node.type == "FULLY_CONNECTED":
        reps = w.shape[1] // len(lo)
        if reps * len(lo) != w.shape[1]:
            return None
        low, high = _products(weights, np.tile(lo, reps), np.tile(hi, reps))
        acc_lo, acc_hi = low.sum(axis=1), high.sum(axis=1)
    else:
        pad = padded_taps(node, x, w)
        if node.type == "CONV_2D":
            groups = x.shape[3] // w.shape[3]
            per = w.shape[0] // groups
            index = np.repeat(np.arange(groups), per)[:, None] * w.shape[3] + np.arange(w.shape[3])
            low, high = _products(weights, lo[index][:, None, None, :], hi[index][:, None, None, :])
            mask, axes = pad[None, :, :, None], (1, 2, 3)
        else:
            m = w.shape[3] // x.shape[3]
            low, high = _products(weights, np.repeat(lo, m), np.repeat(hi, m))
            mask, axes = pad[None, :, :, None], (0, 1, 2)
        low = np.where(mask, np.minimum(low, 0.0), low)
        high = np.where(mask, np.maximum(high, 0.0), high)
        acc_lo, acc_hi = low.sum(axis=axes), high.sum(axis=axes)
    if bias is not None and bias.data is not None:
        acc_lo, acc_hi = acc_lo + bias.data, acc_hi + bias.data
    if y.is_float:
        return _clamp_float(acc_lo, acc_hi, node.attr("activation", "NONE"))
    return _requantized(node, x, w, y, acc_lo, acc_hi)


def _products(w: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest ``w * x`` for x in [lo, hi]; a zero weight gives 0 also for infinities."""
    with np.errstate(invalid="ignore"):
        a, b = w * lo, w * hi
    zero = w == 0
    return np.where(zero, 0.0, np.minimum(a, b)), np.where(zero, 0.0, np.maximum(a, b))


def _requantized(
    node: Node, x: Tensor, w: Tensor, y: Tensor, acc_lo: np.ndarray, acc_hi: np.ndarray
) -> Interval | None:
    if x.dtype != "int8" or y.dtype != "int8" or x.quant is None or w.quant is None or not y.quant:
        return None
    mult, shift = conv_multipliers(x.quant.s, w.quant.scale, y.quant.s, len(acc_lo))
    # Beyond 32 bits, or where the left shift would wrap, order is lost: anything may come out.
    room = INT32_MAX / np.exp2(np.maximum(shift, 0))
    safe = (acc_lo >= -room) & (acc_hi <= room)
    a_lo = np.where(safe, acc_lo, 0).astype(np.int64)
    a_hi = np.where(safe, acc_hi, 0).astype(np.int64)
    low, high = activation_range(node.attr("activation", "NONE"), y.quant, y.dtype)
    q = [
        np.minimum(
            np.maximum(multiply_by_quantized_multiplier(a, mult, shift) + y.quant.zp, low), high
        )
        for a in (a_lo, a_hi)
    ]
    return Interval(
        np.where(safe, q[0], low).astype(np.float64), np.where(safe, q[1], high).astype(np.float64)
    )


def _clamp_float(lo: np.ndarray, hi: np.ndarray, activation: str) -> Interval:
    from edgekit.graph.numerics import activation_bounds

    low, high = activation_bounds(activation)
    if low is not None:
        lo, hi = np.maximum(lo, low), np.maximum(hi, low)
    if high is not None:
        lo, hi = np.minimum(lo, high), np.minimum(hi, high)
    return Interval(lo, hi)


# -- everything else -------------------------------------------------------------------------------


def _evaluate(node: Node, g: Graph, values: list[np.ndarray | None]) -> np.ndarray:
    """Run the reference kernel on whole tensors that hold one value a channel; the first output."""
    ins, outs = g.ins(node), g.outs(node)
    x: list[np.ndarray | None] = []
    for t, v in zip(ins, values, strict=True):
        if t is None or v is None:
            x.append(None if t is None else t.data)
            continue
        if not t.is_float:
            v = np.clip(v, np.iinfo(t.dtype).min, np.iinfo(t.dtype).max)
        x.append(np.broadcast_to(v.astype(t.dtype), t.shape))
    with np.errstate(all="ignore"):
        return spec(node.type).reference(Call(node, ins, outs, x))[0]


def _hull(values: list[np.ndarray], t: Tensor) -> Interval:
    flat = np.concatenate([v.reshape(-1, channels_of(t)).astype(np.float64) for v in values])
    return Interval(flat.min(axis=0), flat.max(axis=0))


def _at_ends(node: Node, g: Graph, bounds: dict[str, Interval]) -> Interval:
    b = bounds[node.inputs[0] or ""]
    out = g.tensor(node.outputs[0])
    return _hull([_evaluate(node, g, [b.lo]), _evaluate(node, g, [b.hi])], out)


def _corners(node: Node, g: Graph, bounds: dict[str, Interval]) -> Interval:
    """Bilinear at most, then monotone rounding: the extremes lie at the corners of the box."""
    out = g.tensor(node.outputs[0])
    choices: list[list[np.ndarray | None]] = []
    for i in node.inputs:
        t = g.tensor(i)
        b = bounds[t.name]
        choices.append([None] if t.is_const else [b.lo, b.hi])
    return _hull([_evaluate(node, g, [p, q]) for p in choices[0] for q in choices[1]], out)


def _all_values(node: Node, g: Graph, bounds: dict[str, Interval]) -> Interval | None:
    """Any 8-bit function of one value: the extremes of its table over [lo, hi]."""
    t, out = g.tensor(node.inputs[0]), g.tensor(node.outputs[0])
    if t.dtype != "int8" or out.dtype != "int8":
        return None
    b = bounds[t.name]
    every = np.arange(-128, 128, dtype=np.int8).reshape(1, 256)
    row = t.with_(shape=(1, 256), data=None)
    call = Call(node, [row], [out.with_(shape=(1, 256))], [every])
    table = spec(node.type).reference(call)[0].reshape(256).astype(np.float64)
    lo, hi = np.empty(len(b.lo)), np.empty(len(b.lo))
    for c, (first, last) in enumerate(zip(b.lo, b.hi, strict=True)):
        part = table[int(first) + 128 : int(last) + 129]
        lo[c], hi[c] = part.min(), part.max()
    return Interval(lo, hi)


def _pad(node: Node, g: Graph, bounds: dict[str, Interval]) -> Interval:
    from edgekit.graph.numerics import quantize

    t, out = g.tensor(node.inputs[0]), g.tensor(node.outputs[0])
    b = bounds[t.name]
    value = np.asarray(node.attr("value", 0.0), np.float32)
    fill = float(
        value if out.is_float or out.quant is None else quantize(value, out.quant, out.dtype)
    )
    paddings = node.attrs["paddings"]
    before, after = paddings[-1] if paddings else (0, 0)
    lo = np.concatenate([np.full(before, fill), b.lo, np.full(after, fill)])
    hi = np.concatenate([np.full(before, fill), b.hi, np.full(after, fill)])
    if any(p != (0, 0) for p in map(tuple, paddings[:-1])):
        lo, hi = np.minimum(lo, fill), np.maximum(hi, fill)
    return Interval(lo, hi)


def _same_numbers(node: Node, g: Graph) -> bool:
    """The operator copies stored values as they are (no requantization, no activation)."""
    if node.attr("activation", "NONE") != "NONE":
        return False
    tensors = [t for t in [*g.ins(node), *g.outs(node)] if t is not None and not t.is_float]
    first = tensors[0].quant if tensors else None
    return all(t.quant is None if first is None else first.same_as(t.quant) for t in tensors)


def _moved(node: Node, g: Graph, bounds: dict[str, Interval]) -> list[Interval] | None:
    """Data movement: follow the channel numbers through it (see :mod:`.channels`)."""
    from edgekit.compress.channels import channel_map

    maps = channel_map(node, g)
    if maps is None or not _same_numbers(node, g):
        return None
    found = []
    for t, sources in zip(g.outs(node), maps, strict=True):
        lo, hi = np.empty(channels_of(t)), np.empty(channels_of(t))
        for c, (which, channel) in enumerate(sources):
            b = bounds[node.inputs[which] or ""]
            lo[c], hi[c] = b.lo[channel], b.hi[channel]
        found.append(Interval(lo, hi))
    return found
