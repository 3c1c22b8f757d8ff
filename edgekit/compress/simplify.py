"""Lossless simplification: what the network does not need, removed without changing what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekit.compress.dead import eliminate
from edgekit.compress.fold import drop_identities, fold_constant_branches, fold_constants
from edgekit.compress.fuse import fuse
from edgekit.compress.slicing import DeadChannels
from edgekit.graph.ir import Graph
from edgekit.graph.ops import macs


@dataclass(frozen=True)
class Simplified:
    """graph: the result. dead: what was removed, a tensor each. macs, parameters: after; *_before."""

    graph: Graph
    dead: DeadChannels
    macs_before: int
    macs: int
    parameters_before: int
    parameters: int

    def to_json(self) -> dict[str, Any]:
        return {
            "macs_before": self.macs_before,
            "macs": self.macs,
            "parameters_before": self.parameters_before,
            "parameters": self.parameters,
            "removed_channels": [
                {
                    "tensor": r.tensor,
                    "channels": r.before,
                    "constant": r.constant,
                    "unread": r.unread,
                }
                for r in self.dead.removed.values()
            ],
        }


def total_macs(graph: Graph) -> int:
    """Multiply-accumulates of one inference."""
    return sum(macs(n, graph) for n in graph.nodes)


def total_parameters(graph: Graph) -> int:
    """Elements of all constant tensors that a node reads (each once)."""
    used = {i for n in graph.nodes for i in n.inputs if i is not None}
    return sum(t.elements for t in graph.constants() if t.name in used)


def clean(graph: Graph) -> Graph:
    """Constant folding, removal of operators that do nothing, fusing; channels stay as they are."""
    return fuse(drop_identities(fold_constants(graph))).validate()


def simplify(graph: Graph, *, dead_channels: bool = True, fold_float: bool = False) -> Simplified:
    """All lossless passes. The output bytes of an integer graph are the same for every input; a float
    graph's values are the same up to the rounding of folded constants."""
    before = total_macs(graph), total_parameters(graph)
    g = clean(graph)
    dead = DeadChannels()
    while dead_channels:  # a folded branch may leave channels of its inputs unread
        g, found = eliminate(g, fold_float=fold_float)
        for r in found.removed.values():
            dead.add(r.tensor, r.before, r.constant, r.unread)
        g = drop_identities(fold_constants(fold_constant_branches(g)))
        if not found.channels:
            break
    return Simplified(g, dead, before[0], total_macs(g), before[1], total_parameters(g))
