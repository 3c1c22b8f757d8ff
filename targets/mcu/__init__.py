"""Microcontrollers: standalone C from a quantized graph, on Arm Cortex-M and on this machine."""

from __future__ import annotations

from pathlib import Path

from edgekit.targets.base import Backend, Family


def _backend() -> Backend:
    from .backend import McuBackend

    return McuBackend()


family = Family(
    name="mcu",
    description="Arm Cortex-M microcontrollers: standalone C, no heap, no operating system",
    target_dir=Path(__file__).parent / "devices",
    backend=_backend,
)

__all__ = ["family"]
