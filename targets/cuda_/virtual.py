"""``virtual:cuda``: the kernels' own source, compiled for this machine's processor behind a driver
that executes every thread of every block (``runtime/host.hpp``, ``runtime/driver.hpp``).

The runner, the launch plan, the weights and the text of the kernels are those of the artifact. What
is not checked here: the machine code itself, and memory races that a GPU's scheduling would show.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from edgekit.devices.base import DeviceInfo, RunRequest, RunResult
from edgekit.devices.local import LocalDevice
from edgekit.errors import DeviceError
from edgekit_targets.cuda_.build import RUNTIME, TRIPLE
from edgekit_targets.mcu.toolchain import cache_dir
from edgekit_targets.tvm_ import zig

NAME = "virtual:cuda"
LIBRARY = "libekcuda.so"
#: Said wherever outputs of this device are judged.
VERIFIED = (
    "the kernels' source, launch plan, weights and runner, executed on the processor; the GPU's "
    "machine code was not executed"
)
_KERNEL = re.compile(
    r'extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\) \{(.*?)\n\}',
    re.DOTALL,
)
_MEETS = re.compile(r"__sync|__shfl|ek_mma_|ek_sum_")


def driver_source(kernels: str) -> str:
    """One C++ source: the execution model, the kernels, the table of them, the driver."""
    table, bodies = [], []
    for name, parameters, body in _KERNEL.findall(kernels):
        types = [p.replace("__restrict__", "").split("*")[0].strip() for p in parameters.split(",")]
        args = ", ".join(f"*({t} **)a[{i}]" for i, t in enumerate(types))
        bodies.append(f"static void call_{name}(void **a) {{ {name}({args}); }}")
        meets = int(bool(_MEETS.search(body)))
        table.append(f'  {{"{name}", {len(types)}, {meets}, call_{name}}},')
    return "\n".join(
        [
            '#include "host.hpp"',
            kernels.replace("__shared__ alignas(64)", "alignas(64) __shared__"),
            '#include "driver.hpp"',
            *bodies,
            'extern "C" const ek_kernel ek_kernels[] = {',
            *table,
            "  {0, 0, 0, 0}};",
            "",
        ]
    )


def build_driver(kernels: str) -> Path:
    """The driver library for these kernels, made once and kept in the cache."""
    own = "".join((RUNTIME / n).read_text("utf-8") for n in ("host.hpp", "driver.hpp"))
    digest = hashlib.sha256((own + kernels).encode()).hexdigest()[:24]
    place = cache_dir() / f"virtual-cuda-{digest}" / LIBRARY
    if place.is_file():
        return place
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for n in ("host.hpp", "driver.hpp"):
            shutil.copyfile(RUNTIME / n, work / n)
        (work / "kernels.cpp").write_text(driver_source(kernels), encoding="utf-8")
        flags = ["-O2", "-w", "-std=c++17", "-fno-exceptions", "-fno-rtti", "-fwrapv"]
        flags += ["-fno-sanitize=all", "-ffp-contract=off", "-fno-threadsafe-statics"]
        link = ["-shared", "-fPIC", "-s", "-Wl,--build-id=none", "-lm", "-o", LIBRARY]
        zig.run(
            ["-target", TRIPLE, "-xc++", *flags, "kernels.cpp", *link],
            "compiling the kernels for this machine",
            work,
        )
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f"{LIBRARY}.{os.getpid()}")
        shutil.copyfile(work / LIBRARY, temporary)
        os.replace(temporary, place)
    return place


class CudaDevice(LocalDevice):
    """A GPU of this machine (``cuda``), or ``virtual:cuda``: native programs, run with the driver
    that belongs to them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.virtual = name == NAME

    def info(self) -> DeviceInfo:
        here = super().info().details
        if self.virtual:
            text = "CUDA's execution model on this machine's processor: outputs, no time"
            details = {**here, "verified": VERIFIED}
            return DeviceInfo(self.name, "virtual-cuda", "simulated", text, details)
        gpu = gpu_name()
        return DeviceInfo(
            self.name, "cuda", "measured", gpu or "no NVIDIA GPU", {**here, "gpu": gpu}
        )

    def run(self, request: RunRequest) -> RunResult:
        if self.virtual:
            os_driver = str(self._sandbox.resolve(LIBRARY))
            script = f'#!/bin/sh\nEDGEKIT_CUDA_DRIVER="{os_driver}" exec ./{request.program} "$@"\n'
            self.push_bytes(script.encode(), "launch.sh")
            if request.program == "runner":
                program = self._sandbox.resolve("runner")
                program.chmod(0o755)
                request = RunRequest("launch.sh", request.args, request.timeout_s)
        return super().run(request)


def why_no_gpu() -> str | None:
    """None where a GPU can be used, else "no NVIDIA GPU: ..."."""
    import ctypes

    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA GPU: the driver library libcuda.so.1 is not installed"
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1:
        return "no NVIDIA GPU: the driver finds no device"
    return None


def gpu_name() -> str | None:
    """The name of the GPU that is used, such as "NVIDIA H200"; None without one."""
    import ctypes

    if why_no_gpu() is not None:
        return None
    driver = ctypes.CDLL("libcuda.so.1")
    device, text = ctypes.c_int(), ctypes.create_string_buffer(256)
    number = int(os.environ.get("EDGEKIT_CUDA_DEVICE", "0") or 0)
    if driver.cuDeviceGet(ctypes.byref(device), number):
        return None
    driver.cuDeviceGetName(text, 256, device)
    return text.value.decode("utf-8", "replace")


def open_device(name: str) -> CudaDevice | None:
    """``cuda`` or ``virtual:cuda``, None for other names."""
    if name == NAME:
        return CudaDevice(NAME)
    if name != "cuda":
        return None
    reason = why_no_gpu()
    if reason is not None:
        raise DeviceError(f"{reason}; {NAME} checks outputs without one")
    return CudaDevice("cuda")
