"""A phone for the real ``adb`` client: speaks adbd's protocol over TCP and runs programs in a folder.

Protocol: AOSP ``packages/modules/adb/protocol.txt``, ``docs/dev/sync.md`` (file transfer) and
``shell_protocol.h`` (exit codes). No authentication, as a phone with ``ro.adb.secure=0``. ``folder`` is
the phone's ``/data/local/tmp``; a small ``bin`` beside it has Android's own commands.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import socket
import stat
import struct
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

TMP = "/data/local/tmp"
_VERSION, _MAX = 0x01000001, 256 * 1024
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)

PROPERTIES = {
    "ro.product.manufacturer": "Edgekit", "ro.product.model": "Test Phone", "ro.soc.manufacturer": "Acme",
    "ro.soc.model": "SoC 9000", "ro.board.platform": "acme9", "ro.build.version.release": "14",
    "ro.product.cpu.abi": "arm64-v8a", "ro.serialno": "EK0001",
}  # fmt: skip

BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  level: 83
  scale: 100
  voltage: 4123
  temperature: 291
"""


class Peer:
    """``stop`` ends it; ``unplug`` drops every connection as a pulled cable does."""

    def __init__(
        self, place: Path, *, features: str = "shell_v2,cmd", full: int | None = None
    ) -> None:
        """full: bytes a pushed file may have before the phone says that it is full."""
        self.folder = place / "tmp"
        self.folder.mkdir(parents=True)
        self._bin = place / "bin"
        self._bin.mkdir()
        self._tools()
        self.features, self.full = features, full
        self._connections: list[_Connection] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.serial = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _tools(self) -> None:
        cases = "".join(f"  {k}) echo {shlex.quote(v)};;\n" for k, v in PROPERTIES.items())
        tools = {
            "getprop": f'case "$1" in\n{cases}esac',
            "dumpsys": f"[ \"$1\" = battery ] && cat <<'E'\n{BATTERY}E",
        }
        for name, body in tools.items():
            (self._bin / name).write_text(f"#!/bin/sh\n{body}\n")
            (self._bin / name).chmod(0o755)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            connection = _Connection(self, client)
            self._connections.append(connection)
            threading.Thread(target=connection.serve, daemon=True).start()

    def unplug(self) -> None:
        for c in self._connections:
            c.drop()

    def stop(self) -> None:
        self._listener.close()
        self.unplug()

    def path(self, remote: str) -> Path:
        """The file behind a path of the phone; PermissionError outside of its folder."""
        real = Path(os.path.normpath(remote.replace(TMP, str(self.folder), 1)))
        if not real.is_relative_to(self.folder):
            raise PermissionError(13, "Permission denied")
        return real

    def start(self, command: str) -> subprocess.Popen[bytes]:
        path = f"{self._bin}:{os.environ.get('PATH', os.defpath)}"
        return subprocess.Popen(
            ["/bin/sh", "-c", command.replace(TMP, str(self.folder))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.folder,
            env={**os.environ, "PATH": path},
        )


class _Connection:
    """One adb server that is connected; its streams by our own number."""

    def __init__(self, peer: Peer, client: socket.socket) -> None:
        self.peer, self.socket = peer, client
        self._write = threading.Lock()
        self._streams: dict[int, _Stream] = {}
        self._next = 1

    def send(self, command: bytes, arg0: int, arg1: int, data: bytes = b"") -> None:
        number = struct.unpack("<I", command)[0]
        total = sum(data) & 0xFFFFFFFF
        head = struct.pack("<6I", number, arg0, arg1, len(data), total, number ^ 0xFFFFFFFF)
        with self._write:
            self.socket.sendall(head + data)

    def _read(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            part = self.socket.recv(n - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data

    def drop(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def serve(self) -> None:
        try:
            while True:
                command, arg0, arg1, length, _, _ = struct.unpack("<6I", self._read(24))
                data = self._read(length)
                self._handle(struct.pack("<I", command), arg0, arg1, data)
        except (OSError, ConnectionError, struct.error):
            pass
        finally:
            for s in list(self._streams.values()):
                s.closed()

    def _handle(self, command: bytes, arg0: int, arg1: int, data: bytes) -> None:
        if command == b"CNXN":
            banner = f"device::ro.product.name=ek;features={self.peer.features}".encode()
            self.send(b"CNXN", _VERSION, _MAX, banner)
        elif command == b"OPEN":
            service = data.rstrip(b"\0").decode()
            kind = service.partition(":")[0].split(",")[0]
            ours = self._next
            self._next += 1
            makers = {"shell": _Shell, "exec": _Shell, "sync": _Sync}
            if kind not in makers:
                self.send(b"CLSE", 0, arg0)
                return
            self.send(b"OKAY", ours, arg0)
            stream = makers[kind](self, ours, arg0, service)
            self._streams[ours] = stream
            threading.Thread(target=stream.work, daemon=True).start()
        elif command in (b"WRTE", b"OKAY", b"CLSE") and arg1 in self._streams:
            stream = self._streams[arg1]
            if command == b"WRTE":
                stream.received(data)
                self.send(b"OKAY", arg1, arg0)
            elif command == b"OKAY":
                stream.ready.release()
            else:
                stream.closed()
        elif command == b"WRTE":
            self.send(b"CLSE", 0, arg0)

    def forget(self, number: int) -> None:
        self._streams.pop(number, None)


class _Stream:
    """What OPEN made: data in by ``received``, out by ``write``, which waits for OKAY."""

    def __init__(self, connection: _Connection, ours: int, theirs: int, service: str) -> None:
        self.connection, self.ours, self.theirs, self.service = connection, ours, theirs, service
        self.ready = threading.Semaphore(1)
        self._in = b""
        self._more = threading.Condition()
        self._over = False

    def received(self, data: bytes) -> None:
        with self._more:
            self._in += data
            self._more.notify()

    def closed(self) -> None:
        with self._more:
            self._over = True
            self._more.notify()
        self.ready.release()

    def read(self, n: int) -> bytes:
        with self._more:
            while len(self._in) < n:
                if self._over:
                    raise ConnectionError
                self._more.wait()
            data, self._in = self._in[:n], self._in[n:]
        return data

    def write(self, data: bytes) -> None:
        for at in range(0, len(data), _MAX):
            self.ready.acquire()
            if self._over:
                raise ConnectionError
            self.connection.send(b"WRTE", self.ours, self.theirs, data[at : at + _MAX])

    def end(self) -> None:
        with suppress(OSError):
            self.connection.send(b"CLSE", self.ours, self.theirs)
        self.connection.forget(self.ours)

    def work(self) -> None:
        raise NotImplementedError


class _Shell(_Stream):
    """``shell,v2,...:`` in packets of kind, length, data; ``shell:`` and ``exec:`` as plain bytes."""

    def work(self) -> None:
        head, _, command = self.service.partition(":")
        self._v2 = "v2" in head.split(",")
        process = self.process = self.connection.peer.start(command)
        threading.Thread(target=self._feed, daemon=True).start()
        pipes = {process.stdout: _STDOUT, process.stderr: _STDERR}
        try:
            while pipes:
                for pipe in select.select(list(pipes), [], [])[0]:
                    data = os.read(pipe.fileno(), 65536)
                    if data:
                        self._say(pipes[pipe], data)
                    else:
                        del pipes[pipe]
            code = process.wait()
            self._say(_EXIT, bytes([code if code >= 0 else 128 - code]))
        except (OSError, ConnectionError):
            pass
        finally:
            with suppress(OSError):
                process.stdin.close()
            if process.poll() is None:  # its end of the connection is gone, as on a phone: hang up
                process.send_signal(signal.SIGHUP)
            process.stdout.close()
            process.stderr.close()
            self.end()

    def _say(self, kind: int, data: bytes) -> None:
        if self._v2:
            self.write(struct.pack("<BI", kind, len(data)) + data)
        elif kind != _EXIT:
            self.write(data)

    def _feed(self) -> None:
        stdin = self.process.stdin
        try:
            while True:
                kind, length = struct.unpack("<BI", self.read(5)) if self._v2 else (_STDIN, 1)
                data = self.read(length)
                if kind == _STDIN:
                    stdin.write(data)
                    stdin.flush()
                elif kind == _CLOSE_STDIN:
                    break
        except (OSError, ConnectionError, ValueError):
            pass
        with suppress(OSError, ValueError):
            stdin.close()


class _Sync(_Stream):
    """File transfer: STAT, SEND, RECV, QUIT."""

    def work(self) -> None:
        with suppress(OSError, ConnectionError):
            while True:
                request, length = struct.unpack("<4sI", self.read(8))
                if request == b"QUIT":
                    break
                path = self.read(length).decode("utf-8", "replace")
                try:
                    {b"STAT": self._stat, b"SEND": self._receive, b"RECV": self._transmit}[request](
                        path
                    )
                except OSError as e:
                    text = (e.strerror or "failed").encode()
                    self.write(struct.pack("<4sI", b"FAIL", len(text)) + text)
        self.end()

    def _stat(self, path: str) -> None:
        try:
            s = self.connection.peer.path(path).stat()
            values = (s.st_mode, s.st_size, int(s.st_mtime))
        except OSError:
            values = (0, 0, 0)
        self.write(struct.pack("<4s3I", b"STAT", *values))

    def _receive(self, what: str) -> None:
        path, _, mode = what.rpartition(",")
        data, failed = b"", None
        while True:
            kind, length = struct.unpack("<4sI", self.read(8))
            if kind == b"DONE":
                break
            data += self.read(length)
        try:
            full = self.connection.peer.full
            real = self.connection.peer.path(path)
            if full is not None and len(data) > full:
                real.write_bytes(data[:full])
                raise OSError(28, "No space left on device")
            real.write_bytes(data)
            real.chmod(stat.S_IMODE(int(mode)) & 0o777)
        except OSError as e:
            failed = e
        if failed is not None:
            raise failed
        self.write(struct.pack("<4sI", b"OKAY", 0))

    def _transmit(self, path: str) -> None:
        data = self.connection.peer.path(path).read_bytes()
        for at in range(0, len(data), 65536):
            part = data[at : at + 65536]
            self.write(struct.pack("<4sI", b"DATA", len(part)) + part)
        self.write(struct.pack("<4sI", b"DONE", 0))
