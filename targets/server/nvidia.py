"""NVIDIA GPUs in the ``server`` family: their target files, engines and devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekit.devices.base import Device, TransportInfo
from edgekit.errors import InputError
from edgekit.targets.base import EngineInfo
from edgekit.targets.registry import first_error
from edgekit.targets.schema import Target
from edgekit_targets.cuda_ import toolchain as cuda_tools
from edgekit_targets.cuda_ import virtual
from edgekit_targets.cuda_.engine import CudaEngine
from edgekit_targets.cuda_.gpu import OLDEST, Gpu
from edgekit_targets.engine_backend import Engine
from edgekit_targets.mcu import toolchain

from .nvidia_ort import OrtGpu

#: What the multiprocessors have; the last ones are types that tensor cores multiply.
FEATURES = (
    "dp4a",
    "cp-async",
    "wgmma",
    "tma",
    "tc-fp16",
    "tc-bf16",
    "tc-tf32",
    "tc-int8",
    "tc-fp8",
)
_NEEDED = ("dp4a", "tc-fp16", "tc-tf32", "tc-int8")


class Config(BaseModel):
    """compute_capability: as CUDA writes it ("9.0")."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    compute_capability: str = Field(pattern=r"^\d{1,2}\.\d$")


def is_gpu(target: Target) -> bool:
    return target.core.isa.startswith("sm_")


def parse(target: Target) -> Gpu:
    """Check the sections of a GPU's file; InputError names target, section and field."""
    where = f"target '{target.name}'"
    for section in ("toolchain", "virtual"):
        if getattr(target, section):
            raise InputError(f"{where}, section '{section}': a GPU takes no fields there")
    try:
        config = Config.model_validate(target.config)
    except ValidationError as e:
        raise InputError(f"{where}, section 'config': {first_error(e)}") from None
    gpu = Gpu(target.name, config.compute_capability)
    if target.core.isa != gpu.arch:
        raise InputError(
            f"{where}, field 'cores.0.isa': '{target.core.isa}' does not belong to compute "
            f"capability {gpu.compute_capability}, which is {gpu.arch}"
        )
    major, minor = map(int, config.compute_capability.split("."))
    if (major, minor) < OLDEST:
        raise InputError(
            f"{where}, field 'config.compute_capability': {config.compute_capability} is older "
            f"than {OLDEST[0]}.{OLDEST[1]}, from which the kernels' tensor core products exist"
        )
    features = target.core.features
    unknown = [f for f in features if f not in FEATURES]
    if unknown:
        raise InputError(
            f"{where}, field 'cores.0.features': '{unknown[0]}' is no feature of a GPU; there are "
            f"{', '.join(FEATURES)}"
        )
    missing = [f for f in _NEEDED if f not in features]
    if missing:
        raise InputError(
            f"{where}, field 'cores.0.features': the kernels use '{missing[0]}', which is not listed"
        )
    return gpu


def engines() -> list[Engine]:
    """All engines of GPUs, in order of preference."""
    return [
        CudaEngine(parse),
        CudaEngine(parse, "tf32"),
        CudaEngine(parse, "fp16"),
        CudaEngine(parse, "int8"),
        OrtGpu("tensorrt"),
        OrtGpu("cuda"),
    ]


_NAMES = frozenset(e.name for e in engines())


def of_target(infos: Sequence[EngineInfo], target: Target) -> list[EngineInfo]:
    """The engines that the target has: a processor's or a GPU's."""
    return [i for i in infos if (i.name in _NAMES) == is_gpu(target)]


def check_engine(engine: Engine, target: Target) -> None:
    """InputError where a processor's engine is asked of a GPU, or the other way round."""
    if (engine.name in _NAMES) != is_gpu(target):
        raise InputError(f"target '{target.name}' has no engine '{engine.name}'")


def default_device() -> str:
    """The GPU where there is one; else the kernels run on this machine's processor, untimed."""
    return "cuda" if virtual.why_no_gpu() is None else virtual.NAME


def open_device(name: str) -> Device | None:
    return virtual.open_device(name)


def transports() -> list[TransportInfo]:
    """Lines of ``edgekit devices``."""
    no_gpu, no_zig = virtual.why_no_gpu(), toolchain.why_missing("zig")
    return [
        TransportInfo("cuda", no_gpu is None, no_gpu, ("cuda",)),
        TransportInfo("virtual-cuda", no_zig is None, no_zig, (virtual.NAME,)),
    ]


def examine() -> list[dict[str, Any]]:
    """Entries of ``edgekit doctor``."""
    compiler, gpu = cuda_tools.find(), virtual.gpu_name()
    return [
        {
            "name": "nvcc or NVRTC",
            "ok": compiler is not None,
            "version": compiler and f"{compiler.kind} {compiler.version}",
            "needed_for": "engine cuda of NVIDIA GPUs",
            "how": "pip install 'edgekit[cuda]'",
        },
        {
            "name": "NVIDIA GPU",
            "ok": gpu is not None,
            "version": gpu,
            "needed_for": "running and measuring engine cuda",
            "how": "NVIDIA's driver (libcuda.so.1) and a GPU; virtual:cuda checks outputs without",
        },
    ]
