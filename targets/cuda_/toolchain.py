"""CUDA source -> machine code (cubin) and PTX, with nvcc or NVRTC, whichever is here.

Looked for in this order: what ``EDGEKIT_NVCC`` names, ``nvcc`` on the path, below ``CUDA_HOME`` or
``/usr/local/cuda``; then NVRTC from the Python packages (``pip install 'edgekit[cuda]'``) or the
system's libraries.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgekit.errors import ToolchainError
from edgekit_targets.cuda_.gpu import Gpu

TIMEOUT_S = 600
MISSING = (
    "neither nvcc nor NVRTC is here: pip install 'edgekit[cuda]', or install NVIDIA's CUDA toolkit"
)


@dataclass(frozen=True)
class Compiler:
    """kind: ``nvcc`` or ``nvrtc``; path: the program or the library; version: of CUDA."""

    kind: str
    path: str
    version: str
    includes: tuple[str, ...] = ()

    def tools(self) -> dict[str, str]:
        return {self.kind: self.version}


def _output(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(
            list(command), capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def _nvcc() -> Compiler | None:
    given = os.environ.get("EDGEKIT_NVCC")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    found = [shutil.which("nvcc"), *(f"{h}/bin/nvcc" for h in homes if h)]
    for path in [given] if given else found:
        if path and os.access(path, os.X_OK):
            text = _output([path, "--version"]) or ""
            number = re.search(r"V(\d+\.\d+\.\d+)", text)
            if number:
                return Compiler("nvcc", path, number[1])
    return None


def _package_folders() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return [f for p in places for f in sorted(Path(p).glob("*")) if f.is_dir()]


def _nvrtc() -> Compiler | None:
    folders = _package_folders()
    libraries = [
        str(p)
        for f in folders
        for p in sorted(f.glob("lib/libnvrtc.so.*"))
        if ".alt." not in p.name and "builtins" not in p.name
    ]
    system = ctypes.util.find_library("nvrtc")
    includes = [str(f / "include") for f in folders if (f / "include" / "cuda_fp16.h").is_file()]
    toolkit = Path("/usr/local/cuda/include")
    if not includes and (toolkit / "cuda_fp16.h").is_file():
        includes = [str(toolkit)]
    if not includes:
        return None
    for library in [*libraries, *([system] if system else [])]:
        command = [sys.executable, "-m", "edgekit_targets.cuda_.nvrtc", "--version", library]
        text = _output(command)
        if text:
            return Compiler("nvrtc", library, text.strip(), tuple(includes))
    return None


@cache
def _find(_environment: tuple[str | None, ...]) -> Compiler | None:
    return _nvcc() or _nvrtc()


def find() -> Compiler | None:
    """The compiler that is used here, None where there is none."""
    names = ("EDGEKIT_NVCC", "CUDA_HOME", "CUDA_PATH", "PATH")
    return _find(tuple(os.environ.get(n) for n in names))


def why_not() -> str | None:
    return None if find() else MISSING


def require() -> Compiler:
    compiler = find()
    if compiler is None:
        raise ToolchainError(f"compiling CUDA kernels: {MISSING}")
    return compiler


def _command(c: Compiler, source: Path, arch: str, out: Path) -> list[str]:
    if c.kind == "nvrtc":
        head = [sys.executable, "-m", "edgekit_targets.cuda_.nvrtc", c.path]
        return [*head, str(source), arch, str(out), *c.includes]
    form = "-ptx" if arch.startswith("compute_") else "-cubin"
    options = ["-w", "-std=c++17", "-O3", f"-arch={arch}", "-Xptxas", "-v", form]
    return [c.path, *options, "-o", str(out), source.name]


def compile_source(compiler: Compiler, text: str, arch: str) -> tuple[bytes, str]:
    """(machine code or PTX, the assembler's remarks) for ``sm_90`` or ``compute_90``."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, out = folder / "kernels.cu", folder / "out"
        source.write_text(text, encoding="utf-8")
        try:
            done = subprocess.run(
                _command(compiler, source, arch, out),
                cwd=folder,
                env={**os.environ, "LC_ALL": "C"},
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise ToolchainError(
                f"{compiler.kind} took longer than {TIMEOUT_S} s to compile the kernels for {arch}"
            ) from None
        except OSError as e:
            raise ToolchainError(f"{compiler.kind} cannot be started ({e.strerror})") from None
        log = (done.stderr + done.stdout).decode("utf-8", "replace")
        if done.returncode or not out.is_file():
            lines = [x.strip() for x in log.splitlines() if x.strip()] or ["no message"]
            error = next((x for x in lines if "error" in x.lower()), lines[0])
            raise ToolchainError(
                f"{compiler.kind} {compiler.version} cannot compile the kernels for {arch}: {error}"
            )
        return out.read_bytes(), log


_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_FIGURES = {
    "registers": re.compile(r"Used (\d+) registers"),
    "shared_bytes": re.compile(r"(\d+) bytes smem"),
    "spill_bytes": re.compile(r"(\d+) bytes spill stores"),
}


def resources(log: str) -> dict[str, dict[str, int]]:
    """Kernel -> registers of a thread, static shared memory of a block, spilled bytes."""
    found: dict[str, dict[str, int]] = {}
    current: dict[str, int] = {}
    for line in log.splitlines():
        entry = _ENTRY.search(line)
        if entry:
            current = found.setdefault(entry[1], dict.fromkeys(_FIGURES, 0))
        for name, pattern in _FIGURES.items():
            match = pattern.search(line)
            if match:
                current[name] = int(match[1])
    return found


def kernels_in(cubin: bytes) -> dict[str, int]:
    """Kernels of a module of machine code (an ELF file) -> bytes of their code."""
    import io

    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        sections: Any = ELFFile(io.BytesIO(cubin)).iter_sections()
        return {
            s.name.removeprefix(".text."): int(s["sh_size"])
            for s in sections
            if s.name.startswith(".text.")
        }
    except (ELFError, ValueError, KeyError) as e:
        raise ToolchainError(f"the compiled module is no ELF file ({e})") from None


def compile_all(text: str, gpu: Gpu) -> tuple[bytes, bytes, dict[str, dict[str, int]], Compiler]:
    """(cubin, PTX, resources by kernel, compiler) of one source."""
    compiler = require()
    cubin, log = compile_source(compiler, text, gpu.arch)
    ptx, _ = compile_source(compiler, text, f"compute_{gpu.number}")
    return cubin, ptx, resources(log), compiler
