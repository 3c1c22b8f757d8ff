"""``--engine auto``: every engine that takes the model is compiled, verified and profiled on the
device; the fastest verified one is kept. An engine that fails is a row with its reason.

Exact engines are verified byte for byte, the others by their tolerance (:mod:`edgekit.tolerance`).
With labels, an engine that is not exact, or that is the int8 form of a float model, is kept only
where it costs at most :data:`ACCURACY_LOSS` of accuracy on the samples given.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.artifact import Artifact
from edgekit.errors import EdgekitError, InputError, UnsupportedError
from edgekit.tolerance import precision_of
from edgekit.verify import Oracles, verify

if TYPE_CHECKING:
    from edgekit.data import Dataset
    from edgekit.devices.base import Device
    from edgekit.graph.ir import Graph
    from edgekit.targets.base import Backend, EngineInfo, Progress
    from edgekit.targets.schema import Target

#: Share of the samples that may be lost against the model that was handed in.
ACCURACY_LOSS = 0.01
#: Engines within this factor of the fastest are timed again, in turn, so many rounds.
CLOSE, ROUNDS = 1.5, 4


@dataclass
class Row:
    """One engine in the table: what became of it, and why it could not be kept."""

    info: EngineInfo
    supported: bool = False
    reason: str | None = None
    artifact: Artifact | None = None
    profile: dict[str, Any] | None = None
    check: dict[str, Any] | None = None

    @property
    def verified(self) -> bool:
        return self.check is not None and bool(self.check["passed"])

    @property
    def exact(self) -> bool:
        """Held to every byte: what the artifact says, an engine may take floats and integers."""
        if self.artifact is None:
            return self.info.exact
        return bool(self.artifact.details.get("exact", True))

    @property
    def cost(self) -> tuple[int, float]:
        """Sorts engines on one device: by time where there is one, else cycles, else instructions;
        engines without any figure come last."""
        total = self.profile["total"] if self.profile else {}
        for rank, key in enumerate(("latency_ms", "cycles", "instructions")):
            if total.get(key) is not None:
                return rank, float(total[key])
        return 3, 0.0

    @property
    def least(self) -> float:
        """Milliseconds of the fastest inference that was timed."""
        assert self.profile is not None
        return float(self.profile["details"].get("latency_ms_min", self.cost[1]))

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.info.name,
            "supported": self.supported,
            "verified": self.verified,
            "exact": self.exact,
            "precision": None if self.artifact is None else _precision(self.artifact),
            "total": None if self.profile is None else self.profile["total"],
            "kind": None if self.profile is None else self.profile["kind"],
            "artifact_bytes": None if self.artifact is None else _size(self.artifact),
            "untuned": None if self.artifact is None else untuned(self.artifact),
            "reason": self.reason,
        }


def untuned(artifact: Artifact) -> int | None:
    """Kernels without a tuning record; None where there is nothing to tune."""
    details = artifact.details
    return int(details.get("untuned", 0)) if details.get("tunable") else None


def _precision(artifact: Artifact) -> str:
    return str(artifact.details.get("precision") or precision_of(artifact.graph))


def single_row(
    artifact: Artifact, profile: Mapping[str, Any], check: Mapping[str, Any]
) -> dict[str, Any]:
    """The table of an artifact whose engine was named, or is the only one."""
    return {
        "name": artifact.engine,
        "supported": True,
        "verified": check["passed"],
        "exact": check["criterion"]["exact"],
        "precision": _precision(artifact),
        "total": profile["total"],
        "kind": profile["kind"],
        "artifact_bytes": _size(artifact),
        "untuned": untuned(artifact),
        "reason": None if check["passed"] else why_not_verified(check),
    }


def _size(artifact: Artifact) -> int | None:
    """Bytes that go to the device: the model file, or code and constants."""
    value = artifact.manifest["memory"].get("flash_bytes")
    return None if value is None else int(value)


def _same_as(info: EngineInfo, graph: Graph) -> str | None:
    if info.int8_form_of is None or precision_of(graph) != "int8":
        return None
    return f"the model is int8 already, for which engine '{info.int8_form_of}' is the same"


def int8_already(backend: Backend, target: Target, engine: str, graph: Graph) -> str | None:
    """Why an engine that quantizes has nothing to do for this model, or None."""
    return next((_same_as(e, graph) for e in backend.engines(target) if e.name == engine), None)


def several(backend: Backend, target: Target) -> bool:
    """Whether the target has more than one engine, so that there is something to choose."""
    return len(backend.engines(target)) > 1


def first_usable(backend: Backend, target: Target, graph: Graph, has_data: bool) -> str:
    """What ``compile`` takes for ``auto``: the first engine that is usable here and takes the model
    as it is (or can quantize it, because there is data). InputError gives every engine's reason."""
    usable = []
    infos = list(backend.engines(target))
    for info in infos:
        if not info.usable:
            continue
        usable.append(info.name)
        quantizes = backend.needs_int8(target, info.name) and precision_of(graph) != "int8"
        if (has_data or not quantizes) and (
            quantizes or not backend.supports(graph, target, info.name)
        ):
            return info.name
    if usable:  # its own errors say why
        return usable[0]
    reasons = "; ".join(f"{e.name}: {e.why_not}" for e in infos)
    raise InputError(f"target '{target.name}' has no usable engine here ({reasons})")


