"""Builds the test firmware in ``tests/firmware``: bare-metal with zig, newlib with GCC."""

from __future__ import annotations

import atexit
import functools
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SOURCES = Path(__file__).with_name("firmware")
_ZIG_CPU = {
    "cortex-m0plus": "cortex_m0plus",
    "cortex-m3": "cortex_m3",
    "cortex-m4": "cortex_m4",
    "cortex-m7": "cortex_m7",
    "cortex-m33": "cortex_m33",
    "cortex-m55": "cortex_m55+mve+mve_fp",
}
_GCC_FLAGS = {
    "cortex-m0plus": (),
    "cortex-m3": (),
    "cortex-m4": ("-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"),
    "cortex-m7": ("-mfpu=fpv5-d16", "-mfloat-abi=hard"),
    "cortex-m33": ("-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"),
}

needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed"
)
needs_gcc_arm = pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed"
)


@functools.cache
def _folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="edgekit-firmware-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _compile(command: list[str], key: tuple[object, ...]) -> Path:
    out = _folder() / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.elf"
    if not out.exists():
        done = subprocess.run(
            [*command, "-o", str(out)], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
    return out


def bare(name: str, core: str = "cortex-m4", *defines: str, script: str = "bare.ld") -> Path:
    """``<name>.c`` or ``.S`` for ``core``, without a C library, linked by ``script``."""
    source = next(SOURCES.glob(f"{name}.[cS]"))
    command = [
        *(sys.executable, "-m", "ziglang", "cc"),
        *("-target", "thumb-freestanding-eabi", f"-mcpu={_ZIG_CPU[core]}"),
        *("-O2", "-nostdlib", "-ffreestanding", "-fno-sanitize=all", "-fomit-frame-pointer"),
        *(f"-D{d}" for d in defines),
        *("-Wl,-T," + str(SOURCES / script), str(source)),
    ]
    return _compile(command, ("bare", name, core, defines, script))


def newlib(name: str, core: str = "cortex-m4") -> Path:
    """``<name>.c`` with newlib and semihosting (rdimon), linked by newlib's own default script."""
    command = [
        *("arm-none-eabi-gcc", f"-mcpu={core}", "-mthumb", "-O2", *_GCC_FLAGS[core]),
        *("--specs=rdimon.specs", str(SOURCES / f"{name}.c"), "-lm"),
    ]
    return _compile(command, ("newlib", name, core))
