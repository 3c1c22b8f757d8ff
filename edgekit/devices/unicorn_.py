"""Virtual Cortex-M on the Unicorn engine: the default, exact and fast, for everything but Helium.

Unicorn executes instructions and nothing else: no interrupts, no fault handlers, no peripherals
beyond the private ones in ``peripherals.py`` (others read 0). Firmware that needs more runs on QEMU.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.devices import counting
from edgekit.devices.base import DeviceInfo, RunRequest, RunResult
from edgekit.devices.blocks import summarize
from edgekit.devices.cores import Core
from edgekit.devices.elf import Firmware
from edgekit.devices.peripherals import BASE as PPB_BASE
from edgekit.devices.peripherals import SIZE as PPB_SIZE
from edgekit.devices.peripherals import PrivatePeripherals, SystemReset
from edgekit.devices.sandbox import Sandbox
from edgekit.devices.semihosting import ConsoleFlood, ProgramExit, Semihosting, last_words
from edgekit.errors import DeviceError, EdgekitError, ToolchainError

_PAGE = 0x1000
_MB = 1 << 20
#: What every core has without asking: code and SRAM at Arm's addresses, and its heap.
_RAM = (0x20000000, 4 * _MB)
_CODE_SIZE = 4 * _MB
_FLASH_ALIAS = 0x08000000
_PERIPHERALS = (0x40000000, 0x20000000)
_STOP = 0xFFFFFFF0  # an address that is never executed
_REGISTERS = (*(f"r{i}" for i in range(13)), "sp", "lr", "pc", "xpsr")
_EXCEPTIONS = {
    1: "an undefined instruction",
    2: "a supervisor call (SVC)",
    3: "a prefetch abort",
    4: "a data abort (unaligned or forbidden access)",
    7: "a breakpoint (BKPT)",
    8: "an exception return without an exception",
    17: "a coprocessor that is not there or not enabled",
    18: "an instruction in Arm state (branch to an even address)",
    22: "an unaligned access",
    23: "a division by zero",
}
_BKPT, _SVC = 7, 2
_SEMIHOSTING = b"\xab\xbe"  # BKPT 0xAB


class NeedsInterrupts(DeviceError):
    """The firmware needs exceptions or interrupts; QEMU has them."""


@dataclass
class _Fault:
    """What a hook saw that ends the run; raised after Unicorn has returned."""

    text: str
    error: type[DeviceError] = DeviceError


class _Memory:
    def __init__(self, uc: Any) -> None:
        self._uc = uc

    def read(self, address: int, size: int) -> bytes:
        from unicorn import UcError

        try:
            return bytes(self._uc.mem_read(address, size))
        except UcError:
            raise MemoryError(f"{size} bytes at {address:#x}") from None

    def write(self, address: int, data: bytes) -> None:
        from unicorn import UcError

        try:
            self._uc.mem_write(address, data)
        except UcError:
            raise MemoryError(f"{len(data)} bytes at {address:#x}") from None


def backend_version() -> str:
    import unicorn

    return f"unicorn {unicorn.__version__}"


class Machine:
    """One core with memory, ready to run one program once.

    regions: further (address, bytes) of RAM, such as a board's memories.
    hook: ``c``, ``python`` or ``auto`` (C where it can be compiled).
    need_interrupts: give up with NeedsInterrupts as soon as firmware enables the SysTick interrupt,
    instead of running on without it.
    """

    def __init__(
        self,
        core: Core,
        firmware: Firmware,
        folder: Path,
        request: RunRequest,
        regions: Sequence[tuple[int, int]] = (),
        hook: str = "auto",
        need_interrupts: bool = False,
    ) -> None:
        self._need_interrupts = need_interrupts
        self.core, self.firmware, self._request = core, firmware, request
        self._fault: _Fault | None = None
        self._exit: int | None = None
        sections = [firmware.address_of(s) for s in request.sections]
        deadline = time.monotonic() + request.timeout_s
        self.counter = _make_counter(hook, sections, request.max_instructions, deadline)
        self._uc = self._open(regions)
        self._ppb = PrivatePeripherals(core.cpuid, lambda: self.counter.instructions)
        self.semihosting = Semihosting(
            _Memory(self._uc),
            folder,
            " ".join((request.program, *request.args)),
            request.stdin,
            lambda: self.counter.instructions,
            (*core.heap, core.heap[1], core.heap[0]),
        )
        self._hooks()

    def _open(self, regions: Sequence[tuple[int, int]]) -> Any:
        import unicorn
        from unicorn import arm_const

        # Not UC_MODE_MCLASS: it forces the Cortex-M33 whatever model is set.
        uc = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB)
        uc.ctl_set_cpu_model(getattr(arm_const, f"UC_CPU_ARM_{self.core.unicorn_model}"))
        segments = self.firmware.segments
        spans = [(s.address, s.address + s.size) for s in segments]
        spans += [(s.physical, s.physical + len(s.data)) for s in segments if s.data]
        aliased = (self.firmware.boot.vectors or 0) == _FLASH_ALIAS and all(
            low >= _FLASH_ALIAS for low, _ in spans
        )
        spans += [(a, a + n) for a, n in (_RAM, *regions)]
        spans.append(self.core.heap)
        code = (_FLASH_ALIAS if aliased else 0, _CODE_SIZE)
        spans.append((code[0], code[0] + code[1]))
        # Code is read-only, so that a store through a null pointer is found, unless the firmware
        # itself keeps data there (newlib's default linker script does).
        written = [s.address for s in segments if s.writable] + [a for a, _ in regions]
        for low, high in _merge(spans):
            rom = low < _FLASH_ALIAS + 0x8000000 and not any(low <= a < high for a in written)
            prot = unicorn.UC_PROT_ALL & ~(unicorn.UC_PROT_WRITE if rom else 0)
            if aliased and low == _FLASH_ALIAS:
                # Flash of STM32 and the like is seen at 0x0 as well.
                self._flash = ctypes.create_string_buffer(high - low)
                uc.mem_map_ptr(low, high - low, prot, self._flash)
                uc.mem_map_ptr(0, high - low, prot, self._flash)
            else:
                uc.mem_map(low, high - low, prot)
        for s in segments:
            if s.data:
                uc.mem_write(s.physical, s.data)
        return uc

    def _hooks(self) -> None:
        import unicorn

        uc = self._uc
        uc.mmio_map(PPB_BASE, PPB_SIZE, self._ppb_read, None, self._ppb_write, None)
        uc.mmio_map(*_PERIPHERALS, lambda *_: 0, None, lambda *_: None, None)
        uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        uc.hook_add(unicorn.UC_HOOK_MEM_UNMAPPED | unicorn.UC_HOOK_MEM_PROT, self._bad_access)
        self.counter.install(uc)

    def _stop(self, fault: _Fault) -> None:
        self._fault = self._fault or fault
        self._uc.emu_stop()

    def _ppb_read(self, _uc: Any, offset: int, size: int, _data: Any) -> int:
        return self._ppb.read(offset, size)

    def _ppb_write(self, _uc: Any, offset: int, size: int, value: int, _data: Any) -> None:
        try:
            self._ppb.write(offset, size, value)
        except SystemReset:
            self._stop(_Fault("asked for a system reset"))
        if self._need_interrupts and self._ppb.wants_interrupts:
            self._stop(_Fault("enabled the SysTick interrupt", NeedsInterrupts))

    def _bad_access(
        self, _uc: Any, access: int, address: int, size: int, _value: int, _data: Any
    ) -> bool:
        import unicorn

        address &= 0xFFFFFFFF
        what = {
            unicorn.UC_MEM_READ_UNMAPPED: f"read {size} bytes from unmapped address",
            unicorn.UC_MEM_WRITE_UNMAPPED: f"wrote {size} bytes to unmapped address",
            unicorn.UC_MEM_FETCH_UNMAPPED: "jumped to unmapped address",
            unicorn.UC_MEM_WRITE_PROT: f"wrote {size} bytes to read-only address",
        }.get(access, "made a forbidden access to address")
        self._fault = self._fault or _Fault(f"{what} {address:#010x}")
        return False

    def _interrupt(self, uc: Any, number: int, _data: Any) -> None:
        from unicorn import arm_const

        pc = uc.reg_read(arm_const.UC_ARM_REG_PC) & ~1
        if number != _BKPT or bytes(uc.mem_read(pc, 2)) != _SEMIHOSTING:
            name = _EXCEPTIONS.get(number, f"exception {number}")
            if pc >= _STOP:
                self._stop(_Fault("returned from its reset handler instead of ending"))
                return
            kind = NeedsInterrupts if number == _SVC else DeviceError
            self._stop(_Fault(f"raised {name}", kind))
            return
        op = uc.reg_read(arm_const.UC_ARM_REG_R0)
        arg = uc.reg_read(arm_const.UC_ARM_REG_R1)
        try:
            result = self.semihosting.call(op, arg)
        except ProgramExit as ended:
            self._exit = ended.code
            uc.emu_stop()
            return
        except MemoryError as error:
            self._stop(_Fault(f"passed semihosting call {op:#x} a bad pointer ({error})"))
            return
        except ConsoleFlood:
            self._stop(_Fault("wrote more than 64 MiB to its console"))
            return
        uc.reg_write(arm_const.UC_ARM_REG_R0, result)
        uc.reg_write(arm_const.UC_ARM_REG_PC, (pc + 2) | 1)

    def registers(self) -> Mapping[str, int]:
        from unicorn import arm_const

        return {
            name: self._uc.reg_read(getattr(arm_const, f"UC_ARM_REG_{name.upper()}"))
            for name in _REGISTERS
        }

    def run(self) -> int:
        """Run to the end; returns the exit code. Raises DeviceError for anything else."""
        from unicorn import UcError, arm_const

        boot = self.firmware.boot
        uc = self._uc
        uc.reg_write(arm_const.UC_ARM_REG_LR, 0xFFFFFFFF)
        uc.reg_write(arm_const.UC_ARM_REG_SP, self.core.heap[1] if boot.sp is None else boot.sp)
        try:
            uc.emu_start(boot.pc | 1, _STOP)
        except UcError as error:
            self._fault = self._fault or _Fault(self._explain(error))
        finally:
            self.semihosting.close()
        if self._exit is not None:
            return self._exit
        raise self._failure()

    def _explain(self, error: Any) -> str:
        import unicorn
        from unicorn import arm_const

        if error.errno != unicorn.UC_ERR_INSN_INVALID:
            return f"stopped the emulator ({error})"
        thumb = self._uc.reg_read(arm_const.UC_ARM_REG_XPSR) & 1 << 24
        return f"raised {_EXCEPTIONS[1 if thumb else 18]}"

    def _failure(self) -> DeviceError:
        registers = self.registers()
        pc = registers["pc"] & ~1
        stopped = self.counter.stopped
        hint = ""
        if self._ppb.wants_interrupts:
            hint = (
                "; it enabled the SysTick interrupt, which this emulator does not deliver: "
                f"try virtual:{self.core.name}@qemu"
            )
        if self._fault is not None:
            kind, text = self._fault.error, self._fault.text
            if kind is NeedsInterrupts:
                text += (
                    f", which this emulator does not deliver (virtual:{self.core.name}@qemu does)"
                )
            hint = ""
        elif stopped == counting.OUT_OF_BUDGET:
            kind = NeedsInterrupts if hint else DeviceError
            text = f"did not end within {self._request.max_instructions:,} instructions"
            pc = self.counter.last[0]
        elif stopped == counting.OUT_OF_TIME:
            kind = NeedsInterrupts if hint else DeviceError
            text = f"did not end within {self._request.timeout_s:g} s"
            pc = self.counter.last[0]
        elif stopped == counting.STUCK:
            kind = NeedsInterrupts if hint else DeviceError
            text = "hangs in a branch to itself"
            pc = self.counter.last[0]
        elif stopped == counting.FAILED:
            kind, text = DeviceError, "could not be counted (out of memory)"
        else:
            kind, hint = NeedsInterrupts, ""
            text = (
                "waits for an interrupt (WFI), which this emulator does not deliver "
                f"(virtual:{self.core.name}@qemu does)"
            )
        dump = ", ".join(f"{k}={v:#010x}" for k, v in registers.items())
        return kind(
            f"'{self.firmware.name}' on virtual:{self.core.name} {text}, "
            f"at PC {self.firmware.where(pc)}{hint}; "
            f"{last_words(self.semihosting.stdout.decode('utf-8', 'replace'))}registers: {dump}"
        )


def _merge(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Page-aligned, sorted, overlapping ones joined."""
    out: list[tuple[int, int]] = []
    for low, high in sorted((a & -_PAGE, -(-b // _PAGE) * _PAGE) for a, b in spans):
        if out and low < out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return out


def _make_counter(
    hook: str, sections: Sequence[int], budget: int, deadline: float
) -> counting.Counter:
    if hook != "python":
        try:
            from edgekit.devices.native.build import build

            library = ctypes.CDLL(str(build("blockhook.c")))
            return counting.NativeCounter(library, sections, budget, deadline)
        except (ToolchainError, OSError) as error:
            if hook == "c":
                raise ToolchainError(f"the native block hook cannot be used: {error}") from None
    return counting.PythonCounter(sections, budget, deadline)


class UnicornDevice:
    """``virtual:<core>[@unicorn]``. target: a Target whose memories are mapped as RAM as well."""

    def __init__(
        self,
        core: Core,
        name: str,
        target: Any = None,
        hook: str = "auto",
        need_interrupts: bool = False,
    ) -> None:
        try:
            import unicorn  # noqa: F401
        except ImportError:
            raise ToolchainError(
                "the Python package unicorn is missing; install it with 'pip install unicorn'"
            ) from None
        self._core, self._name, self._hook = core, name, hook
        self._need_interrupts = need_interrupts
        self._sandbox = Sandbox()
        self._regions = [
            (m.base, m.size)
            for m in getattr(target, "memories", ())
            if m.base is not None and m.role != "flash"
        ]

    @property
    def name(self) -> str:
        return self._name

    def info(self) -> DeviceInfo:
        return DeviceInfo(
            self._name,
            "unicorn",
            "simulated",
            f"{self._core.description}, emulated by Unicorn",
            {"core": self._core.name, "backend": backend_version(), "timing": self._core.timing},
        )

    def push(self, local: Path, remote: str) -> None:
        self._sandbox.push(local, remote)

    def push_bytes(self, data: bytes, remote: str) -> None:
        self._sandbox.push_bytes(data, remote)

    def pull(self, remote: str) -> bytes:
        return self._sandbox.pull(remote)

    def run(self, request: RunRequest) -> RunResult:
        path = self._sandbox.resolve(request.program)
        if not path.is_file():
            raise DeviceError(f"the device has no program '{request.program}'; push it first")
        firmware = Firmware.from_path(path)
        started = time.monotonic()
        try:
            machine = Machine(
                self._core,
                firmware,
                self._sandbox.path,
                request,
                self._regions,
                self._hook,
                self._need_interrupts,
            )
            code = machine.run()
        except EdgekitError:
            raise
        except Exception as error:
            # Unicorn reports its own limits (overlapping or too large segments) with errors of its
            # own; they are the device's failure, not a crash of ours.
            raise DeviceError(f"'{request.program}' could not be emulated: {error}") from error
        trace = None
        if request.trace:
            trace = summarize(
                machine.counter.blocks(),
                firmware,
                self._core.name,
                self._core.timing,
                backend_version(),
                request.sections,
            )
        return RunResult(
            code,
            machine.semihosting.stdout.decode("utf-8", "replace"),
            machine.semihosting.stderr.decode("utf-8", "replace"),
            time.monotonic() - started,
            trace,
        )

    def close(self) -> None:
        self._sandbox.close()

    def __enter__(self) -> UnicornDevice:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
