"""Servers: x86-64 with vector instructions, measured on the machine edgekit runs on; NVIDIA GPUs."""

from __future__ import annotations

from pathlib import Path

from edgekit.targets.base import Backend, Family


def _backend() -> Backend:
    from .backend import ServerBackend

    return ServerBackend()


family = Family(
    name="server",
    description="x86-64 servers: handwritten C, ONNX Runtime, LiteRT; NVIDIA GPUs: CUDA by TVM",
    target_dir=Path(__file__).parent / "devices",
    backend=_backend,
)

__all__ = ["family"]
