"""Engines that run a model file with an interpreter of its own: LiteRT and ONNX Runtime.

The artifact holds the model, a description of its inputs and outputs, and ``interpret.py``, which
runs it on the device with one thread. Neither gives the oracle's bytes (XNNPACK and ONNX Runtime
round differently, and compute parts in float), so both are engines with a stated tolerance
(:mod:`edgekit.tolerance`), and ``verify`` counts the differing bytes all the same.
"""

from __future__ import annotations

import importlib.util
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifact import json_text
from edgekit.devices import aarch64_python
from edgekit.devices.base import Device, Kind, RunRequest
from edgekit.errors import DeviceError, UnsupportedError
from edgekit.graph.ir import Graph, Tensor
from edgekit.graph.ops import macs
from edgekit.profile import measure
from edgekit.targets.base import (
    Compiled,
    CompileOptions,
    EngineInfo,
    LayerProfile,
    Profile,
    Progress,
    RunOutput,
    Unsupported,
    refuse_unknown,
)
from edgekit.targets.schema import Target
from edgekit.tolerance import precision_of
from edgekit_targets.mcu import profile as runner
from edgekit_targets.mcu.backend import pack_inputs, unpack

_RUNNER = Path(__file__).parent / "runners" / "interpret.py"
_LAUNCH = "launch.sh"
_HERE = ("local", "cuda")  #: transports that are this machine
_COUNTED = (2, 4)  #: inferences in the two runs whose difference counts


