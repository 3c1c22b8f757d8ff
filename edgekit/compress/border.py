"""Constants in front of padding: many constant channels become a few.

A channel that is constant at ``v`` away from the zero point ``z`` cannot move into the bias of a
padded convolution: output positions at the border see it through fewer taps. But all that a reader
sees of a set K of such channels is, for each output channel and tap, the integer

    S[o, tap] = sum over k in K of w[o, tap, k] * (v[k] - z)

and this can be written with very few channels whose values we choose: with one channel at ``z + d``
and one at ``z + 1``, ``S = d * q + r`` with ``|r| <= |d| / 2``; for the usual ReLU output (z = -128,
d = 255) one pair represents every ``|S| <= 32,512``. The producer's rows for the kept channels become
zero weights with a bias that requantizes to exactly the chosen value. All of it is exact, so the
output bytes stay as they are, at the border too.
"""

from __future__ import annotations

import numpy as np

from edgekit.compress.intervals import analyse
from edgekit.compress.slicing import DeadChannels, default_bias, slice_channels
from edgekit.graph.ir import Graph, Node, QuantParams, Tensor
from edgekit.graph.numerics import (
    activation_range,
    conv_multipliers,
    multiply_by_quantized_multiplier,
)

_W_MAX = 127


def merge_border_constants(graph: Graph, found: DeadChannels) -> Graph | None:
    """Merge the constant channels of one tensor; None when there is no tensor where it pays."""
    bounds = analyse(graph)
    consumers = graph.consumers()
    for producer in graph.nodes:
        if producer.type != "CONV_2D" or producer.outputs[0] in graph.outputs:
            continue
        t = graph.tensor(producer.outputs[0])
        readers = consumers[t.name]
        if t.dtype != "int8" or t.quant is None or not readers or not _int8_conv(producer, graph):
            continue
        if not all(_int8_conv(r, graph) and r.inputs[0] == t.name for r in readers):
            continue
        constant = np.flatnonzero(bounds[t.name].constant)
        if len(constant) < 2:
            continue
        step = _merge(graph, producer, readers, constant, bounds[t.name].lo - t.quant.zp)
        if step is not None:
            merged, kept = step
            found.add(t.name, t.shape[-1], len(constant) - kept, 0)
            return merged
    return None


def _int8_conv(node: Node, g: Graph) -> bool:
    if node.type != "CONV_2D":
        return False
    x, w, y = g.tensor(node.inputs[0]), g.tensor(node.inputs[1]), g.tensor(node.outputs[0])
    return (
        x.dtype == y.dtype == w.dtype == "int8"
        and w.data is not None
        and x.shape[3] == w.shape[3]
        and x.quant is not None
        and y.quant is not None
        and w.quant is not None
        and not w.quant.zero_point.any()
        and (len(node.inputs) < 3 or node.inputs[2] is None or g.tensor(node.inputs[2]).is_const)
    )


