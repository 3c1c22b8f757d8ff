"""Portable AVERAGE_POOL_2D and MAX_POOL_2D."""

from __future__ import annotations

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node

from ..contract import KernelCall
from .ref_common import RefVariant, integer, lowered, nhwc, output, required


def _pool(node: Node, graph: Graph, dtype: str = "int8") -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    integer(x, dtype)
    lo, hi = nm.activation_range(node.attrs["activation"], integer(y, dtype), dtype)
    (in_h, in_w, channels), (out_h, out_w, _) = nhwc(x), nhwc(y)
    size, stride = node.attrs["filter"], node.attrs["stride"]
    pads, _ = nm.conv_padding((in_h, in_w), size, stride, node.attrs["padding"])
    fields = {
        "in_h": in_h,
        "in_w": in_w,
        "channels": channels,
        "out_h": out_h,
        "out_w": out_w,
        "filter_h": size[0],
        "filter_w": size[1],
        "stride_h": stride[0],
        "stride_w": stride[1],
        "pad_top": pads[0],
        "pad_left": pads[2],
        "act_min": lo,
        "act_max": hi,
    }
    kind = "max_pool" if node.type == "MAX_POOL_2D" else "average_pool"
    name, header = (f"{kind}_s8_ref", "ek_pool.h")
    if dtype == "int16":
        name, header = (f"{kind}_s16_ref", "ek_s16.h")
    return lowered(name, header, "&{p}, {in0}, {out0}", "ek_pool_params", fields)


def pool_s16(node: Node, graph: Graph) -> KernelCall:
    return _pool(node, graph, "int16")


VARIANTS = [
    RefVariant("average_pool_s8_ref", "AVERAGE_POOL_2D", _pool),
    RefVariant("max_pool_s8_ref", "MAX_POOL_2D", _pool),
]
