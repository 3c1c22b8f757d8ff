"""A sample target family, as short as one can be: an accelerator that takes a few operators, its own
device, and an estimate of one multiply-accumulate a rod and beat.

It uses edgekit's public contracts only (``edgekit.targets.base``) and is found by its entry point.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.devices.base import Device, DeviceInfo, RunRequest, RunResult
from edgekit.errors import DeviceError, InputError
from edgekit.formats import tflite
from edgekit.graph.ir import Graph
from edgekit.graph.ops import macs
from edgekit.graph.reference import run
from edgekit.targets.base import (
    Compiled,
    CompileOptions,
    EngineInfo,
    Family,
    LayerProfile,
    Profile,
    Progress,
    RunOutput,
    Unsupported,
)
from edgekit.targets.schema import Target

TAKES = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "RESHAPE", "MEAN", "SOFTMAX"}
DEVICE = "abacus:frame"
PROGRAM = "beads.tflite"


class Frame:
    """The family's own device: files only, programs are the backend's business."""

    name = DEVICE

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}

    def info(self) -> DeviceInfo:
        return DeviceInfo(DEVICE, "abacus", "estimated", "a wooden frame")

    def push(self, local: Path, remote: str) -> None:
        self._files[remote] = local.read_bytes()

    def push_bytes(self, data: bytes, remote: str) -> None:
        self._files[remote] = data

    def pull(self, remote: str) -> bytes:
        return self._files[remote]

    def run(self, request: RunRequest) -> RunResult:
        raise DeviceError("an abacus runs no programs")

    def close(self) -> None:
        self._files.clear()

    def __enter__(self) -> Frame:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Backend:
    family = "abacus"

    def engines(self, target: Target) -> Sequence[EngineInfo]:
        if not isinstance(target.config.get("rods"), int):
            raise InputError(f"target '{target.name}', section 'config': field 'rods' is missing")
        return [EngineInfo("beads", True)]

    def supports(self, graph: Graph, target: Target, engine: str) -> Sequence[Unsupported]:
        return [
            Unsupported(n.name, n.type, "there is no way to move beads for it")
            for n in graph.nodes
            if n.type not in TAKES
        ]

    def needs_int8(self, target: Target, engine: str) -> bool:
        return True

    def compile(
        self,
        graph: Graph,
        target: Target,
        out: Path,
        options: CompileOptions,
        progress: Progress | None = None,
    ) -> Compiled:
        tflite.write(graph, out / PROGRAM)
        return Compiled(
            engine="beads",
            files=[PROGRAM],
            plan=[
                {"name": n.name, "op": n.type, "variant": "beads", "macs": macs(n, graph)}
                for n in graph.nodes
            ],
            memory={"flash_bytes": (out / PROGRAM).stat().st_size},
            tools={"edgekit-abacus": "1.2.3"},
        )

    def default_device(self, target: Target) -> str:
        return DEVICE

    def open_device(self, name: str, target: Target) -> Device | None:
        return Frame() if name == DEVICE else None

    def run(
        self,
        artifact: Any,
        device: Device,
        inputs: Sequence[np.ndarray],
        trace_layers: bool = False,
        progress: Progress | None = None,
    ) -> RunOutput:
        device.push(artifact.file(PROGRAM), PROGRAM)
        graph = tflite.read_bytes(device.pull(PROGRAM), PROGRAM)
        values = run(graph, list(inputs), keep="all")
        outputs = [values[o] for o in graph.outputs]
        if not trace_layers:
            return RunOutput(outputs)
        return RunOutput(
            outputs, [{k: v[i : i + 1] for k, v in values.items()} for i in range(len(inputs[0]))]
        )

    def profile(
        self, artifact: Any, device: Device, inputs: Sequence[np.ndarray] | None = None
    ) -> Profile:
        target, rods = artifact.target, artifact.target.config["rods"]
        layers = [
            LayerProfile(r["name"], r["op"], r["macs"], cycles=-(-r["macs"] // rods))
            for r in artifact.manifest["plan"]
        ]
        cycles = sum(la.cycles or 0 for la in layers)
        return Profile(
            device=device.name,
            target=target.name,
            engine="beads",
            kind="estimated",
            instructions=None,
            cycles=cycles,
            latency_ms=1e3 * cycles / target.core.clock_hz,
            memory={"flash_bytes": artifact.manifest["memory"]["flash_bytes"], "ram_bytes": 0},
            layers=layers,
            kinds={"cycles": "estimated", "latency_ms": "estimated"},
            tools={"edgekit-abacus": "1.2.3"},
        )


family = Family(
    name="abacus",
    description="Wooden frames with beads",
    target_dir=Path(__file__).parent,
    backend=Backend,
)
