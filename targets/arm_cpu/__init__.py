"""Application processors: Linux and Android on 64-bit Arm (phones, Raspberry Pi class boards)."""

from __future__ import annotations

from pathlib import Path

from edgekit.targets.base import Backend, Family


def _backend() -> Backend:
    from .backend import ArmCpuBackend

    return ArmCpuBackend()


family = Family(
    name="arm_cpu",
    description="64-bit Arm application cores under Linux or Android",
    target_dir=Path(__file__).parent / "devices",
    backend=_backend,
)

__all__ = ["family"]
