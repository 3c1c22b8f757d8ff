"""What the nodes that stay on the CPU cost, by the engine of the core beside the NPU.

They are taken out as one graph of their own, compiled by the family of the host target and profiled
on its virtual device: executed instructions are counted, cycles estimated from them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.graph.ir import Graph

from .config import NpuTarget


@dataclass(frozen=True)
class CpuCost:
    """One node on the CPU. cycles: of the CPU's own clock; None when it could not be costed."""

    instructions: int | None
    cycles: int | None


@dataclass(frozen=True)
class CpuCosts:
    """nodes: name -> cost. missing: name -> why it has none. tools, device: what counted."""

    nodes: Mapping[str, CpuCost] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    device: str | None = None

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def cycles(self) -> int:
        return sum(c.cycles or 0 for c in self.nodes.values())


def subgraph(graph: Graph, names: Sequence[str]) -> Graph:
    """The named nodes as a graph: what they read from elsewhere is an input, what is read elsewhere
    (or by nobody) is an output."""
    wanted = set(names)
    nodes = [n for n in graph.nodes if n.name in wanted]
    made = {o for n in nodes for o in n.outputs}
    inputs: dict[str, None] = {}
    for n in nodes:
        for t in graph.ins(n):
            if t is not None and not t.is_const and t.name not in made:
                inputs[t.name] = None
    elsewhere = {i for n in graph.nodes if n.name not in wanted for i in n.inputs if i is not None}
    inside = {i for n in nodes for i in n.inputs if i is not None}
    outputs = [
        o
        for n in nodes
        for o in n.outputs
        if o in elsewhere or o in graph.outputs or o not in inside
    ]
    part = Graph(
        f"{graph.name} (CPU part)",
        dict(graph.tensors),
        nodes,
        tuple(inputs),
        tuple(outputs),
    )
    part.prune()
    return part.validate()


def cost(graph: Graph, names: Sequence[str], npu: NpuTarget) -> CpuCosts:
    """Never raises for what an engine cannot do: then the nodes are ``missing``, with the reason."""
    if not names:
        return CpuCosts()
    from edgekit.targets import get_backend, get_target

    try:
        host = get_target(npu.config.host_target)
        backend = get_backend(host.family)
        engine = next((e for e in backend.engines(host) if e.usable), None)
        if engine is None:
            why = "; ".join(str(e.why_not) for e in backend.engines(host))
            return CpuCosts(missing=dict.fromkeys(names, why))
        refused = {
            u.node: f"engine '{engine.name}' of {host.name} does not take it: {u.reason}"
            for u in backend.supports(subgraph(graph, names), host, engine.name)
        }
        kept = [n for n in names if n not in refused]
        if not kept:
            return CpuCosts(missing=refused)
    except EdgekitError as e:
        return CpuCosts(missing=dict.fromkeys(names, str(e)))
    try:
        profile = _profile(subgraph(graph, kept), host, backend, engine.name)
    except EdgekitError as e:
        return CpuCosts(missing={**refused, **dict.fromkeys(kept, str(e))})
    nodes, missing = {}, dict(refused)
    by_name = {la.name: la for la in profile.layers}
    for name in kept:
        layer = by_name.get(name)
        if layer is None or layer.cycles is None:
            missing[name] = f"{profile.device} gave no cycles for it"
        else:
            nodes[name] = CpuCost(layer.instructions, layer.cycles)
    return CpuCosts(nodes, missing, dict(profile.tools), profile.device)


def _profile(part: Graph, host: Any, backend: Any, engine: str) -> Any:
    from edgekit.artifact import Artifact, write_manifest
    from edgekit.devices import open_device
    from edgekit.targets.base import CompileOptions

    with tempfile.TemporaryDirectory(prefix="edgekit-cpu-part-") as name:
        folder = Path(name)
        compiled = backend.compile(part, host, folder, CompileOptions(engine))
        write_manifest(
            folder,
            model={"name": part.name},
            recipe={},
            target=host,
            compiled=compiled,
            graphs={"graph": part},
        )
        artifact = Artifact.open(folder, check=False)
        with open_device(backend.default_device(host), target=host) as device:
            return backend.profile(artifact, device)
