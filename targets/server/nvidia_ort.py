"""Engines ``onnxruntime-cuda`` and ``onnxruntime-tensorrt``: ONNX Runtime's GPU providers, where the
installed ONNX Runtime lists them. A model that the provider would hand to the CPU as a whole is an
error, not a silent fallback."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgekit.devices.base import Device
from edgekit.errors import DeviceError
from edgekit.targets.schema import Target
from edgekit_targets.cuda_ import virtual
from edgekit_targets.onnxruntime_ import OnnxRuntime

PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_INSTALL = {
    "cuda": "pip install onnxruntime-gpu, in place of onnxruntime",
    "tensorrt": "pip install onnxruntime-gpu, in place of onnxruntime, and tensorrt",
}


@cache
def listed() -> tuple[str, ...]:
    """The providers that the installed ONNX Runtime has been built with."""
    if importlib.util.find_spec("onnxruntime") is None:
        return ()
    import onnxruntime

    return tuple(onnxruntime.get_available_providers())


def _gpu_build() -> str | None:
    """The version of the package with GPU providers; asked first, since importing takes time."""
    try:
        return version("onnxruntime-gpu")
    except PackageNotFoundError:
        return None


def _admit(target: Target, device: Device) -> None:
    if not isinstance(device, virtual.CudaDevice) or device.virtual:
        why = virtual.why_no_gpu() or f"it was asked to run on {device.name}"
        raise DeviceError(f"ONNX Runtime's GPU providers run on the device cuda alone ({why})")


class OrtGpu(OnnxRuntime):
    """provider: ``cuda`` or ``tensorrt``."""

    package = "onnxruntime-gpu"

    def __init__(self, provider: str) -> None:
        super().__init__(admit=_admit)
        self.name = f"onnxruntime-{provider}"
        self.what = f"ONNX Runtime's {PROVIDERS[provider]}, float32 or QDQ int8 as the model is"
        self._provider = provider

    def why_missing(self) -> str | None:
        if importlib.util.find_spec("onnx") is None:
            return "the Python package onnx is missing: pip install onnx"
        wanted, how = PROVIDERS[self._provider], _INSTALL[self._provider]
        if _gpu_build() is None:
            return f"the installed ONNX Runtime has no {wanted}: {how}"
        if wanted not in listed():
            return f"onnxruntime-gpu {_gpu_build()} lists no {wanted}: {how}"
        return None

    def settings(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **super().settings(extra),
            "providers": [PROVIDERS[self._provider], "CPUExecutionProvider"],
        }
