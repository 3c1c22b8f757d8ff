"""The plug-in contract of a target family. The families themselves live in ``targets/`` (installed
as ``edgekit_targets``) or in packages of third parties, found by entry point (``edgekit.targets``).

*Target*: what the silicon is, read from a YAML file. *Backend*: the plug-in of a family; turns a
graph into an *Artifact* (a folder) and knows how to run and profile it on a *Device*. *Engine*: one
way to get there (``c``, later ``tvm``, ``litert``, ...).

Everything here is used by the command line and by ``search`` through these names only; a new family
touches nothing outside its own folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from edgekit.devices.base import Device, Kind, TransportInfo
from edgekit.errors import InputError
from edgekit.graph.ir import Graph
from edgekit.targets.schema import Target

Progress = Callable[[str], None]  #: told what is being done, one short line at a time


@dataclass(frozen=True)
class EngineInfo:
    """An engine of a family: can it be used on this machine, and if not, why and what would do.

    exact: its integer outputs are the oracle's bytes; other engines are held to a tolerance
    (:mod:`edgekit.tolerance`), and say so in ``Compiled.details`` (``exact``, ``precision``).
    int8_form_of: the engine that this one is after quantizing a float model, if any.
    tunable: :class:`Tunes` can make it faster.
    options: what the engine takes in ``CompileOptions.extra``, with what each one is and accepts.
    """

    name: str
    usable: bool
    why_not: str | None = None
    description: str = ""
    exact: bool = True
    int8_form_of: str | None = None
    tunable: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Unsupported:
    """A node that an engine cannot take, with the reason."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class CompileOptions:
    """optimize: what to prefer where there is a choice; ``balanced`` gives up none of speed, flash and
    RAM for a small gain of another. extra: an engine's own options."""

    engine: str = "auto"
    optimize: Literal["balanced", "speed", "size", "ram"] = "balanced"
    extra: Mapping[str, Any] = field(default_factory=dict)


def refuse_unknown(engine: str, extra: Mapping[str, Any], known: Sequence[str] = ()) -> None:
    """InputError for the first of ``CompileOptions.extra`` that is not an option of the engine."""
    for name in sorted(set(extra) - set(known)):
        has = f"; it has: {', '.join(known)}" if known else ""
        raise InputError(f"engine '{engine}' has no option '{name}'{has}")


@dataclass(frozen=True)
class LayerProfile:
    """One layer. instructions: exact count or None. cycles: estimate or None. time_ms: measured."""

    name: str
    op: str
    macs: int
    instructions: int | None = None
    cycles: int | None = None
    time_ms: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)  #: kernel variant, bytes, shapes


