"""Compilers: zig's clang (a Python package, so always there), arm-none-eabi-gcc, the host's cc.

Everything is compiled from inside the project folder with relative paths, so that no absolute path
and no time reaches an object file and the same inputs give the same bytes anywhere.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from edgekit.errors import ToolchainError

from .config import Toolchain

Optimize = Literal["balanced", "speed", "size", "ram"]
COMPILE_TIMEOUT_S = 300
WARNINGS = ("-Wall", "-Wextra", "-Werror")
_COMMON = (
    "-std=c11",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-fomit-frame-pointer",
    "-fno-stack-protector",
    "-fno-ident",
    # A fused multiply-add rounds once; the reference rounds twice.
    "-ffp-contract=off",
    "-g0",
)
OPTIMIZE_FLAGS: Mapping[str, str] = {
    "balanced": "-O2",
    "speed": "-O3",
    "size": "-Os",
    "ram": "-O2",
}


@dataclass(frozen=True)
class Unit:
    """One C file (relative path) to one object file."""

    source: str
    object: str
    defines: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compiler:
    """cc: command that compiles. link: command that links. name, version: for the manifest.

    flags: for every unit. link_flags, libs: around the object files when linking.
    """

    name: str
    version: str
    cc: tuple[str, ...]
    link: tuple[str, ...]
    flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    libs: tuple[str, ...] = ()

    def compile(
        self,
        folder: Path,
        units: Sequence[Unit],
        includes: Sequence[str],
        optimize: Optimize,
        jobs: int | None = None,
    ) -> None:
        """Compile all units, a few at a time; ToolchainError with the first error."""

        def one(unit: Unit) -> None:
            _make_parent(folder / unit.object)
            command = [
                *self.cc,
                *self.flags,
                *WARNINGS,
                OPTIMIZE_FLAGS[optimize],
                *unit.flags,
                *(f"-I{i}" for i in includes),
                *(f"-D{d}" for d in unit.defines),
                "-c",
                unit.source,
                "-o",
                unit.object,
            ]
            _run(command, folder, f"compiling {unit.source}")

        with ThreadPoolExecutor(jobs or max(2, min(4, os.cpu_count() or 2))) as pool:
            for result in [pool.submit(one, u) for u in units]:
                result.result()

    def link_program(
        self, folder: Path, objects: Sequence[str], out: str, extra: Sequence[str] = ()
    ) -> None:
        """Link objects (relative to ``folder``) to the program ``out``."""
        command = [*self.link, *self.link_flags, *extra, *objects, *self.libs, "-o", out]
        _run(command, folder, f"linking {out}")


def _make_parent(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)


def _run(command: Sequence[str], folder: Path, what: str) -> str:
    """stdout. On failure the whole log goes to the exception's ``log`` attribute."""
    env = {**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": "0"}
    env["ZIG_GLOBAL_CACHE_DIR"] = env["ZIG_LOCAL_CACHE_DIR"] = str(cache_dir())
    try:
        done = subprocess.run(
            list(command),
            cwd=folder,
            env=env,
            capture_output=True,
            timeout=COMPILE_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"{what} took longer than {COMPILE_TIMEOUT_S} s") from None
    except OSError as e:
        raise ToolchainError(f"{what}: {command[0]} cannot be started ({e.strerror})") from None
    if done.returncode != 0:
        log = (done.stderr + done.stdout).decode("utf-8", "replace")
        error = ToolchainError(f"{what} failed: {first_error_line(log)}")
        error.log = log  # type: ignore[attr-defined]
        raise error
    return done.stdout.decode("utf-8", "replace")


@cache
def cache_dir() -> Path:
    """zig's cache, both of them: the local one would otherwise litter the project folder. Below the
    temporary folder where the user's cache cannot be written."""
    given = os.environ.get("ZIG_GLOBAL_CACHE_DIR")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    place = Path(base) / "zig"
    try:
        place.mkdir(parents=True, exist_ok=True)
        if os.access(place, os.W_OK):
            return place
    except OSError:
        pass
    return (
        Path(tempfile.gettempdir()) / f"edgekit-zig-{os.getuid() if hasattr(os, 'getuid') else 0}"
    )


def first_error_line(log: str) -> str:
    """The line of a compiler's log that says what is wrong."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for line in lines:
        if re.search(r"\b(error|undefined|multiple definition|overflowed|will not fit)\b", line):
            return line
    return lines[0] if lines else "no message"


@cache
def zig_program() -> str | None:
    """Path of the zig executable of the ``ziglang`` package, or of one on PATH, or None."""
    spec = importlib.util.find_spec("ziglang")
    if spec is not None and spec.submodule_search_locations:
        for place in spec.submodule_search_locations:
            exe = Path(place) / ("zig.exe" if sys.platform == "win32" else "zig")
            if exe.is_file():
                return str(exe)
    return shutil.which("zig")


@cache
def _version(program: str, *args: str) -> str:
    try:
        out = subprocess.run(
            [program, *args], capture_output=True, timeout=60, check=False, text=True
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return (out.strip().splitlines() or ["unknown"])[0]


def why_missing(name: str) -> str | None:
    """None when the compiler (``zig``, ``gcc``, ``host``) is there, else what to install."""
    if name == "zig":
        return None if zig_program() else "zig is missing: pip install ziglang"
    if name == "gcc":
        if shutil.which("arm-none-eabi-gcc"):
            return None
        return "arm-none-eabi-gcc is missing: apt install gcc-arm-none-eabi"
    if shutil.which("cc") or shutil.which("gcc") or zig_program():
        return None
    return "there is no C compiler: apt install gcc, or pip install ziglang"


def _need(name: str) -> None:
    reason = why_missing(name)
    if reason is not None:
        raise ToolchainError(reason)


def arm_compiler(toolchain: Toolchain, choice: str = "auto") -> Compiler:
    """The compiler for a Cortex-M. choice: ``auto``, ``zig`` or ``gcc``; ToolchainError otherwise
    or when it is missing."""
    name = toolchain.compiler if choice == "auto" else choice
    if name == "auto":
        name = "zig" if why_missing("zig") is None or why_missing("gcc") else "gcc"
    if name not in ("zig", "gcc"):
        raise ToolchainError(
            f"toolchain '{choice}' is not known; there are auto, zig, gcc and best"
        )
    _need(name)
    return _zig_arm(toolchain) if name == "zig" else _gcc_arm(toolchain)


def arm_compilers(toolchain: Toolchain, choice: str = "auto") -> list[Compiler]:
    """What is compiled with for a Cortex-M: one compiler, or for ``best`` every one that is there."""
    if choice != "best":
        return [arm_compiler(toolchain, choice)]
    there = [name for name in ("zig", "gcc") if why_missing(name) is None]
    return [arm_compiler(toolchain, name) for name in there or ["zig"]]


def gcc_flags(toolchain: Toolchain) -> tuple[str, ...]:
    """Flags that tell gcc (and CMake users) about the core."""
    flags = [f"-mcpu={toolchain.cpu}", "-mthumb", f"-mfloat-abi={toolchain.float_abi}"]
    if toolchain.float_abi == "hard" and toolchain.fpu and toolchain.fpu != "auto":
        flags.append(f"-mfpu={toolchain.fpu}")
    return tuple(flags)


#: gcc's -mfpu as LLVM features. zig's own models of the cores have neither FPU nor Helium.
_FPU = {
    "fpv4-sp-d16": "vfp4d16sp",
    "fpv5-sp-d16": "fp_armv8d16sp",
    "fpv5-d16": "fp_armv8d16",
}
#: What gcc's -mcpu means beyond zig's model of the same name.
_DSP = {"cortex-m33": "+dsp"}
_HELIUM = {"cortex-m55": "+mve_fp+fp_armv8d16+fullfp16"}


def zig_cpu(toolchain: Toolchain) -> str:
    """zig's -mcpu for what gcc calls ``cpu`` (``cortex-m33+nodsp`` is understood) and ``fpu``."""
    name, _, suffix = toolchain.cpu.partition("+")
    features = "" if suffix == "nodsp" else _DSP.get(name, "")
    if toolchain.float_abi == "hard":
        fpu = toolchain.fpu or "auto"
        if fpu == "auto" and name in _HELIUM:
            features += _HELIUM[name]
        elif fpu in _FPU:
            features += f"+{_FPU[fpu]}"
        else:
            raise ToolchainError(
                f"zig does not know fpu '{fpu}' for {name}; known are {', '.join(_FPU)}"
            )
    return name.replace("-", "_") + features


def _zig_arm(toolchain: Toolchain) -> Compiler:
    zig = zig_program()
    assert zig is not None
    hard = toolchain.float_abi == "hard"
    cpu = zig_cpu(toolchain)
    triple = f"thumb-freestanding-eabi{'hf' if hard else ''}"
    return Compiler(
        name="zig",
        version=_version(zig, "version"),
        cc=(zig, "cc"),
        link=(zig, "ld.lld"),
        flags=(
            f"--target={triple}",
            f"-mcpu={cpu}",
            "-ffreestanding",
            "-fno-sanitize=all",
            "-nostdinc++",
            *_COMMON,
        ),
        link_flags=("--gc-sections", "--build-id=none", "-z", "max-page-size=4", "-nostdlib"),
    )


def _gcc_arm(toolchain: Toolchain) -> Compiler:
    gcc = shutil.which("arm-none-eabi-gcc")
    assert gcc is not None
    core = gcc_flags(toolchain)
    return Compiler(
        name="gcc",
        version=_version(gcc, "-dumpfullversion"),
        cc=(gcc,),
        link=(gcc,),
        flags=(*core, "-ffreestanding", *_COMMON),
        link_flags=(
            *core,
            "-nostdlib",
            "-nostartfiles",
            "-Wl,--gc-sections",
            "-Wl,--build-id=none",
            "-Wl,-z,max-page-size=4",
            "-Wl,--no-warn-rwx-segments",
        ),
        libs=("-lgcc",),
    )


def host_compiler(choice: str = "auto") -> Compiler:
    """The compiler for this machine: ``cc`` where there is one, else zig."""
    _need("host")
    cc = shutil.which("cc") or shutil.which("gcc")
    command: tuple[str, ...]
    extra: tuple[str, ...]
    if choice == "zig" or (cc is None and choice == "auto"):
        _need("zig")
        zig = zig_program()
        assert zig is not None
        command, name, version = (zig, "cc"), "zig", _version(zig, "version")
        extra = ("-fno-sanitize=all",)
    elif cc is not None and choice in ("auto", "gcc", "cc"):
        command, name, version = (cc,), "cc", _version(cc, "-dumpfullversion", "-dumpversion")
        extra = ()
    else:
        raise ToolchainError(
            f"toolchain '{choice}' cannot be used for the host; there are auto, cc and zig"
        )
    return Compiler(
        name=name,
        version=version,
        cc=command,
        link=command,
        flags=(*extra, *_COMMON),
        link_flags=(*extra, "-Wl,--gc-sections", "-Wl,--build-id=none", "-s"),
    )


def process_compiler(triple: str, cpu: str) -> Compiler:
    """zig's clang for static Linux programs of another (or this) machine.

    triple: ``aarch64-linux-musl``, ``x86_64-linux-musl``. cpu: zig's ``-mcpu``: a model with
    features to add or drop, such as ``cortex_a76`` or ``x86_64_v4+avx512vnni``. Symbols stay in
    the program: virtual devices count by them.
    """
    _need("zig")
    zig = zig_program()
    assert zig is not None
    machine = (f"--target={triple}", "-fno-sanitize=all")
    return Compiler(
        name="zig",
        version=_version(zig, "version"),
        cc=(zig, "cc"),
        link=(zig, "cc"),
        flags=(*machine, f"-mcpu={cpu}", *_COMMON),
        # Without -mcpu: zig builds the C library once for the architecture, not once a core.
        link_flags=(*machine, "-static", "-no-pie", "-Wl,--gc-sections", "-Wl,--build-id=none"),
    )


def runtime_library(toolchain: Toolchain) -> Path:
    """zig's compiler-rt for a core, built once and cached: only software floating point needs it.

    It takes some seconds, which is why firmware that does without is linked without.
    """
    zig = zig_program()
    assert zig is not None
    compiler = _zig_arm(toolchain)
    target = compiler.flags[0].removeprefix("--target=")
    cpu = compiler.flags[1].removeprefix("-mcpu=")
    folder = cache_dir() / "edgekit" / f"{compiler.version}-{target}-{cpu}"
    library = folder / "libcompiler_rt.a"
    if library.is_file():
        return library
    _make_parent(library)
    source = Path(zig).parent / "lib" / "compiler_rt.zig"
    temporary = folder / f".{os.getpid()}.a"
    _run(
        [
            zig,
            "build-lib",
            str(source),
            "-target",
            target,
            f"-mcpu={cpu}",
            "-OReleaseSmall",
            "-fstrip",
            "-ffunction-sections",
            f"-femit-bin={temporary}",
        ],
        folder,
        "building zig's compiler-rt",
    )
    os.replace(temporary, library)
    return library
