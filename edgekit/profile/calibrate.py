"""``edgekit calibrate`` and what finds its tables again."""

from __future__ import annotations

import time
from dataclasses import dataclass

from edgekit.errors import DeviceError, InputError
from edgekit.profile import table as tables
from edgekit.profile.design import designed
from edgekit.profile.estimator import TablePredictor
from edgekit.profile.family import HasLatencyModel, LatencyModel
from edgekit.profile.table import LatencyTable
from edgekit.targets.base import Backend, Progress
from edgekit.targets.schema import Target

OPTIMIZE = ("balanced", "speed", "size", "ram")


@dataclass(frozen=True)
class _Place:
    """Everything that a table is for."""

    target: Target
    backend: Backend
    model: LatencyModel
    device: str
    engine: str
    variant: str

    @property
    def command(self) -> str:
        parts = ["edgekit calibrate --target", self.target.name, "--device", self.device]
        parts += ["--engine", self.engine] if len(self.backend.engines(self.target)) > 1 else []
        return " ".join(parts) + (f" --optimize {self.variant}" if self.variant in OPTIMIZE else "")


def _place(target: str, device: str | None, engine: str, optimize: str) -> _Place:
    from edgekit.targets import registry

    if optimize not in OPTIMIZE:
        raise InputError(f"optimize '{optimize}' is unknown; known are {', '.join(OPTIMIZE)}")
    chosen = registry.get_target(target)
    backend = registry.get_backend(chosen.family)
    infos = list(backend.engines(chosen))
    if engine == "auto":
        usable = [e.name for e in infos if e.usable]
        if not usable:
            reasons = "; ".join(f"{e.name}: {e.why_not}" for e in infos)
            raise InputError(f"target '{target}' has no usable engine here ({reasons})")
        engine = usable[0]
    elif engine not in [e.name for e in infos]:
        names = ", ".join(e.name for e in infos)
        raise InputError(f"target '{target}' has no engine '{engine}'; it has {names}")
    own = backend.default_device(chosen)
    if isinstance(backend, HasLatencyModel):
        model = backend.latency_model()
    else:
        from edgekit.profile.whole import WholeNetworks

        model = WholeNetworks(backend)
    return _Place(
        chosen, backend, model, device or own, engine, model.table_of(chosen, engine, optimize)
    )


def calibrate(
    target: str,
    device: str | None = None,
    engine: str = "auto",
    optimize: str = "balanced",
    *,
    quick: bool = False,
    progress: Progress | None = None,
) -> LatencyTable:
    """See :func:`edgekit.profile.predictor.calibrate`."""
    from edgekit.devices import open_device

    place = _place(target, device, engine, optimize)
    for info in place.backend.engines(place.target):
        if info.name == place.engine and not info.usable:
            raise InputError(f"engine '{info.name}' cannot be used on this machine: {info.why_not}")
    open_device(place.device, target=place.target).close()  # refused before anything is done
    started = time.monotonic()
    measured = place.model.measure_layers(
        designed(quick), place.target, place.engine, optimize, place.device, progress
    )
    if not measured.samples and not measured.totals:
        raise DeviceError(
            f"device '{place.device}' gives no cost of a layer for target '{target}', so there is "
            "nothing to fit a model to"
        )
    if progress:
        progress("fitting models")
    table = tables.made(
        measured,
        target=place.target.name,
        device=place.device,
        engine=place.engine,
        variant=place.variant,
        fingerprint=place.model.fingerprint(place.target, place.engine, optimize),
        seconds=round(time.monotonic() - started, 1),
    )
    tables.save(table)
    return table


def load(
    target: str, device: str | None = None, engine: str = "auto", optimize: str = "balanced"
) -> TablePredictor:
    """See :func:`edgekit.profile.predictor.load_predictor`."""
    place = _place(target, device, engine, optimize)
    path = tables.path_of(place.target.name, place.device, place.engine, place.variant)
    table = tables.read(path)
    if table is None:
        raise InputError(
            f"device '{place.device}' was not calibrated for target '{target}' yet: "
            f"run '{place.command}'"
        )
    if table.fingerprint != place.model.fingerprint(place.target, place.engine, optimize):
        raise InputError(
            f"the latency table of '{place.device}' for target '{target}' was made with other "
            f"kernels or tools: run '{place.command}' again"
        )
    return TablePredictor(table, place.model, place.backend, place.target, optimize)
