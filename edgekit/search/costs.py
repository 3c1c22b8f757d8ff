"""What a point will cost, before it is measured; corrected by everything that is measured.

In :class:`LayerCosts` each layer of each known network is a sample of its cost a MAC at its channel
counts, and other counts are interpolated; whole grids of widths are priced at once, which is what the
knapsack needs. What it knows first are prices by the calibrated predictor of the device, where there is one
(:mod:`edgekit.profile.predictor`), of networks of many widths; a measured layer replaces a predicted one.
:class:`Estimator` keeps one of them a base network, and how wrong they have been.

All figures are of the kind *estimated*, with an error learned from how wrong they have been.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.compress.cost import Cost
from edgekit.compress.groups import MIXING
from edgekit.errors import EdgekitError
from edgekit.graph.ir import Graph
from edgekit.graph.ops import macs
from edgekit.search.metrics import DEVICE
from edgekit.search.space import Point, Space

if TYPE_CHECKING:
    from edgekit.profile.predictor import Predictor

#: Relative error assumed until two measurements have been compared, and the least ever claimed.
FIRST_ERROR, LEAST_ERROR = 0.25, 0.01
#: Networks of random widths that the predictor is asked about to fill the layer costs.
DESIGN = 12
#: Samples of a layer that are kept (the newest).
_MOST_SAMPLES = 96


@dataclass(frozen=True)
class Estimate:
    """value: in the study's cost metric; error: 90 % of networks lay within value * (1 +- error)."""

    value: float
    error: float
    by: str

    def to_json(self, metric: str) -> dict[str, Any]:
        return {"metric": metric, "value": self.value, "error": self.error * self.value,
                "by": self.by, "kind": "estimated"}  # fmt: skip