def _merge(
    g: Graph, producer: Node, readers: list[Node], constant: np.ndarray, offset: np.ndarray
) -> tuple[Graph, int] | None:
    t = g.tensor(producer.outputs[0])
    assert t.quant is not None
    low, high = activation_range(producer.attr("activation", "NONE"), t.quant, t.dtype)
    down, up = low - t.quant.zp, high - t.quant.zp
    big = up if up >= -down else down
    if abs(big) < 2:
        return None
    unit = 1 if big > 0 else -1
    parts = {}
    bigs = units = 0
    for r in readers:
        w = g.tensor(r.inputs[1]).data
        assert w is not None
        s = (w[..., constant].astype(np.int64) * offset[constant].astype(np.int64)).sum(axis=-1)
        q = np.rint(s / big).astype(np.int64)
        rest = (s - q * big) * unit
        if np.abs(rest).max(initial=0) > _W_MAX:
            return None
        parts[r.name] = (q, rest)
        bigs = max(bigs, -(-int(np.abs(q).max(initial=0)) // _W_MAX))
        units = max(units, int((rest != 0).any()))
    kept = max(1, bigs + units)
    if kept >= len(constant):
        return None
    values = [big] * bigs + [unit] * units or [0]
    out = g.copy()
    keep = constant[:kept]
    mask = np.ones(t.shape[-1], bool)
    mask[constant[kept:]] = False
    changed = _constant_rows(g, out, producer, keep, values, mask)
    if changed is None:
        return None
    replaced = {producer.name: changed}
    for r in readers:
        replaced[r.name] = _written(g, out, r, keep, parts[r.name], bigs, units, mask)
    out.nodes = [replaced.get(n.name, n) for n in out.nodes]
    out.tensors[t.name] = t.with_(shape=(*t.shape[:-1], int(mask.sum())))
    out.prune()
    return out.validate(), kept


def _constant_rows(
    g: Graph, out: Graph, node: Node, keep: np.ndarray, values: list[int], mask: np.ndarray
) -> Node | None:
    """The producer with rows ``keep`` giving ``zero_point + values`` always, others cut by ``mask``."""
    x, w, y = g.tensor(node.inputs[0]), g.tensor(node.inputs[1]), g.tensor(node.outputs[0])
    assert w.data is not None and w.quant is not None and x.quant and y.quant
    data = w.data.copy()
    data[keep] = 0
    scale = w.quant.scale.copy()
    if w.quant.is_per_channel:
        scale[keep] = np.float32(y.quant.s / x.quant.s / 256.0)
    bias = (
        g.tensor(node.inputs[2])
        if len(node.inputs) > 2 and node.inputs[2] is not None
        else default_bias(node, x, w, np.zeros(w.shape[0]))
    )
    assert bias.data is not None
    b = bias.data.astype(np.int64)
    mult, shift = conv_multipliers(x.quant.s, scale, y.quant.s, w.shape[0])
    real = np.ldexp(mult.astype(np.float64) / 2**31, shift)
    for k, d in zip(keep, values, strict=True):
        if real[k] == 0.0:
            return None
        guess = round(d / real[k])
        if abs(guess) > 2**30 or multiply_by_quantized_multiplier(guess, mult[k], shift[k]) != d:
            return None
        b[k] = guess
    quant = QuantParams(scale, w.quant.zero_point, w.quant.axis)
    new_w = slice_channels(w.with_(data=data, quant=quant), mask, 0)
    b_scale = np.float32(x.quant.s) * scale
    b_quant = QuantParams(b_scale, np.zeros(len(b_scale), np.int32), 0 if len(scale) > 1 else None)
    new_b = slice_channels(bias.with_(data=b.astype(bias.dtype), quant=b_quant), mask, 0)
    return node.with_(
        inputs=(node.inputs[0], out.add_tensor(new_w).name, out.add_tensor(new_b).name)
    )


def _written(
    g: Graph,
    out: Graph,
    node: Node,
    keep: np.ndarray,
    parts: tuple[np.ndarray, np.ndarray],
    bigs: int,
    units: int,
    mask: np.ndarray,
) -> Node:
    """A reader whose columns ``keep`` hold the whole contribution of the merged channels."""
    w: Tensor = g.tensor(node.inputs[1])
    assert w.data is not None
    data = w.data.copy()
    q, rest = parts
    left = q.copy()
    for i in range(bigs):
        piece = np.clip(left, -_W_MAX, _W_MAX)
        data[..., keep[i]] = piece
        left -= piece
    if units:
        data[..., keep[bigs]] = rest
    if bigs + units == 0:
        data[..., keep[0]] = 0
    data = np.ascontiguousarray(data[..., mask])
    new_w = out.add_tensor(w.with_(shape=data.shape, data=data))
    return node.with_(inputs=(node.inputs[0], new_w.name, *node.inputs[2:]))
