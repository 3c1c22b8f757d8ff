"""A microcontroller on a serial line whose firmware holds one model (transport :mod:`.serial_`).

The firmware (``edgekit export --as mlperf-tiny``) speaks the MLPerf Tiny runner protocol, so the board
can be measured by the benchmark's own runner, and an extension that this module uses: inputs and
outputs as raw bytes with a CRC-32, laps in clock ticks, each line with a checksum. A line that is not
what was asked for is never a figure: the command is repeated after a resynchronization, and after
some tries the device is in error.

Kinds: ticks of a board's clock are *measured*. Where the firmware runs in an emulator whose clock
counts instructions (QEMU's ``-icount``), the device is told how long one lasts, and what it gives are
*simulated* instructions; no latency is claimed then.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgekit.devices.base import DeviceInfo, Kind, Lap
from edgekit.devices.lock import DeviceLock
from edgekit.devices.no_programs import NoPrograms
from edgekit.errors import DeviceError, DeviceUnavailable
from edgekit.text import printable

_T = TypeVar("_T")
_LINE = re.compile(rb"^(.*)\*([0-9a-f]{8})$")
_LIST = re.compile(r"^(x-[a-z-]+?|e-[a-z]+)-\[([0-9a-f,]*)\]$")
_MOST_LINE = 4096
_TRIES = 3
#: What the firmware may wait between two bytes of an input, in its own milliseconds.
_PATIENCE_MS = 2000
#: An emulator that counts instructions may run far faster than its own clock.
_PATIENCE_EMULATED_MS = 200_000


class _Garbled(Exception):
    """What came is not what was asked for; worth another try."""


@dataclass(frozen=True)
class SerialOptions:
    """baud: of the line. timeout_s: for one command; an inference that takes longer is an error.
    instruction_ns: of an emulator whose clock counts instructions, how long one lasts. flash: command
    that programs the board, ``{elf}`` in it is the firmware's path."""

    baud: int = 115200
    timeout_s: float = 60.0
    instruction_ns: float | None = None
    flash: tuple[str, ...] = ()


