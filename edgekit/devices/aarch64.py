"""``virtual:aarch64``: 64-bit Arm Linux programs on QEMU's user-mode emulation.

The CPU model is always pinned (``max`` has scalable vectors, with which programs have been seen to
compute nonsense). Kind ``simulated``: instructions are exact where
QEMU takes plug-ins (Debian's ``qemu-user`` does, the static build does not) and absent elsewhere;
wall-clock time says nothing about the core and is never reported as latency.

A program gets a private working folder, but it is an ordinary process: run only what you trust.
"""

from __future__ import annotations

import bisect
import functools
import io
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.devices import aarch64_python
from edgekit.devices.base import Count, DeviceInfo, RunRequest, RunResult, Trace
from edgekit.devices.sandbox import Sandbox
from edgekit.errors import DeviceError, InputError, ToolchainError

_PROGRAMS = ("qemu-aarch64", "qemu-aarch64-static")
_RECORD = struct.Struct("<4Q")  # a record of native/qemu_user_counts.c
_EXIT_BUDGET, _EXIT_INTERNAL = 71, 70
PLUGIN = "qemu_user_counts.c"

#: CPU models of QEMU that stand for real cores -> the ISA features that they execute.
CPUS: dict[str, tuple[str, ...]] = {
    "cortex-a53": ("neon",),
    "cortex-a72": ("neon",),
    "cortex-a76": ("neon", "dotprod", "fp16", "lse"),
    # No core: QEMU's largest model without scalable vectors stands for cores with i8mm.
    "max-nosve": ("neon", "dotprod", "fp16", "lse", "i8mm", "bf16"),
}
_MODELS = {"max-nosve": "max,sve=off"}  #: QEMU's own spelling, where it is another
DEFAULT_CPU = "cortex-a53"
#: Where Debian's cross packages put the C and C++ libraries.
_LIBRARIES = ("/usr/aarch64-linux-gnu",)
NAMES = ("aarch64", *CPUS)  #: what may follow ``virtual:``


def find_qemu() -> str | None:
    """The emulator's path, one that takes plug-ins first; None when there is none."""
    found = [p for p in map(shutil.which, _PROGRAMS) if p]
    return next((p for p in found if has_plugins(p)), found[0] if found else None)


def find_libraries() -> Path | None:
    """A folder with the dynamic linker and the C and C++ libraries of 64-bit Arm: $QEMU_LD_PREFIX,
    Debian's cross packages, or the root of :mod:`aarch64_python`; None when there is none."""
    given = os.environ.get("QEMU_LD_PREFIX")
    python = aarch64_python.find()
    for place in (given, *_LIBRARIES, python):
        if place and (Path(place) / "lib/ld-linux-aarch64.so.1").exists():
            return Path(place)
    return None


def why_unusable() -> str | None:
    """None when the emulator is there, else what is missing and how to get it."""
    if find_qemu():
        return None
    return "qemu-aarch64 is missing: apt-get install qemu-user (or qemu-user-static)"


@functools.cache
def has_plugins(path: str) -> bool:
    """Whether this QEMU loads TCG plug-ins (its help names the option)."""
    return "-plugin" in _output(path, "--help")


@functools.cache
def _version(path: str) -> str:
    found = re.search(r"version (\S+)", _output(path, "--version"))
    return f"qemu-user {found.group(1)}" if found else "qemu-user"


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


