"""Virtual Cortex-M on qemu-system-arm: for the Cortex-M55 (Helium), and for firmware with
interrupts and fault handlers.

Each run is a process of its own with the device's folder as working folder, time bound to executed
instructions (``-icount shift=6``: 64 ns of virtual time an instruction, so runs repeat exactly) and
a TCG plugin that counts blocks. QEMU serves semihosting itself; unlike on Unicorn a program can
thus open files of this machine outside of the folder: run only firmware that you trust.
"""

from __future__ import annotations

import functools
import json
import mmap
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from edgekit.devices.base import DeviceInfo, RunRequest, RunResult
from edgekit.devices.blocks import Block, summarize
from edgekit.devices.cores import Core, QemuMachine
from edgekit.devices.elf import Firmware
from edgekit.devices.sandbox import Sandbox
from edgekit.devices.semihosting import last_words
from edgekit.errors import DeviceError, InputError, ToolchainError

_PROGRAM = "qemu-system-arm"
_STATUS = struct.Struct("<7Q")  # struct ek_status of native/qemu_blocks.c
_BLOCK = struct.Struct("<QQIIII")  # struct ek_block
_OUT_OF_BUDGET, _STUCK = 1, 2
_POLL_S = 0.05
_MAX_CONSOLE = 64 << 20
_MAX_SOCKET_PATH = 100  # of a Unix socket; without it an error lacks the registers
#: HardFault, MemManage, BusFault, UsageFault, SecureFault (Armv8-M ARM, B3.30).
_FAULT_VECTORS = (3, 4, 5, 6, 7)


def why_unusable() -> str | None:
    """None when qemu-system-arm can be used, else what is missing and how to get it."""
    if shutil.which(_PROGRAM):
        return None
    return f"{_PROGRAM} is missing: apt-get install {_PROGRAM}"


@functools.cache
def _version(path: str) -> str:
    done = subprocess.run(
        [path, "--version"], capture_output=True, text=True, timeout=20, check=False
    )
    found = re.search(r"version (\S+)", done.stdout)
    return f"qemu {found.group(1)}" if found else "qemu"


class _Status:
    """The plugin's live counters, in a file that both processes map."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_STATUS.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _STATUS.size)

    def read(self) -> tuple[int, ...]:
        """(begun, before start, stopped, block address, fault PC + 1, fault handler, ended)."""
        return _STATUS.unpack(self._map[:])

    def close(self) -> None:
        self._map.close()


class _Drain(threading.Thread):
    """Reads a pipe to its end, so that the child never blocks on it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._pipe, self._data = pipe, bytearray()
        self.start()

    def run(self) -> None:
        # What is more than anybody would read is thrown away.
        while chunk := self._pipe.read1(1 << 16):  # type: ignore[attr-defined]
            self._data += chunk[: max(0, _MAX_CONSOLE - len(self._data))]

    def text(self) -> str:
        self.join(5)
        return bytes(self._data).decode("utf-8", "replace")


def _registers(socket_path: Path) -> str:
    """``info registers`` of a running QEMU, as ``r0=..., ...``; empty when it does not answer."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(3)
            sock.connect(str(socket_path))
            stream = sock.makefile("rw")
            stream.readline()
            info: dict[str, Any] = {
                "execute": "human-monitor-command",
                "arguments": {"command-line": "info registers"},
            }
            for command in ({"execute": "qmp_capabilities"}, {"execute": "stop"}, info):
                stream.write(json.dumps(command) + "\n")
                stream.flush()
                reply: dict[str, Any] = {}
                while "return" not in reply and "error" not in reply:
                    reply = json.loads(stream.readline())
        return _format_registers(str(reply.get("return", "")))
    except (OSError, ValueError):
        return ""


def _format_registers(dump: str) -> str:
    """QEMU's register dump in the form that the other backend uses."""
    names = {"R13": "sp", "R14": "lr", "R15": "pc"}
    out = []
    for name, value in re.findall(r"\b(R\d\d|XPSR)=([0-9a-f]{8})\b", dump):
        out.append(f"{names.get(name, name.lower().replace('r0', 'r'))}=0x{value}")
    return ", ".join(out)


def _boot_blob(entry: int, stack: int) -> bytes:
    """A vector table and a stub for firmware that has none: enables the FPU, jumps to ``entry``.

    ldr r0, =CPACR; ldr r1, [r0]; orr r1, #0xF00000; str r1, [r0]; dsb; isb; ldr r0, =entry|1; bx r0
    """
    stub = bytes.fromhex("0548016841f470010160bff34f8fbff36f8f02480047")
    stub += bytes(-len(stub) % 4)
    vectors = struct.pack("<16I", stack, 0x41, *([0] * 14))
    return vectors + stub + struct.pack("<II", 0xE000ED88, entry | 1)


