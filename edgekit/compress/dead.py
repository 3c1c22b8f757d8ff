"""Dead-channel elimination: remove channels that are constant, or that nobody reads.

A channel (index of a tensor's last axis) can go when everything that depends on it can do without:

* a convolution or dense layer that reads it has only zeros in its column, or
* the channel is provably constant (:mod:`.intervals`) and its contribution can be moved into the
  reader's bias: exact in int32, unless padding makes the contribution differ at the border.

Channels that must have the same number of entries are tied into classes first: through elementwise
operators, depthwise convolutions, pooling, padding, concatenation, flattening. A class goes as a
whole or not at all. What remains gives the same output bytes for every input.

Constants away from the zero point in front of a *padded* convolution cannot move into the bias (the
padding reads the zero point, so the border sees fewer of them). Of many such channels a few are kept,
and the others' contribution is written as weights on those few: see :mod:`.border`.
"""

from __future__ import annotations

import numpy as np

from edgekit.compress.border import merge_border_constants
from edgekit.compress.channels import channel_map
from edgekit.compress.intervals import Interval, analyse, channels_of, padded_taps
from edgekit.compress.slicing import DeadChannels, default_bias, slice_channels
from edgekit.graph.ir import Graph, Node, Tensor

_BINARY = frozenset({"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"})
_INT32 = np.iinfo(np.int32)


def eliminate(graph: Graph, *, fold_float: bool = False) -> tuple[Graph, DeadChannels]:
    """Remove dead channels until nothing changes.

    fold_float: also move constants into the bias of float layers (equal up to float rounding; the
    default leaves float layers' sums alone and removes only channels with all-zero columns).
    """
    found = DeadChannels()
    g = graph
    while True:
        step = _once(g, fold_float, found)
        if step is None:
            step = merge_border_constants(g, found)
        if step is None:
            return g, found
        g = step


# -- classes of tied channels ----------------------------------------------------------------------


