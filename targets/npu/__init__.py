"""Arm Ethos-U neural processing units: command streams by Vela, the rest on the Cortex-M beside it."""

from __future__ import annotations

from pathlib import Path

from edgekit.targets.base import Backend, Family


def _backend() -> Backend:
    from .backend import NpuBackend

    return NpuBackend()


family = Family(
    name="npu",
    description="Arm Ethos-U NPUs: int8 command streams by Vela, what is left on the CPU costed",
    target_dir=Path(__file__).parent / "devices",
    backend=_backend,
)

__all__ = ["family"]