class QemuDevice:
    """``virtual:<core>@qemu``."""

    def __init__(self, core: Core, name: str) -> None:
        missing = why_unusable()
        if missing:
            raise ToolchainError(f"{name} needs QEMU, and {missing}")
        self._core, self._name = core, name
        self._qemu = str(shutil.which(_PROGRAM))
        self._sandbox = Sandbox()

    @property
    def name(self) -> str:
        return self._name

    def info(self) -> DeviceInfo:
        machine = self._core.machines[0]
        details = {
            "core": self._core.name,
            "backend": _version(self._qemu),
            "machine": machine.name,
            "timing": self._core.timing,
        }
        if machine.note:
            details["note"] = machine.note
        return DeviceInfo(
            self._name,
            "qemu",
            "simulated",
            f"{self._core.description}, emulated by QEMU ({machine.name})",
            details,
        )

    def push(self, local: Path, remote: str) -> None:
        self._sandbox.push(local, remote)

    def push_bytes(self, data: bytes, remote: str) -> None:
        self._sandbox.push_bytes(data, remote)

    def pull(self, remote: str) -> bytes:
        return self._sandbox.pull(remote)

    def _machine(self, firmware: Firmware) -> QemuMachine:
        for machine in self._core.machines:
            if all(
                any(low <= s.address and s.address + s.size <= low + n for low, n in machine.ram)
                for s in firmware.segments
            ):
                return machine
        spans = ", ".join(f"{s.address:#x}-{s.address + s.size:#x}" for s in firmware.segments)
        maps = "; ".join(
            f"{m.name}: " + ", ".join(f"{a:#x}-{a + n:#x}" for a, n in m.ram)
            for m in self._core.machines
        )
        raise InputError(
            f"'{firmware.name}' occupies {spans}, which no QEMU machine with a {self._core.name} "
            f"has as memory ({maps})"
        )

    def run(self, request: RunRequest) -> RunResult:
        path = self._sandbox.resolve(request.program)
        if not path.is_file():
            raise DeviceError(f"the device has no program '{request.program}'; push it first")
        firmware = Firmware.from_path(path)
        with tempfile.TemporaryDirectory(prefix="edgekit-qemu-") as scratch:
            return _Run(self, self._core, firmware, request, Path(scratch)).result()

    def close(self) -> None:
        self._sandbox.close()

    def __enter__(self) -> QemuDevice:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Run:
    """One QEMU process."""

    def __init__(
        self,
        device: QemuDevice,
        core: Core,
        firmware: Firmware,
        request: RunRequest,
        scratch: Path,
    ) -> None:
        self._device, self._core, self._firmware = device, core, firmware
        self._request, self._scratch = request, scratch
        self._machine = device._machine(firmware)
        self._status: _Status | None = None
        self._qmp = scratch / "qmp"
        self._blocks = scratch / "blocks"

    def _command(self) -> list[str]:
        request, firmware = self._request, self._firmware
        args = "".join(f",arg={a.replace(',', ',,')}" for a in (request.program, *request.args))
        program = self._device._sandbox.resolve(request.program)
        command = [
            self._device._qemu,
            *("-M", self._machine.name, "-nographic", "-monitor", "none"),
            *("-serial", "none", "-net", "none", "-no-reboot"),
            *("-chardev", "file,id=console,path=/dev/stdout"),
            *("-semihosting-config", f"enable=on,target=native,chardev=console{args}"),
            *("-icount", "shift=6,sleep=off"),
            *("-kernel", str(program)),
        ]
        boot = firmware.boot
        if boot.vectors is None:
            blob = self._scratch / "boot.bin"
            top = max(low + n for low, n in self._machine.ram)
            blob.write_bytes(_boot_blob(boot.pc, top))
            if any(s.address < blob.stat().st_size for s in firmware.segments):
                raise InputError(
                    f"'{firmware.name}' has no vector table, and its code leaves no room for one "
                    "at address 0"
                )
            command += ["-device", f"loader,file={blob},addr=0,force-raw=on"]
        if len(str(self._qmp)) < _MAX_SOCKET_PATH:
            command += ["-qmp", f"unix:{self._qmp},server=on,wait=off"]
        try:
            command += ["-plugin", self._plugin()]
        except ToolchainError:
            if request.trace:
                raise
        return command

    def _plugin(self) -> str:
        from edgekit.devices.native.build import build

        library = build("qemu_blocks.c")
        status = self._scratch / "status"
        self._status = _Status(status)
        firmware, boot = self._firmware, self._firmware.boot
        options = [
            str(library),
            f"status={status}",
            f"blocks={self._blocks}",
            f"budget={self._request.max_instructions}",
            f"start={boot.pc:#x}",
        ]
        options += [f"section={firmware.address_of(s):#x}" for s in self._request.sections]
        if boot.vectors is not None:
            for number in _FAULT_VECTORS:
                word = firmware.read_image(boot.vectors + 4 * number, 4)
                handler = int.from_bytes(word or b"", "little") & ~1
                # An empty vector (0) leads to a lock-up, which then has the fault's PC as well.
                if word and (handler == 0 or firmware.function_at(handler)):
                    options.append(f"fault={handler:#x}")
        return ",".join(options)

    def result(self) -> RunResult:
        request = self._request
        command = self._command()
        stdin = self._scratch / "stdin"
        stdin.write_bytes(request.stdin)
        started = time.monotonic()
        deadline = started + request.timeout_s
        with stdin.open("rb") as source:
            process = subprocess.Popen(
                command,
                cwd=self._device._sandbox.path,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        assert process.stdout is not None and process.stderr is not None
        stdout, stderr = _Drain(process.stdout), _Drain(process.stderr)
        why = ""
        try:
            while process.poll() is None and not why:
                try:
                    process.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    why = self._overdue(deadline)
            registers = _registers(self._qmp) if why else ""
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        wall = time.monotonic() - started
        why = why or self._stopped()
        if why:
            raise self._failure(why, registers, stdout.text())
        errors = "".join(
            line
            for line in stderr.text().splitlines(keepends=True)
            if not line.startswith(f"{_PROGRAM}: warning:")
        )
        if process.returncode < 0 or "qemu: fatal" in errors or "Lockup" in errors:
            raise self._failure(self._lockup(errors), _format_registers(errors), stdout.text())
        trace = None
        if self._status is not None:
            if not self._blocks.is_file():
                raise ToolchainError(f"{_PROGRAM} failed: {_first_line(errors)}")
            if not self._status.read()[6]:
                raise self._failure("asked for a system reset", "", stdout.text())
            if request.trace:
                trace = summarize(
                    self._read_blocks(),
                    self._firmware,
                    self._core.name,
                    self._core.timing,
                    _version(self._device._qemu),
                    request.sections,
                )
            self._status.close()
        return RunResult(process.returncode, stdout.text(), errors, wall, trace)

    def _overdue(self, deadline: float) -> str:
        if why := self._stopped():
            return why
        if time.monotonic() > deadline:
            return f"did not end within {self._request.timeout_s:g} s"
        return ""

    def _stopped(self) -> str:
        """Why the plugin stopped counting, empty when it did not."""
        stopped = self._status.read()[2] if self._status else 0
        if stopped == _OUT_OF_BUDGET:
            return f"did not end within {self._request.max_instructions:,} instructions"
        return "hangs in a branch to itself" if stopped == _STUCK else ""

    def _lockup(self, errors: str) -> str:
        line = next((x for x in errors.splitlines() if "Lockup" in x or "fatal" in x), "")
        detail = line.removeprefix("qemu: fatal: ").strip() or "QEMU was aborted"
        return f"locked up: a fault that no handler of its own could take ({detail})"

    def _failure(self, why: str, registers: str, printed: str) -> DeviceError:
        where = ""
        if self._status is not None:
            address, fault, handler = self._status.read()[3:6]
            where = f", at PC {self._firmware.where(address)}"
            if fault:
                function = self._firmware.function_at(handler)
                name = function.name if function else f"the empty vector {handler:#x}"
                why = (
                    f"took a fault at PC {self._firmware.where(fault - 1)} and entered {name}, "
                    f"then {why}"
                )
        dump = f"; {last_words(printed)}registers: {registers}" if registers else ""
        return DeviceError(f"'{self._firmware.name}' on {self._device.name} {why}{where}{dump}")

    def _read_blocks(self) -> list[Block]:
        data = self._blocks.read_bytes()
        count, code_bytes = struct.unpack_from("<II", data)
        offset = 8 + count * _BLOCK.size
        code = data[offset : offset + code_bytes]
        blocks = []
        for record in _BLOCK.iter_unpack(data[8:offset]):
            executions, taken, address, size, section, at = record
            blocks.append(Block(section, address, code[at : at + size], executions, taken))
        return sorted(blocks, key=lambda b: (b.section, b.start, len(b.code)))


def _first_line(text: str) -> str:
    lines = [x for x in text.strip().splitlines() if x.strip()]
    return lines[0] if lines else "it gave no reason"
