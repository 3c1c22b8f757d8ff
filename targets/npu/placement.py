"""Node by node: on the NPU or on the CPU, why, and what Vela estimates for it.

The files speak of tensors, the graph of nodes. A node is found by the name of its result; Vela adds
suffixes (``y_softmax_3``, ``y_act``), the .tflite writer derives names from the node's
(``conv/padded``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekit.graph.ir import Graph, Node, unique

from .outputs import Outputs, Row

#: What would break a line of Vela's table or of its warnings.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\"',]|[^\x00-\x7f]")


def safe_names(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """The graph with names that survive Vela's text files, and new -> old for the tensors renamed.

    Nearly always the same graph and nothing.
    """
    names: dict[str, str] = {}
    taken = {t for t in graph.tensors if t and not _UNSAFE.search(t)}
    for name in graph.tensors:
        if name in taken:
            names[name] = name
            continue
        names[name] = unique(_UNSAFE.sub("_", name) or "tensor", taken)
        taken.add(names[name])
    nodes: list[Node] = []
    used: set[str] = set()
    for n in graph.nodes:
        label = unique(_UNSAFE.sub("_", n.name) or "node", used)
        used.add(label)
        nodes.append(
            n.with_(
                name=label,
                inputs=tuple(None if i is None else names[i] for i in n.inputs),
                outputs=tuple(names[o] for o in n.outputs),
            )
        )
    safe = Graph(
        graph.name,
        {names[k]: t if k == names[k] else t.with_(name=names[k]) for k, t in graph.tensors.items()},
        nodes,
        tuple(names[i] for i in graph.inputs),
        tuple(names[o] for o in graph.outputs),
        dict(graph.metadata),
    )
    return safe, {new: old for old, new in names.items() if new != old}


@dataclass
class Placement:
    """Where a node runs. reason: why on the CPU, None on the NPU. rule: Vela's constraint behind the
    reason, where it states one. commands: NPU operations it became; none when it was folded into
    its neighbours. cycles, macs: Vela's estimate, None without a per-layer table."""

    on_npu: bool = True
    reason: str | None = None
    rule: str | None = None
    commands: list[str] = field(default_factory=list)
    cycles: int | None = None
    macs: int | None = None

    @property
    def variant(self) -> str:
        if not self.on_npu:
            return "cpu"
        return "npu" if self.commands or self.cycles is None else "npu (folded)"

    def to_json(self) -> dict[str, Any]:
        return {
            "placement": "npu" if self.on_npu else "cpu",
            "reason": self.reason,
            "rule": self.rule,
            "commands": list(self.commands),
            "npu_cycles": self.cycles,
            "npu_macs": self.macs,
        }


class _Owners:
    """Names in Vela's files -> index of the node."""

    def __init__(self, graph: Graph) -> None:
        self._of = {o: i for i, n in enumerate(graph.nodes) for o in n.outputs}
        self._by_node = {n.name: i for i, n in enumerate(graph.nodes)}

    def find(self, name: str) -> int | None:
        if name in self._of:
            return self._of[name]
        if "/" in name:
            node = self._by_node.get(name.rpartition("/")[0])
            if node is not None:
                return node
        cut = name
        while "_" in cut:  # the longest name that this one begins with
            cut = cut.rpartition("_")[0]
            if cut in self._of:
                return self._of[cut]
            if "/" in cut and cut.rpartition("/")[0] in self._by_node:
                return self._by_node[cut.rpartition("/")[0]]
        return None


def place(
    graph: Graph, outputs: Outputs, generation: str, version: str
) -> tuple[list[Placement], list[Row]]:
    """One placement a node of the (safely named) graph, and the rows that belong to no node."""
    owners = _Owners(graph)
    reasons: dict[int, tuple[str, ...]] = {}
    for name, lines in outputs.reasons.items():
        owner = owners.find(name)
        if owner is not None:
            reasons.setdefault(owner, lines)
    placements = [Placement() for _ in graph.nodes]
    if outputs.rows is not None:
        for p in placements:
            p.cycles = p.macs = 0
    for op in outputs.remaining:
        for name in op.outputs:
            owner = owners.find(name)
            if owner is not None:
                placements[owner].on_npu = False
    stray = []
    for row in outputs.rows or ():
        owner = owners.find(row.name)
        if not row.on_npu:
            continue
        if owner is None:
            stray.append(row)
            continue
        p = placements[owner]
        p.commands.append(row.op)
        p.cycles = (p.cycles or 0) + row.cycles
        p.macs = (p.macs or 0) + row.macs
    for index, (node, p) in enumerate(zip(graph.nodes, placements, strict=True)):
        if not p.on_npu:
            p.reason, p.rule = explain(node, graph, reasons.get(index, ()), generation, version)
    return placements, stray


def explain(
    node: Node, graph: Graph, lines: Sequence[str], generation: str, version: str
) -> tuple[str, str | None]:
    """(reason, rule) in whole sentences: Vela's own words first, else what the graph shows."""
    if lines and "unsupported optype" not in lines[0].lower():
        return lines[0], " ".join(lines[1:]) or None
    floats = [t.name for t in [*graph.ins(node), *graph.outs(node)] if t is not None and t.is_float]
    if floats:
        return f"tensor '{floats[0]}' is float; the NPU computes with integers only", None
    if lines:
        return f"Vela {version} has no {generation} form of {node.type}", None
    wide = [t for t in [*graph.ins(node), *graph.outs(node)] if t is not None and not t.is_const]
    for t in wide:
        if t.dtype not in ("int8", "uint8", "int16", "int32"):
            return f"tensor '{t.name}' is {t.dtype}; {generation} takes int8, int16 and int32", None
    return f"Vela {version} left {node.type} on the CPU and gave no reason", None


def counts(placements: Sequence[Placement]) -> Mapping[str, int]:
    npu = sum(p.on_npu for p in placements)
    return {"npu": npu, "cpu": len(placements) - npu}
