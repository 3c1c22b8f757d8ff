"""Layers measured in whole programs, through nothing but what every backend has: compile and profile.

Designed layers stand side by side in a program, a handful at a time. Where the profile has a cost for
every layer, these are the samples; where it has one for the program only, costs of layers are what adds up
to them (:func:`edgekit.profile.fit.fit_totals`).
"""

from __future__ import annotations

import hashlib
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekit.errors import EdgekitError
from edgekit.graph.ir import Graph, Node
from edgekit.profile.design import joined
from edgekit.profile.family import Apart, Measurement, Part, Price, Sample
from edgekit.profile.terms import Dims, dims_of
from edgekit.targets.base import Backend, Progress
from edgekit.targets.schema import Target

#: Layers a program: as many as a compiler takes at ease; few where only their sum is seen.
TOGETHER = 12
#: Rounds of a clock, of which the least counts: what disturbs a machine only ever adds time.
ROUNDS = 2
NETWORK = "network"  #: the model of what an inference costs besides its layers
_PACKAGES = ("ai-edge-litert", "onnxruntime", "apache-tvm", "ethos-u-vela", "ziglang")
_FREE = frozenset({"RESHAPE", "SQUEEZE"})
_SEED = 5


class WholeNetworks:
    """:class:`edgekit.profile.family.LatencyModel` for any backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def table_of(self, target: Target, engine: str, optimize: str) -> str:
        return "any"

    def fingerprint(self, target: Target, engine: str, optimize: str) -> str:
        from edgekit import __version__

        what = [__version__, repr(target), engine, platform.machine(), _processor(), _versions()]
        return hashlib.sha256(repr(what).encode()).hexdigest()[:24]

    def measure_layers(
        self,
        graphs: Sequence[Graph],
        target: Target,
        engine: str,
        optimize: str,
        device: str,
        progress: Progress | None = None,
    ) -> Measurement:
        layers = self._taken(graphs, target, engine)
        samples: list[Sample] = []
        totals: list[tuple[list[tuple[str, Dims]], float]] = []
        ratios: list[float] = []
        unit: Literal["cycles", "instructions", "ms"] = "ms"
        kind: Any = "measured"
        tools: dict[str, str] = {}
        batches = list(_batches(layers))
        for k, batch in enumerate(batches):
            if progress:
                progress(f"measuring layers: program {k + 1} of {len(batches)}")
            graph = joined(batch)
            try:
                profiles = self._profiles(graph, target, engine, device, optimize)
            except EdgekitError:
                if len(batch) > 1:  # one that does not fit, or does not compile: the others may
                    half = len(batch) // 2
                    batches += [batch[:half], batch[half:]]
                continue
            document = profiles[0]
            unit, kind, tools = _unit(document), document["kind"], dict(document["tools"])
            found = _least_by_layer(profiles, unit)
            total = min(_total(p, unit) for p in profiles)
            parts = [(_kernel(n, graph), dims_of(n, graph)) for n in graph.nodes if not _free(n)]
            totals.append(([*parts, (NETWORK, _ONCE)], total))
            if sum(found.values()) > 0:
                ratios.append(total / sum(found.values()))
            samples += _samples(graph, found)
        facts = {"total_ratio": float(np.median(ratios)) if ratios else 1.0}
        return Measurement(samples, unit, kind, tools, facts, () if samples else totals)

    def _taken(self, graphs: Sequence[Graph], target: Target, engine: str) -> list[Graph]:
        """The layers that the engine takes, quantized where it wants that."""
        from edgekit.profile.shapes import integer_form

        int8 = self._backend.needs_int8(target, engine)
        layers = []
        for g in graphs:
            try:
                layer = integer_form(g) if int8 else g
                if not self._backend.supports(layer, target, engine):
                    layers.append(layer)
            except EdgekitError:
                continue
        return layers

    def _profiles(
        self, graph: Graph, target: Target, engine: str, device: str, optimize: str
    ) -> list[dict[str, Any]]:
        from edgekit import api
        from edgekit.targets.base import CompileOptions

        options = CompileOptions(engine=engine, optimize=optimize)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory(prefix="edgekit-calibrate-") as tmp:
            artifact = api.compile(
                graph, target.name, Path(tmp) / "a", options=options, simplify=False
            )
            first = api.profile(artifact, device=device)
            more = ROUNDS - 1 if first["kind"] == "measured" else 0
            return [first, *(api.profile(artifact, device=device) for _ in range(more))]

    def take_apart(
        self,
        graph: Graph,
        target: Target,
        engine: str,
        optimize: str,
        price: Price,
        facts: Mapping[str, Any],
    ) -> Apart:
        missing = self._backend.supports(graph, target, engine)
        if missing:
            from edgekit.errors import UnsupportedError

            first = missing[0]
            raise UnsupportedError(
                f"{target.name} cannot take node '{first.node}' ({first.op}): {first.reason}"
            )
        parts = []
        for n in graph.nodes:
            if _free(n):
                parts.append(Part(n.name, None))
            else:
                parts.append(Part(n.name, _kernel(n, graph), dims_of(n, graph), _key(n, graph)))
        return Apart(parts)

    def read_profile(
        self,
        graph: Graph,
        target: Target,
        engine: str,
        optimize: str,
        document: Mapping[str, Any],
        unit: str,
    ) -> Sequence[Sample]:
        return _samples(graph, _least_by_layer([document], unit))


_ONCE = Dims(counts={"1": 1.0})


def _batches(layers: Sequence[Graph]) -> Iterator[list[Graph]]:
    """Layers in random company, in batches of every size up to ``TOGETHER``."""
    rng = np.random.default_rng(_SEED)
    order = [layers[i] for i in rng.permutation(len(layers))]
    sizes = [TOGETHER, TOGETHER, TOGETHER // 2, 2]
    at = k = 0
    while at < len(order):
        size = sizes[k % len(sizes)]
        yield order[at : at + size]
        at, k = at + size, k + 1


def _free(node: Node) -> bool:
    return node.type in _FREE


def _kernel(node: Node, graph: Graph) -> str:
    """Layers that libraries have different code for."""
    if node.type == "CONV_2D":
        kh, kw, c = graph.tensor(node.inputs[1]).shape[1:4]
        if c != graph.tensor(node.inputs[0]).shape[3]:
            return "CONV_2D grouped"
        if (kh, kw) == (1, 1):
            return "CONV_2D 1x1"
        return "CONV_2D first" if c <= 4 else "CONV_2D"
    if node.type == "DEPTHWISE_CONV_2D":
        window = graph.tensor(node.inputs[1]).shape[1:3]
        return "DEPTHWISE_CONV_2D 3x3" if window == (3, 3) else "DEPTHWISE_CONV_2D"
    return node.type


def _key(node: Node, graph: Graph) -> str:
    text: list[object] = [node.type, sorted(node.attrs.items())]
    for t in (*graph.ins(node), *graph.outs(node)):
        text.append(None if t is None else (t.shape, t.dtype, t.is_const))
    return hashlib.sha256(repr(text).encode()).hexdigest()[:16]


def _samples(graph: Graph, found: Mapping[str, float]) -> list[Sample]:
    return [
        Sample(_kernel(n, graph), dims_of(n, graph), found[n.name], _key(n, graph))
        for n in graph.nodes
        if not _free(n) and found.get(n.name, 0.0) > 0
    ]


def _unit(document: Mapping[str, Any]) -> Literal["cycles", "instructions", "ms"]:
    total = document["total"]
    if document["kind"] == "measured" and total["latency_ms"] is not None:
        return "ms"
    return "cycles" if total["cycles"] is not None else "instructions"


def _total(document: Mapping[str, Any], unit: str) -> float:
    if unit == "ms":
        return float(document["details"].get("latency_ms_min", document["total"]["latency_ms"]))
    return float(document["total"][unit] or 0)


def _least_by_layer(documents: Sequence[Mapping[str, Any]], unit: str) -> dict[str, float]:
    key = "time_ms" if unit == "ms" else unit
    least: dict[str, float] = {}
    for d in documents:
        own: dict[str, float] = {}
        for layer in d["layers"]:
            if layer.get(key):
                own[layer["name"]] = own.get(layer["name"], 0.0) + float(layer[key])
        for name, value in own.items():
            least[name] = min(value, least.get(name, value))
    return least


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _versions() -> list[str]:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found
