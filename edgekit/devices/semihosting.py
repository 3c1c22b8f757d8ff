"""Arm semihosting: how a bare-metal program reaches files, its console and its exit code.

Semihosting for AArch32 and AArch64, version 3.0 (Arm, "semihosting" in the ABI repository): the
operation number is in r0, its argument (usually the address of a block of 32-bit words) in r1, the
result goes to r0. Results that newlib's stdio looks at (``isatty``, counts of bytes *not*
transferred) are those that QEMU gives too, so that a program takes the same path on both.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol, cast

APPLICATION_EXIT = 0x20026  #: ADP_Stopped_ApplicationExit, the only reason that means success
FEATURES = b"SHFB\x03"  #: SYS_EXIT_EXTENDED, and ":tt" opened for append is stderr
TICKS_PER_SECOND = 100_000_000  #: of SYS_TICKFREQ and SYS_CLOCK: one tick an instruction
_MODES = ("rb", "r+b", "wb", "w+b", "ab", "a+b")
_MAX_TRANSFER = 256 << 20
_MAX_CONSOLE = 64 << 20


class Memory(Protocol):
    """Guest memory; both raise MemoryError for addresses that are not mapped."""

    def read(self, address: int, size: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...


class ConsoleFlood(Exception):
    """The program wrote more to its console than anybody would read."""


class ProgramExit(Exception):
    """The program ended by itself."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Console:
    """``:tt``: one of the three standard streams."""

    def __init__(self, source: io.BytesIO | None, sink: bytearray | None) -> None:
        self.source, self.sink = source, sink


def last_words(stdout: str) -> str:
    """For the message about a run that failed: what it printed last, as part of a sentence."""
    lines = [line.strip() for line in stdout.splitlines() if line.strip()]
    return f"it last printed '{lines[-1][-100:]}'; " if lines else ""


