"""What a network with fewer channels costs, without building it: MACs, parameters, cycles on a target.

MACs and parameters are exact. Cycles are *estimated*: every layer of the uncut network is profiled once
on the target's own device. Where the target can count single layers, each is counted at a grid of widths
(:mod:`.counted`); elsewhere it is scaled by what is left of its MACs (or of its elements, where it has
none). A result is compiled and profiled before anyone quotes it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from edgekit.compress.counted import Grid
from edgekit.compress.groups import MIXING, Groups, is_grouped
from edgekit.compress.intervals import channels_of
from edgekit.errors import InputError
from edgekit.graph.ir import Graph
from edgekit.graph.ops import macs
from edgekit.targets.schema import Target

Measure = Literal["macs", "parameters", "cycles"]


@dataclass(frozen=True)
class _Term:
    """weight * width of each tensor relative to the uncut one, multiplied."""

    weight: float
    widths: tuple[int, ...]


@dataclass(frozen=True)
class _Counted:
    """A grid of cycles over the widths of two tensors (None: an input that does not change)."""

    grid: Grid
    source: int | None
    out: int


class Cost:
    """Cost as a function of how many units each group keeps.

    measure: "macs", "parameters", or "cycles" (which needs ``layer_cycles``: by node name). grids: cycles
    of layers at other widths, by node name; the other layers are scaled.
    """

    def __init__(
        self,
        groups: Groups,
        measure: Measure = "macs",
        layer_cycles: Mapping[str, float] | None = None,
        grids: Mapping[str, Grid] | None = None,
    ) -> None:
        self.groups = groups
        self.measure = measure
        graph = groups.graph
        self._tensors = [t.name for t in graph.tensors.values() if not t.is_const and t.shape]
        place = {n: i for i, n in enumerate(self._tensors)}
        self._full = np.array([channels_of(graph.tensor(n)) for n in self._tensors], float)
        self._per_unit = np.zeros((len(groups), len(self._tensors)))
        for i, g in enumerate(groups):
            for name, channels in g.tensors.items():
                self._per_unit[i, place[name]] = channels.shape[1]
            for name in g.axes:  # counted along the axis of the heads
                self._full[place[name]] = g.units
                self._per_unit[i, place[name]] = 1
        self.units = np.array([g.units for g in groups], np.int64)
        self._rest = self._full - self.units @ self._per_unit
        self._terms: list[_Term] = []
        self._counted: list[_Counted] = []
        for node in graph.nodes:
            out = place.get(node.outputs[0])
            widths: tuple[int, ...] = () if out is None else (out,)
            if node.type in MIXING and not is_grouped(node, graph) and node.inputs[0] in place:
                widths = (place[node.inputs[0] or ""], *widths)
            if measure == "parameters":
                for k, source in enumerate(node.inputs):
                    if source is None or not graph.tensor(source).is_const:
                        continue
                    size = graph.tensor(source).elements
                    part = widths if k == 1 and node.type in MIXING else widths[-1:]
                    self._add(float(size), part if size > 1 else ())
            elif measure == "macs":
                self._add(float(macs(node, graph)), widths)
            elif out is not None and node.name in (grids or {}):
                assert grids is not None
                self._counted.append(
                    _Counted(grids[node.name], place.get(node.inputs[0] or ""), out)
                )
            else:
                self._add((layer_cycles or {}).get(node.name, 0.0), widths)
        self.total = float(self(self.units[None])[0])
        if not self.total > 0:
            raise InputError(f"the network has no {measure} to save")

    def _add(self, weight: float, widths: tuple[int, ...]) -> None:
        if weight:
            self._terms.append(_Term(weight, widths))

    def __call__(self, kept: np.ndarray) -> np.ndarray:
        """kept: int ``[..., groups]``: units kept. Returns the cost, ``[...]``."""
        ratio = (self._rest + np.asarray(kept, float) @ self._per_unit) / self._full
        total = np.zeros(ratio.shape[:-1])
        for t in self._terms:
            part = np.full(total.shape, t.weight)
            for w in t.widths:
                part = part * ratio[..., w]
            total += part
        for c in self._counted:
            wide = [None if k is None else ratio[..., k] * self._full[k] for k in (c.source, c.out)]
            source = np.full(total.shape, float(c.grid.ins[-1])) if wide[0] is None else wide[0]
            assert wide[1] is not None
            total += c.grid(source, wide[1])
        return total

    def share(self, kept: np.ndarray) -> float:
        """Cost of one choice relative to the uncut network."""
        return float(self(np.asarray(kept)[None])[0]) / self.total


def granularity(target: Target | None, asked: int | None = None) -> int:
    """Multiples of channels to keep: what the recipe asks, else the target's, else 4."""
    if asked is not None:
        return asked
    return 4 if target is None else target.channel_multiple


def layer_cycles(graph: Graph, target: Target, inputs: Sequence[np.ndarray]) -> dict[str, float]:
    """Cycles (or nanoseconds, where the device has a clock only) of each layer of ``graph`` on the
    target's own device, compiled for speed, by node name; a layer that was fused into another counts
    nothing."""
    from edgekit import api
    from edgekit.data import Dataset
    from edgekit.targets.base import CompileOptions

    samples = Dataset.of([a[:32] for a in inputs])
    with tempfile.TemporaryDirectory(prefix="edgekit-cost-") as tmp:
        artifact = api.compile(
            graph, target.name, Path(tmp) / "a", data=samples,
            options=CompileOptions(optimize="speed"),
        )  # fmt: skip
        document = api.profile(artifact)
    found: dict[str, float] = {}
    for layer in document["layers"]:
        value = layer["cycles"]
        if value is None and layer["time_ms"] is not None:
            value = layer["time_ms"] * 1e6
        if value:
            found[layer["name"]] = found.get(layer["name"], 0.0) + float(value)
    known = {n.name for n in graph.nodes}
    if not any(n in known for n in found):
        raise InputError(
            f"target '{target.name}' gives no cycles by layer for this network; "
            "set the budget in MACs instead"
        )
    return {n: c for n, c in found.items() if n in known}
