"""Firmware of a serial board in QEMU, behind a pseudo terminal."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

#: Of ``-icount shift=7``: at 25 MHz 3.2 ticks an instruction, so that a count follows from ticks.
INSTRUCTION_NS = 128
QEMU = shutil.which("qemu-system-arm")


class Emulated:
    """QEMU with the firmware; ``port`` is its serial line."""

    def __init__(self, elf: Path, machine: str = "mps2-an386") -> None:
        self.process = subprocess.Popen(
            [str(QEMU), "-M", machine, "-kernel", str(elf), "-display", "none", "-monitor", "none",
             "-icount", "shift=7,sleep=off", "-chardev", "pty,id=s", "-serial", "chardev:s"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        found = re.search(r"/dev/pts/\d+", self.process.stdout.readline())
        assert found is not None
        self.port = found[0]

    def close(self) -> None:
        self.process.kill()
        self.process.wait(20)