class Semihosting:
    """Serves one program. Files are confined to ``folder``; anything outside fails with EACCES.

    clock: instructions executed so far (time is virtual, so that runs repeat exactly).
    heap: (heap base, heap limit, stack base, stack limit) for SYS_HEAPINFO.
    stdout, stderr: what the program wrote.
    """

    def __init__(
        self,
        memory: Memory,
        folder: Path,
        command_line: str,
        stdin: bytes,
        clock: Callable[[], int],
        heap: tuple[int, int, int, int],
    ) -> None:
        self._memory = memory
        self._folder = folder.resolve()
        self._command_line = command_line.encode()
        self._stdin = io.BytesIO(stdin)
        self._clock = clock
        self._heap = heap
        self._files: dict[int, BinaryIO | _Console] = {}
        self._next = 1
        self._errno = 0
        self.stdout = bytearray()
        self.stderr = bytearray()
        self._ops: dict[int, Callable[[int], int]] = {
            0x01: self._open,
            0x02: self._close,
            0x03: self._writec,
            0x04: self._write0,
            0x05: self._write,
            0x06: self._read,
            0x07: self._readc,
            0x08: lambda arg: int(self._words(arg, 1)[0] >> 31),
            0x09: self._istty,
            0x0A: self._seek,
            0x0C: self._flen,
            0x0D: self._tmpnam,
            0x0E: self._remove,
            0x0F: self._rename,
            0x10: lambda arg: self._clock() * 100 // TICKS_PER_SECOND,
            0x11: lambda arg: int(time.time()),
            0x12: lambda arg: self._fail(errno.ENOSYS),
            0x13: lambda arg: self._errno,
            0x15: self._get_cmdline,
            0x16: self._heapinfo,
            0x18: self._exit,
            0x20: self._exit_extended,
            0x30: self._elapsed,
            0x31: lambda arg: TICKS_PER_SECOND,
        }

    def call(self, op: int, arg: int) -> int:
        """Do operation ``op``; returns the 32-bit result for r0 (-1 for unknown operations).

        Raises ProgramExit for SYS_EXIT, MemoryError for a bad pointer, ConsoleFlood.
        """
        handler = self._ops.get(op)
        if handler is None:
            return self._fail(errno.ENOSYS) & 0xFFFFFFFF
        try:
            return handler(arg) & 0xFFFFFFFF
        except OSError as error:
            return self._fail(error.errno or errno.EIO) & 0xFFFFFFFF

    def close(self) -> None:
        for file in self._files.values():
            if not isinstance(file, _Console):
                file.close()
        self._files.clear()

    def _fail(self, code: int) -> int:
        self._errno = code
        return -1

    def _words(self, address: int, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}I", self._memory.read(address, 4 * count))

    def _cstring(self, address: int) -> bytes:
        out = bytearray()
        while len(out) < 1 << 20:
            # Up to the next 256-byte boundary: never read across into an unmapped page.
            chunk = self._memory.read(address, 256 - address % 256)
            end = chunk.find(b"\0")
            if end >= 0:
                return bytes(out + chunk[:end])
            out += chunk
            address += len(chunk)
        raise MemoryError(f"string without an end at {address:#x}")

    def _path(self, address: int, length: int) -> Path:
        name = os.fsdecode(self._memory.read(address, min(length, 4096)))
        if not name or "\0" in name:
            raise OSError(errno.EINVAL, "bad name")
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder):
            raise OSError(errno.EACCES, "outside of the device's folder")
        return path

    def _open(self, arg: int) -> int:
        address, mode, length = self._words(arg, 3)
        if mode > 11:
            return self._fail(errno.EINVAL)
        name = self._memory.read(address, min(length, 4096))
        file: BinaryIO | _Console
        if name == b":tt":
            streams = (
                _Console(self._stdin, None),
                _Console(None, self.stdout),
                _Console(None, self.stderr),
            )
            file = streams[mode // 4]
        elif name == b":semihosting-features":
            if mode // 2 != 0:
                return self._fail(errno.EACCES)
            file = io.BytesIO(FEATURES)
        else:
            path = self._path(address, length)
            file = cast(BinaryIO, open(path, _MODES[mode // 2], buffering=0))  # noqa: SIM115
        handle, self._next = self._next, self._next + 1
        self._files[handle] = file
        return handle

    def _file(self, handle: int) -> BinaryIO | _Console:
        try:
            return self._files[handle]
        except KeyError:
            raise OSError(errno.EBADF, "no such handle") from None

    def _close(self, arg: int) -> int:
        (handle,) = self._words(arg, 1)
        file = self._file(handle)
        del self._files[handle]
        if not isinstance(file, _Console):
            file.close()
        return 0

    @staticmethod
    def _print(sink: bytearray, data: bytes) -> int:
        if len(sink) + len(data) > _MAX_CONSOLE:
            raise ConsoleFlood
        sink += data
        return 0

    def _writec(self, arg: int) -> int:
        return self._print(self.stdout, self._memory.read(arg, 1))

    def _write0(self, arg: int) -> int:
        return self._print(self.stdout, self._cstring(arg))

    def _write(self, arg: int) -> int:
        handle, address, length = self._words(arg, 3)
        file = self._file(handle)
        if length > _MAX_TRANSFER:
            return length
        data = self._memory.read(address, length)
        if isinstance(file, _Console):
            if file.sink is None:
                return length
            return self._print(file.sink, data)
        try:
            return length - (file.write(data) or 0)
        except OSError as error:
            self._errno = error.errno or errno.EIO
            return length

    def _read(self, arg: int) -> int:
        handle, address, length = self._words(arg, 3)
        file = self._file(handle)
        source = file.source if isinstance(file, _Console) else file
        if source is None:
            return length
        try:
            data = source.read(min(length, _MAX_TRANSFER))
        except OSError as error:
            self._errno = error.errno or errno.EIO
            return length
        self._memory.write(address, data)
        return length - len(data)

    def _readc(self, arg: int) -> int:
        char = self._stdin.read(1)
        return char[0] if char else -1

    def _istty(self, arg: int) -> int:
        self._file(self._words(arg, 1)[0])
        return 0  # the console is captured into a pipe, as on QEMU, and not a terminal

    def _seek(self, arg: int) -> int:
        handle, position = self._words(arg, 2)
        file = self._file(handle)
        if isinstance(file, _Console):
            return self._fail(errno.ESPIPE)
        file.seek(position)
        return 0

    def _flen(self, arg: int) -> int:
        file = self._file(self._words(arg, 1)[0])
        if isinstance(file, _Console):
            return 0
        here = file.tell()
        size = file.seek(0, os.SEEK_END)
        file.seek(here)
        return size

    def _tmpnam(self, arg: int) -> int:
        address, number, length = self._words(arg, 3)
        name = f"tmp{number & 0xFF:03d}".encode() + b"\0"
        if len(name) > length:
            return self._fail(errno.EINVAL)
        self._memory.write(address, name)
        return 0

    def _remove(self, arg: int) -> int:
        self._path(*self._words(arg, 2)).unlink()
        return 0

    def _rename(self, arg: int) -> int:
        old, old_length, new, new_length = self._words(arg, 4)
        self._path(old, old_length).rename(self._path(new, new_length))
        return 0

    def _get_cmdline(self, arg: int) -> int:
        address, length = self._words(arg, 2)
        text = self._command_line
        if len(text) + 1 > length:
            return self._fail(errno.E2BIG)
        self._memory.write(address, text + b"\0")
        self._memory.write(arg + 4, struct.pack("<I", len(text)))
        return 0

    def _heapinfo(self, arg: int) -> int:
        (block,) = self._words(arg, 1)
        self._memory.write(block, struct.pack("<4I", *self._heap))
        return 0

    def _exit(self, arg: int) -> int:
        raise ProgramExit(0 if arg == APPLICATION_EXIT else 1)

    def _exit_extended(self, arg: int) -> int:
        reason, code = self._words(arg, 2)
        raise ProgramExit(code & 0xFF if reason == APPLICATION_EXIT else 1)

    def _elapsed(self, arg: int) -> int:
        self._memory.write(arg, struct.pack("<Q", self._clock()))
        return 0
