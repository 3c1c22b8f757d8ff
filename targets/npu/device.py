"""``estimate:vela``: no silicon and no simulator, but the model Vela has of both."""

from __future__ import annotations

from pathlib import Path

from edgekit.devices.base import DeviceInfo, RunRequest, RunResult
from edgekit.errors import DeviceError, InputError
from edgekit.targets.schema import Target

NAME = "estimate:vela"

#: Said wherever a result of :meth:`NpuBackend.run` is judged.
VERIFIED = (
    "the int8 .tflite that Vela compiled, run by edgekit's reference executor; "
    "the NPU's own arithmetic was not executed (there is no command-stream simulator)"
)


class EstimateDevice:
    """Runs no programs; it names where the figures come from."""

    name = NAME

    def __init__(self, target: Target) -> None:
        self._target = target

    def info(self) -> DeviceInfo:
        return DeviceInfo(
            NAME,
            "estimate",
            "estimated",
            f"Vela's performance model of {self._target.name}",
            {"verified": VERIFIED},
        )

    def _refuse(self) -> DeviceError:
        return DeviceError(f"device '{NAME}' is a performance model and runs no programs")

    def push(self, local: Path, remote: str) -> None:
        raise self._refuse()

    def push_bytes(self, data: bytes, remote: str) -> None:
        raise self._refuse()

    def pull(self, remote: str) -> bytes:
        raise self._refuse()

    def run(self, request: RunRequest) -> RunResult:
        raise self._refuse()

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> EstimateDevice:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def check_device(name: str) -> None:
    if name != NAME:
        raise InputError(f"family 'npu' runs on device '{NAME}' only; '{name}' was given")
