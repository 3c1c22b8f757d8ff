"""The search space as values: every trial is a point, and every point is a recipe.

A *dimension* has a name and an ordered list of values. Which dimensions there are follows from the
networks and the target:

====================  ==============================================================================
``base``              which of the given networks is cut (the model, or a larger one)
``channels:GROUP``    units a channel group keeps, in multiples of the target's granularity
``rank:NODE``         share of a layer's energy that its low-rank form keeps; 1.0: not factorized
``optimize``          what the backend prefers: balanced, speed, size, ram
``engine``            how the target runs it
====================  ==============================================================================

With several base networks the dimensions of a base carry its number, ``1/channels:GROUP``; only those of
the chosen base are part of a point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.compress import allocate
from edgekit.compress.groups import Groups, find_groups
from edgekit.compress.recipe import VERSION
from edgekit.errors import InputError
from edgekit.graph.ir import Graph

Value = int | float | str
Point = dict[str, Value]

#: Shares of energy that a factorized layer may keep.
RANKS = (0.8, 0.9, 0.95, 1.0)
#: Most values that a group of channels has in the space; wider groups take coarser steps.
MOST_LEVELS = 24


@dataclass(frozen=True)
class Dimension:
    """values: in order, the uncut network's last (or the default's, where there is no order).
    ordered: neighbours in the list are alike."""

    name: str
    values: tuple[Value, ...]
    default: Value
    ordered: bool = True

    def index(self, value: Value) -> int:
        return self.values.index(value)


@dataclass(frozen=True)
class Base:
    """One network to start from. groups: of the float graph."""

    graph: Graph
    groups: Groups
    dimensions: tuple[Dimension, ...]


@dataclass(frozen=True)
class Fidelity:
    """How much work goes into one evaluation. samples, rows, ridge: of the least-squares repair.
    train_steps: of distillation after it."""

    samples: int
    rows: int
    ridge: float
    train_steps: int = 0


@dataclass(frozen=True)
class Space:
    """shared: dimensions of every point. bases: dimensions of their own each."""

    shared: tuple[Dimension, ...]
    bases: tuple[Base, ...]
    multiple: int
    importance: str = "surgeon"
    importance_samples: int = 1000
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def dimensions(self, base: int) -> tuple[Dimension, ...]:
        return (*self.shared, *self.bases[base].dimensions)

    def all_dimensions(self) -> list[Dimension]:
        return [*self.shared, *(d for b in self.bases for d in b.dimensions)]

    def base_of(self, point: Mapping[str, Value]) -> int:
        return int(point.get("base", 0))

    def full(self, base: int = 0) -> Point:
        """The uncut network."""
        point = {d.name: d.default for d in self.dimensions(base)}
        if len(self.bases) > 1:
            point["base"] = base
        return point

    def prefix(self, base: int) -> str:
        return f"{base}/" if len(self.bases) > 1 else ""

    def widths(self, point: Mapping[str, Value]) -> np.ndarray:
        """int ``[groups]`` of the point's base: units kept."""
        b = self.base_of(point)
        p = self.prefix(b)
        return np.array(
            [int(point.get(f"{p}channels:{g.name}", g.units)) for g in self.bases[b].groups],
            np.int64,
        )

    def with_widths(self, base: int, widths: Sequence[int], start: Point | None = None) -> Point:
        point = dict(start) if start is not None else self.full(base)
        p = self.prefix(base)
        for g, k in zip(self.bases[base].groups, widths, strict=True):
            name = f"{p}channels:{g.name}"
            if name in point:
                point[name] = int(k)
        return point

    def levels(self, base: int) -> list[np.ndarray]:
        """By group: unit counts it may keep, ascending (one entry where it cannot be cut)."""
        p = self.prefix(base)
        known = {d.name: d for d in self.bases[base].dimensions}
        out = []
        for g in self.bases[base].groups:
            d = known.get(f"{p}channels:{g.name}")
            out.append(np.array([g.units] if d is None else d.values, np.int64))
        return out

    def random(self, rng: np.random.Generator) -> Point:
        base = int(rng.integers(len(self.bases)))
        point = self.full(base)
        for d in self.dimensions(base):
            if d.name != "base":
                point[d.name] = d.values[int(rng.integers(len(d.values)))]
        return point

    def check(self, point: Mapping[str, Value]) -> Point:
        """The point with values of this space only; InputError names what is not of it."""
        base = self.base_of(point)
        if not 0 <= base < len(self.bases):
            raise InputError(f"the point names base {base}; the space has {len(self.bases)}")
        known = {d.name: d for d in self.dimensions(base)}
        for name, value in point.items():
            if name not in known or value not in known[name].values:
                raise InputError(f"the point has {name}={value!r}, which is not in the space")
        return {**self.full(base), **dict(point)}

    # -- recipes -----------------------------------------------------------------------------------

    def recipe(self, point: Mapping[str, Value], fidelity: Fidelity) -> dict[str, Any]:
        """What ``edgekit compress`` applies to the base network to make this point's."""
        base = self.base_of(point)
        b, p = self.bases[base], self.prefix(base)
        steps: list[dict[str, Any]] = []
        shares = {}
        for g in b.groups:
            kept = int(point.get(f"{p}channels:{g.name}", g.units))
            if kept < g.units:
                shares[g.name] = kept / g.units
        if shares:
            steps.append({
                "step": "prune", "importance": self.importance, "layers": shares,
                "multiple": self.multiple, "samples": self.importance_samples,
            })  # fmt: skip
        ranks: dict[float, list[str]] = {}
        for name, value in point.items():
            if name.startswith(f"{p}rank:") and float(value) < 1:
                ranks.setdefault(float(value), []).append(name.removeprefix(f"{p}rank:"))
        for energy, names in sorted(ranks.items()):
            steps.append({"step": "factorize", "energy": energy, "layers": sorted(names),
                          "samples": fidelity.samples})  # fmt: skip
        if steps:
            steps.append({"step": "reconstruct", "samples": fidelity.samples,
                          "rows": fidelity.rows, "ridge": fidelity.ridge})  # fmt: skip
        if fidelity.train_steps and steps:
            steps.append({"step": "distill", "steps": fidelity.train_steps,
                          **dict(self.settings.get("distill", {}))})  # fmt: skip
        if not steps:
            steps.append({"step": "simplify"})
        return {"version": VERSION, "seed": self.seed, "steps": steps}

    def compile_of(self, point: Mapping[str, Value]) -> dict[str, str]:
        """How the target compiles it: ``optimize``, ``engine``."""
        return {
            "optimize": str(point.get("optimize", self.settings.get("optimize", "balanced"))),
            "engine": str(point.get("engine", self.settings.get("engine", "auto"))),
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "bases": len(self.bases),
            "multiple": self.multiple,
            "dimensions": [
                {"name": d.name, "values": list(d.values), "default": d.default}
                for d in self.all_dimensions()
            ],
        }


