"""Portable AVERAGE_POOL_2D and MAX_POOL_2D."""

from __future__ import annotations

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node

from ..contract import KernelCall
from .ref_common import RefVariant, int8, lowered, nhwc, output, required


def _pool(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    int8(x)
    lo, hi = nm.activation_range(node.attrs["activation"], int8(y), "int8")
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
    name = "max_pool_s8_ref" if node.type == "MAX_POOL_2D" else "average_pool_s8_ref"
    return lowered(name, "ek_pool.h", "&{p}, {in0}, {out0}", "ek_pool_params", fields)


VARIANTS = [
    RefVariant("average_pool_s8_ref", "AVERAGE_POOL_2D", _pool),
    RefVariant("max_pool_s8_ref", "MAX_POOL_2D", _pool),
]
