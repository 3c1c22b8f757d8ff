"""Engine ``c`` for processors with an operating system: the code generator, kernels and runner of
the ``mcu`` family, built as an ordinary static program.

Its bytes are the oracle's on every processor. Graphs must be integer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
    refuse_unknown,
)
from edgekit.targets.schema import Target
from edgekit_targets.mcu import toolchain
from edgekit_targets.mcu.backend import McuBackend
from edgekit_targets.mcu.config import Config, McuTarget


class CEngine:
    """``code``: target -> (triple, cpu) as zig names them. ``admit``: raises an EdgekitError when a
    device cannot execute what was built for the artifact's target. counted_on: the virtual device on
    which the kernels of a layer are compared, None for their fixed order."""

    name = "c"
    int8 = True

    def __init__(
        self,
        code: Callable[[Target], tuple[str, str]],
        admit: Callable[[Target, Device], None] | None = None,
        counted_on: str | None = None,
    ) -> None:
        self._code, self._admit = code, admit or (lambda _target, _device: None)
        self._counted_on = counted_on
        self._mcu = McuBackend()

    def info(self, target: Target) -> EngineInfo:
        why = toolchain.why_missing("zig")
        what = "handwritten C kernels, one static program"
        options = {"toolchain": "auto or zig"}
        if self._counted_on:
            options["kernels"] = "measure or rank: how kernels are chosen"
        return EngineInfo(self.name, why is None, why, what, options=options)

    def supports(self, graph: Graph, target: Target) -> Sequence[Unsupported]:
        return self._mcu.supports(graph, target)

    def compile(
        self,
        graph: Graph,
        target: Target,
        out: Path,
        options: CompileOptions,
        progress: Progress | None = None,
    ) -> Compiled:
        """The C project, ``runner`` and ``runner_trace``."""
        refuse_unknown("c", options.extra, tuple(self.info(target).options))
        if options.extra.get("kernels", "measure") not in ("measure", "rank"):
            raise InputError(
                f"option 'kernels' of engine 'c' is measure or rank, not "
                f"'{options.extra['kernels']}'"
            )
        choice = options.extra.get("toolchain", "auto")
        if choice not in ("auto", "zig"):
            raise InputError(f"toolchain '{choice}' cannot build for {target.name}; zig can")
        triple, cpu = self._code(target)
        process = McuTarget(target, None, None, Config(host=True), process=self._counted_on)
        compiler = toolchain.process_compiler(triple, cpu)
        return self._mcu.build(graph, process, compiler, out, options, progress)

    def run(
        self,
        artifact: Any,
        device: Device,
        inputs: Sequence[np.ndarray],
        trace_layers: bool = False,
        progress: Progress | None = None,
    ) -> RunOutput:
        self._admit(artifact.target, device)
        return self._mcu.run(artifact, device, inputs, trace_layers, progress)

    def profile(
        self, artifact: Any, device: Device, inputs: Sequence[np.ndarray] | None = None
    ) -> Profile:
        self._admit(artifact.target, device)
        return self._mcu.profile(artifact, device, inputs)
