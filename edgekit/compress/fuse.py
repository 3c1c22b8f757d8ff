"""Fusing: batch norm (as MUL and ADD with constants), activations and PAD into their neighbours.

On float tensors the folded weights differ from the separate operators by float rounding only; on
integer tensors nothing is fused unless the bytes stay the same.
"""

from __future__ import annotations

import numpy as np

from edgekit.graph.ir import Graph, Node, Tensor

#: Operators with weights whose output channel axis is known: type -> axis of the weight tensor.
_OUT_AXIS = {
    "CONV_2D": 0,
    "DEPTHWISE_CONV_2D": 3,
    "TRANSPOSE_CONV": 0,
    "FULLY_CONNECTED": 0,
}
_ACTIVATIONS = ("RELU", "RELU6", "RELU_N1_TO_1")
_FUSABLE = frozenset({*_OUT_AXIS, "ADD", "SUB", "MUL", "DIV", "MAX_POOL_2D", "AVERAGE_POOL_2D"}) - {
    "TRANSPOSE_CONV"
}


def fuse(graph: Graph) -> Graph:
    """All fusions, until nothing changes."""
    g = graph.copy()
    while _fuse_one(g):
        pass
    g.prune()
    return g


def _fuse_one(g: Graph) -> bool:
    producers = g.producers()
    consumers = g.consumers()
    for node in g.nodes:
        if node.type in ("MUL", "ADD", "SUB", "DIV") and _fuse_affine(
            g, node, producers, consumers
        ):
            return True
        if node.type in _ACTIVATIONS and _fuse_activation(g, node, producers, consumers):
            return True
        if node.type == "PAD" and _fuse_pad(g, node, consumers):
            return True
    return False


def _sole_reader(g: Graph, name: str, consumers: dict[str, list[Node]]) -> bool:
    return len(consumers[name]) == 1 and name not in g.outputs


def _replace(g: Graph, old: Node, new: Node, drop: Node) -> None:
    """Put ``new`` at the place of ``old`` and remove ``drop``."""
    g.nodes = [new if n.name == old.name else n for n in g.nodes if n.name != drop.name]
    g.prune()


# -- batch norm ------------------------------------------------------------------------------------


def _fuse_affine(
    g: Graph, node: Node, producers: dict[str, Node], consumers: dict[str, list[Node]]
) -> bool:
    """conv -> MUL/ADD/SUB/DIV by a float constant, one value a channel: into weights and bias."""
    x, y = (g.tensor(i) for i in node.inputs)
    swapped = x.is_const
    if swapped:
        x, y = y, x
    if x.is_const or not y.is_const or y.data is None or not (x.is_float and y.is_float):
        return False
    if swapped and node.type in ("DIV",):
        return False
    conv = producers.get(x.name)
    if (
        conv is None
        or conv.type not in _OUT_AXIS
        or conv.attr("activation", "NONE") != "NONE"
        or not _sole_reader(g, x.name, consumers)
    ):
        return False
    weights = g.tensor(conv.inputs[1])
    bias = None if len(conv.inputs) < 3 or conv.inputs[2] is None else g.tensor(conv.inputs[2])
    if weights.data is None or not weights.is_float or (bias is not None and bias.data is None):
        return False
    channels = x.shape[-1]
    value = _per_channel(y.data, channels)
    if value is None or g.tensor(node.outputs[0]).shape != x.shape:
        return False
    w = weights.data.astype(np.float64)
    b = np.zeros(channels) if bias is None or bias.data is None else bias.data.astype(np.float64)
    sign = 1.0
    if node.type == "MUL":
        scale, shift = value, np.zeros(channels)
    elif node.type == "DIV":
        scale, shift = 1.0 / value, np.zeros(channels)
    elif node.type == "ADD":
        scale, shift = np.ones(channels), value
    else:  # SUB: conv - value, or value - conv
        sign = -1.0 if swapped else 1.0
        scale, shift = np.full(channels, sign), value if swapped else -value
    if not np.all(np.isfinite(scale)):
        return False
    shape = [1] * w.ndim
    shape[_OUT_AXIS[conv.type]] = channels
    new_w = g.add_const(weights.name + "_folded", (w * scale.reshape(shape)).astype(weights.dtype))
    new_b = g.add_const(conv.name + "_bias", (b * scale + shift).astype(weights.dtype))
    fused = conv.with_(
        inputs=(conv.inputs[0], new_w.name, new_b.name), outputs=node.outputs
    ).with_attrs(activation=node.attr("activation", "NONE"))
    _replace(g, conv, fused, node)
    g.toposort()
    return True


