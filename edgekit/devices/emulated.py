"""An attached device that runs its programs under QEMU's user-mode emulation (``wrapper:
qemu-aarch64 -cpu cortex-a53``): its figures are counted there, with the plug-in of
``virtual:aarch64``, and are simulated.

The plug-in is a library of this machine; a far side with another processor cannot load it, and then
nothing is counted and the device says why.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.devices import far_scripts
from edgekit.devices.aarch64 import (
    CPUS,
    PLUGIN,
    Symbols,
    check_counting,
    plugin_options,
    read_trace,
)
from edgekit.devices.base import RunRequest, Trace


def emulator_of(wrapper: Sequence[str]) -> str | None:
    """The CPU model of a wrapper that is QEMU for 64-bit Arm (``max`` where none is named), or None."""
    if not wrapper or Path(wrapper[0]).name not in ("qemu-aarch64", "qemu-aarch64-static"):
        return None
    words = list(wrapper)
    return words[words.index("-cpu") + 1] if "-cpu" in words[:-1] else "max"


@dataclass(frozen=True)
class FarEmulator:
    """wrapper: the emulator's command there. why_not: why it counts nothing, or None."""

    wrapper: tuple[str, ...]
    cpu: str
    version: str
    why_not: str | None

    @staticmethod
    def find(
        wrapper: Sequence[str], cpu: str, machine: str, ask: Callable[[Sequence[str]], bytes]
    ) -> FarEmulator:
        """ask: runs a command there and gives what it prints. machine: ``uname -m`` there."""
        words = far_scripts.shell(far_scripts.EMULATOR, wrapper[0])
        shown = ask(words)[:4096].decode("utf-8", "replace")
        found = re.search(r"version (\S{1,20})", shown)
        why = None
        if not found:
            why = f"{wrapper[0]} does not run there"
        elif "edgekit-plugins" not in shown:
            why = f"{wrapper[0]} there takes no plug-ins (the package qemu-user has one that does)"
        elif machine != platform.machine():
            why = f"the plug-in that counts is for {platform.machine()}, and the far side is {machine}"
        return FarEmulator(
            tuple(wrapper), cpu, f"qemu-user {found.group(1)}" if found else "qemu-user", why
        )

    def details(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "cpu": self.cpu,
            "features": list(CPUS.get(self.cpu, ())),
            "backend": self.version,
            "counts_instructions": self.why_not is None,
        }
        return found if self.why_not is None else {**found, "not_counted": self.why_not}

    def plugin(self) -> Path:
        """The library to push; ToolchainError when it cannot be built."""
        from edgekit.devices.native.build import build

        return build(PLUGIN)

    def symbols(self, program: bytes) -> Symbols:
        return Symbols(program)

    def command(self, request: RunRequest, symbols: Symbols, plugin: str, counts: str) -> list[str]:
        """The wrapper with the plug-in in it."""
        options = plugin_options(request, plugin, counts, symbols)
        return [self.wrapper[0], *options, *self.wrapper[1:]]

    def check(self, request: RunRequest, device: str, code: int, stderr: bytes) -> None:
        check_counting(request, f"'{request.program}' on {device} ({self.cpu})", code, stderr)

    def trace(self, data: bytes, symbols: Symbols, sections: Sequence[str]) -> Trace:
        return read_trace(data, symbols, sections, self.cpu, self.version)
