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
        {
            names[k]: t if k == names[k] else t.with_(name=names[k])
            for k, t in graph.tensors.items()
        },
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


#: Vela's own names of operators, where they are not TFLite's without underscores.
_VELA_NAMES = {
    "AVERAGE_POOL_2D": {"avgpool"},
    "CONCATENATION": {"concat"},
    "GATHER": {"gatherv2"},
    "LAYER_NORM": {"custom"},
    "LOGISTIC": {"sigmoid"},
    "MAX_POOL_2D": {"maxpool"},
    "PAD": {"padv2"},
    "SLICE": {"stridedslice"},
    "SPLIT": {"splitv"},
    "SUM": {"reducesum"},
    "TRANSPOSE_CONV": {"transposeconv2d"},
}


def _plain(op: str) -> str:
    return op.replace("_", "").lower()


def _is_kind(node: Node, op: str) -> bool:
    """``op``, as Vela spells it in tables (``AvgPool``) or warnings (``ARGMAX``), is the node's."""
    plain = _plain(op)
    return plain == _plain(node.type) or plain in _VELA_NAMES.get(node.type, ())


class _Owners:
    """Names in Vela's files -> indices of the nodes that may be meant.

    What an operator is broken into is named after its result (``y_act``, ``y_intermediate``) or
    after its input (``x_softmax_3``, ``x/Transpose``): only the kind of the operator tells.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._maker = {o: i for i, n in enumerate(graph.nodes) for o in n.outputs}
        self._readers: dict[str, list[int]] = {}
        for i, n in enumerate(graph.nodes):
            for name in dict.fromkeys(x for x in n.inputs if x is not None):
                self._readers.setdefault(name, []).append(i)
        self._named = {n.name: i for i, n in enumerate(graph.nodes)}

    def find(self, name: str, op: str) -> list[int]:
        """Best first, all of one rank; empty when nothing fits. op: Vela's name of the operator."""
        nodes = self._graph.nodes
        exact = self._maker.get(name)
        if exact is not None and _is_kind(nodes[exact], op):
            return [exact]
        fallback: list[int] = [] if exact is None else [exact]
        for stem in _stems(name):
            head, slash, _ = stem.rpartition("/")
            derived = self._named.get(head) if slash else None
            if derived is not None:  # an operator that the .tflite writer added to a node
                return [derived]
            maker = self._maker.get(stem)
            near = [*([] if maker is None else [maker]), *self._readers.get(stem, ())]
            fitting = [i for i in near if _is_kind(nodes[i], op)]
            if fitting:
                return fitting
            if maker is not None and not fallback:
                fallback = [maker]
        return fallback

    def of_kind(self, op: str) -> list[int]:
        return [i for i, n in enumerate(self._graph.nodes) if _is_kind(n, op)]


def _stems(name: str) -> list[str]:
    """The name, and what it may be derived from, the longest first."""
    cuts = [k for k, c in enumerate(name) if c in "_/"]
    return [name, *(name[:k] for k in reversed(cuts))]


def _owners_of(rows: Sequence[Row], owners: _Owners) -> list[int | None]:
    """The node of each row. Rows come in execution order: where the name leaves a choice, or is
    none (``#28``), the next row that is sure decides, else the one before."""
    choices = [owners.find(r.name, r.source_op) or owners.of_kind(r.source_op) for r in rows]
    found = [c[0] if len(c) == 1 else None for c in choices]
    sure = list(found)
    for k, choice in enumerate(choices):
        if found[k] is None and choice:
            after = next((s for s in sure[k + 1 :] if s is not None), None)
            before = next((s for s in reversed(sure[:k]) if s is not None), None)
            found[k] = next((s for s in (after, before) if s in choice), choice[0])
    return found


def place(
    graph: Graph, outputs: Outputs, generation: str, version: str
) -> tuple[list[Placement], list[Row]]:
    """One placement a node of the (safely named) graph, and the rows that belong to no node."""
    owners = _Owners(graph)
    reasons: dict[int, tuple[str, ...]] = {}
    for (name, op), lines in outputs.reasons.items():
        for owner in owners.find(name, op)[:1]:
            reasons.setdefault(owner, lines)
    placements = [Placement() for _ in graph.nodes]
    if outputs.rows is not None:
        for p in placements:
            p.cycles = p.macs = 0
    for left in outputs.remaining:
        for name in left.outputs:
            for owner in owners.find(name, left.op)[:1]:
                placements[owner].on_npu = False
    stray = []
    on_npu = [r for r in outputs.rows or () if r.on_npu]
    for row, index in zip(on_npu, _owners_of(on_npu, owners), strict=True):
        if index is None:
            stray.append(row)
            continue
        p = placements[index]
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
