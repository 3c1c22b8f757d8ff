"""The device contract: push, run, pull, info. A transport is one file beside this one.

A device runs *programs*: an executable for a Linux or Android device, a bare-metal ELF for a
(virtual) microcontroller. A program sees a small private folder on the device: ``push`` puts files
there, ``run`` starts a program in it, ``pull`` fetches results. Bare-metal programs reach the same
folder through Arm semihosting, so one runner protocol serves every device.

Every figure a device gives carries its kind: ``measured`` (a clock on real silicon), ``simulated``
(instructions executed under emulation), ``estimated`` (a model of the pipeline). They are never
mixed silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

Kind = Literal["measured", "simulated", "estimated"]


@dataclass(frozen=True)
class RunRequest:
    """One program run.

    program: name of a pushed file. args: command line after the program's name.
    timeout_s: wall-clock limit. max_instructions: budget of an emulated device (a hang becomes an
    error, not a wait). trace: count instructions per function and section (virtual devices only).
    sections: symbol names; each time one is entered, what follows counts for it until the next one
    is entered (before the first: section ``""``). cpus: run on these cores only (empty: on any).
    """

    program: str
    args: tuple[str, ...] = ()
    timeout_s: float = 120.0
    max_instructions: int = 20_000_000_000
    trace: bool = False
    sections: tuple[str, ...] = ()
    stdin: bytes = b""
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Count:
    """Executed instructions (exact) and estimated core cycles of a function or section."""

    name: str
    instructions: int
    cycles: int
    calls: int = 0


@dataclass(frozen=True)
class Trace:
    """What a virtual device counted in one run.

    instructions: exact, kind ``simulated``. cycles: from the core's timing table, kind
    ``estimated``; None where there is no table. functions: by ELF symbol, most instructions first.
    sections: in the order in which ``RunRequest.sections`` named them, ``""`` first.
    backend: emulator and version ("unicorn 2.1.4"). timing: name of the timing table used.
    """

    core: str
    backend: str
    instructions: int
    cycles: int | None
    timing: str | None
    functions: tuple[Count, ...] = ()
    sections: tuple[Count, ...] = ()


@dataclass(frozen=True)
class RunResult:
    exit_code: int
    stdout: str
    stderr: str
    wall_s: float
    trace: Trace | None = None


@dataclass(frozen=True)
class DeviceInfo:
    """What a device is. ``kind`` is that of its primary figure (instructions or time)."""

    name: str  #: as the user writes it: ``virtual:cortex-m4``, ``host``
    transport: str  #: ``unicorn``, ``qemu``, ``local``, later ``ssh``, ``adb``, ``serial``
    kind: Kind
    description: str
    details: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Device(Protocol):
    """A device that is ready to be used; also a context manager that cleans up after itself.

    All methods raise DeviceError with one clear sentence; ``run`` raises it for faults (PC,
    function, registers named), exhausted budgets and time-outs, and returns a RunResult for any
    program that ended by itself, whatever its exit code.
    """

    @property
    def name(self) -> str: ...

    def info(self) -> DeviceInfo: ...

    def push(self, local: Path, remote: str) -> None: ...

    def push_bytes(self, data: bytes, remote: str) -> None: ...

    def run(self, request: RunRequest) -> RunResult: ...

    def pull(self, remote: str) -> bytes: ...

    def close(self) -> None: ...

    def __enter__(self) -> Device: ...

    def __exit__(self, *exc: object) -> None: ...


@dataclass(frozen=True)
class Lap:
    """Time between two looks at a board's clock. ticks: of the clock. interrupts: of the clock itself
    in between, where it has any."""

    ticks: int
    interrupts: int = 0


@runtime_checkable
class ModelBoard(Protocol):
    """A device whose firmware holds one model: no programs, but inputs, inferences, outputs.

    Methods raise DeviceError; ``model_id`` says which artifact the firmware was built from.
    """

    @property
    def name(self) -> str: ...

    def info(self) -> DeviceInfo: ...

    # Methods, not properties: isinstance() of a protocol looks at every property, and asking a board
    # takes time and can fail.
    def model_id(self) -> str: ...

    def clock_hz(self) -> int: ...

    @property
    def can_flash(self) -> bool: ...

    def flash(self, elf: Path) -> None: ...

    def load(self, inputs: Sequence[bytes]) -> None: ...

    def infer(self) -> None: ...

    def output(self, index: int) -> bytes: ...

    def laps(self, n: int) -> tuple[list[Lap], Lap]:
        """``n`` inferences, and a lap around an empty function."""
        ...

    def ticks_to_instructions(self, lap: Lap, nothing: Lap) -> int | None:
        """Where the clock counts instructions: those of ``lap`` beyond ``nothing``."""
        ...

    def layer_laps(self) -> list[int]: ...

    def trace(self) -> list[tuple[int, int, bytes]]:
        """(layer, output, bytes), in order of execution."""
        ...

    def stack_bytes(self) -> int: ...


@runtime_checkable
class ModuleRunner(Protocol):
    """A device that runs a model compiled to a library of TVM's virtual machine, instead of programs.
    Methods raise DeviceError."""

    def load_library(self, library: Path) -> None:
        """Send the library and make it the one that is run."""
        ...

    def invoke(self, inputs: Sequence[Any]) -> list[Any]:
        """One sample: an array for each input; an array for each output."""
        ...

    def time_ns(self, inputs: Sequence[Any], runs: int) -> list[int]:
        """Wall-clock of each of ``runs`` inferences by the device's clock, after one to warm up."""
        ...


@dataclass(frozen=True)
class TransportInfo:
    """One line of ``edgekit devices``: a way to reach devices, and whether it works here."""

    name: str
    usable: bool
    why_not: str | None = None
    devices: Sequence[str] = ()
