"""What devices have in common that take no programs: a board whose firmware is the model, an RPC server."""

from __future__ import annotations

from pathlib import Path

from edgekit.devices.base import RunRequest, RunResult
from edgekit.errors import DeviceError


class NoPrograms:
    """The half of :class:`edgekit.devices.base.Device` that is about programs; each method raises
    DeviceError with :attr:`instead`."""

    name: str
    instead = "it takes no programs"

    def _refuse(self) -> DeviceError:
        return DeviceError(f"{self.name} {self.instead}")

    def push(self, local: Path, remote: str) -> None:
        raise self._refuse()

    def push_bytes(self, data: bytes, remote: str) -> None:
        raise self._refuse()

    def pull(self, remote: str) -> bytes:
        raise self._refuse()

    def run(self, request: RunRequest) -> RunResult:
        raise self._refuse()
