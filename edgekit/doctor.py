"""``edgekit doctor``: what is installed, what is missing, how to get it.

No package is imported: versions come from their metadata, programs are asked for ``--version``;
families of targets add what they need besides.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

#: distribution, needed for, how to get it
_PACKAGES = (
    ("numpy", "everything", "pip install edgekit"),
    ("ziglang", "cross-compiling for microcontrollers", "pip install edgekit"),
    ("unicorn", "the virtual Cortex-M (M0+ to M33)", "pip install edgekit"),
    ("capstone", "estimated cycles", "pip install edgekit"),
    ("onnx", ".onnx models", "pip install edgekit"),
    ("ai-edge-litert", ".tflite models", "pip install edgekit"),
    ("optuna", "edgekit search", "pip install edgekit"),
    ("ray", "edgekit search --executor ray", "pip install 'edgekit[ray]'"),
    ("torch", "torch models (file.py:factory), training", "pip install 'edgekit[torch]'"),
    ("onnxscript", "torch models", "pip install 'edgekit[torch]'"),
    ("h5py", "Keras .h5 and .keras models", "pip install 'edgekit[keras]'"),
    ("tensorflow", "SavedModel folders", "pip install 'edgekit[tensorflow]'"),
    ("onnxruntime", "engine onnxruntime of x86-64 targets", "pip install 'edgekit[onnxruntime]'"),
    ("apache-tvm", "engine tvm of arm_cpu and server", "pip install 'edgekit[tvm]'"),
    ("ethos-u-vela", "Ethos-U targets (family npu)", "pip install 'edgekit[npu]'"),
    ("tflite-micro", "an independent oracle for verify", "pip install 'edgekit[oracle]'"),
)
#: program, needed for, how to get it
_PROGRAMS = (
    ("cc", "fast instruction counting, the host engine", "apt-get install gcc"),
    (
        "qemu-system-arm",
        "the virtual Cortex-M55, second opinions",
        "apt-get install qemu-system-arm",
    ),
    (
        "arm-none-eabi-gcc",
        "the gcc toolchain of the mcu family",
        "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi",
    ),
    ("qemu-aarch64", "the virtual 64-bit Arm (virtual:aarch64)", "apt-get install qemu-user"),
    ("cmake", "building the kernels on the host", "apt-get install cmake"),
)


def examine() -> list[dict[str, Any]]:
    """One entry a thing: ``name``, ``ok``, ``version``, ``needed_for``, ``how``."""
    checks = [
        {
            "name": "python",
            "ok": sys.version_info >= (3, 11),
            "version": sys.version.split()[0],
            "needed_for": "everything",
            "how": "install Python 3.11 or later",
        }
    ]
    for name, needed_for, how in _PACKAGES:
        try:
            found: str | None = version(name)
        except PackageNotFoundError:
            found = None
        checks.append(_entry(name, found, needed_for, how))
    for name, needed_for, how in _PROGRAMS:
        checks.append(_entry(name, _program_version(name), needed_for, how))
    return checks + _of_families()


def _of_families() -> list[dict[str, Any]]:
    """What families examine themselves; a broken family says so in ``edgekit targets``."""
    from edgekit.errors import EdgekitError
    from edgekit.targets.base import Examined
    from edgekit.targets.registry import families, get_backend

    found: list[dict[str, Any]] = []
    for family in families():
        try:
            backend = get_backend(family.name)
        except EdgekitError:
            continue
        if isinstance(backend, Examined):
            found += backend.examine()
    return found


def _entry(name: str, found: str | None, needed_for: str, how: str) -> dict[str, Any]:
    return {
        "name": name,
        "ok": found is not None,
        "version": found,
        "needed_for": needed_for,
        "how": how,
    }


def _program_version(name: str) -> str | None:
    path = shutil.which(name)
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\d+\.\d+(\.\d+)?", done.stdout)
    return match.group(0) if match else "unknown version"
