"""Which nodes the opencl engines take, with the reason for the others; TVM need not be there."""

from __future__ import annotations

from edgekit.graph.ir import Graph, Node
from edgekit.targets.base import Unsupported

from .fusion import BINARY, UNARY, VIEWS

_STORED = frozenset({"float32", "float16", "int8", "uint8", "int16"})
_WEIGHTED = frozenset(["CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"])
_OTHERS = frozenset(
    [
        "BATCH_MATMUL",
        "MAX_POOL_2D",
        "AVERAGE_POOL_2D",
        "MEAN",
        "SUM",
        "REDUCE_MAX",
        "SOFTMAX",
        "LAYER_NORM",
        "ARG_MAX",
        "CONCATENATION",
        "PAD",
        "TRANSPOSE",
        "STRIDED_SLICE",
        "SPLIT",
        "GATHER",
        "RESIZE_NEAREST_NEIGHBOR",
        "RESIZE_BILINEAR",
    ]
)
#: Dimensions beyond which a launch geometry or a 32-bit index would not do.
_MOST_ELEMENTS = 1 << 30


def unsupported(graph: Graph) -> list[Unsupported]:
    """Nodes that cannot become a kernel, in graph order."""
    out = []
    for node in graph.nodes:
        reason = why_not(node, graph)
        if reason is not None:
            out.append(Unsupported(node.name, node.type, reason))
    return out


def why_not(node: Node, graph: Graph) -> str | None:
    """The reason why ``node`` cannot become a kernel, or None."""
    kind = node.type
    if kind not in _WEIGHTED | _OTHERS | UNARY | BINARY | VIEWS:
        return "the operator is not implemented"
    ins = [t for t in graph.ins(node) if t is not None]
    outs = graph.outs(node)
    if any(t.elements > _MOST_ELEMENTS for t in (*ins, *outs)):
        return f"a tensor of more than {_MOST_ELEMENTS} elements"
    values = [*ins[:1], *outs] if kind in _WEIGHTED else [*ins, *outs]
    if kind == "ARG_MAX":
        if outs[0].dtype not in ("int32", "int64"):
            return f"indices as {outs[0].dtype}; int32 and int64 are implemented"
        values = ins
    for t in values:
        if t.is_const and t.quant is not None and not t.quant.is_per_channel:
            continue  # stored as the real values
        if t.dtype not in _STORED:
            return f"tensor '{t.name}' is {t.dtype}; floats and quantized integers are computed"
        if not t.is_float and t.quant is None:
            return f"tensor '{t.name}' is {t.dtype} without quantization parameters"
        if t.quant is not None and t.quant.is_per_channel:
            return f"tensor '{t.name}' is quantized per channel and no weight"
    if kind in _WEIGHTED and any(not t.is_const for t in ins[1:]):
        return "weights and bias must be constants"
    if kind == "PRELU" and not ins[1].is_const:
        return "an alpha that is no constant"
    return None
