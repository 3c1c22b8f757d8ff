"""AVERAGE_POOL_2D for cores with Helium."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import KernelCall
from .dsp_pool import pool_call, refused_window
from .mve_common import reject_common

_LEAST_WINDOW = 16  #: inputs of a window from which its sums outweigh its divisions


@dataclass(frozen=True)
class MveAveragePool:
    name: str = "average_pool_s8_mve"
    op: str = "AVERAGE_POOL_2D"
    rank: int = 5

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target) or refused_window(node, graph)
        if reason is not None:
            return reason
        _, height, width, channels = graph.tensor(node.inputs[0]).shape
        inputs = min(node.attrs["filter"][0], height) * min(node.attrs["filter"][1], width)
        if inputs < _LEAST_WINDOW or channels < 8:
            return f"{inputs} inputs of {channels} channels do not pay for vectors"
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        return pool_call(self.name, "mve", "ek_mve.h", node, graph)


VARIANTS = [MveAveragePool()]