class LayerCosts(Cost):
    """Cost of a base network as a function of how many units its groups keep.

    Until something is known, MACs; then the sum over layers of MACs (or elements) times the cost a MAC
    at the nearest known channel counts. Unit: that of the samples.
    """

    def __init__(self, graph_groups: Any, measure: str = "macs") -> None:
        super().__init__(graph_groups, "parameters" if measure == "parameters" else "macs")
        graph = self.groups.graph
        place = {n: i for i, n in enumerate(self._tensors)}
        self._nodes: list[tuple[str, int, int | None, float]] = []
        for node in graph.nodes:
            out = place.get(node.outputs[0])
            if out is None:
                continue
            first = node.inputs[0] if node.inputs else None
            source = place.get(first or "") if node.type in MIXING else None
            work = float(macs(node, graph)) or float(graph.tensor(node.outputs[0]).elements)
            self._nodes.append((node.name, out, source, work))
        self._samples: dict[str, dict[tuple[int, int], float]] = {n[0]: {} for n in self._nodes}
        self._rests: list[float] = []
        self._version = 0
        self._grid: tuple[int, np.ndarray] | None = None

    @property
    def known(self) -> bool:
        return bool(self._rests)

    @property
    def version(self) -> int:
        """Changes whenever the prices do."""
        return self._version

    def learn(self, widths: np.ndarray, layers: Mapping[str, float], total: float) -> None:
        """layers: node name -> cost of that layer in a network of these widths; total: of all."""
        channels = self._channels(np.asarray(widths)[None])[0]
        inside = 0.0
        for name, out, source, work in self._nodes:
            if name not in layers:
                continue
            i = 1 if source is None else round(channels[source])
            o = round(channels[out])
            scale = o / self._full[out] * (1.0 if source is None else i / self._full[source])
            known = self._samples[name]
            known.pop((i, o), None)
            known[i, o] = layers[name] / (work * scale)
            while len(known) > _MOST_SAMPLES:
                known.pop(next(iter(known)))
            inside += layers[name]
        self._rests.append(max(0.0, total - inside))
        self._rests = self._rests[-20:]
        self._version += 1
        self.total = float(self(self.units[None])[0])

    def _channels(self, kept: np.ndarray) -> np.ndarray:
        return self._rest + np.asarray(kept, float) @ self._per_unit

    def __call__(self, kept: np.ndarray) -> np.ndarray:
        """kept: int ``[..., groups]``: units kept. Returns the cost, ``[...]``."""
        if not getattr(self, "_rests", None):
            return super().__call__(kept)
        kept = np.asarray(kept)
        flat = kept.reshape(-1, kept.shape[-1])
        channels = self._channels(flat)
        total = np.full(len(flat), float(np.median(self._rests)))
        for k in range(len(self._nodes)):
            total += self._node(k, channels)
        return total.reshape(kept.shape[:-1])

    def _node(self, k: int, channels: np.ndarray) -> np.ndarray:
        """Cost of node ``k`` in networks whose tensors have these channels ``[M, tensors]``."""
        name, out, source, work = self._nodes[k]
        known = self._samples[name]
        if not known:
            return np.zeros(len(channels))
        o = channels[:, out]
        i = np.ones(len(o)) if source is None else channels[:, source]
        pairs, back = np.unique(np.stack([i, o]), axis=1, return_inverse=True)
        scale = pairs[1] / self._full[out]
        if source is not None:
            scale = scale * pairs[0] / self._full[source]
        at = np.log(np.array(list(known), float)).T  # [2, S]
        rate = np.array(list(known.values()))
        apart = np.abs(np.log(pairs)[:, :, None] - at[:, None, :]).sum(axis=0)  # [P, S]
        weight = 1.0 / (apart + 1e-3) ** 3
        price = (weight * rate).sum(axis=1) / weight.sum(axis=1)
        exact = apart.min(axis=1) < 1e-9
        price[exact] = rate[apart[exact].argmin(axis=1)]
        return (work * scale * price)[back.reshape(-1)]

    def grid(self, levels: Sequence[np.ndarray]) -> np.ndarray:
        """Cost of every combination of widths: ``[levels of group 0, levels of group 1, ...]``."""
        if self._grid is not None and self._grid[0] == self._version:
            return self._grid[1]
        shape = tuple(len(o) for o in levels)
        total = np.zeros(shape)
        if not self.known:
            mesh = np.stack(np.meshgrid(*levels, indexing="ij"), axis=-1)
            total = self(mesh)
        else:
            total += float(np.median(self._rests))
            for k, (_, out, source, _) in enumerate(self._nodes):
                tensors = [out] if source is None else [out, source]
                uses = [g for g in range(len(levels)) if self._per_unit[g, tensors].any()]
                part = np.meshgrid(*(levels[g] for g in uses), indexing="ij") if uses else []
                kept = np.tile(self.units, (part[0].size if uses else 1, 1))
                for g, values in zip(uses, part, strict=True):
                    kept[:, g] = values.reshape(-1)
                cost = self._node(k, self._channels(kept))
                total += cost.reshape([shape[g] if g in uses else 1 for g in range(len(levels))])
        self._grid = (self._version, total)
        return total


def layers_of(profile: Mapping[str, Any]) -> tuple[dict[str, float], float | None]:
    """Cost by layer, in cycles or else in nanoseconds, and of everything in the same unit."""
    found: dict[str, float] = {}
    unit = "cycles" if any(la.get("cycles") is not None for la in profile["layers"]) else "time_ms"
    for la in profile["layers"]:
        v = la.get(unit)
        if v is not None:
            found[la["name"]] = found.get(la["name"], 0.0) + float(v) * (
                1e6 if unit == "time_ms" else 1
            )
    total = profile["total"]["cycles" if unit == "cycles" else "latency_ms"]
    return found, None if total is None else float(total) * (1e6 if unit == "time_ms" else 1)