class SerialDevice(NoPrograms):
    """A board; see :class:`edgekit.devices.base.ModelBoard` for what it can do."""

    instead = (
        "runs the model in its firmware and takes no programs: artifacts of family mcu can be run, "
        "verified and profiled on it"
    )

    def __init__(
        self,
        name: str,
        port: str,
        options: SerialOptions | None = None,
        lock: DeviceLock | None = None,
    ) -> None:
        """lock: already taken; given back by :meth:`close`."""
        self.name, self._port = name, port
        self._options = options or SerialOptions()
        self._lock = lock
        self._serial: Any = None
        self._about: dict[str, list[list[int]]] = {}
        self._id = ""
        self._open()

    # -- Device ----------------------------------------------------------------------------------

    def info(self) -> DeviceInfo:
        kind: Kind = "measured" if self._options.instruction_ns is None else "simulated"
        self._learn()
        details = {
            "port": self._port,
            "baud": self._options.baud,
            "model_id": self._id,
            "clock_hz": self.clock_hz(),
        }
        what = "board" if kind == "measured" else "emulated board"
        return DeviceInfo(self.name, "serial", kind, f"{what} on {self._port}", details)

    def close(self) -> None:
        self._close_port()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _close_port(self) -> None:
        if self._serial is not None:
            self._serial.close()
            self._serial = None

    def __enter__(self) -> SerialDevice:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- ModelBoard ------------------------------------------------------------------------------

    def model_id(self) -> str:
        self._learn()
        return self._id

    def clock_hz(self) -> int:
        return self._one("x-clock")[0]

    def ticks_to_instructions(self, lap: Lap, nothing: Lap) -> int | None:
        """Instructions between two looks at the clock less those of ``nothing``, a lap around an empty
        function; None where the clock does not count them."""
        ns = self._options.instruction_ns
        if ns is None:
            return None
        per_tick = 1e9 / self.clock_hz() / ns
        handler = self._one("x-handler")[0]

        def count(x: Lap) -> int:
            return round(x.ticks * per_tick) - handler * x.interrupts

        return count(lap) - count(nothing)

    def load(self, inputs: Sequence[bytes]) -> None:
        """Fill the firmware's copy of the inputs; it stays until the next one."""
        self._learn()
        sizes = [size for _, size in self._about["x-input"]]
        if [len(x) for x in inputs] != sizes:
            raise DeviceError(
                f"{self.name}: its firmware takes inputs of {sizes} bytes, not "
                f"{[len(x) for x in inputs]}; flash the firmware of this artifact"
            )
        patience = _PATIENCE_MS if self._options.instruction_ns is None else _PATIENCE_EMULATED_MS
        for k, data in enumerate(inputs):
            command = f"x-load {k} {len(data)} {zlib.crc32(data)} {patience}"

            def send(data: bytes = data, command: str = command) -> None:
                self._send(command)
                self._expect("x-send")
                self._write(data)
                self._expect("x-loaded")
                self._expect("m-ready")

            self._try(send, "taking an input")

    def infer(self) -> None:
        self._ask("x-infer")

    def output(self, index: int) -> bytes:
        """Raw bytes of an output."""

        def get() -> bytes:
            self._send(f"x-out {index}")
            which, size, crc = self._list("x-data")
            if which != index:
                raise _Garbled
            data = self._raw(size, crc)
            self._expect("m-ready")
            return data

        return self._try(get, f"giving output {index}")

    def laps(self, n: int) -> tuple[list[Lap], Lap]:
        """``n`` timed inferences after one to warm up, and a lap around an empty function."""
        rows = self._rows(f"x-time {n}", "x-lap", n + 1)
        found = [Lap(ticks, interrupts) for ticks, interrupts in rows]
        return found[:-1], found[-1]

    def layer_laps(self) -> list[int]:
        """Clock ticks of each layer in one inference (each with the cost of looking at the clock)."""
        self._learn()
        layers = self._one("x-layers")[0]
        rows = self._rows("x-layer-time", "x-lap", layers)
        if [k for k, _ in rows] != list(range(layers)):
            raise DeviceError(f"{self.name} gave the layers of another model")
        return [ticks for _, ticks in rows]

    def trace(self) -> list[tuple[int, int, bytes]]:
        """(layer, output, bytes) of every layer's outputs in one inference, in order."""

        def get() -> list[tuple[int, int, bytes]]:
            self._send("x-trace")
            found: list[tuple[int, int, bytes]] = []
            while True:
                line = self._line()
                if line == b"m-ready":
                    return found
                layer, output, size, crc = self._parse(line, "x-layer", 4)
                found.append((layer, output, self._raw(size, crc)))

        return self._try(get, "giving its layers")

    def stack_bytes(self) -> int:
        return self._rows("x-stack", "x-stack", 1)[0][0]

    @property
    def can_flash(self) -> bool:
        return bool(self._options.flash)

    def flash(self, elf: Path) -> None:
        """Program the board with the configured command, then wait for the firmware."""
        if not self._options.flash:
            raise DeviceError(
                f"{self.name} has no flash command; name one in its entry of devices.yaml, such as "
                "[pyocd, flash, '{elf}']"
            )
        command = [word.replace("{elf}", str(elf)) for word in self._options.flash]
        self._close_port()
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=300, check=False, stdin=subprocess.DEVNULL
            )
        except FileNotFoundError:
            raise DeviceError(
                f"cannot flash {self.name}: there is no '{command[0]}' here"
            ) from None
        except subprocess.TimeoutExpired:
            raise DeviceError(f"flashing {self.name} took more than 300 s") from None
        if done.returncode:
            words = printable((done.stderr or done.stdout).decode("utf-8", "replace").strip())
            last = words.splitlines()[-1] if words else "it said nothing"
            raise DeviceError(f"flashing {self.name} failed ({command[0]}): {last[:200]}")
        self._about, self._id = {}, ""
        self._open()

    # -- the protocol ----------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            import serial
        except ImportError:
            raise DeviceError(
                f"{self.name} needs the Python package pyserial: pip install pyserial"
            ) from None
        try:
            self._serial = serial.Serial(
                self._port, self._options.baud, timeout=0.05, write_timeout=5, exclusive=True
            )
        except (OSError, ValueError) as e:
            text = str(e)
            if "exclusively" in text or "lock" in text.lower():
                why = "another program uses it"
            elif isinstance(e, OSError) and e.errno == 2:
                why = "there is no such port; is the board plugged in?"
            elif isinstance(e, OSError) and e.errno == 13:
                why = "this user may not; on Linux, join group dialout"
            else:
                why = printable(text)[:200]
            raise DeviceUnavailable(f"cannot open {self._port} for {self.name}: {why}") from None

    def _learn(self) -> None:
        """What the firmware says of itself, once."""
        if self._id:
            return

        def get() -> tuple[str, dict[str, list[list[int]]]]:
            self._send("x-info")
            about: dict[str, list[list[int]]] = {}
            identity = ""
            while True:
                line = self._line()
                if line == b"m-ready":
                    break
                text = self._checked(line)
                if text.startswith("x-id-["):
                    identity = text[6:-1]
                    continue
                found = _LIST.match(text)
                if found is None:
                    raise _Garbled
                about.setdefault(found[1], []).append([int(v) for v in found[2].split(",")])
            if not identity or not {"x-input", "x-output", "x-layers", "x-clock"} <= set(about):
                raise _Garbled
            return identity, about

        self._id, self._about = self._try(get, "saying what it is", resynchronize=True)

    def _one(self, key: str) -> list[int]:
        self._learn()
        return self._about[key][0]

    def _try(self, action: Callable[[], _T], what: str, resynchronize: bool = False) -> _T:
        """``action``, again after garbage; DeviceError when it does not come through."""
        if self._serial is None:
            self._open()
        self._deadline = time.monotonic() + self._options.timeout_s
        for attempt in range(_TRIES):
            try:
                if attempt or resynchronize:
                    self._resynchronize()
                return action()
            except _Garbled:
                continue
            except OSError as e:
                self._close_port()
                raise DeviceUnavailable(
                    f"{self.name} was unplugged or its port failed while {what} "
                    f"({printable(str(e))[:120]})"
                ) from None
        raise DeviceError(
            f"{self.name} answers with garbage while {what}; check baud rate "
            f"({self._options.baud}), wiring, and that its firmware is edgekit's"
        )

    def _resynchronize(self) -> None:
        """Ends a half-sent command and reads what is still on its way; then the board is waiting."""
        self._serial.reset_input_buffer()
        # A firmware in the middle of x-load swallows bytes until its patience ends, one that is just
        # starting loses them: said again and again, each time with a new mark, so that the answer to the
        # last one has nothing behind it.
        for k in itertools.count():
            mark = f"sync{k}-{time.monotonic_ns() % 1_000_000_007}"
            self._write(b"%" + mark.encode() + b"%")
            wanted = f"[Unknown command: {mark}]".encode()
            buffer, quiet = b"", time.monotonic() + 0.5
            while time.monotonic() < quiet:
                self._check_time("waking up")
                buffer = (buffer + self._read(4096))[-_MOST_LINE:]
                if wanted in buffer and buffer.endswith(b"m-ready\r\n"):
                    return

    def _check_time(self, what: str) -> None:
        if time.monotonic() > self._deadline:
            raise DeviceError(
                f"{self.name} did not answer within {self._options.timeout_s:g} s ({what}); is its "
                f"firmware edgekit's, and the baud rate {self._options.baud}?"
            )

    def _read(self, n: int) -> bytes:
        waiting = self._serial.in_waiting
        return bytes(self._serial.read(max(1, min(n, waiting))))

    def _write(self, data: bytes) -> None:
        # A microcontroller polls its UART: in pieces, so that a hung one is noticed.
        for at in range(0, len(data), 256):
            self._check_time("sending")
            self._serial.write(data[at : at + 256])

    def _send(self, command: str) -> None:
        self._write(command.encode("ascii") + b"%")

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            self._check_time("reading")
            line += bytes(self._serial.read(1)) if not self._serial.in_waiting else self._until()
            if len(line) > _MOST_LINE:
                raise _Garbled
        line = line.rstrip(b"\r\n")
        if line == b"m-init-done":
            raise DeviceError(f"{self.name} restarted in the middle of its work")
        if line.startswith(b"e-fault"):
            numbers = [*re.findall(rb"\d+", line), b"0", b"0"]
            raise DeviceError(
                f"{self.name} stopped with fault {int(numbers[0])} at pc {int(numbers[1]):#x}; reset it"
            )
        if line.startswith(b"e-["):
            raise _Garbled
        return line

    def _until(self) -> bytes:
        """Bytes that are there, up to the end of a line."""
        return bytes(self._serial.read_until(b"\n", self._serial.in_waiting))

    def _expect(self, text: str) -> None:
        if self._line() != text.encode():
            raise _Garbled

    def _checked(self, line: bytes) -> str:
        found = _LINE.match(line)
        if found is None or zlib.crc32(found[1]) != int(found[2], 16):
            raise _Garbled
        return found[1].decode("ascii")

    def _parse(self, line: bytes, prefix: str, n: int) -> list[int]:
        found = _LIST.match(self._checked(line))
        if found is None or found[1] != prefix:
            raise _Garbled
        try:
            values = [int(v) for v in found[2].split(",")]
        except ValueError:
            raise _Garbled from None
        if len(values) != n:
            raise _Garbled
        return values

    def _list(self, prefix: str, n: int = 3) -> list[int]:
        return self._parse(self._line(), prefix, n)

    def _rows(self, command: str, prefix: str, count: int) -> list[list[int]]:
        width = 1 if prefix == "x-stack" else 2

        def get() -> list[list[int]]:
            self._send(command)
            rows = [self._list(prefix, width) for _ in range(count)]
            self._expect("m-ready")
            return rows

        return self._try(get, f"answering {command}")

    def _ask(self, command: str) -> None:
        def get() -> None:
            self._send(command)
            self._expect("m-ready")

        self._try(get, f"answering {command}")

    def _raw(self, size: int, crc: int) -> bytes:
        if size > 64 << 20:
            raise _Garbled
        data = b""
        while len(data) < size + 2:
            self._check_time("reading bytes")
            data += bytes(
                self._serial.read(min(max(1, self._serial.in_waiting), size + 2 - len(data)))
            )
        if data[size:] != b"\r\n" or zlib.crc32(data[:size]) != crc:
            raise _Garbled
        return data[:size]
