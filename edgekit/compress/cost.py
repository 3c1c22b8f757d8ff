"""What a network with fewer channels costs, without building it: MACs, parameters, cycles on a target.

MACs and parameters are exact. Cycles are *estimated*. Where the target can count single layers, each is
counted at a grid of widths (:mod:`.counted`). From one profile elsewhere: every layer of the uncut network
is profiled on the target's own device and scaled by what is left of its MACs (or of its elements, where
it has none). From several: narrower networks are profiled too, and every layer gets a constant, a share
by inputs, by outputs and by both (a Winograd convolution, say, transforms its inputs once for all
outputs). A result is compiled and profiled before anyone quotes it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from edgekit.compress.counted import Grid
from edgekit.compress.groups import MIXING, Groups, cut, is_grouped
from edgekit.compress.intervals import channels_of
from edgekit.errors import InputError
from edgekit.graph.ir import Graph, Node
from edgekit.graph.ops import macs
from edgekit.targets.schema import Target

Progress = Callable[[str], None]
Measure = Literal["macs", "parameters", "cycles"]
Optimize = Literal["balanced", "speed", "size", "ram"]


@dataclass(frozen=True)
class LayerCycles:
    """constant + by_in * i + by_out * o + by_both * i * o, with the shares i and o of the input and
    output channels that are left."""

    constant: float
    by_in: float
    by_out: float
    by_both: float


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
        layer_cycles: Mapping[str, float | LayerCycles] | None = None,
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
                known = (layer_cycles or {}).get(node.name, 0.0)
                if isinstance(known, LayerCycles):
                    self._add(known.constant, ())
                    self._add(known.by_in, widths[:1])
                    self._add(known.by_out, widths[-1:])
                    self._add(known.by_both, widths)
                else:
                    self._add(known, widths)
        self.total = float(self(self.units[None])[0])
        if not self.total > 0:
            raise InputError(f"the network has no {measure} to save")

    def _add(self, weight: float, widths: tuple[int, ...]) -> None:
        if weight:
            self._terms.append(_Term(weight, widths))

    def shares(self, kept: np.ndarray, node: Node) -> tuple[float, float]:
        """Shares of a node's input and output channels that are left when ``kept`` units are."""
        ratio = (self._rest + np.asarray(kept, float) @ self._per_unit) / self._full
        place = {n: i for i, n in enumerate(self._tensors)}
        return (float(ratio[place[node.inputs[0]]]) if node.inputs[0] in place else 1.0,
                float(ratio[place[node.outputs[0]]]) if node.outputs[0] in place else 1.0)  # fmt: skip

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


def layer_cycles(
    graph: Graph, target: Target, inputs: Sequence[np.ndarray], optimize: Optimize = "speed"
) -> dict[str, float]:
    """Cycles (or nanoseconds, where the device has a clock only) of each layer of ``graph`` on the
    target's own device, by node name; a layer that was fused into another counts nothing. optimize: as
    it will be compiled."""
    from edgekit import api
    from edgekit.data import Dataset
    from edgekit.targets.base import CompileOptions

    samples = Dataset.of([a[:32] for a in inputs])
    with tempfile.TemporaryDirectory(prefix="edgekit-cost-") as tmp:
        artifact = api.compile(
            graph, target.name, Path(tmp) / "a", data=samples,
            options=CompileOptions(optimize=optimize),
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


def fitted_cycles(
    groups: Groups,
    target: Target,
    inputs: Sequence[np.ndarray],
    options: Sequence[np.ndarray],
    profiles: int,
    *,
    optimize: Optimize = "speed",
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> dict[str, LayerCycles]:
    """The layers' cycles as functions of their widths, from the uncut network and ``profiles - 1``
    narrower ones of random widths.

    options: units that each group may keep. A layer that the compiler fused away in one network and not
    in another counts nothing there.
    """
    graph, rng = groups.graph, np.random.default_rng([seed, 0xC1C])
    cost = Cost(groups, "macs")
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for k in range(profiles):
        progress(f"profiling the network on the target ({k + 1} of {profiles})")
        kept = np.array([o[-1] if k == 0 else rng.choice(o) for o in options], np.int64)
        keep = {g.name: np.arange(g.units) < n for g, n in zip(groups, kept, strict=True)}
        found = layer_cycles(cut(groups, keep) if k else graph, target, inputs, optimize)
        for node in graph.nodes:
            i, o = cost.shares(kept, node)
            rows.setdefault(node.name, []).append((i, o, found.get(node.name, 0.0)))
    return {name: fitted(np.array(r)) for name, r in rows.items()}


def fitted(rows: np.ndarray) -> LayerCycles:
    """rows: float ``[profiles, 3]``: shares of inputs and outputs left, and cycles. The combination of
    non-negative parts with the least relative error; of two equally good ones the simpler."""
    i, o, cycles = rows.T
    weight = 1.0 / np.maximum(cycles, max(1.0, 1e-3 * float(cycles.max())))
    parts = np.stack([np.ones_like(i), i, o, i * o], axis=1) * weight[:, None]
    goal = cycles * weight
    best, least = np.zeros(4), np.inf
    for mask in sorted(product((False, True), repeat=4), key=sum):
        chosen = np.flatnonzero(mask)
        if not 0 < len(chosen) <= len(rows):
            continue
        x, *_ = np.linalg.lstsq(parts[:, chosen], goal, rcond=None)
        error = float(((parts[:, chosen] @ x - goal) ** 2).sum())
        if x.min() >= 0.0 and error < least * 0.98 - 1e-12:
            best, least = np.zeros(4), error
            best[chosen] = x
    return LayerCycles(*(float(v) for v in best))
