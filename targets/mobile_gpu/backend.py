"""The backend of the ``mobile_gpu`` family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.devices.base import Device, TransportInfo
from edgekit.targets.schema import Target
from edgekit_targets.engine_backend import EngineBackend
from edgekit_targets.tvm_ import check

from . import probe
from .config import parse
from .delegate import GpuDelegate
from .device import NAME, TRANSPORT, VirtualOpenCl
from .engine import OpenCl


class MobileGpuBackend(EngineBackend):
    """Adreno and Mali; runs on ``virtual:opencl`` where there is no phone."""

    family = "mobile_gpu"

    def __init__(self) -> None:
        super().__init__([OpenCl(), OpenCl(half=True), GpuDelegate()])

    def check(self, target: Target) -> None:
        parse(target)

    def default_device(self, target: Target) -> str:
        return NAME

    def open_device(self, name: str, target: Target) -> Device | None:
        """The family's own device (see :func:`edgekit.devices.open_device`)."""
        return VirtualOpenCl() if name == NAME else None

    def transports(self) -> Sequence[TransportInfo]:
        """For ``edgekit devices``."""
        why = probe.why_no_cpu()
        return [TransportInfo(TRANSPORT, why is None, why, (NAME,))]

    def examine(self) -> Sequence[dict[str, Any]]:
        """For ``edgekit doctor``."""
        found, bad = probe.cpu(), check.why_not()
        return [
            {
                "name": "TVM for OpenCL",
                "ok": bad is None,
                "version": check.version("apache-tvm"),
                "needed_for": "engines opencl and opencl-fp16 of mobile_gpu targets",
                "how": bad or "pip install 'edgekit[tvm]'",
            },
            {
                "name": "OpenCL on the CPU",
                "ok": found is not None,
                "version": None if found is None else f"{found.platform} {found.driver}",
                "needed_for": f"running mobile_gpu artifacts here ({NAME})",
                "how": "apt-get install pocl-opencl-icd",
            },
        ]