class Classes:
    """Union-find over (tensor, channel), with a mark for channels that have to stay."""

    def __init__(self, g: Graph) -> None:
        self.base: dict[str, int] = {}
        n = 0
        for t in g.tensors.values():
            if not t.is_const:
                self.base[t.name] = n
                n += channels_of(t)
        self.parent = list(range(n))
        self.pinned = [False] * n

    def find(self, i: int) -> int:
        p = self.parent
        while p[i] != i:
            p[i] = p[p[i]]
            i = p[i]
        return i

    def tie(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            self.parent[b] = a
            self.pinned[a] = self.pinned[a] or self.pinned[b]

    def slot(self, tensor: str, channel: int) -> int:
        return self.base[tensor] + channel

    def pin(self, t: Tensor) -> None:
        if not t.is_const:
            for c in range(channels_of(t)):
                self.pinned[self.find(self.base[t.name] + c)] = True

    def roots(self, t: Tensor) -> np.ndarray:
        b = self.base[t.name]
        return np.array([self.find(b + c) for c in range(channels_of(t))], np.int64)


def _tie(g: Graph) -> Classes:
    classes = Classes(g)
    for name in (*g.inputs, *g.outputs):
        if not g.tensor(name).is_const:
            classes.pin(g.tensor(name))
    for node in g.nodes:
        if not tie_node(node, g, classes):
            for t in [*g.ins(node), *g.outs(node)]:
                if t is not None:
                    classes.pin(t)
    return classes


def tie_node(node: Node, g: Graph, classes: Classes) -> bool:
    """Tie the node's channels; False when all of them have to stay."""
    ins, outs = g.ins(node), g.outs(node)
    x, y = ins[0], outs[0]
    if x is None:
        return False
    if node.type in ("CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"):
        if not plain_weights(node, g) or x.is_const:
            return False
        if node.type == "CONV_2D":
            return x.shape[3] == g.tensor(node.inputs[1]).shape[3]
        if node.type == "FULLY_CONNECTED":
            return g.tensor(node.inputs[1]).shape[1] % channels_of(x) == 0
        return True
    if node.type == "DEPTHWISE_CONV_2D":
        if not plain_weights(node, g) or x.is_const:
            return False
        m = y.shape[3] // x.shape[3]
        for c in range(y.shape[3]):
            classes.tie(classes.slot(x.name, c // m), classes.slot(y.name, c))
        return True
    if node.type in _BINARY or node.type == "PRELU":
        return _tie_binary(node, g, classes)
    if node.type == "STRIDED_SLICE" and node.attrs["strides"][-1] != 1:
        return False
    maps = channel_map(node, g)
    if maps is None or any(t is not None and t.is_const for t in ins):
        return False
    for t, sources in zip(outs, maps, strict=True):
        for c, (which, channel) in enumerate(sources):
            classes.tie(classes.slot(node.inputs[which] or "", channel), classes.slot(t.name, c))
    return True


def _tie_binary(node: Node, g: Graph, classes: Classes) -> bool:
    y = g.tensor(node.outputs[0])
    width = channels_of(y)
    for t in g.ins(node):
        if t is None:
            return False
        if channels_of(t) == width and t.shape:
            if t.is_const:
                continue
            for c in range(width):
                classes.tie(classes.slot(t.name, c), classes.slot(y.name, c))
        else:
            classes.pin(t)  # broadcast along the channels: its one channel serves them all
    return True


def plain_weights(node: Node, g: Graph) -> bool:
    """Constant weights (and bias) with zero points of zero."""
    w = g.tensor(node.inputs[1])
    bias = g.tensor(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if w.data is None or (bias is not None and bias.data is None):
        return False
    return w.is_float or (w.quant is not None and not w.quant.zero_point.any())


# -- one round -------------------------------------------------------------------------------------


def columns(node: Node, g: Graph) -> np.ndarray:
    """The weights by input channel: ``[out, taps, C]`` for CONV_2D, TRANSPOSE_CONV, FULLY_CONNECTED."""
    w = g.tensor(node.inputs[1])
    assert w.data is not None
    c = channels_of(g.tensor(node.inputs[0]))
    return w.data.reshape(w.shape[0], -1, c)


def zero_point(t: Tensor) -> float:
    return 0.0 if t.is_float or t.quant is None else float(t.quant.zp)


def foldable(node: Node, g: Graph, bounds: Interval, fold_float: bool) -> np.ndarray:
    """bool ``[C]``: input channels whose constant contribution may move into the node's bias."""
    x, y = g.tensor(node.inputs[0]), g.tensor(node.outputs[0])
    constant = bounds.constant & np.isfinite(bounds.lo)
    if node.type == "TRANSPOSE_CONV":
        return np.zeros(len(constant), bool)
    if not (fold_float if x.is_float else x.dtype == "int8" and y.dtype == "int8"):
        return np.zeros(len(constant), bool)
    if node.type == "CONV_2D":
        at_zero = bounds.lo == zero_point(x)
        pads = padded_taps(node, x, g.tensor(node.inputs[1])).reshape(-1)
        reads_padding = (columns(node, g)[:, pads, :] != 0).any(axis=(0, 1))
        constant = constant & (at_zero | ~reads_padding)
    if not x.is_float and _overflows(node, g, np.where(constant, bounds.lo - zero_point(x), 0.0)):
        return np.zeros(len(constant), bool)
    return constant


def _overflows(node: Node, g: Graph, values: np.ndarray) -> bool:
    """Moving channels of these values into the bias could leave int32."""
    extra = (columns(node, g) * values).sum(axis=(1, 2))
    bias = g.tensor(node.inputs[2]).data if len(node.inputs) > 2 and node.inputs[2] else None
    total = np.abs(extra) + (0.0 if bias is None else np.abs(bias.astype(np.float64)))
    return bool((total > _INT32.max).any())


def _once(g: Graph, fold_float: bool, found: DeadChannels) -> Graph | None:
    """One round of analysis and removal; None when nothing can go."""
    bounds = analyse(g)
    classes = _tie(g)
    keep = list(classes.pinned)  # by root
    for node in g.nodes:
        if node.type not in ("CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"):
            continue
        x = g.tensor(node.inputs[0])
        if x.is_const or not plain_weights(node, g):
            continue
        if node.type == "CONV_2D" and x.shape[3] != g.tensor(node.inputs[1]).shape[3]:
            continue  # grouped: pinned already
        if node.type == "FULLY_CONNECTED" and columns_do_not_fit(node, g):
            continue
        zero = ~(columns(node, g) != 0).any(axis=(0, 1))
        free = zero | foldable(node, g, bounds[x.name], fold_float)
        for c, root in enumerate(classes.roots(x)):
            if not free[c]:
                keep[root] = True
    activations = [t for t in g.tensors.values() if not t.is_const]
    for t in activations:  # nothing may lose its last channel
        roots = classes.roots(t)
        if not any(keep[r] for r in roots):
            keep[roots[0]] = True
    masks = {
        t.name: np.array([keep[r] for r in classes.roots(t)], bool) for t in activations if t.shape
    }
    if all(m.all() for m in masks.values()):
        return None
    for t in activations:
        if t.shape and not masks[t.name].all():
            gone = ~masks[t.name]
            const = int((gone & bounds[t.name].constant).sum())
            found.add(t.name, channels_of(t), const, int(gone.sum()) - const)
    return _rewrite(g, masks, bounds)


def columns_do_not_fit(node: Node, g: Graph) -> bool:
    return g.tensor(node.inputs[1]).shape[1] % channels_of(g.tensor(node.inputs[0])) != 0


# -- rewriting -------------------------------------------------------------------------------------


def _rewrite(g: Graph, masks: dict[str, np.ndarray], bounds: dict[str, Interval]) -> Graph:
    out = g.copy()
    out.nodes = [rewrite_node(n, g, out, masks, bounds) for n in g.nodes]
    for name, mask in masks.items():
        if not mask.all():
            t = g.tensor(name)
            out.tensors[name] = t.with_(shape=(*t.shape[:-1], int(mask.sum())))
    out.prune()
    return out.validate()


def rewrite_node(
    node: Node, g: Graph, out: Graph, masks: dict[str, np.ndarray], bounds: dict[str, Interval]
) -> Node:
    names = [n for n in (*node.inputs, *node.outputs) if n is not None]
    if all(n not in masks or masks[n].all() for n in names):
        return node
    x_mask = masks.get(node.inputs[0] or "")
    y_mask = masks[node.outputs[0]]
    if node.type in ("CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"):
        assert x_mask is not None
        return _rewrite_weighted(node, g, out, x_mask, y_mask, bounds)
    if node.type == "DEPTHWISE_CONV_2D":
        return _with_consts(node, g, out, {1: (y_mask, 3), 2: (y_mask, 0)})
    if node.type in _BINARY or node.type == "PRELU":
        width = len(y_mask)
        changes = {
            i: (y_mask, -1)
            for i, t in enumerate(g.ins(node))
            if t is not None and t.is_const and t.shape and channels_of(t) == width
        }
        return _with_consts(node, g, out, changes)
    return _rewrite_movement(node, g, x_mask, masks)


def _rewrite_movement(
    node: Node, g: Graph, x_mask: np.ndarray | None, masks: dict[str, np.ndarray]
) -> Node:
    kind = node.type
    y_mask = masks[node.outputs[0]]
    if kind == "RESHAPE":
        return node.with_attrs(new_shape=(*node.attrs["new_shape"][:-1], int(y_mask.sum())))
    if x_mask is None:
        return node
    last = len(g.tensor(node.inputs[0]).shape) - 1
    if kind == "SPLIT" and node.attrs["axis"] == last:
        return node.with_attrs(sizes=tuple(int(masks[o].sum()) for o in node.outputs))
    if kind == "STRIDED_SLICE":
        begin, end = list(node.attrs["begin"]), list(node.attrs["end"])
        first = int(x_mask[: begin[-1]].sum())
        end[-1] = first + int(x_mask[begin[-1] : end[-1]].sum())
        begin[-1] = first
        return node.with_attrs(begin=tuple(begin), end=tuple(end))
    if kind == "GATHER" and node.attrs["axis"] == last:
        place = np.cumsum(x_mask) - 1
        kept = [i for i in node.attrs["indices"] if x_mask[i]]
        return node.with_attrs(indices=tuple(int(place[i]) for i in kept))
    return node


def _with_consts(
    node: Node, g: Graph, out: Graph, changes: dict[int, tuple[np.ndarray, int]]
) -> Node:
    inputs = list(node.inputs)
    for i, (mask, axis) in changes.items():
        if i < len(inputs) and inputs[i] is not None:
            inputs[i] = out.add_tensor(slice_channels(g.tensor(inputs[i]), mask, axis)).name
    return node.with_(inputs=tuple(inputs))


def _rewrite_weighted(
    node: Node,
    g: Graph,
    out: Graph,
    x_mask: np.ndarray,
    y_mask: np.ndarray,
    bounds: dict[str, Interval],
) -> Node:
    x, w = g.tensor(node.inputs[0]), g.tensor(node.inputs[1])
    cols = columns(node, g)
    gone = ~x_mask
    bias_name = node.inputs[2] if len(node.inputs) > 2 else None
    extra = np.zeros(w.shape[0])
    if gone.any():
        value = np.where(gone, bounds[x.name].lo - zero_point(x), 0.0)
        live = (cols[:, :, gone] != 0).any()
        if live:
            with np.errstate(invalid="ignore"):
                extra = np.where(cols == 0, 0.0, cols * value).sum(axis=(1, 2))
    kept = np.ascontiguousarray(cols[:, :, x_mask][y_mask])
    shape = (int(y_mask.sum()), *w.shape[1:-1], kept.shape[1] * kept.shape[2])
    if node.type != "FULLY_CONNECTED":
        shape = (*shape[:-1], int(x_mask.sum()))
    sliced = slice_channels(w, y_mask, 0)
    new_w = out.add_tensor(sliced.with_(shape=shape, data=kept.reshape(shape)))
    bias = _new_bias(g, node, bias_name, extra)
    new_b = None
    if bias is not None:
        new_b = out.add_tensor(slice_channels(bias, y_mask, 0)).name
    fixed = node.with_(inputs=(node.inputs[0], new_w.name, new_b))
    if node.type == "TRANSPOSE_CONV":
        fixed = fixed.with_attrs(output_shape=(*node.attrs["output_shape"][:-1], int(y_mask.sum())))
    return fixed


def _new_bias(g: Graph, node: Node, bias: str | None, extra: np.ndarray) -> Tensor | None:
    """The bias with ``extra`` added; a new one where the layer had none."""
    if bias is None and not extra.any():
        return None
    x, w = g.tensor(node.inputs[0]), g.tensor(node.inputs[1])
    if bias is not None:
        old = g.tensor(bias)
        assert old.data is not None
        return old.with_(data=(old.data + extra).astype(old.dtype))
    return default_bias(node, x, w, extra)
