"""Which kernels can run a node: the one table.

Every module of this package (names with a leading underscore aside) lists what it offers in
``VARIANTS``. A variant is a :class:`~edgekit_targets.mcu.contract.Variant` with an integer ``rank``:
among the variants that take a node, the lowest rank is the fastest. Portable C is rank 100.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from typing import Literal, Protocol, cast

from edgekit.errors import UnsupportedError
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import KernelCall, Variant

REF_RANK = 100  #: rank of the portable variants
NEAR_RANK = 15  #: ranks that far apart may be the other way round


class RankedVariant(Variant, Protocol):
    """A variant with its place in the order of speed."""

    rank: int


class Concerned(RankedVariant, Protocol):
    """A variant that is only for some nodes of its type: where ``concerns`` says no it is not looked
    at, and not named among those that do not take the node."""

    def concerns(self, node: Node, graph: Graph) -> bool: ...


@cache
def _table() -> dict[str, tuple[RankedVariant, ...]]:
    """Operator type -> its variants, fastest first; equal ranks by name."""
    found: dict[str, list[RankedVariant]] = {}
    names: set[tuple[str, str]] = set()
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("_"):
            continue
        offered = getattr(importlib.import_module(f"{__name__}.{module.name}"), "VARIANTS", ())
        for v in offered:
            if (v.op, v.name) in names:
                raise ValueError(f"variant {v.name} for {v.op} is listed twice")
            names.add((v.op, v.name))
            found.setdefault(v.op, []).append(v)
    return {op: tuple(sorted(vs, key=lambda v: (v.rank, v.name))) for op, vs in found.items()}


def supported_ops() -> list[str]:
    """Operator types for which there is at least one variant, sorted."""
    return sorted(_table())


def variants_of(op: str) -> Sequence[RankedVariant]:
    """Every variant of an operator type, applicable or not, fastest first."""
    return _table().get(op, ())


def variants_for(node: Node, graph: Graph) -> list[RankedVariant]:
    """The variants of the node's type that its kind of constants concerns, fastest first."""
    return [
        v
        for v in variants_of(node.type)
        if not hasattr(v, "concerns") or cast(Concerned, v).concerns(node, graph)
    ]


def reject_reasons(node: Node, graph: Graph, target: Target) -> list[tuple[str, str]]:
    """(variant name, reason) for each variant of the node's type that does not take it."""
    reasons = []
    for v in variants_for(node, graph):
        reason = v.reject(node, graph, target)
        if reason is not None:
            reasons.append((v.name, reason))
    return reasons


def reject_reason(node: Node, graph: Graph, target: Target) -> str | None:
    """None when some variant takes the node, else one phrase with every distinct reason."""
    if candidates(node, graph, target):
        return None
    if not variants_of(node.type):
        return (
            f"there is no microcontroller kernel for {node.type}; "
            f"there are kernels for {', '.join(supported_ops())}"
        )
    by_reason: dict[str, list[str]] = {}
    for name, reason in reject_reasons(node, graph, target):
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def unsupported(node: Node, graph: Graph, target: Target) -> UnsupportedError:
    """The error of a node that no variant takes."""
    return UnsupportedError(
        f"node '{node.name}' ({node.type}) cannot run on {target.name}: "
        f"{reject_reason(node, graph, target)}"
    )


def candidates(node: Node, graph: Graph, target: Target) -> list[RankedVariant]:
    """The variants that take the node on the target, fastest first."""
    return [v for v in variants_for(node, graph) if v.reject(node, graph, target) is None]


def const_bytes(call: KernelCall) -> int:
    """Flash that the call's constants take."""
    return sum(c.data.nbytes for c in call.consts)


def ram_bytes(call: KernelCall, node: Node, graph: Graph) -> int:
    """What the call adds to the bytes of the node's inputs: scratch, and outputs that cannot share."""
    shared = {o for _, o in call.inplace}
    own = sum(t.nbytes for k, t in enumerate(graph.outs(node)) if k not in shared)
    return call.scratch_bytes + own


def select(
    node: Node,
    graph: Graph,
    target: Target,
    optimize: Literal["speed", "size", "ram"] = "speed",
) -> RankedVariant:
    """The variant of a node by itself, without counting. speed: lowest rank; size: fewest constant
    bytes; ram: least scratch and output, which takes none where it may lie in an input (ties: lowest
    rank). UnsupportedError names the node, its type and every reason."""
    found = candidates(node, graph, target)
    if not found:
        raise unsupported(node, graph, target)
    if optimize == "speed" or len(found) == 1:
        return found[0]
    calls = [v.lower(node, graph, target) for v in found]
    cost = [const_bytes(c) if optimize == "size" else ram_bytes(c, node, graph) for c in calls]
    return found[min(range(len(found)), key=lambda i: (cost[i], i))]
