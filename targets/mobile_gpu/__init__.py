"""GPUs of phones and boards: Qualcomm Adreno and Arm Mali, through OpenCL and the GPU delegate."""

from __future__ import annotations

from pathlib import Path

from edgekit.targets.base import Backend, Family


def _backend() -> Backend:
    from .backend import MobileGpuBackend

    return MobileGpuBackend()


family = Family(
    name="mobile_gpu",
    description="Adreno and Mali GPUs: OpenCL kernels by TVM, float16 .tflite for the GPU delegate",
    target_dir=Path(__file__).parent / "devices",
    backend=_backend,
)

__all__ = ["family"]
