"""zig's clang as compiler and linker for hosts and Arm boards."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import ToolchainError
from edgekit_targets.mcu.toolchain import cache_dir
from edgekit_targets.tvm_.isa import CpuTarget

TIMEOUT_S = 600
#: The oldest C library that TVM's own runtime libraries run on.
GLIBC = "2.28"


def triple(target: CpuTarget) -> str:
    return f"{target.arch}-linux-gnu.{GLIBC}"


def run(arguments: Sequence[str], what: str, folder: Path | None = None) -> None:
    """``zig cc`` with these arguments; ToolchainError with the first line of its complaint."""
    if importlib.util.find_spec("ziglang") is None:
        raise ToolchainError(f"{what} needs the Python package ziglang: pip install ziglang")
    env = {**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": "0"}
    env["ZIG_GLOBAL_CACHE_DIR"] = env["ZIG_LOCAL_CACHE_DIR"] = str(cache_dir())
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ziglang", "cc", *arguments],
            cwd=folder,
            env=env,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"{what} took longer than {TIMEOUT_S} s") from None
    if done.returncode:
        lines = (done.stderr + done.stdout).decode("utf-8", "replace").strip().splitlines()
        error = next((x for x in lines if "error" in x), (lines or ["no message"])[0])
        raise ToolchainError(f"{what} failed: {error.strip()}")
