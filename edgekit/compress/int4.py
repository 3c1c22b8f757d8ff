"""int8 weights that fit into four bits, stored in four bits.

The values stay as they are, so every output byte does; what changes is the room they take in files and
in flash. AdaRound and QAT with ``bits: 4`` make such weights (per output channel, -7..7).
"""

from __future__ import annotations

import numpy as np

from edgekit.compress.steps import StepContext, step
from edgekit.graph.int4 import widened
from edgekit.graph.ir import Graph

#: Operators whose kernels may unpack weights.
_TYPES = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def pack_int4(graph: Graph) -> Graph:
    """Every int8 weight tensor whose values lie in -8..7 becomes int4; others stay."""
    out = graph.copy()
    readers = out.consumers()
    for node in graph.nodes:
        if node.type not in _TYPES:
            continue
        w = out.tensor(node.inputs[1])
        if w.data is None or w.dtype != "int8" or np.any((w.data < -8) | (w.data > 7)):
            continue
        if all(n.type in _TYPES and n.inputs[1] == w.name for n in readers[w.name]):
            out.tensors[w.name] = w.with_(dtype="int4")
    return out.validate()


def unpack_int4(graph: Graph) -> Graph:
    """int4 weights as int8 again, for engines without int4 kernels: the same output bytes."""
    return widened(graph).validate()


@step("pack-int4", cites="TensorFlow Lite 4-bit weights")
def pack_int4_step(graph: Graph, ctx: StepContext) -> Graph:
    """Weights that fit into four bits are stored in four bits; the output bytes stay."""
    out = pack_int4(graph)
    ctx.note(int4_tensors=[t.name for t in out.tensors.values() if t.dtype == "int4"])
    return out
