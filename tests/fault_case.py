"""A TCP proxy that cuts, stalls or slows a connection at a chosen byte."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress


class Proxy:
    """Between a client and 127.0.0.1:``port``. cut_after: bytes, both ways together, after which every
    connection is torn down. stall_after: after which nothing passes, and nothing is closed. delay_s:
    before each piece of data. listen: the port, any free one if 0."""

    def __init__(
        self,
        port: int,
        *,
        cut_after: int | None = None,
        stall_after: int | None = None,
        delay_s: float = 0.0,
        listen: int = 0,
    ) -> None:
        self.cut_after, self.stall_after, self.delay_s = cut_after, stall_after, delay_s
        self.passed, self.fired = 0, False
        self._to = port
        self._guard = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", listen))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.fired and self.cut_after is not None:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._to), 10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._sockets += [client, server]
            for a, b in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(16384):
                if self.delay_s:
                    time.sleep(self.delay_s)
                with self._guard:
                    before, self.passed = self.passed, self.passed + len(data)
                if self.cut_after is not None and self.passed >= self.cut_after:
                    self.fired = True
                    sink.sendall(data[: max(0, self.cut_after - before)])
                    self._tear()
                    return
                if self.stall_after is not None and self.passed >= self.stall_after:
                    self.fired = True
                    return
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _tear(self) -> None:
        """As a pulled cable that comes back: a reset, not an orderly end."""
        for s in self._sockets:
            with suppress(OSError):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.shutdown(socket.SHUT_RDWR)
            s.close()

    def stop(self) -> None:
        self._listener.close()
        self._tear()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