def _per_channel(value: np.ndarray, channels: int) -> np.ndarray | None:
    """``value`` as one float64 a channel, or None when it varies over anything else."""
    if value.size == 1:
        return np.full(channels, float(value.reshape(())), np.float64)
    if value.size == channels and value.shape[-1] == channels:
        return value.reshape(channels).astype(np.float64)
    return None


# -- activations -----------------------------------------------------------------------------------


def _fuse_activation(
    g: Graph, node: Node, producers: dict[str, Node], consumers: dict[str, list[Node]]
) -> bool:
    """op -> RELU*: a clamp of the op itself. For integers only where both tensors are quantized
    alike, because the separate operator then is the same clamp."""
    x, y = g.tensor(node.inputs[0]), g.tensor(node.outputs[0])
    op = producers.get(x.name)
    if (
        op is None
        or op.type not in _FUSABLE
        or op.attr("activation", "NONE") != "NONE"
        or not _sole_reader(g, x.name, consumers)
        or x.dtype != y.dtype
    ):
        return False
    if not x.is_float and (x.dtype != "int8" or x.quant is None or not x.quant.same_as(y.quant)):
        return False
    if op.type == "AVERAGE_POOL_2D" and not x.is_float:
        return False  # the pool clamps before, the activation after rounding: keep both
    fused = op.with_(outputs=node.outputs).with_attrs(activation=node.type)
    _replace(g, op, fused, node)
    return True


# -- padding ---------------------------------------------------------------------------------------


def _fuse_pad(g: Graph, node: Node, consumers: dict[str, list[Node]]) -> bool:
    """PAD (height and width, with zeros) -> conv: explicit padding of the convolution."""
    x, y = g.tensor(node.inputs[0]), g.tensor(node.outputs[0])
    if len(x.shape) != 4 or not _sole_reader(g, y.name, consumers):
        return False
    conv = consumers[y.name][0]
    if conv.type not in ("CONV_2D", "DEPTHWISE_CONV_2D") or conv.inputs[0] != y.name:
        return False
    (n0, n1), (top, bottom), (left, right), (c0, c1) = node.attrs["paddings"]
    if n0 or n1 or c0 or c1 or float(node.attr("value", 0.0)) != 0.0:
        return False
    if min(top, bottom, left, right) < 0 or not _quantized_alike(x, y):
        return False
    own = conv.attrs["padding"]
    if own == "SAME":
        from edgekit.graph.numerics import conv_padding

        w = g.tensor(conv.inputs[1])
        own, _ = conv_padding(
            (y.shape[1], y.shape[2]),
            (w.shape[1], w.shape[2]),
            conv.attrs["stride"],
            "SAME",
            conv.attrs["dilation"],
        )
    if own == "VALID":
        own = (0, 0, 0, 0)
    total = (own[0] + top, own[1] + bottom, own[2] + left, own[3] + right)
    fused = conv.with_(inputs=(x.name, *conv.inputs[1:])).with_attrs(
        padding=tuple(int(p) for p in total)
    )
    _replace(g, conv, fused, node)
    return True


def _quantized_alike(x: Tensor, y: Tensor) -> bool:
    if x.is_float and y.is_float:
        return True
    return x.dtype == y.dtype and x.quant is not None and x.quant.same_as(y.quant)
