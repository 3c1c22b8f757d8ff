"""How operators carry channels: which input channel each output channel comes from.

A *channel* is an index of a tensor's last axis. For operators that keep channels apart this module
says where each output channel comes from; dead-channel elimination and structured pruning both build
on it. Operators that mix channels (convolutions, dense layers) and those that tie them to their
neighbours (softmax over channels, transposes of the last axis) are not in here.
"""

from __future__ import annotations

from edgekit.graph.ir import Graph, Node

#: (input index, channel) of each output channel; one list an output.
ChannelMap = list[list[tuple[int, int]]]

#: One input, same channels, any change of height and width.
PER_CHANNEL = frozenset(
    {
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "LOGISTIC",
        "TANH",
        "HARD_SWISH",
        "LEAKY_RELU",
        "GELU",
        "ABS",
        "NEG",
        "EXP",
        "LOG",
        "SQRT",
        "RSQRT",
        "QUANTIZE",
        "DEQUANTIZE",
        "MAX_POOL_2D",
        "AVERAGE_POOL_2D",
        "RESIZE_NEAREST_NEIGHBOR",
        "RESIZE_BILINEAR",
    }
)


def channel_map(node: Node, g: Graph) -> ChannelMap | None:
    """Where each output channel comes from, for operators that only move channels; None when the
    operator mixes or reorders them in another way."""
    ins = g.ins(node)
    outs = g.outs(node)
    x = ins[0]
    if x is None or not x.shape or not all(o.shape for o in outs):
        return None
    cin, last = x.shape[-1], len(x.shape) - 1
    same = [(0, c) for c in range(cin)]
    kind = node.type
    if kind in PER_CHANNEL:
        return [same]
    if kind in ("RESHAPE", "SQUEEZE"):
        return _reshape(node, g)
    if kind == "MEAN" or kind in ("SUM", "REDUCE_MAX"):
        axes = tuple(node.attrs["axes"])
        if last in axes or (not outs[0].shape or outs[0].shape[-1] != cin):
            return None
        return [same]
    if kind == "PAD":
        return [same] if tuple(node.attrs["paddings"][-1]) == (0, 0) else None
    if kind == "TRANSPOSE":
        return [same] if node.attrs["perm"][-1] == last else None
    if kind == "CONCATENATION":
        if node.attrs["axis"] != last:
            return None  # the channels of the inputs would have to be tied pairwise
        return [[(i, c) for i, t in enumerate(ins) if t is not None for c in range(t.shape[-1])]]
    if kind == "SPLIT":
        if node.attrs["axis"] != last:
            return [list(same) for _ in outs]
        maps, start = [], 0
        for size in node.attrs["sizes"]:
            maps.append([(0, start + c) for c in range(size)])
            start += size
        return maps
    if kind == "STRIDED_SLICE":
        if last in node.attr("shrink_axes", ()):
            return None
        a = node.attrs
        chosen = range(a["begin"][-1], a["end"][-1], a["strides"][-1])
        return [[(0, c) for c in chosen]]
    if kind == "GATHER" and node.attrs["axis"] == last:
        return [[(0, int(c)) for c in node.attrs["indices"]]]
    return None


def _reshape(node: Node, g: Graph) -> ChannelMap | None:
    """RESHAPE that keeps the last axis, or flattens positions into it (NHWC: channels vary fastest)."""
    cin = g.tensor(node.inputs[0]).shape[-1]
    cout = g.tensor(node.outputs[0]).shape[-1]
    if cout % cin == 0:
        return [[(0, f % cin) for f in range(cout)]]
    return None
