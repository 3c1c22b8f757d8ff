"""Functions of one int8 value for cores with Helium: the table of the portable kernel, by gather."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgekit.errors import GraphError, UnsupportedError
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import KernelCall
from . import ref_elementwise
from .mve_common import LANES, reject_common

_REF = "lut_s8_ref"
_TABLES = {v.op: v for v in ref_elementwise.VARIANTS if v.name == _REF}


@dataclass(frozen=True)
class MveLut:
    op: str
    name: str = "lut_s8_mve"
    rank: int = 5

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target)
        if reason is not None:
            return reason
        if graph.outs(node)[0].elements < LANES:
            return f"{graph.outs(node)[0].elements} elements do not fill a vector"
        try:
            _TABLES[self.op].lower(node, graph, target)
        except (UnsupportedError, GraphError) as e:
            return str(e)
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        call = _TABLES[self.op].lower(node, graph, target)
        return replace(
            call,
            variant=self.name,
            sources=(f"mve/{self.name}.c",),
            header="ek_mve.h",
            call=call.call.replace(f"ek_{_REF}(", f"ek_{self.name}("),
        )


VARIANTS = [MveLut(op) for op in sorted(_TABLES)]