class Aarch64Device:
    """``virtual:aarch64`` (the CPU model of the target's file) and ``virtual:<CPU model>``."""

    def __init__(self, name: str, target: Any = None) -> None:
        """target: an :class:`edgekit.targets.schema.Target` whose ``virtual.cpu`` names the model."""
        missing = why_unusable()
        if missing:
            raise ToolchainError(f"{name} needs QEMU's user-mode emulator, and {missing}")
        self._name = name
        wanted = name.removeprefix("virtual:")
        if wanted == "aarch64":
            wanted = str((getattr(target, "virtual", None) or {}).get("cpu", DEFAULT_CPU))
        if wanted not in CPUS:
            raise InputError(f"CPU model '{wanted}' is not emulated; there are {', '.join(CPUS)}")
        self._cpu = wanted
        self._qemu = str(find_qemu())
        self._sandbox = Sandbox()

    @property
    def name(self) -> str:
        return self._name

    @property
    def counts(self) -> bool:
        """Whether ``run`` can count instructions."""
        return has_plugins(self._qemu)

    def info(self) -> DeviceInfo:
        return DeviceInfo(
            self._name,
            "qemu-user",
            "simulated",
            f"64-bit Arm Linux on a {self._cpu}, emulated by QEMU; its wall-clock is not latency",
            {
                "cpu": self._cpu,
                "features": list(CPUS[self._cpu]),
                "backend": _version(self._qemu),
                "counts_instructions": self.counts,
            },
        )

    def push(self, local: Path, remote: str) -> None:
        self._sandbox.push(local, remote)

    def push_bytes(self, data: bytes, remote: str) -> None:
        self._sandbox.push_bytes(data, remote)

    def pull(self, remote: str) -> bytes:
        return self._sandbox.pull(remote)

    def run(self, request: RunRequest) -> RunResult:
        """Run a pushed program, statically linked or for glibc (:func:`find_libraries`), or a ``.py``
        file where a Python for the device has been made (:mod:`edgekit.devices.aarch64_python`);
        scripts have no sections and functions. Sections need an address that is fixed when the
        program is linked. Without plug-ins a traced run has no trace."""
        path = self._sandbox.resolve(request.program)
        if not path.is_file():
            raise DeviceError(f"the device has no program '{request.program}'; push it first")
        program = path.read_bytes()
        environment = {"PATH": os.defpath, "HOME": str(self._sandbox.path), "LC_ALL": "C"}
        script = request.program.endswith(".py")
        interpreter: list[str] = []
        if script:
            root = aarch64_python.find()
            if root is None:
                raise DeviceError(
                    f"{self._name} has no Python to run '{request.program}' with; make it with "
                    f"'{aarch64_python.MAKE_IT}'"
                )
            interpreter, more = aarch64_python.command(root)
            environment |= more
            if request.sections:
                raise InputError("a script has no functions to begin sections at")
        elif _needs_libraries(program, request.program):
            interpreter = ["-L", str(find_libraries())]
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        with tempfile.TemporaryDirectory(prefix="edgekit-qemu-") as scratch:
            counts = Path(scratch) / "counts"
            traced = request.trace and self.counts
            symbols = Symbols(None if script else program)
            plugin = self._plugin(request, counts, symbols) if traced else []
            model = _MODELS.get(self._cpu, self._cpu)
            command = [self._qemu, "-cpu", model, *plugin, *interpreter, str(path)]
            command += request.args
            started = time.monotonic()
            try:
                done = subprocess.run(
                    command,
                    cwd=self._sandbox.path,
                    input=request.stdin,
                    capture_output=True,
                    timeout=request.timeout_s,
                    check=False,
                    env=environment,
                )
            except subprocess.TimeoutExpired:
                raise DeviceError(
                    f"'{request.program}' on {self._name} did not end within {request.timeout_s:g} s"
                ) from None
            except OSError as error:
                raise ToolchainError(f"{self._qemu} cannot be started ({error.strerror})") from None
            wall = time.monotonic() - started
            self._check(request, done)
            trace = self._trace(counts, symbols, request.sections) if traced else None
        return RunResult(
            done.returncode,
            done.stdout.decode("utf-8", "replace"),
            done.stderr.decode("utf-8", "replace"),
            wall,
            trace,
        )

    def _plugin(self, request: RunRequest, counts: Path, symbols: Symbols) -> list[str]:
        from edgekit.devices.native.build import build

        return plugin_options(request, str(build(PLUGIN)), str(counts), symbols)

    def _check(self, request: RunRequest, done: subprocess.CompletedProcess[bytes]) -> None:
        who = f"'{request.program}' on {self._name} ({self._cpu})"
        check_counting(request, who, done.returncode, done.stderr)
        if done.returncode == -signal.SIGILL:
            raise DeviceError(
                f"{who} was ended by an illegal instruction: it was compiled for ISA features that "
                f"this core does not have (it has {', '.join(CPUS[self._cpu])})"
            )
        if done.returncode < 0:
            raise DeviceError(f"{who} was ended by signal {-done.returncode}")

    def _trace(self, counts: Path, symbols: Symbols, sections: Sequence[str]) -> Trace:
        if not counts.is_file():
            raise ToolchainError(f"{self._qemu} wrote no instruction counts")
        return read_trace(counts.read_bytes(), symbols, sections, self._cpu, _version(self._qemu))

    def close(self) -> None:
        self._sandbox.close()

    def __enter__(self) -> Aarch64Device:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def plugin_options(request: RunRequest, plugin: str, counts: str, symbols: Symbols) -> list[str]:
    """QEMU's options that make ``plugin`` write its records to ``counts``."""
    options = [
        plugin,
        f"counts={counts}",
        f"budget={request.max_instructions}",
        *(f"section={symbols.address(s):#x}" for s in request.sections),
    ]
    return ["-plugin", ",".join(options)]


