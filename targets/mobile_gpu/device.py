"""``virtual:opencl``: OpenCL kernels on this machine's CPU (PoCL). Right or wrong answers are the
same as on a GPU; how long they take is not, so no time taken here is a latency."""

from __future__ import annotations

from edgekit.devices.base import DeviceInfo
from edgekit.devices.local import LocalDevice, cpu_model, usable_cores
from edgekit.errors import ToolchainError

from . import probe

NAME = "virtual:opencl"
TRANSPORT = "pocl"


class VirtualOpenCl(LocalDevice):
    """Runs native programs whose OpenCL device is the CPU. Kind ``simulated``."""

    name = NAME

    def __init__(self) -> None:
        why = probe.why_no_cpu()
        if why is not None:
            raise ToolchainError(f"{NAME} needs OpenCL on this machine's CPU, and {why}")
        super().__init__()

    def info(self) -> DeviceInfo:
        found = probe.cpu()
        assert found is not None
        return DeviceInfo(
            NAME,
            TRANSPORT,
            "simulated",
            f"OpenCL on this machine's CPU ({found.platform}); its clock is not a GPU's latency",
            {
                "backend": f"{found.platform} {found.driver}",
                "opencl": found.version,
                "cpu": cpu_model(),
                "cores": usable_cores(),
            },
        )
