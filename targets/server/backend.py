"""The backend of the ``server`` family: x86-64 processors and NVIDIA GPUs (:mod:`.nvidia`)."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

from edgekit.devices.base import Device, TransportInfo
from edgekit.errors import DeviceError
from edgekit.graph.ir import Graph
from edgekit.targets.base import EngineInfo, Unsupported
from edgekit.targets.schema import Target
from edgekit_targets.engine_backend import EngineBackend
from edgekit_targets.litert import LiteRt
from edgekit_targets.native_c import CEngine
from edgekit_targets.onnxruntime_ import OnnxRuntime
from edgekit_targets.tvm_ import isa
from edgekit_targets.tvm_engine import TvmEngine

from . import nvidia
from .config import CODE_CPUS, host_flags, parse

_MACHINES = ("x86_64", "amd64")


def _code(target: Target) -> tuple[str, str]:
    return "x86_64-linux-musl", parse(target).toolchain.cpu


def _llvm(target: Target) -> isa.CpuTarget:
    cpu = parse(target).toolchain.cpu
    return isa.host() if cpu == "native" else isa.x86_64(CODE_CPUS[cpu])


def _admit(target: Target, device: Device) -> None:
    """Refuse a host that is not what the target describes: its time would not be the target's."""
    if device.name != "host":
        if device.info().kind != "measured":
            raise DeviceError(f"target '{target.name}' runs on host, not on {device.name}")
        return
    if platform.machine().lower() not in _MACHINES:
        raise DeviceError(f"target '{target.name}' is x86-64 and this is {platform.machine()}")
    missing = [f for f in target.core.features if f not in host_flags()]
    if missing:
        raise DeviceError(
            f"this machine lacks {', '.join(missing)}, which target '{target.name}' has; "
            "run the artifact on such a machine, or compile for x86-64-host"
        )


class ServerBackend(EngineBackend):
    """x86-64 servers."""

    family = "server"

    def __init__(self) -> None:
        super().__init__(
            [
                CEngine(_code, _admit),
                OnnxRuntime(admit=_admit),
                LiteRt(admit=_admit),
                LiteRt("fp16", admit=_admit),
                OnnxRuntime("int8", admit=_admit),
                LiteRt("int8", admit=_admit),
                TvmEngine(_llvm, admit=_admit),
                TvmEngine(_llvm, "int8", admit=_admit),
                *nvidia.engines(),
            ]
        )

    def check(self, target: Target) -> None:
        _ = nvidia.parse(target) if nvidia.is_gpu(target) else parse(target)

    def engines(self, target: Target) -> Sequence[EngineInfo]:
        return nvidia.of_target(super().engines(target), target)

    def supports(self, graph: Graph, target: Target, engine: str) -> Sequence[Unsupported]:
        nvidia.check_engine(self.engine(engine), target)
        return super().supports(graph, target, engine)

    def default_device(self, target: Target) -> str:
        return nvidia.default_device() if nvidia.is_gpu(target) else "host"

    def open_device(self, name: str, target: Target) -> Device | None:
        return nvidia.open_device(name)

    def transports(self) -> Sequence[TransportInfo]:
        return nvidia.transports()

    def examine(self) -> Sequence[dict[str, Any]]:
        return nvidia.examine()