def _group_dimensions(
    groups: Groups, prefix: str, multiple: int, smallest: float
) -> list[Dimension]:
    found = []
    for g in groups:
        counts = allocate.levels(g, multiple, smallest)
        if len(counts) > MOST_LEVELS:
            pick = np.linspace(0, len(counts) - 1, MOST_LEVELS).round().astype(int)
            counts = counts[np.unique(pick)]
        if len(counts) > 1:
            values = tuple(int(k) for k in counts)
            found.append(Dimension(f"{prefix}channels:{g.name}", values, g.units))
    return found


def _rank_dimensions(graph: Graph, prefix: str, few: int = 12) -> list[Dimension]:
    """Of the layers with most MACs whose low-rank form can have fewer."""
    from edgekit.compress.factorize import factorizable
    from edgekit.graph.ops import macs

    names = sorted(factorizable(graph), key=lambda n: -macs(graph.node(n), graph))[:few]
    order = [n.name for n in graph.nodes if n.name in names]
    return [Dimension(f"{prefix}rank:{n}", RANKS, 1.0) for n in order]


def make_space(
    graphs: Sequence[Graph],
    multiple: int,
    *,
    ranks: bool = False,
    optimize: Sequence[str] = (),
    engines: Sequence[str] = (),
    smallest: float = 0.125,
    importance: str = "surgeon",
    importance_samples: int = 1000,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Space:
    """graphs: float networks to start from, the model first. multiple: of channels that are kept.
    optimize, engines: values to choose from; with fewer than two there is no such dimension."""
    shared = []
    if len(graphs) > 1:
        shared.append(Dimension("base", tuple(range(len(graphs))), 0, ordered=False))
    for name, values in (("optimize", optimize), ("engine", engines)):
        if len(values) > 1:
            shared.append(Dimension(name, tuple(values), values[0], ordered=False))
    bases = []
    for i, graph in enumerate(graphs):
        prefix = f"{i}/" if len(graphs) > 1 else ""
        groups = find_groups(graph)
        own = _group_dimensions(groups, prefix, multiple, smallest)
        if ranks:
            own += _rank_dimensions(graph, prefix)
        bases.append(Base(graph, groups, tuple(own)))
    if not shared and not any(b.dimensions for b in bases):
        raise InputError(
            f"model '{graphs[0].name}' leaves nothing to search: no channels can be cut and the target "
            "has one way to compile it"
        )
    return Space(
        tuple(shared), tuple(bases), multiple, importance, importance_samples, seed, settings or {}
    )
