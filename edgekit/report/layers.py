"""The layers of the page: the plan of the artifact joined with what a profile says about each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.graph.ir import Graph
from edgekit.report.text import figure, mapping, rows, whole


@dataclass(frozen=True)
class Layer:
    """bytes_moved: the layer's activations in and out and its constants, each once, whatever a
    kernel reads again. flash_bytes: its constants as packed for the kernel. None: not known."""

    index: int
    name: str
    op: str
    variant: str
    macs: int
    output_shape: Any
    flash_bytes: int | None
    scratch_bytes: int | None
    bytes_moved: int | None
    instructions: int | None
    cycles: int | None
    time_ms: float | None
    details: Mapping[str, Any]

    def cost(self, metric: str) -> float | None:
        """``instructions``, ``cycles``, ``time_ms`` or ``macs``."""
        return figure(getattr(self, metric))

    def macs_per(self, metric: str) -> float | None:
        cost = self.cost(metric)
        return self.macs / cost if cost and self.macs else None

    @property
    def instructions_per_mac(self) -> float | None:
        return self.instructions / self.macs if self.instructions and self.macs else None


@dataclass(frozen=True)
class Column:
    """A figure of every layer that is known: its key, title, unit and kind."""

    key: str
    title: str
    kind: str


def join(plan: Sequence[Mapping[str, Any]], profile: Any, graph: Graph) -> list[Layer]:
    """One :class:`Layer` an entry of the plan, in execution order."""
    nodes = {n.name: n for n in graph.nodes}
    measured = {str(la.get("name")): la for la in rows(mapping(profile).get("layers"))}
    layers = []
    for index, entry in enumerate(plan):
        name = str(entry.get("name", ""))
        node = nodes.get(name)
        found = measured.get(name, {})
        outputs = entry.get("output_shapes")
        if not isinstance(outputs, (list, tuple)) or not outputs:
            outputs = [list(t.shape) for t in graph.outs(node)] if node is not None else [None]
        layers.append(
            Layer(
                index=index,
                name=name,
                op=str(entry.get("op", "")),
                variant=str(entry.get("variant", "")),
                macs=whole(entry.get("macs")) or 0,
                output_shape=outputs[0],
                flash_bytes=whole(entry.get("flash_bytes")),
                scratch_bytes=whole(entry.get("scratch_bytes")),
                bytes_moved=None
                if node is None
                else sum(t.nbytes for t in (*graph.ins(node), *graph.outs(node)) if t is not None),
                instructions=whole(found.get("instructions")),
                cycles=whole(found.get("cycles")),
                time_ms=figure(found.get("time_ms")),
                details=mapping(entry.get("details")),
            )
        )
    return layers


def columns(layers: Sequence[Layer], profile: Any) -> list[Column]:
    """The costs that at least one layer has, the one that matters most first."""
    document = mapping(profile)
    kinds = mapping(document.get("kinds"))
    default = str(document.get("kind", ""))
    found = []
    for key, title in (
        ("time_ms", "time, ms"),
        ("cycles", "cycles"),
        ("instructions", "instructions"),
    ):
        if any(la.cost(key) is not None for la in layers):
            kind = kinds.get(key, kinds.get("latency_ms") if key == "time_ms" else None)
            found.append(Column(key, title, str(kind or default)))
    return found