def check_counting(request: RunRequest, who: str, code: int, stderr: bytes) -> None:
    """Raise for an exit code that is the plug-in's."""
    errors = stderr.decode("utf-8", "replace")
    if request.trace and code == _EXIT_BUDGET:
        raise DeviceError(f"{who} did not end within {request.max_instructions:,} instructions")
    if request.trace and code == _EXIT_INTERNAL and "edgekit plugin" in errors:
        raise ToolchainError(f"counting instructions failed: {errors.strip().splitlines()[-1]}")


def read_trace(
    data: bytes, symbols: Symbols, sections: Sequence[str], cpu: str, backend: str
) -> Trace:
    """The plug-in's records as counts by section and function."""
    if len(data) % _RECORD.size:
        raise ToolchainError(f"the instruction counts of {backend} are incomplete")
    by_section = [0] * (len(sections) + 1)
    functions: dict[str, list[int]] = {}
    for address, size, section, executions in _RECORD.iter_unpack(data):
        if section >= len(by_section):
            raise ToolchainError(f"the instruction counts of {backend} are damaged")
        by_section[section] += size * executions
        name, is_entry = symbols.function_at(address)
        entry = functions.setdefault(name, [0, 0])
        entry[0] += size * executions
        entry[1] += executions if is_entry else 0
    ordered = sorted(functions.items(), key=lambda kv: (-kv[1][0], kv[0]))
    return Trace(
        core=cpu,
        backend=backend,
        instructions=sum(by_section),
        cycles=None,
        timing=None,
        functions=tuple(Count(n, c[0], 0, c[1]) for n, c in ordered),
        sections=tuple(Count(n, c, 0) for n, c in zip(["", *sections], by_section, strict=True)),
    )


def _needs_libraries(program: bytes, name: str) -> bool:
    """Whether a program needs a dynamic linker; refuses what QEMU would refuse in its own words:
    not ELF, another machine, libraries that are not there."""
    accepted = "a statically linked aarch64 Linux program, or one for glibc, is accepted"
    if program[:4] != b"\x7fELF" or len(program) < 64:
        raise InputError(f"'{name}' is not an ELF program; {accepted}")
    machine = int.from_bytes(program[18:20], "little")
    if program[4] != 2 or machine != 183:  # ELFCLASS64, EM_AARCH64
        raise InputError(f"'{name}' is an ELF program for machine {machine}; {accepted}")
    if b"/ld-musl-aarch64" in program[:4096]:
        raise InputError(f"'{name}' needs the dynamic linker of musl; {accepted}")
    if b"/ld-linux-aarch64.so" not in program[:4096]:
        return False
    if find_libraries() is None:
        raise ToolchainError(
            f"'{name}' needs the C and C++ libraries of 64-bit Arm: apt-get install "
            "libc6-arm64-cross libstdc++6-arm64-cross, or set QEMU_LD_PREFIX to where they are"
        )
    return True


class Symbols:
    """Functions of an aarch64 ELF file (of none: no functions)."""

    def __init__(self, program: bytes | None) -> None:
        from elftools.elf.elffile import ELFFile
        from elftools.elf.sections import SymbolTableSection

        self._address: dict[str, int] = {}
        found: dict[int, tuple[str, int]] = {}
        try:
            tables = [] if program is None else ELFFile(io.BytesIO(program)).iter_sections()
            for table in tables:
                if not isinstance(table, SymbolTableSection):
                    continue
                for s in table.iter_symbols():
                    if s["st_info"]["type"] == "STT_FUNC" and s["st_value"]:
                        start = int(s["st_value"])
                        self._address[s.name] = start
                        found.setdefault(start, (s.name, start + max(4, int(s["st_size"]))))
        except Exception as error:  # pyelftools raises many kinds on damaged files
            raise InputError(
                f"the program is a damaged ELF file ({type(error).__name__})"
            ) from None
        self._starts = sorted(found)
        self._functions = [found[a] for a in self._starts]

    def address(self, name: str) -> int:
        if name not in self._address:
            raise InputError(f"the program has no function '{name}' to begin a section at")
        return self._address[name]

    def function_at(self, address: int) -> tuple[str, bool]:
        """(name, whether the address is its first instruction)."""
        i = bisect.bisect_right(self._starts, address) - 1
        if i < 0 or address >= self._functions[i][1]:
            return "(no symbol)", False
        return self._functions[i][0], self._starts[i] == address
