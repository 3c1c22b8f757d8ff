"""What a target family brings to the predictors: how its layers are measured, and how its backend would
run a graph. A family without it is measured and taken apart by :mod:`.whole`, engine by engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from edgekit.devices.base import Kind
from edgekit.graph.ir import Graph
from edgekit.profile.terms import Dims
from edgekit.targets.base import Progress
from edgekit.targets.schema import Target

#: (kernel, what its cost depends on, the layer's key) -> cost.
Price = Callable[[str, Dims, str], float]


@dataclass(frozen=True)
class Sample:
    """One measured layer. kernel: what ran it; layers of one kernel share a model. key: the same for
    layers that cost the same."""

    kernel: str
    dims: Dims
    value: float
    key: str


@dataclass(frozen=True)
class Measurement:
    """kind: of the samples. facts: what the family wants back in ``take_apart``, JSON-ready.
    totals: whole networks measured besides: their samples' places in ``parts`` and their cost (for
    engines that tell no layer's share)."""

    samples: Sequence[Sample]
    unit: Literal["cycles", "instructions", "ms"]
    kind: Kind
    tools: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    totals: Sequence[tuple[Sequence[tuple[str, Dims]], float]] = ()


@dataclass(frozen=True)
class Part:
    """One node. kernel: None where it costs nothing by itself (fused, or in place). variant: what the
    profile would call the kernel, where it names one."""

    node: str
    kernel: str | None
    dims: Dims | None = None
    key: str = ""
    variant: str | None = None


@dataclass(frozen=True)
class Apart:
    """A graph taken apart: a part for every node; memory as estimated."""

    parts: Sequence[Part]
    memory: Mapping[str, int] = field(default_factory=dict)


class LatencyModel(Protocol):
    """Stateless but for caches. ``graph`` is always what the backend compiles: int8 where it needs int8."""

    def table_of(self, target: Target, engine: str, optimize: str) -> str:
        """What sets tables of one target, device and engine apart, such as compiler flags: short,
        fit for a file name."""
        ...

    def fingerprint(self, target: Target, engine: str, optimize: str) -> str:
        """Changes when what was measured would be measured anew: kernels, compilers, timing."""
        ...

    def measure_layers(
        self,
        graphs: Sequence[Graph],
        target: Target,
        engine: str,
        optimize: str,
        device: str,
        progress: Progress | None = None,
    ) -> Measurement:
        """Every way to run every layer of ``graphs``."""
        ...

    def take_apart(
        self,
        graph: Graph,
        target: Target,
        engine: str,
        optimize: str,
        price: Price,
        facts: Mapping[str, Any],
    ) -> Apart: ...

    def read_profile(
        self,
        graph: Graph,
        target: Target,
        engine: str,
        optimize: str,
        document: Mapping[str, Any],
        unit: str,
    ) -> Sequence[Sample]:
        """The layers of a profile (``Profile.to_json``) of ``graph`` as samples."""
        ...


@runtime_checkable
class HasLatencyModel(Protocol):
    """What a backend may have besides."""

    def latency_model(self) -> LatencyModel: ...
