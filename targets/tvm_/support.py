"""Which nodes the tvm engine takes, with the reason for the others; TVM need not be there."""

from __future__ import annotations

import numpy as np

from edgekit.graph.ir import Graph, Node, Tensor
from edgekit.targets.base import Unsupported
from edgekit_targets.tvm_.isa import CpuTarget

_BYTES = ("int8", "uint8")
_UNARY = frozenset(
    [
        "LOGISTIC",
        "TANH",
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "HARD_SWISH",
        "ABS",
        "EXP",
        "NEG",
        "SQRT",
        "RSQRT",
        "LEAKY_RELU",
        "GELU",
    ]
)
_BINARY = frozenset(["ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"])
_MOVES = frozenset(["PAD", "RESHAPE", "SQUEEZE", "TRANSPOSE", "STRIDED_SLICE", "SPLIT", "GATHER"])
_REDUCE = frozenset(["MEAN", "SUM", "REDUCE_MAX"])
_POOLS = frozenset(["MAX_POOL_2D", "AVERAGE_POOL_2D"])


def unsupported(graph: Graph, target: CpuTarget) -> list[Unsupported]:
    """Nodes that cannot be lowered, in graph order."""
    out: list[Unsupported] = []
    for node in graph.nodes:
        reason = why_not(node, graph, target)
        if reason is not None:
            out.append(Unsupported(node.name, node.type, reason))
    return out


def _linear(node: Node, ins: list[Tensor], out: Tensor, target: CpuTarget) -> str | None:
    x, w = ins[0], ins[1]
    if any(not t.is_const for t in ins[1:]):
        return "weights and bias must be constants"
    kinds = {x.dtype, w.dtype, out.dtype}
    if kinds not in ({"float32"}, {"int8"}):
        return f"{x.dtype} input, {w.dtype} weights: float32 and int8 are implemented"
    if x.shape[0] != 1 and node.type != "FULLY_CONNECTED":
        return f"a batch of {x.shape[0]}; 1 is implemented"
    if kinds == {"int8"}:
        if x.quant is None or w.quant is None or out.quant is None:
            return "an int8 tensor without quantization parameters"
        if np.any(w.quant.zero_point):
            if w.quant.scale.size > 1 or node.type != "FULLY_CONNECTED":
                return "weights with a zero point"
            if target.dot.w_dtype == "int8":
                return f"weights with a zero point, which {target.dot.name} cannot multiply"
        if len(ins) > 2 and ins[2].dtype != "int32":
            return f"a {ins[2].dtype} bias; int32 is implemented"
    return None


def why_not(node: Node, graph: Graph, target: CpuTarget) -> str | None:
    """The reason why ``node`` cannot be lowered, or None."""
    ins = [t for t in graph.ins(node) if t is not None]
    outs = graph.outs(node)
    out, kind = outs[0], node.type
    types = {t.dtype for t in (*ins, *outs)}
    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"):
        return _linear(node, ins, out, target)
    if kind in _MOVES:
        return None if len(types) == 1 else f"different types {sorted(types)}"
    if types - {"float32", "int8", "uint8", "int32", "int64"}:
        return f"types {sorted(types)}; float32, int8 and uint8 are implemented"
    if kind in _UNARY or kind == "PRELU":
        if types == {"float32"}:
            return None
        if kind == "PRELU" and ins[1].data is None:
            return "an alpha that is no constant"
        return None if types <= set(_BYTES) else f"types {sorted(types)}"
    if kind in ("QUANTIZE", "DEQUANTIZE"):
        if ins[0].dtype in _BYTES or (ins[0].dtype == "float32" and out.dtype in _BYTES):
            return None
        return f"{ins[0].dtype} to {out.dtype}"
    if kind in _BINARY:
        if types == {"float32"} or (types == {"int32"} and all(t.quant is None for t in ins)):
            return None if kind != "DIV" or types == {"float32"} else "DIV of integers"
        if types in ({"int8"}, {"uint8"}) and kind != "DIV":
            return None
        return f"types {sorted(types)}"
    if kind == "SOFTMAX":
        if types == {"float32"}:
            return None
        ok = ins[0].dtype in _BYTES and out.dtype in _BYTES
        return None if ok else f"{ins[0].dtype} to {out.dtype}"
    if kind in _POOLS | _REDUCE | {"BATCH_MATMUL", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"}:
        if types == {"float32"} or types in ({"int8"}, {"uint8"}):
            if kind in _POOLS and ins[0].shape[0] != 1:
                return f"a batch of {ins[0].shape[0]}; 1 is implemented"
            if kind == "BATCH_MATMUL" and types == {"uint8"}:
                return "uint8 matrices"
            return None
        return f"types {sorted(types)}"
    if kind == "CONCATENATION":
        return None if len(types) == 1 else f"different types {sorted(types)}"
    if kind == "LAYER_NORM":
        return None if types == {"float32"} else "an integer LAYER_NORM is not implemented"
    if kind == "ARG_MAX":
        return None
    return "the operator is not implemented"
