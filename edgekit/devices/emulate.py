"""``emulate``: run any bare-metal Cortex-M ELF and say what it executed, by function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekit.devices.base import Device, RunRequest, RunResult, Trace
from edgekit.devices.cores import Core, get_core
from edgekit.devices.elf import Firmware
from edgekit.errors import InputError

Backend = Literal["auto", "unicorn", "qemu"]


@dataclass(frozen=True)
class EmulateResult:
    """What one run of a firmware gave. Instructions are exact (kind ``simulated``), cycles come from
    the core's timing table (kind ``estimated``)."""

    firmware: str
    core: str
    exit_code: int
    stdout: str
    stderr: str
    wall_s: float
    trace: Trace

    def to_json(self) -> dict[str, Any]:
        """The document that ``edgekit emulate --json`` prints."""
        trace = self.trace
        return {
            "firmware": self.firmware,
            "core": self.core,
            "backend": trace.backend.partition(" ")[0],
            "kind": "simulated",
            "kinds": {"instructions": "simulated", "cycles": "estimated"},
            "exit_code": self.exit_code,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "wall_s": round(self.wall_s, 3),
            "total": {"instructions": trace.instructions, "cycles": trace.cycles},
            "functions": [
                {
                    "name": f.name,
                    "instructions": f.instructions,
                    "cycles": f.cycles if trace.timing else None,
                    "calls": f.calls,
                }
                for f in trace.functions
            ],
            "tools": {"emulator": trace.backend, "timing": trace.timing},
        }


def emulate(
    path: str | Path,
    core: str,
    *,
    backend: Backend | str = "auto",
    max_instructions: int = 20_000_000_000,
    timeout_s: float = 120.0,
    args: Sequence[str] = (),
    stdin: bytes = b"",
) -> EmulateResult:
    """Run the ELF file ``path`` on a virtual ``core`` until it ends through semihosting.

    core: ``cortex-m0plus|m3|m4|m7|m33|m55``. backend: ``unicorn``, ``qemu``, or ``auto``: Unicorn
    where it has the core, and QEMU when the firmware turns out to need exceptions or interrupts.
    args: the program's command line after its name. Raises InputError for a file that is no
    firmware, DeviceError for a fault, a hang (``max_instructions``, ``timeout_s``) with PC, function
    and registers, ToolchainError when the emulator is missing.
    """
    path = Path(path)
    chosen = get_core(core)
    firmware = Firmware.from_path(path)
    if backend not in ("auto", "unicorn", "qemu"):
        raise InputError(f"backend '{backend}' is not known; there are auto, unicorn and qemu")
    if max_instructions < 1 or not timeout_s > 0:
        raise InputError("the instruction budget and the time-out have to be positive")
    name = firmware.name if "," not in firmware.name else "firmware.elf"
    request = RunRequest(name, tuple(args), timeout_s, max_instructions, True, (), stdin)
    order = [backend] if backend != "auto" else ["unicorn" if chosen.unicorn_model else "qemu"]
    if order == ["unicorn"] and backend == "auto" and _qemu_can(chosen.machines):
        order.append("qemu")
    result = _run(path, chosen, order, request)
    assert result.trace is not None
    return EmulateResult(
        firmware.name,
        chosen.name,
        result.exit_code,
        result.stdout,
        result.stderr,
        result.wall_s,
        result.trace,
    )


def _qemu_can(machines: Sequence[object]) -> bool:
    from edgekit.devices.qemu import why_unusable

    return bool(machines) and why_unusable() is None


def _run(path: Path, core: Core, order: Sequence[str], request: RunRequest) -> RunResult:
    from edgekit.devices.registry import open_device
    from edgekit.devices.unicorn_ import NeedsInterrupts, UnicornDevice

    for backend in order:
        full = f"virtual:{core.name}@{backend}"
        # Firmware that enables SysTick's interrupt would wait for it until the budget is spent.
        patient = backend == order[-1]
        device: Device = (
            open_device(full) if patient else UnicornDevice(core, full, need_interrupts=True)
        )
        with device:
            device.push(path, request.program)
            try:
                return device.run(request)
            except NeedsInterrupts:
                if patient:
                    raise
    raise AssertionError("no backend was tried")
