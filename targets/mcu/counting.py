"""What every node of a graph costs by itself with its fastest kernel, counted on the virtual core."""

from __future__ import annotations

from edgekit.errors import DeviceError
from edgekit.graph.ir import Graph
from edgekit.targets.base import Progress
from edgekit.targets.schema import Target

from . import toolchain, variants
from .choose import MAX_REF_MACS, find_options
from .config import parse
from .measure import measure


def count_nodes(graph: Graph, target: Target, progress: Progress | None = None) -> dict[str, float]:
    """Cycles (instructions where the core has no timing table) of each node's fastest variant, without
    the board's scale; nodes that could not be counted are left out. The graph need not be connected.
    UnsupportedError names the first node without a variant, DeviceError why counting failed."""
    from edgekit.graph.ops import macs

    mcu = parse(target)
    if mcu.virtual is None or mcu.toolchain is None:
        return {}
    lowered = {}
    for node in graph.nodes:
        name = node.name
        # alone: what a kernel may use of the RAM depends on what else is alive in its graph
        used = {t.name: t for t in (*graph.ins(node), *graph.outs(node)) if t is not None}
        fed = tuple(n for n, t in used.items() if not t.is_const and n not in node.outputs)
        alone = Graph(name, used, [node], fed, node.outputs)
        found = find_options(alone, target)[0][name]
        better = [o for o in found if o.rank < variants.REF_RANK]
        small = macs(graph.node(name), graph) <= MAX_REF_MACS // 8
        lowered[name] = [o.call for o in (better if better and not small else found)]
    compiler = toolchain.arm_compiler(mcu.toolchain, "auto")
    costs = measure(graph, lowered, mcu, compiler, "speed", progress)
    if costs.absent is not None:
        # scaling by MACs instead, in silence, would be wrong by half for narrow layers
        raise DeviceError(f"the layers of '{graph.name}' could not be counted: {costs.absent}")
    best: dict[str, float] = {}
    for (name, _), cost in costs.by_call.items():
        value = float(cost.instructions if cost.cycles is None else cost.cycles)
        best[name] = min(value, best.get(name, value))
    return best
