"""Torch forms of what slides windows or multiplies matrices. Values are NHWC.

A builder takes a node with its tensors' types and returns a function of the input values; weights
and biases are among those, so that they can be parameters. Padding is explicit and computed from
the declared shapes (TFLite's SAME puts the odd cell after).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from edgekit.graph import numerics as nx
from edgekit.graph.ir import Node, Tensor
from edgekit.graph.ops.resize import bilinear_float, nearest_indices

Value = torch.Tensor
Step = Callable[[Sequence["Value | None"]], list[Value]]
Builder = Callable[[Node, Sequence["Tensor | None"], Sequence[Tensor]], Step]


def activation(node: Node) -> Callable[[Value], Value]:
    """The fused activation of a node as a function."""
    name = node.attr("activation", "NONE")
    nx.activation_bounds(name)  # GraphError for an unknown one
    return {
        "NONE": lambda x: x,
        "RELU": F.relu,
        "RELU6": F.relu6,
        "RELU_N1_TO_1": F.hardtanh,
    }[name]


def given(x: Sequence[Value | None], index: int) -> Value:
    value = x[index]
    assert value is not None
    return value


def tensor_of(ins: Sequence[Tensor | None], index: int = 0) -> Tensor:
    t = ins[index]
    assert t is not None
    return t


def _nchw(x: Value) -> Value:
    return x.permute(0, 3, 1, 2)


def _nhwc(x: Value) -> Value:
    return x.permute(0, 2, 3, 1)


def _pad_hw(x: Value, pads: nx.Padding4, value: float = 0.0) -> Value:
    """Pad (or, where negative, crop) height and width of an NHWC value."""
    top, bottom, left, right = pads
    return F.pad(x, (0, 0, left, right, top, bottom), value=value) if any(pads) else x


def _split_padding(pads: nx.Padding4) -> tuple[nx.Padding4, tuple[int, int]]:
    """What must be padded beforehand, and what the operator can pad itself (symmetric)."""
    top, bottom, left, right = pads
    if top == bottom and left == right:
        return (0, 0, 0, 0), (top, left)
    return pads, (0, 0)


def _window(node: Node, x: Tensor, filter_hw: tuple[int, int]) -> nx.Padding4:
    a = node.attrs
    dilation = tuple(a.get("dilation", (1, 1)))
    hw = (x.shape[1], x.shape[2])
    pads, _ = nx.conv_padding(
        hw, filter_hw, tuple(a["stride"]), a["padding"], (dilation[0], dilation[1])
    )
    return pads


def _on_device(values: np.ndarray, like: Value) -> Value:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device)


def _bias(x: Sequence[Value | None]) -> Value | None:
    b = x[2] if len(x) > 2 else None
    return None if b is None else b.reshape(-1)


def _conv(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> Step:
    x_t, w_t = tensor_of(ins), tensor_of(ins, 1)
    before, inside = _split_padding(_window(node, x_t, (w_t.shape[1], w_t.shape[2])))
    stride, dilation = tuple(node.attrs["stride"]), tuple(node.attrs["dilation"])
    depthwise = node.type == "DEPTHWISE_CONV_2D"
    groups = x_t.shape[3] if depthwise else x_t.shape[3] // w_t.shape[3]
    act = activation(node)

    def step(x: Sequence[Value | None]) -> list[Value]:
        w = given(x, 1)
        w = w.permute(3, 0, 1, 2) if depthwise else _nchw(w)
        v = _nchw(_pad_hw(given(x, 0), before))
        y = F.conv2d(v, w, _bias(x), stride, inside, dilation, groups)
        return [act(_nhwc(y))]

    return step


def _transpose_conv(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> Step:
    x_t, w_t = tensor_of(ins), tensor_of(ins, 1)
    kh, kw = w_t.shape[1:3]
    oh, ow = outs[0].shape[1:3]
    sh, sw = (int(s) for s in node.attrs["stride"])
    (top, _, left, _), _ = nx.conv_padding((oh, ow), (kh, kw), (sh, sw), node.attrs["padding"])
    full = (x_t.shape[1] - 1) * sh + kh, (x_t.shape[2] - 1) * sw + kw
    crop = (-top, top + oh - full[0], -left, left + ow - full[1])
    act = activation(node)

    def step(x: Sequence[Value | None]) -> list[Value]:
        w = given(x, 1).permute(3, 0, 1, 2)
        y = _pad_hw(_nhwc(F.conv_transpose2d(_nchw(given(x, 0)), w, stride=(sh, sw))), crop)
        b = _bias(x)
        return [act(y if b is None else y + b)]

    return step


def _fully_connected(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> Step:
    inputs = tensor_of(ins, 1).shape[1]
    keep = bool(node.attrs["keep_num_dims"])
    act = activation(node)

    def step(x: Sequence[Value | None]) -> list[Value]:
        v = given(x, 0)
        v = v if keep else v.reshape(-1, inputs)
        return [act(F.linear(v, given(x, 1), _bias(x)))]

    return step


def _batch_matmul(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> Step:
    adj_x, adj_y = bool(node.attrs["adj_x"]), bool(node.attrs["adj_y"])

    def step(x: Sequence[Value | None]) -> list[Value]:
        a, b = given(x, 0), given(x, 1)
        return [torch.matmul(a.mT if adj_x else a, b.mT if adj_y else b)]

    return step


def _max_pool(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> Step:
    size, stride = tuple(node.attrs["filter"]), tuple(node.attrs["stride"])
    pads = _window(node, tensor_of(ins), (size[0], size[1]))
    before, inside = _split_padding(pads)
    if any(2 * p > k for p, k in zip(inside, size, strict=True)):  # more than torch pads itself
        before, inside = pads, (0, 0)
    act = activation(node)

    def step(x: Sequence[Value | None]) -> list[Value]:
        v = _pad_hw(given(x, 0), before, float("-inf"))
        return [act(_nhwc(F.max_pool2d(_nchw(v), size, stride, inside)))]

    return step


def _average_pool(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> Step:
    size, stride = tuple(node.attrs["filter"]), tuple(node.attrs["stride"])
    x_t = tensor_of(ins)
    pads = _window(node, x_t, (size[0], size[1]))
    counts = None
    if any(pads):  # cells of each window that are not padding
        cells = []
        for d in range(2):
            starts = np.arange(outs[0].shape[1 + d]) * stride[d] - pads[2 * d]
            cells.append(np.minimum(starts + size[d], x_t.shape[1 + d]) - np.maximum(starts, 0))
        counts = (size[0] * size[1] / np.outer(*cells))[:, :, None]
    act = activation(node)

    def step(x: Sequence[Value | None]) -> list[Value]:
        v = given(x, 0)
        y = _nhwc(F.avg_pool2d(_nchw(_pad_hw(v, pads)), size, stride))
        if counts is not None:
            y = y * _on_device(counts, y).to(y.dtype)
        return [act(y)]

    return step


def _nearest(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> Step:
    t, a = tensor_of(ins), node.attrs
    flags = bool(a["align_corners"]), bool(a["half_pixel_centers"])
    rows = nearest_indices(t.shape[1], int(a["size"][0]), *flags)
    cols = nearest_indices(t.shape[2], int(a["size"][1]), *flags)

    def step(x: Sequence[Value | None]) -> list[Value]:
        v = given(x, 0)
        return [v.index_select(1, _on_device(rows, v)).index_select(2, _on_device(cols, v))]

    return step


def _bilinear(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> Step:
    t, a = tensor_of(ins), node.attrs
    flags = bool(a["align_corners"]), bool(a["half_pixel_centers"])
    lines = [bilinear_float(t.shape[1 + d], int(a["size"][d]), *flags) for d in range(2)]

    def step(x: Sequence[Value | None]) -> list[Value]:
        v = given(x, 0)
        for d, (lower, upper, fraction) in enumerate(lines):
            f = _on_device(fraction, v).to(v.dtype).reshape((-1, 1, 1) if d == 0 else (-1, 1))
            a0 = v.index_select(1 + d, _on_device(lower, v))
            a1 = v.index_select(1 + d, _on_device(upper, v))
            v = a0 * (1 - f) + a1 * f
        return [v]

    return step


BUILDERS: dict[str, Builder] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _conv,
    "TRANSPOSE_CONV": _transpose_conv,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
    "MAX_POOL_2D": _max_pool,
    "AVERAGE_POOL_2D": _average_pool,
    "RESIZE_NEAREST_NEIGHBOR": _nearest,
    "RESIZE_BILINEAR": _bilinear,
}