@dataclass(frozen=True)
class Profile:
    """What one inference costs. ``kind`` belongs to the primary figure; ``kinds`` names the kind of
    each figure separately (``{"instructions": "simulated", "cycles": "estimated", ...}``).

    memory: ``flash_bytes`` (code + constants), ``ram_bytes`` (activations + scratch + data/bss +
    stack high-water mark), and their parts. ``details["measurement"]``: how a measured latency was
    taken (:mod:`edgekit.profile.measure`), with every sample and its ``quality``.
    """

    device: str
    target: str
    engine: str
    kind: Kind
    instructions: int | None
    cycles: int | None
    latency_ms: float | None
    memory: Mapping[str, int]
    layers: Sequence[LayerProfile]
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The document that ``edgekit profile --json`` prints."""
        taken: Mapping[str, Any] = self.details.get("measurement") or {}
        peak = {k: taken[k] for k in ("peak_rss_bytes",) if k in taken}
        return {
            "device": self.device,
            "quality": taken.get("quality"),
            "energy": taken.get("energy"),
            "target": self.target,
            "engine": self.engine,
            "kind": self.kind,
            "kinds": dict(self.kinds),
            "total": {
                "instructions": self.instructions,
                "cycles": self.cycles,
                "latency_ms": self.latency_ms,
            },
            "memory": {**self.memory, **peak},
            "layers": [
                {
                    "name": la.name,
                    "op": la.op,
                    "macs": la.macs,
                    "instructions": la.instructions,
                    "cycles": la.cycles,
                    "time_ms": la.time_ms,
                    **dict(la.details),
                }
                for la in self.layers
            ],
            "tools": dict(self.tools),
            "details": dict(self.details),
        }


@dataclass(frozen=True)
class Compiled:
    """What a backend hands back from ``compile``; ``edgekit.artifact`` writes the manifest from it.

    files: paths relative to the artifact folder, all of them deterministic byte for byte.
    plan: per layer, JSON-ready (``name``, ``op``, ``variant``, ``macs``, ``flash_bytes``, ...).
    memory: JSON-ready memory map (``arena_bytes``, ``buffers[]`` with ``name``, ``offset``,
    ``bytes``, ``first``, ``last``; ``flash_bytes`` and its parts).
    tools: tool -> version. details: whatever the backend needs again to run the artifact.
    graph: what was really laid out, where the backend rewrote the graph it was given (same inputs,
    outputs and bytes); ``plan`` then has its nodes.
    """

    engine: str
    files: Sequence[str]
    plan: Sequence[Mapping[str, Any]]
    memory: Mapping[str, Any]
    tools: Mapping[str, str]
    details: Mapping[str, Any] = field(default_factory=dict)
    graph: Graph | None = None


@dataclass(frozen=True)
class RunOutput:
    """outputs: one array per graph output, samples stacked along axis 0, the model's own dtypes.

    layers: with ``trace_layers``, one dict per sample: tensor name -> value, in execution order.
    """

    outputs: Sequence[np.ndarray]
    layers: Sequence[Mapping[str, np.ndarray]] = ()


@runtime_checkable
class Backend(Protocol):
    """The plug-in of a family. Stateless; one instance serves every target of the family.

    Every method raises an EdgekitError with one sentence when it cannot do its work.
    ``artifact`` arguments are :class:`edgekit.artifact.Artifact` (folder and manifest).
    """

    family: str

    def engines(self, target: Target) -> Sequence[EngineInfo]: ...

    def supports(self, graph: Graph, target: Target, engine: str) -> Sequence[Unsupported]: ...

    def needs_int8(self, target: Target, engine: str) -> bool:
        """True when a float graph has to be quantized before ``compile``."""
        ...

    def compile(
        self,
        graph: Graph,
        target: Target,
        out: Path,
        options: CompileOptions,
        progress: Progress | None = None,
    ) -> Compiled:
        """Write the deployable files below ``out`` (an existing, empty, temporary folder)."""
        ...

    def default_device(self, target: Target) -> str:
        """The device used when the user names none, such as ``virtual:cortex-m4``."""
        ...

    def run(
        self,
        artifact: Any,
        device: Device,
        inputs: Sequence[np.ndarray],
        trace_layers: bool = False,
        progress: Progress | None = None,
    ) -> RunOutput:
        """inputs: one array per graph input, samples along axis 0, already in the model's dtypes."""
        ...

    def profile(
        self, artifact: Any, device: Device, inputs: Sequence[np.ndarray] | None = None
    ) -> Profile:
        """Cost of one inference (on the first sample of ``inputs``, or on a fixed pattern)."""
        ...


@runtime_checkable
class OpensDevices(Protocol):
    """What a backend may have besides: devices of its own, such as a vendor's estimator.

    Asked by :func:`edgekit.devices.open_device` for names that it does not know itself; None means
    that the family does not know the name either.
    """

    def open_device(self, name: str, target: Target) -> Device | None: ...


@runtime_checkable
class Tunes(Protocol):
    """What a backend with tunable engines (:attr:`EngineInfo.tunable`) has besides: candidates are
    measured on a device and put on record, where ``compile`` finds them."""

    def tune(
        self,
        graph: Graph,
        target: Target,
        engine: str,
        device: Device,
        trials: int,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """graph: as for ``compile``. trials: candidates a kernel has on record afterwards. JSON-ready:
        ``kernels``, ``tried`` and ``failed`` candidates, cost ``before`` and ``after`` with ``unit``
        and ``kind``, ``device``, ``records`` (a path), ``tools``."""
        ...


@runtime_checkable
class CountsNodes(Protocol):
    """What a backend may have besides: the cost of single nodes, for choosing shapes by it."""

    def count_nodes(
        self, graph: Graph, target: Target, progress: Progress | None = None
    ) -> Mapping[str, float]:
        """Cycles of every node of an int8 graph (which need not be connected) by itself with its
        fastest kernel, comparable with each other only; nodes that cannot be counted are left out."""
        ...


@runtime_checkable
class ListsTransports(Protocol):
    """What a backend may have besides: lines of its own in ``edgekit devices``."""

    def transports(self) -> Sequence[TransportInfo]: ...


@runtime_checkable
class Examined(Protocol):
    """What a backend may have besides: entries of its own in ``edgekit doctor``, with the keys that
    :func:`edgekit.doctor.examine` documents."""

    def examine(self) -> Sequence[dict[str, Any]]: ...


@runtime_checkable
class BuildsSerialFirmware(Protocol):
    """What a backend of microcontrollers has besides: firmware with the serial protocol."""

    def serial_firmware(self, artifact: Any, folder: Path) -> Path:
        """Build ``firmware.elf`` in ``folder``, which holds the exported sources (``src/``,
        ``kernels/``, ``include/``, ``runtime/``), from the artifact's compiler and flags, so that its
        inference is the artifact's instruction for instruction. ToolchainError without them."""
        ...


@dataclass(frozen=True)
class Family:
    """What an ``edgekit.targets`` entry point names: the family, its YAML files, its backend.

    backend: called without arguments when first needed, so that listing targets stays cheap.
    """

    name: str
    description: str
    target_dir: Path
    backend: Callable[[], Backend]
