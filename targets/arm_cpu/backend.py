"""The backend of the ``arm_cpu`` family."""

from __future__ import annotations

from edgekit.targets.schema import Target
from edgekit_targets.engine_backend import EngineBackend
from edgekit_targets.interpreted import need_machine
from edgekit_targets.litert import LiteRt
from edgekit_targets.native_c import CEngine
from edgekit_targets.tvm_ import isa
from edgekit_targets.tvm_engine import TvmEngine

from .config import parse


def _code(target: Target) -> tuple[str, str]:
    toolchain = parse(target).toolchain
    return toolchain.triple, toolchain.cpu


def _llvm(target: Target) -> isa.CpuTarget:
    cpu = parse(target).toolchain.cpu.partition("+")[0]
    return isa.aarch64(cpu.replace("_", "-"))


class ArmCpuBackend(EngineBackend):
    """64-bit Arm under Linux or Android; runs on ``virtual:aarch64`` where there is no board."""

    family = "arm_cpu"

    def __init__(self) -> None:
        admit = need_machine("aarch64")
        super().__init__(
            [
                CEngine(_code, admit, "virtual:aarch64"),
                LiteRt(admit=admit),
                LiteRt("fp16", admit=admit),
                LiteRt("int8", admit=admit),
                TvmEngine(_llvm, admit=admit),
                TvmEngine(_llvm, "int8", admit=admit),
            ]
        )

    def check(self, target: Target) -> None:
        parse(target)

    def default_device(self, target: Target) -> str:
        return "virtual:aarch64"
