"""Latency tables: what was measured on a device, and the models fitted to it, as one JSON file each in
the user's cache.

A file says what it was made with; what was made with other kernels or compilers is not used any more.
It is replaced as a whole, so a reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit.profile.family import Measurement, Sample
from edgekit.profile.fit import Model, fit, fit_totals
from edgekit.profile.terms import Dims

FORMAT = 1
#: Relative half-width of what a layer that was measured itself may be off: its place in the program.
SEEN = 0.005


@dataclass(frozen=True)
class LatencyTable:
    """samples: measured layers. values: key -> cost of layers that were measured themselves.
    networks: digest of a network's shapes -> its measured cost. models: by kernel."""

    target: str
    device: str
    engine: str
    variant: str
    fingerprint: str
    unit: str
    kind: str
    tools: Mapping[str, str]
    facts: Mapping[str, Any]
    samples: tuple[Sample, ...]
    models: Mapping[str, Model]
    networks: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def values(self) -> dict[tuple[str, str], float]:
        return {(s.kernel, s.key): s.value for s in self.samples if s.key}

    @property
    def id(self) -> str:
        """Changes with every sample."""
        digest = hashlib.sha256(self.fingerprint.encode())
        for s in self.samples:
            digest.update(f"{s.kernel} {s.key} {float(s.value)!r};".encode())
        digest.update(json.dumps(dict(self.networks), sort_keys=True).encode())
        return digest.hexdigest()[:12]

    def with_samples(
        self, samples: Iterable[Sample], networks: Mapping[str, float]
    ) -> LatencyTable:
        """The table with more samples (a newer one of a layer replaces the older). Models that are off
        by more than they said are fitted again; the others have nothing to learn."""
        known = {(s.kernel, s.key): s for s in self.samples}
        new = [s for s in samples if s.value > 0 and s.kernel]
        changed = {s.kernel for s in new if self._surprises(s)}
        known |= {(s.kernel, s.key): s for s in new}
        every = tuple(known.values())
        models = dict(self.models)
        for kernel in changed:
            own = [s for s in every if s.kernel == kernel]
            models[kernel] = fit([s.dims for s in own], [s.value for s in own])
        return replace(self, samples=every, models=models, networks={**self.networks, **networks})

    def _surprises(self, sample: Sample) -> bool:
        model = self.models.get(sample.kernel)
        return model is None or (
            abs(model.cost(sample.dims) / sample.value - 1.0) > max(model.error, SEEN)
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "id": self.id,
            "target": self.target,
            "device": self.device,
            "engine": self.engine,
            "variant": self.variant,
            "fingerprint": self.fingerprint,
            "unit": self.unit,
            "kind": self.kind,
            "tools": dict(self.tools),
            "facts": dict(self.facts),
            "seconds": self.seconds,
            "networks": dict(self.networks),
            "models": {k: m.to_json() for k, m in sorted(self.models.items())},
            "samples": [[s.kernel, s.key, s.value, s.dims.to_json()] for s in self.samples],
        }

    def summary(self) -> dict[str, Any]:
        """What ``edgekit calibrate`` prints: everything but the samples."""
        document = self.to_json()
        document["samples"] = len(self.samples)
        for model in document["models"].values():
            model.pop("weights")
            model["terms"] = len(model["terms"])
        del document["facts"], document["networks"], document["format"]
        return document


def made(
    measured: Measurement,
    *,
    target: str,
    device: str,
    engine: str,
    variant: str,
    fingerprint: str,
    seconds: float,
) -> LatencyTable:
    """Fit the models of what was measured."""
    by_kernel: dict[str, list[Sample]] = {}
    for s in measured.samples:
        if s.value > 0:
            by_kernel.setdefault(s.kernel, []).append(s)
    models = {k: fit([s.dims for s in v], [s.value for s in v]) for k, v in by_kernel.items()}
    if measured.totals:
        models |= fit_totals(measured.totals)
    return LatencyTable(
        target, device, engine, variant, fingerprint, measured.unit, measured.kind, measured.tools,
        measured.facts, tuple(s for v in by_kernel.values() for s in v), models, {}, seconds,
    )  # fmt: skip


# -- files -------------------------------------------------------------------------------------


def folder() -> Path:
    """Where the user's tables are; InputError when there is no folder of the user's own."""
    from edgekit.devices.native.build import cache_dir

    try:
        path = cache_dir().parent / "latency-tables"
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(
            f"the cache folder cannot be used ({e}); set EDGEKIT_CACHE to a folder of your own"
        ) from None
    return path


def path_of(target: str, device: str, engine: str, variant: str) -> Path:
    name = "@".join((target, device, engine, variant))
    safe = re.sub(r"[^A-Za-z0-9.@_-]+", "_", name)[:120]
    return folder() / f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.json"


def save(table: LatencyTable) -> Path:
    """Write the table, with what other processes put on record in the meantime."""
    path = path_of(table.target, table.device, table.engine, table.variant)
    before = read(path)
    if before is not None and before.fingerprint == table.fingerprint and before.networks:
        own = {(s.kernel, s.key) for s in table.samples}
        more = [s for s in before.samples if (s.kernel, s.key) not in own]
        table = table.with_samples(more, {**before.networks, **table.networks})
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            json.dump(table.to_json(), f, separators=(",", ":"), allow_nan=False)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return path


def read(path: Path) -> LatencyTable | None:
    """The table in a file; None when there is none, or it is not readable (any more)."""
    try:
        d = json.loads(path.read_text("utf-8"))
        if d["format"] != FORMAT:
            return None
        samples = tuple(
            Sample(str(k), Dims.from_json(u), float(v), str(key)) for k, key, v, u in d["samples"]
        )
        return LatencyTable(
            str(d["target"]), str(d["device"]), str(d["engine"]), str(d["variant"]),
            str(d["fingerprint"]), str(d["unit"]), str(d["kind"]), dict(d["tools"]),
            dict(d["facts"]), samples,
            {k: Model.from_json(m) for k, m in d["models"].items()},
            {k: float(v) for k, v in d["networks"].items()}, float(d["seconds"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