class InterpretedEngine:
    """Base of :class:`LiteRt` and :class:`OnnxRuntime`.

    int8: quantize float models first. admit: as for :class:`edgekit_targets.native_c.CEngine`.
    package: what the device's Python needs; module: its import name.
    """

    name = ""
    package = ""
    module = ""
    what = ""

    def __init__(
        self, *, int8: bool = False, admit: Callable[[Target, Device], None] | None = None
    ) -> None:
        self.int8 = int8
        self._admit = admit or (lambda _target, _device: None)

    # -- what a subclass adds ------------------------------------------------------------------

    def model_file(self) -> str:
        raise NotImplementedError

    def model_bytes(self, graph: Graph) -> bytes:
        """The model file; UnsupportedError names what the format cannot hold."""
        raise NotImplementedError

    def refuses(self, graph: Graph) -> str | None:
        """Why the engine does not take the graph as a whole, or None."""
        return None

    def why_missing(self) -> str | None:
        """Why a model cannot be made on this machine, or None."""
        return None

    def settings(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """What ``interpret.py`` is told besides, in ``model.json``, from the engine's own options;
        InputError for an option that it has not."""
        refuse_unknown(self.name, extra)
        return {}

    def host_python(self) -> str:
        """The Python that runs the model on this machine; DeviceError where there is none."""
        if importlib.util.find_spec(self.module) is None:
            raise DeviceError(
                f"engine '{self.name}' needs the Python package {self.package} on the host: "
                f"pip install {self.package}"
            )
        return sys.executable

    # -- Engine --------------------------------------------------------------------------------

    def info(self, target: Target) -> EngineInfo:
        why = self.why_missing()
        plain = self.name.removesuffix("-int8") if self.int8 else None
        return EngineInfo(self.name, why is None, why, self.what, False, plain)

    def supports(self, graph: Graph, target: Target) -> Sequence[Unsupported]:
        reason = self.refuses(graph)
        if reason is not None:
            return [Unsupported(graph.name, "model", reason)]
        try:
            self.model_bytes(graph)
        except UnsupportedError as e:
            found = [Unsupported(*u) for u in e.unsupported]
            return found or [Unsupported(graph.name, "model", str(e))]
        return []

    def compile(
        self,
        graph: Graph,
        target: Target,
        out: Path,
        options: CompileOptions,
        progress: Progress | None = None,
    ) -> Compiled:
        settings = self.settings(options.extra)
        if progress:
            progress(f"writing {self.model_file()}")
        reason = self.refuses(graph)
        if reason is not None:
            raise UnsupportedError(f"engine '{self.name}' of {target.name}: {reason}")
        data = self.model_bytes(graph)
        description = {
            "model": self.model_file(),
            "inputs": [_described(graph.tensor(i)) for i in graph.inputs],
            "outputs": [_described(graph.tensor(o)) for o in graph.outputs],
            **settings,
        }
        (out / self.model_file()).write_bytes(data)
        (out / "model.json").write_text(json_text(description), "utf-8")
        (out / "interpret.py").write_text(_RUNNER.read_text("utf-8"), "utf-8")
        weights = sum(t.nbytes for t in graph.tensors.values() if t.is_const)
        return Compiled(
            engine=self.name,
            files=[self.model_file(), "model.json", "interpret.py"],
            plan=[
                {"name": n.name, "op": n.type, "variant": self.package, "macs": macs(n, graph)}
                for n in graph.nodes
            ],
            memory={"flash_bytes": len(data), "model_bytes": len(data), "weights_bytes": weights},
            tools=self.tools(),
            details={
                "model": self.model_file(),
                "exact": False,
                "precision": self.precision(graph),
                "threads": 1,
                "package": next(iter(self.tools()), self.package),
            },
        )

    def precision(self, graph: Graph) -> str:
        return precision_of(graph)

    def tools(self) -> dict[str, str]:
        try:
            return {self.package: version(self.package)}
        except PackageNotFoundError:
            return {}

    def run(
        self,
        artifact: Any,
        device: Device,
        inputs: Sequence[np.ndarray],
        trace_layers: bool = False,
        progress: Progress | None = None,
    ) -> RunOutput:
        """Interpreters fuse layers, so there is no trace of them: ``layers`` stays empty."""
        graph: Graph = artifact.graph
        samples, data = pack_inputs(graph, inputs)
        if progress:
            progress(f"running {samples} sample{'s' if samples != 1 else ''} on {device.name}")
        program = self._push(artifact, device, data)
        runner.execute(device, program, ("run", "in.bin", "out.bin"))
        outputs = unpack(device.pull("out.bin"), [graph.tensor(o) for o in graph.outputs], samples)
        return RunOutput(outputs)

    def profile(
        self, artifact: Any, device: Device, inputs: Sequence[np.ndarray] | None = None
    ) -> Profile:
        """On real silicon median and least wall-clock of one inference, one thread, after a
        warm-up; on a virtual device executed instructions, and no time."""
        graph: Graph = artifact.graph
        if inputs is None:
            inputs = runner.fixed_pattern(graph)
        _, data = pack_inputs(graph, [np.asarray(x)[:1] for x in inputs])
        program = self._push(artifact, device, data)
        if device.info().kind != "measured":
            return self._count(artifact, device, program)
        said = [""]

        def take(repeats: int) -> measure.Taken:
            args = ("time", "in.bin", str(repeats))
            said[0] = runner.execute(device, program, args).stdout
            return measure.taken(said[0], repeats)

        found = measure.collect(device, take)
        details = {"runtime": _runtime(said[0]), **measure.figures(found)}
        return _profile(artifact, device, found.median_ms, None, details)

    def _count(self, artifact: Any, device: Device, program: str) -> Profile:
        """Instructions of one inference: the difference between runs with more and with fewer."""
        totals = []
        few, many = _COUNTED
        for n in (few, many):
            args = ("count", "in.bin", str(n))
            done = device.run(RunRequest(program, args, timeout_s=1800, trace=True))
            if done.exit_code:
                raise runner.runner_error(f"ended with code {done.exit_code}")
            totals.append(None if done.trace is None else done.trace.instructions)
        first, second = totals
        if first is None or second is None:
            return _profile(artifact, device, None, None, {"absent": "nothing is counted here"})
        how = f"({many} inferences - {few} inferences) / {many - few}, Python's share included"
        instructions = (second - first) // (many - few)
        return _profile(artifact, device, None, instructions, {"counted": how})

    def _push(self, artifact: Any, device: Device, data: bytes) -> str:
        """Push everything; the name of the program to run."""
        self._admit(artifact.target, device)
        python = str(device.info().details.get("python", "python3"))
        emulated = device.info().transport == "qemu-user"
        if device.info().transport in _HERE:
            python = self.host_python()
        elif emulated and not aarch64_python.has(self.module):
            raise DeviceError(
                f"engine '{self.name}' needs Python and {self.package} on {device.name}, which has "
                f"none yet: make it with '{aarch64_python.MAKE_IT}', or use engine 'c'"
            )
        for name in (artifact.details["model"], "model.json", "interpret.py"):
            device.push(artifact.file(name), name)
        device.push_bytes(data, "in.bin")
        if emulated:
            return "interpret.py"
        script = f'#!/bin/sh\nexec {shlex.quote(python)} interpret.py "$@"\n'
        device.push_bytes(script.encode(), _LAUNCH)
        return _LAUNCH


def _profile(
    artifact: Any,
    device: Device,
    latency_ms: float | None,
    instructions: int | None,
    details: dict[str, Any],
) -> Profile:
    manifest, info = artifact.manifest, device.info()
    kinds: dict[str, Kind] = {}
    if latency_ms is not None:
        kinds["latency_ms"] = "measured"
    if instructions is not None:
        kinds["instructions"] = "simulated"
    tools = dict(manifest["tools"])
    package, _, number = str(details.get("runtime", "")).partition(" ")
    if package:  # what really ran the model; the artifact may have been made elsewhere
        tools.pop(manifest["details"]["package"], None)
        tools[package] = number
    if info.kind == "simulated":  # the device's own interpreter, not the host's
        tools = {w.partition("==")[0]: w.partition("==")[2] for w in aarch64_python.WHEELS}
        tools["emulator"] = str(info.details.get("backend"))
    return Profile(
        device=device.name,
        target=artifact.target.name,
        engine=manifest["engine"],
        kind=info.kind,
        instructions=instructions,
        cycles=None,
        latency_ms=latency_ms,
        memory={"flash_bytes": manifest["memory"]["flash_bytes"]},
        layers=[LayerProfile(r["name"], r["op"], r["macs"]) for r in manifest["plan"]],
        kinds=kinds,
        tools=tools,
        details={
            "threads": 1,
            "precision": manifest["details"]["precision"],
            "device": dict(info.details),
            **details,
        },
    )


def _described(tensor: Tensor) -> dict[str, Any]:
    q = tensor.quant
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "scale": None if q is None else float(np.ravel(q.scale)[0]),
        "zero_point": None if q is None else int(np.ravel(q.zero_point)[0]),
    }


def _runtime(stdout: str) -> str:
    """The interpreter's package and version, as ``interpret.py`` tells them."""
    lines = [x for x in stdout.splitlines() if x.startswith("runtime=")]
    return lines[-1].removeprefix("runtime=") if lines else ""


def need_machine(machine: str) -> Callable[[Target, Device], None]:
    """An ``admit``: what is measured on, this machine or an attached one, must be a ``machine``
    (``aarch64``)."""

    def admit(target: Target, device: Device) -> None:
        info = device.info()
        found = platform.machine() if device.name == "host" else info.details.get("machine")
        if info.kind == "measured" and found is not None and found != machine:
            who = "the host" if device.name == "host" else device.name
            raise DeviceError(
                f"target '{target.name}' is {machine} and {who} is {found}: what "
                "it computes and how long it takes would say nothing about the target"
            )

    return admit
