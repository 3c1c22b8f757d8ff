"""What a network will cost on a device, without compiling it: the contract of the predictors.

A *latency table* holds what was measured on one device: a designed set of layers, and every network
that was measured since. A *predictor* is a table fitted: it takes a graph apart the way the target's
backend would (fusion, choice of kernels), prices each layer and adds them up. Figures are of the kind
``estimated`` and carry an error that was learned on layers and networks the models had not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from edgekit.devices.base import Kind
from edgekit.targets.base import Progress

if TYPE_CHECKING:
    from edgekit.graph.ir import Graph
    from edgekit.profile.table import LatencyTable

Unit = Literal["cycles", "instructions", "ms"]


@dataclass(frozen=True)
class LayerPrediction:
    """One node of the graph that was asked about.

    value, error: in :attr:`Prediction.unit`; 90 % of unseen layers lay within ``value +- error``.
    variant: the kernel that the backend would run, None where a device does not tell. by: ``table``
    (this very layer was measured), ``model`` (fitted) or ``fused`` (costs nothing by itself).
    """

    name: str
    op: str
    macs: int
    value: float
    error: float
    variant: str | None = None
    by: Literal["table", "model", "fused"] = "model"


@dataclass(frozen=True)
class Prediction:
    """value, error: of one inference, in ``unit``; 90 % of unseen networks lay within
    ``value +- error``. latency_ms, latency_error_ms: the same as time. memory: ``flash_bytes`` and
    ``ram_bytes`` as estimated, empty where the target has no model of its memory.
    table_id: of the table (changes with every correction)."""

    layers: tuple[LayerPrediction, ...]
    value: float
    error: float
    unit: Unit
    device: str
    target: str
    engine: str
    table_id: str
    latency_ms: float | None = None
    latency_error_ms: float | None = None
    memory: Mapping[str, int] = field(default_factory=dict)
    kind: Kind = "estimated"
    tools: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The document that ``edgekit predict --json`` prints."""
        total: dict[str, Any] = {
            "instructions": None,
            "cycles": None,
            "latency_ms": self.latency_ms,
            "latency_error_ms": self.latency_error_ms,
            "error": self.error,
            "unit": self.unit,
        }
        if self.unit != "ms":
            total[self.unit] = self.value
        return {
            "device": self.device,
            "target": self.target,
            "engine": self.engine,
            "kind": self.kind,
            "table": self.table_id,
            "total": total,
            "memory": dict(self.memory),
            "layers": [
                {
                    "name": la.name,
                    "op": la.op,
                    "variant": la.variant,
                    "macs": la.macs,
                    self.unit: la.value,
                    "error": la.error,
                    "by": la.by,
                }
                for la in self.layers
            ],
            "tools": dict(self.tools),
        }


@runtime_checkable
class Predictor(Protocol):
    """Prices graphs for one target, device and engine. Not thread-safe; cheap to keep around.

    unit: of every figure. table_id: changes with every correction.
    """

    @property
    def unit(self) -> Unit: ...

    @property
    def device(self) -> str: ...

    @property
    def table_id(self) -> str: ...

    def predict(self, graph: Graph) -> Prediction:
        """graph: quantized or float (what the target's int8 form of it would cost; weights and
        activation ranges do not matter for that). UnsupportedError names what the target cannot take.
        A graph that was measured and fed back is priced as measured."""
        ...

    def correct(self, graph: Graph, measured: Mapping[str, Any]) -> float:
        """Put a measured network on record: ``measured`` is the document of ``edgekit profile``
        (``Profile.to_json``) of this graph. The layers it names become part of the table, and
        models that were off by more than their error are fitted again. Returns what the
        prediction was off, relative: ``predicted / measured - 1``. Nothing is written to disk: see
        :meth:`save`."""
        ...

    def save(self) -> None:
        """Write the table, corrections included, to where :func:`load_predictor` finds it; several
        processes may do so."""
        ...


def load_predictor(
    target: str, device: str | None = None, engine: str = "auto", optimize: str = "balanced"
) -> Predictor:
    """The predictor from the table that ``calibrate`` left in the user's cache.

    optimize: what the backend is asked to prefer when it chooses kernels. InputError when the
    device was never calibrated for this target (the sentence names the command to run)."""
    from edgekit.profile.calibrate import load

    return load(target, device, engine, optimize)


def calibrate(
    target: str,
    device: str | None = None,
    engine: str = "auto",
    optimize: str = "balanced",
    *,
    quick: bool = False,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure a designed set of layers on the device, fit the models, keep both in the user's cache.

    quick: a few layers an operator (seconds; error bars are wide)."""
    from edgekit.profile.calibrate import calibrate as run

    return run(target, device, engine, optimize, quick=quick, progress=progress)
