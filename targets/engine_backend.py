"""A backend with several engines: dispatches every verb to the engine by name.

An *engine* is one object with the methods below; a family is its list of engines and the schema of
its target files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgekit.devices.base import Device
from edgekit.errors import InputError
from edgekit.graph.ir import Graph
from edgekit.targets.base import (
    Compiled,
    CompileOptions,
    EngineInfo,
    Profile,
    Progress,
    RunOutput,
    Unsupported,
)
from edgekit.targets.schema import Target


class Engine(Protocol):
    """One way to get a graph onto a target; the methods mean what those of ``Backend`` mean."""

    @property
    def name(self) -> str: ...

    @property
    def int8(self) -> bool:
        """True when a float graph has to be quantized first."""
        ...

    def info(self, target: Target) -> EngineInfo: ...

    def supports(self, graph: Graph, target: Target) -> Sequence[Unsupported]: ...

    def compile(
        self,
        graph: Graph,
        target: Target,
        out: Path,
        options: CompileOptions,
        progress: Progress | None = None,
    ) -> Compiled: ...

    def run(
        self,
        artifact: Any,
        device: Device,
        inputs: Sequence[np.ndarray],
        trace_layers: bool = False,
        progress: Progress | None = None,
    ) -> RunOutput: ...

    def profile(
        self, artifact: Any, device: Device, inputs: Sequence[np.ndarray] | None = None
    ) -> Profile: ...


@runtime_checkable
class TunableEngine(Protocol):
    """What an engine with something to tune has besides."""

    def tune(
        self,
        graph: Graph,
        target: Target,
        device: Device,
        trials: int,
        progress: Progress | None = None,
    ) -> dict[str, Any]: ...


class EngineBackend:
    """Base of the backends of ``arm_cpu`` and ``server``; engines in order of preference."""

    family = ""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = {e.name: e for e in engines}

    def check(self, target: Target) -> None:
        """Check the family's sections of a target file; InputError names the field."""
        raise NotImplementedError

    def default_device(self, target: Target) -> str:
        raise NotImplementedError

    def engine(self, name: str) -> Engine:
        """The engine by name (``auto``: the first one); InputError lists them all."""
        if name == "auto":
            return next(iter(self._engines.values()))
        if name not in self._engines:
            raise InputError(
                f"family '{self.family}' has no engine '{name}'; it has {', '.join(self._engines)}"
            )
        return self._engines[name]

    def engines(self, target: Target) -> Sequence[EngineInfo]:
        self.check(target)
        return [e.info(target) for e in self._engines.values()]

    def supports(self, graph: Graph, target: Target, engine: str) -> Sequence[Unsupported]:
        return self.engine(engine).supports(graph, target)

    def needs_int8(self, target: Target, engine: str) -> bool:
        return self.engine(engine).int8

    def compile(
        self,
        graph: Graph,
        target: Target,
        out: Path,
        options: CompileOptions,
        progress: Progress | None = None,
    ) -> Compiled:
        self.check(target)
        return self.engine(options.engine).compile(graph, target, out, options, progress)

    def tune(
        self,
        graph: Graph,
        target: Target,
        engine: str,
        device: Device,
        trials: int,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        chosen = self.engine(engine)
        if not isinstance(chosen, TunableEngine):
            raise InputError(f"engine '{engine}' of family '{self.family}' has nothing to tune")
        return chosen.tune(graph, target, device, trials, progress)

    def run(
        self,
        artifact: Any,
        device: Device,
        inputs: Sequence[np.ndarray],
        trace_layers: bool = False,
        progress: Progress | None = None,
    ) -> RunOutput:
        engine = self.engine(artifact.engine)
        return engine.run(artifact, device, inputs, trace_layers, progress)

    def profile(
        self, artifact: Any, device: Device, inputs: Sequence[np.ndarray] | None = None
    ) -> Profile:
        return self.engine(artifact.engine).profile(artifact, device, inputs)
