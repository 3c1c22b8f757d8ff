"""Vela as a subprocess: it crashes on some inputs, and its exit status says little.

What it did is judged by what it wrote (:mod:`.outputs`): a float model ends with status 0 and not one
operator on the NPU, a truncated file with a segmentation fault.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgekit.errors import EdgekitError, InputError, ToolchainError

from .config import NpuTarget
from .outputs import Outputs, Unusable, read_outputs

DISTRIBUTION = "ethos-u-vela"
#: Names an executable ``vela`` to use instead of this environment's (it may live in its own).
VARIABLE = "EDGEKIT_VELA"
INSTALL = "pip install 'edgekit[npu]'"
TIMEOUT_S = 900.0
_MODEL = "model"


@dataclass(frozen=True)
class Vela:
    """How to start it, and its version."""

    argv: tuple[str, ...]
    version: str


def why_missing() -> str | None:
    """None when Vela can be started, else what is missing and how to get it. Starts nothing."""
    named = os.environ.get(VARIABLE)
    if named:
        if shutil.which(named) is None:
            return f"{VARIABLE} names '{named}', which is not an executable file"
        return None
    try:
        version(DISTRIBUTION)
    except PackageNotFoundError:
        return f"the Python package {DISTRIBUTION} is missing: {INSTALL}"
    return None


def find() -> Vela:
    """The Vela of this machine; ToolchainError when there is none."""
    why = why_missing()
    if why is not None:
        raise ToolchainError(f"Vela cannot be started: {why}")
    named = os.environ.get(VARIABLE)
    if named:
        path = str(shutil.which(named))
        return Vela((path,), _asked_version(path))
    return Vela((sys.executable, "-P", "-m", "ethosu.vela"), version(DISTRIBUTION))


@functools.cache
def _asked_version(path: str) -> str:
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ToolchainError(f"'{path} --version' does not answer ({type(e).__name__})") from None
    found = re.search(r"\d+(\.\w+)+", done.stdout)
    return found.group(0) if found else "unknown"


def compile_tflite(
    data: bytes,
    npu: NpuTarget,
    *,
    model: str,
    optimise: str = "Performance",
    timeout_s: float = TIMEOUT_S,
) -> tuple[Outputs, Vela]:
    """Compile the bytes of an int8 .tflite. optimise: ``Performance`` | ``Size``, Vela's words.

    Raises ToolchainError when Vela is missing, crashes, fails, does not end in ``timeout_s``
    seconds, or writes nothing that can be used.
    """
    vela = find()
    config = npu.config
    label = f"Vela {vela.version}"
    about = f"model '{model}' for {config.accelerator}"
    with tempfile.TemporaryDirectory(prefix="edgekit-vela-") as name:
        folder = Path(name)
        (folder / f"{_MODEL}.tflite").write_bytes(data)
        argv = [
            *vela.argv,
            f"{_MODEL}.tflite",
            f"--output-dir={folder / 'out'}",
            f"--accelerator-config={config.accelerator}",
            f"--config={_config_file(config.config_file)}",
            f"--system-config={config.system_config}",
            f"--memory-mode={config.memory_mode}",
            f"--optimise={optimise}",
            "--verbose-performance",
        ]
        status, stdout, stderr = _run(argv, folder, timeout_s, label, about)
        if status != 0:
            raise ToolchainError(f"{label} {_ending(status)} on {about}{_last_words(stderr)}")
        try:
            return read_outputs(folder / "out", _MODEL, stdout), vela
        except Unusable as e:
            raise ToolchainError(
                f"{label} gave nothing usable for {about}: {e}{_last_words(stderr)}"
            ) from None
        except EdgekitError as e:
            raise ToolchainError(
                f"{label} wrote a file for {about} that cannot be read: {e}"
            ) from None


def _config_file(name: str) -> str:
    """A user's own file by its full path (Vela runs in another folder); Vela's by its short name."""
    path = Path(name)
    if path.is_file():
        return str(path.resolve())
    if path.is_absolute() or path.parts[0] in (".", "..") or len(path.parts) != 2:
        raise InputError(f"Vela configuration file '{name}' does not exist")
    return name


def _run(
    argv: list[str], folder: Path, timeout_s: float, label: str, about: str
) -> tuple[int, str, str]:
    """(status, stdout, stderr). Output goes to files: a pipe would be held open by grandchildren."""
    out, err = folder / "stdout.txt", folder / "stderr.txt"
    try:
        with out.open("wb") as o, err.open("wb") as e:
            process = subprocess.Popen(
                argv,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=o,
                stderr=e,
                start_new_session=True,
            )
            try:
                status = process.wait(timeout_s)
            except BaseException:
                _kill(process)
                raise
    except subprocess.TimeoutExpired:
        raise ToolchainError(
            f"{label} did not finish {about} in {timeout_s:g} s and was stopped"
        ) from None
    except OSError as e:
        raise ToolchainError(f"{label} cannot be started: {e.strerror or e}") from None
    return status, out.read_text("utf-8", "replace"), err.read_text("utf-8", "replace")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process and what it started: it leads a session of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()


def _ending(status: int) -> str:
    number = -status if status < 0 else status - 128 if status > 128 else 0
    try:
        name = signal.Signals(number).name if number else ""
    except ValueError:
        name = ""
    if not name:
        return f"failed (status {status})"
    return f"was killed ({name})" if name in ("SIGKILL", "SIGTERM") else f"crashed ({name})"


def _last_words(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return f": {lines[-1][:200]}" if lines else ""
