"""A link to a device with a POSIX shell: what ssh and adb have to be able to do.

:mod:`.remote` makes a :class:`~edgekit.devices.base.Device` of any link. Commands are lists of words;
a link quotes each word for the shell that it goes through, so that no name can become a command.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Protocol


@dataclass(frozen=True)
class Answer:
    """What a command on the device gave. exit_code: the command's own where the link tells it apart
    from its own failures; callers rely on what the command printed, never on the code alone."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class LinkTimeout(Exception):
    """A command did not end in time; nothing is known about what it did."""


class Link(Protocol):
    """An open connection. Every method may raise DeviceUnavailable (the connection is gone) and
    LinkTimeout."""

    transport: str
    where: str  #: the device in messages: ``pi@board``, ``9A281FFAZ004XX``

    def execute(self, words: Sequence[str], *, stdin: bytes = b"", timeout_s: float) -> Answer: ...

    def start(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        """A command whose standard input stays open; it sees the end of it when this process, or the
        connection, dies."""
        ...

    def upload(self, data: bytes, path: str, timeout_s: float) -> None:
        """Write a file on the device; DeviceError when not all of it arrived."""
        ...

    def download(self, path: str, timeout_s: float) -> bytes:
        """Read a file of the device; DeviceError when it is not there or not all of it arrived."""
        ...

    def close(self) -> None: ...


def last_line(text: bytes | IO[bytes]) -> str:
    """The last thing that a tool said, for an error message."""
    data = text if isinstance(text, bytes) else text.read(1 << 16)
    lines = [x.strip() for x in data.decode("utf-8", "replace").splitlines() if x.strip()]
    return lines[-1][:300] if lines else ""
