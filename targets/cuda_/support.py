"""Which nodes the engine takes, with the reason for the others; TVM need not be there."""

from __future__ import annotations

import numpy as np

from edgekit.graph.ir import Graph, Node
from edgekit.targets.base import Unsupported
from edgekit_targets.tvm_ import isa
from edgekit_targets.tvm_ import support as cpu

_LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
#: The operators are those of the CPU engine, whose target does not matter for what is asked here.
_ANY = isa.x86_64(["avx2"])


def unsupported(graph: Graph) -> list[Unsupported]:
    """Nodes that cannot be lowered, in graph order."""
    out = []
    for node in graph.nodes:
        reason = _why_not(node, graph)
        if reason is not None:
            out.append(Unsupported(node.name, node.type, reason))
    return out


def _why_not(node: Node, graph: Graph) -> str | None:
    if node.type in _LINEAR:
        q = graph.tensor(node.inputs[1]).quant
        if q is not None and np.any(q.zero_point):
            return "weights with a zero point, which tensor cores cannot multiply"
    return cpu.why_not(node, graph, _ANY)