def try_all(
    backend: Backend,
    target: Target,
    graph: Graph,
    data: Dataset,
    folder: Path,
    build: Callable[[str, Path], Artifact],
    open_device: Callable[[Artifact], AbstractContextManager[Device]],
    progress: Progress | None = None,
) -> tuple[Artifact, list[dict[str, Any]]]:
    """Try every engine; the kept artifact is copied into ``folder`` with its results stored.

    build: engine, empty folder -> its artifact. The artifact comes first, then the table. Raises
    InputError with every reason when no engine could be run.
    """
    oracles: Oracles = {}
    with tempfile.TemporaryDirectory(prefix=".engines.", dir=folder.parent) as scratch:
        rows = []
        for info in backend.engines(target):
            row = Row(info)
            rows.append(row)
            if progress:
                progress(f"engine {info.name}")
            try:
                _try(
                    row, backend, graph, data, Path(scratch), build, open_device, oracles, progress
                )
            except UnsupportedError as e:
                row.reason = str(e)
            except EdgekitError as e:
                row.supported, row.reason = row.supported or row.artifact is not None, str(e)
        ran = [r for r in rows if r.check is not None and r.profile is not None]
        if not ran:
            by_reason: dict[str | None, list[str]] = {}
            for row in rows:
                by_reason.setdefault(row.reason, []).append(row.info.name)
            reasons = "; ".join(f"{', '.join(n)}: {why}" for why, n in by_reason.items())
            raise InputError(f"no engine of target '{target.name}' could be used ({reasons})")
        good = [r for r in ran if r.verified and r.reason is None]
        take_turns(good, backend, data, open_device, progress)
        good = [r for r in good if r.reason is None]
        best = min(good, key=lambda r: r.cost) if good else ran[0]
        assert best.artifact is not None and best.profile and best.check
        best.artifact.store_result("profile", best.profile)
        best.artifact.store_result("verify", best.check)
        table = [r.to_json() for r in rows]
        best.artifact.store_result("engines", {"engines": table, "kept": best.info.name})
        shutil.copytree(best.artifact.path, folder, dirs_exist_ok=True)
    return Artifact(folder, best.artifact.manifest), table


def take_turns(
    rows: list[Row],
    backend: Backend,
    data: Dataset,
    open_device: Callable[[Artifact], AbstractContextManager[Device]],
    progress: Progress | None = None,
) -> None:
    """Time the engines that may win again, taking turns, so that all see the same machine: engines
    that were measured minutes apart cannot be told apart by a few percent. Each keeps the profile
    of its fastest round; what disturbs a machine only ever adds time."""
    from edgekit.data import model_inputs

    timed = [r for r in rows if r.profile and r.profile["kind"] == "measured" and r.cost[0] == 0]
    fastest = min((r.least for r in timed), default=0.0)
    close = [r for r in timed if r.least <= CLOSE * fastest]
    if len(close) < 2:
        return
    found: dict[str, list[dict[str, Any]]] = {r.info.name: [] for r in close}
    for k in range(ROUNDS):
        if progress:
            progress(f"timing {len(close)} engines in turn: round {k + 1} of {ROUNDS}")
        for row in close[k % len(close) :] + close[: k % len(close)]:
            assert row.artifact is not None
            inputs = model_inputs(row.artifact.reference, data.head(1))
            try:
                with open_device(row.artifact) as device:
                    profile = backend.profile(row.artifact, device, inputs).to_json()
            except EdgekitError as e:
                row.reason = str(e)
                continue
            found[row.info.name].append(profile)
    for row in close:
        profiles = found[row.info.name]
        if profiles:
            times = [p["total"]["latency_ms"] for p in profiles]
            row.profile = profiles[times.index(min(times))]
            row.profile["details"]["rounds_latency_ms"] = times


def _try(
    row: Row,
    backend: Backend,
    graph: Graph,
    data: Dataset,
    scratch: Path,
    build: Callable[[str, Path], Artifact],
    open_device: Callable[[Artifact], AbstractContextManager[Device]],
    oracles: Oracles,
    progress: Progress | None,
) -> None:
    from edgekit.data import model_inputs

    info = row.info
    if not info.usable:
        row.reason = info.why_not
        return
    row.reason = _same_as(info, graph)
    if row.reason is not None:
        return
    place = scratch / info.name
    place.mkdir()
    row.artifact = build(info.name, place)
    row.supported = True
    with open_device(row.artifact) as device:
        row.check = verify(row.artifact, backend, device, data, progress, oracles)
        inputs = model_inputs(row.artifact.reference, data.head(1))
        row.profile = backend.profile(row.artifact, device, inputs).to_json()
    if not row.verified:
        row.reason = why_not_verified(row.check)
        return
    quantized = info.int8_form_of is not None and row.artifact.source is not None
    ours, theirs = row.check["accuracy"], row.check["reference_accuracy"]
    if (quantized or not row.exact) and ours is not None and theirs - ours > ACCURACY_LOSS:
        lost = f"loses {100 * (theirs - ours):.1f} points of accuracy"
        row.reason = f"{lost} against {row.check['reference']}, more than {100 * ACCURACY_LOSS:g}"


def why_not_verified(check: Mapping[str, Any]) -> str:
    """One phrase about a failed verification."""
    c = check["criterion"]
    if c["exact"]:
        return f"{check['mismatched_bytes']} of {check['bytes']} bytes differ from the oracle's"
    parts = []
    if c["error"] is None or c["error"] > c["error_limit"]:
        parts.append(f"{c['measure']} is {c['error']}, limit {c['error_limit']}")
    if c["argmax_agreement"] is not None and c["argmax_agreement"] < c["argmax_limit"]:
        parts.append(f"class agreement is {c['argmax_agreement']:.3f}, limit {c['argmax_limit']}")
    return f"outside of the tolerance for {c['precision']}: {'; '.join(parts)}"