class Estimator:
    """Prices points in the study's cost ``metric``.

    scaffold: makes a network of a point's shapes (for the predictor). predictor: None without one.
    """

    def __init__(
        self,
        space: Space,
        metric: str,
        scaffold: Callable[[Point], Graph],
        predictor: Predictor | None = None,
    ) -> None:
        self.space = space
        self.metric = metric
        self.scaffold = scaffold
        self.predictor = predictor if metric in DEVICE else None
        self.why_not: str | None = None  #: what the predictor refused
        static = metric in ("macs", "parameters")
        self.layers = [
            LayerCosts(b.groups, "parameters" if metric == "parameters" else "macs")
            if len(b.groups) else None
            for b in space.bases
        ]  # fmt: skip
        self.static = static
        self._first_error = FIRST_ERROR
        self._factors: list[float] = []  # metric per unit of the layer costs
        self._offs: list[float] = []
        if self.predictor is not None:
            self._design()

    def _design(self) -> None:
        """Fill the layer costs with the predictor's prices of networks of many widths."""
        assert self.predictor is not None
        for b in range(len(self.space.bases)):
            costs, levels = self.layers[b], self.space.levels(b)
            if costs is None:
                continue
            rng = np.random.default_rng([self.space.seed, 77, b])
            tries = [costs.units, np.array([o[0] for o in levels], np.int64)]
            tries += [
                np.array([o[int(rng.integers(len(o)))] for o in levels]) for _ in range(DESIGN)
            ]
            for widths in reversed(tries):
                try:
                    found = self.predictor.predict(
                        self.scaffold(self.space.with_widths(b, widths.tolist()))
                    )
                except EdgekitError as e:
                    self.predictor, self.why_not = None, str(e)
                    return
                layers = {la.name: la.value for la in found.layers}
                costs.learn(widths, layers, found.value)
                worth = self._in_metric(found)
                if worth:
                    self._factors.append(worth / found.value)
                    self._first_error = max(LEAST_ERROR, 2 * found.error / found.value)

    def _in_metric(self, found: Any) -> float | None:
        if self.metric == "latency_ms":
            return found.latency_ms
        return found.value if found.unit == self.metric else None

    @property
    def factor(self) -> float:
        """The metric's value of one unit of the layer costs."""
        return float(np.median(self._factors[-20:])) if self._factors else 1.0

    @property
    def error(self) -> float:
        """Relative; 90 % of what was measured lay nearer."""
        if self.static:
            return 0.0
        if len(self._offs) < 3:
            return self._first_error
        return max(LEAST_ERROR, float(np.quantile(np.abs(self._offs[-30:]), 0.9)))

    @property
    def offs(self) -> list[float]:
        return list(self._offs)

    def estimate(self, point: Point) -> Estimate | None:
        """None where nothing is known yet (the first network is always measured)."""
        b = self.space.base_of(point)
        costs = self.layers[b]
        if self.static or costs is None:
            if costs is None:
                return None
            value = float(costs(self.space.widths(point)[None])[0])
            return Estimate(value, 0.0, "count")
        if not costs.known or not self._factors:
            return None
        value = float(costs(self.space.widths(point)[None])[0]) * self.factor
        return Estimate(value, self.error, "layers" if self._offs else "predictor")

    def observe(
        self,
        point: Point,
        profile: Mapping[str, Any],
        measured: float | None,
        predicted: Estimate | None,
    ) -> float | None:
        """Put a measurement on record; returns what the estimate was off (estimate / measured - 1)."""
        b = self.space.base_of(point)
        costs = self.layers[b]
        off = None
        if measured and predicted is not None:
            off = predicted.value / measured - 1
            self._offs.append(off)
        usual = {d.name: d.default for d in self.space.all_dimensions()}
        plain = all(v == usual[k] for k, v in point.items() if "channels:" not in k and k != "base")
        if costs is not None and not self.static and plain:
            layers, total = layers_of(profile)
            if layers and total:
                costs.learn(self.space.widths(point), layers, total)
                if measured:
                    self._factors.append(measured / total)
        return off
