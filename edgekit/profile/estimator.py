"""The predictor: a latency table's models, applied to graphs as the target's backend takes them apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, Literal

from edgekit.errors import InputError
from edgekit.graph.ir import Graph
from edgekit.graph.ops import macs
from edgekit.profile import table as tables
from edgekit.profile.family import Apart, LatencyModel, Part
from edgekit.profile.predictor import LayerPrediction, Prediction, Unit
from edgekit.profile.table import SEEN, LatencyTable
from edgekit.profile.terms import Dims
from edgekit.targets.base import Backend
from edgekit.targets.schema import Target

#: Relative error of a kernel that was never measured: its price is that of the operator's others.
UNKNOWN = 0.5
_KEEP = 4096  #: whole networks remembered


class TablePredictor:
    """A :class:`edgekit.profile.predictor.Predictor`."""

    def __init__(
        self,
        table: LatencyTable,
        model: LatencyModel,
        backend: Backend,
        target: Target,
        optimize: str = "balanced",
    ) -> None:
        self._model, self._target, self._optimize = model, target, optimize
        self._int8 = backend.needs_int8(target, table.engine)
        self._use(table)

    def _use(self, table: LatencyTable) -> None:
        self.table = table
        self._values = table.values
        self._known: dict[str, Prediction] = {}
        self._prices: dict[tuple[str, str], float] = {}
        self._id = table.id

    @property
    def unit(self) -> Unit:
        return self.table.unit  # type: ignore[return-value]

    @property
    def device(self) -> str:
        return self.table.device

    @property
    def table_id(self) -> str:
        return self._id

    # -- prices --------------------------------------------------------------------------------

    def _price(self, kernel: str, dims: Dims, key: str) -> float:
        found = self._prices.get((kernel, key)) if key else None
        if found is None:
            found = self._values.get((kernel, key)) if key else None
            if found is None:
                model = self.table.models.get(kernel)
                found = 0.0 if model is None else model.cost(dims)
            if key:
                self._prices[kernel, key] = found
        return found

    def _layer(self, part: Part, graph: Graph, node: Any) -> LayerPrediction:
        op, work = node.type, macs(node, graph)
        if part.kernel is None or part.dims is None:
            return LayerPrediction(part.node, op, work, 0.0, 0.0, None, "fused")
        value = self._price(part.kernel, part.dims, part.key)
        by: Literal["table", "model"] = "model"
        model = self.table.models.get(part.kernel)
        error = UNKNOWN if model is None else model.error
        if part.key and (part.kernel, part.key) in self._values:
            error, by = min(SEEN, error) if self.table.unit != "ms" else error, "table"
        return LayerPrediction(part.node, op, work, value, error * value, part.variant, by)

    # -- the protocol --------------------------------------------------------------------------

    def integer(self, graph: Graph) -> Graph:
        """``graph`` as the backend would compile it."""
        if not self._int8 or any(t.quant is not None for t in graph.tensors.values()):
            return graph
        from edgekit.profile.shapes import integer_form

        return integer_form(graph)

    def predict(self, graph: Graph) -> Prediction:
        g = self.integer(graph)
        digest = shape_digest(g)
        found = self._known.get(digest)
        if found is None:
            found = self._predict(g, digest)
            if len(self._known) >= _KEEP:
                self._known.clear()
            self._known[digest] = found
        return found

    def _apart(self, graph: Graph) -> Apart:
        t = self.table
        return self._model.take_apart(
            graph, self._target, t.engine, self._optimize, self._price, t.facts
        )

    def _predict(self, g: Graph, digest: str) -> Prediction:
        apart = self._apart(g)
        nodes = {n.name: n for n in g.nodes}
        layers = tuple(self._layer(p, g, nodes[p.node]) for p in apart.parts)
        once = self.table.models.get("network")  # what an inference costs besides its layers
        ratio = float(self.table.facts.get("total_ratio", 1.0))
        value = ratio * sum(la.value for la in layers)
        value += 0.0 if once is None else once.cost(Dims(counts={"1": 1.0}))
        measured = self.table.networks.get(digest)
        error = self._total_error(apart.parts, layers, value)
        if measured is not None:
            value, error = measured, SEEN * measured
        latency = self._milliseconds(1.0)
        return Prediction(
            layers,
            value,
            error,
            self.unit,
            self.table.device,
            self.table.target,
            self.table.engine,
            self._id,
            None if latency is None else value * latency,
            None if latency is None else error * latency,
            apart.memory,
            tools=self.table.tools,
        )

    def _total_error(
        self, parts: Sequence[Part], layers: Sequence[LayerPrediction], value: float
    ) -> float:
        """A model's error is much the same for all its layers, so those add up; what different
        models have does not."""
        by_kernel: dict[str | None, float] = {}
        for part, la in zip(parts, layers, strict=True):
            by_kernel[part.kernel] = by_kernel.get(part.kernel, 0.0) + la.error
        floor = float(self.table.facts.get("network_error", SEEN)) * value
        return sqrt(sum(e * e for e in by_kernel.values()) + floor * floor)

    def _milliseconds(self, value: float) -> float | None:
        if self.table.unit == "ms":
            return value
        if self.table.unit == "cycles":
            clock = float(self.table.facts.get("clock_hz", self._target.core.clock_hz))
            return 1e3 * value / clock
        return None

    def correct(self, graph: Graph, measured: Mapping[str, Any]) -> float:
        g = self.integer(graph)
        total = total_of(measured, self.table.unit)
        if total is None or total <= 0:
            raise InputError(
                f"the profile has no {self.table.unit} to correct the table of "
                f"'{self.table.device}' with; profile on that device"
            )
        before = self.predict(graph)
        off = before.value / total - 1.0
        samples = self._model.read_profile(
            g, self._target, self.table.engine, self._optimize, measured, self.table.unit
        )
        self._use(self.table.with_samples(samples, {shape_digest(g): total}))
        return off

    def save(self) -> None:
        tables.save(self.table)


def total_of(document: Mapping[str, Any], unit: str) -> float | None:
    """The figure of a profile in a table's unit."""
    value = document["total"].get("latency_ms" if unit == "ms" else unit)
    return None if value is None else float(value)


def shape_digest(graph: Graph) -> str:
    """The same for graphs with the same nodes, shapes, types and scales: weights do not count, but for
    how they are laid out."""
    digest = hashlib.sha256()
    names: dict[str, int] = {}

    def number(name: str | None) -> int:
        return -1 if name is None else names.setdefault(name, len(names))

    for n in graph.nodes:
        row: list[object] = [n.type, sorted(n.attrs.items())]
        for name in (*n.inputs, *n.outputs):
            t = graph.tensors.get(name or "")
            row.append(number(name))
            if t is not None:
                row += [t.shape, t.dtype, t.is_const]
                if t.quant is not None and not t.is_const:
                    row += [float(t.quant.scale[0]), int(t.quant.zero_point[0])]
        digest.update(repr(row).encode())
    digest.update(repr([number(i) for i in (*graph.inputs, *graph.outputs)]).encode())
    return digest.hexdigest()
