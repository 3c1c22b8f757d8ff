"""Transport ``rpc``: devices behind a TVM RPC server or tracker, for engine ``tvm``.

    devices:
      pi4:
        transport: rpc
        host: 192.168.1.20        # of the server (python3 -m tvm.exec.rpc_server)
        port: 9090
      farm-pi:
        transport: rpc
        tracker: farm.local:9190  # of the tracker, which lends a device of that key
        key: rpi4
        session_timeout: 60

A session is a process of its own (:mod:`.rpc_worker`) with a time limit for each answer: a device that
hangs, reboots or is unplugged is an error after that time, and the next session works. What a session
uploads lies in a temporary folder of the server, which removes it with the session. TVM's protocol is
neither encrypted nor authenticated: only on networks that one trusts.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.devices.base import Device, DeviceInfo, Kind
from edgekit.devices.entries import DeviceEntry
from edgekit.devices.lock import DeviceLock
from edgekit.devices.no_programs import NoPrograms
from edgekit.devices.rpc_worker import read_frame, write_frame
from edgekit.devices.transport import PROBE_S, Probe
from edgekit.errors import DeviceError, DeviceUnavailable, InputError
from edgekit.text import printable

if TYPE_CHECKING:
    import numpy as np

#: Starting a process that imports TVM, on a slow or busy machine.
_START_S = 120.0
_TIMEOUT_S = 120.0
_PORTS = (1, 65535)
_HOST = re.compile(r"[A-Za-z0-9_\[:][A-Za-z0-9_.:%\[\]-]{0,254}")


class RpcDevice(NoPrograms):
    """See :class:`edgekit.devices.base.ModuleRunner`."""

    instead = (
        "is a TVM RPC server and runs no programs: compile with --engine tvm, or reach the device "
        "by ssh or adb"
    )

    def __init__(self, entry: DeviceEntry, lock: DeviceLock | None) -> None:
        """lock: already taken; given back by :meth:`close`."""
        self.entry, self.name = entry, entry.name
        self._lock = lock
        self._where, self._connect = _address(entry)
        self._timeout_s = entry.seconds("timeout_s", 0.0) or _TIMEOUT_S
        self._kind: Kind = (
            "simulated" if entry.text("kind", "measured") == "simulated" else "measured"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._loads = 0
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    # -- Device ----------------------------------------------------------------------------------

    def info(self) -> DeviceInfo:
        details = {"server": self._where, "key": self._connect["key"]}
        return DeviceInfo(self.name, "rpc", self._kind, f"TVM RPC, {self._where}", details)

    def close(self) -> None:
        self._end()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- ModuleRunner ----------------------------------------------------------------------------

    def load_library(self, library: Path) -> None:
        # A name of its own each time: the server still has the one before mapped, and dies when the
        # file changes under it.
        self._loads += 1
        name = f"model-{self._loads}.so"
        self._ask({"verb": "load", "path": str(library.resolve()), "name": name}, what="loading")

    def invoke(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        import numpy as np

        answer, blobs = self._ask(*_packed("invoke", inputs), what="an inference")
        return [
            np.frombuffer(b, t["dtype"]).reshape(t["shape"])
            for b, t in zip(blobs, answer["outputs"], strict=True)
        ]

    def time_ns(self, inputs: Sequence[np.ndarray], runs: int) -> list[int]:
        request, blobs = _packed("time", inputs)
        answer, _ = self._ask({**request, "runs": runs}, blobs, what="timing")
        found = [round(1e9 * s) for s in answer["seconds"]]
        if len(found) != runs or min(found, default=0) < 1:
            raise DeviceError(f"{self.name} timed {len(found)} of {runs} inferences")
        return found

    # -- the session -----------------------------------------------------------------------------

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgekit.devices.rpc_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._ask({"verb": "connect", **self._connect}, what="connecting", timeout_s=_START_S)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait(20)

    def _ask(
        self,
        request: dict[str, Any],
        blobs: Sequence[bytes] = (),
        *,
        what: str,
        timeout_s: float | None = None,
    ) -> tuple[dict[str, Any], list[bytes]]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise DeviceUnavailable(
                f"the session with {self.name} has ended; open the device again"
            )
        limit = timeout_s or self._timeout_s
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        watch = threading.Timer(limit, stop)
        watch.start()
        try:
            write_frame(process.stdin, request, blobs)
            frame = read_frame(process.stdout)
        except (OSError, ValueError):
            frame = None
        finally:
            watch.cancel()
        if frame is None:
            self._end()
            if late.is_set():
                raise DeviceUnavailable(
                    f"{self.name} ({self._where}) did not answer within {limit:g} s ({what}); it may be "
                    "hung, rebooting, or lent to somebody else"
                )
            raise DeviceUnavailable(f"the session with {self.name} ended while {what}")
        document, results = frame
        if "ok" not in document:
            self._end()
            raise DeviceUnavailable(
                f"{self.name} ({self._where}) failed while {what}: {_reason(str(document.get('error')))}"
            )
        return document["ok"], results


def _packed(verb: str, inputs: Sequence[np.ndarray]) -> tuple[dict[str, Any], list[bytes]]:
    import numpy as np

    arrays = [np.ascontiguousarray(x) for x in inputs]
    described = [{"dtype": str(a.dtype), "shape": list(a.shape)} for a in arrays]
    return {"verb": verb, "inputs": described}, [a.tobytes() for a in arrays]


def _reason(text: str) -> str:
    """The last line of what TVM says, without its stack."""
    lines = [x.strip() for x in printable(text).replace("\\n", "\n").splitlines() if x.strip()]
    useful = [x for x in lines if not x.startswith(("File ", "Stack trace", "Traceback", "["))]
    return (useful[-1] if useful else "it gave no reason")[:300]


def _address(entry: DeviceEntry) -> tuple[str, dict[str, Any]]:
    """What the session connects to, in words and for the worker."""
    tracker, host = entry.text("tracker"), entry.text("host")
    if bool(tracker) == bool(host):
        raise InputError(
            f"device '{entry.name}' in {entry.source} needs either 'host' (a server) or 'tracker' "
            "(host:port, with 'key')"
        )
    field, port = ("tracker", 0) if tracker else ("host", entry.whole("port", 9090, *_PORTS))
    if tracker:
        host, colon, digits = tracker.rpartition(":")
        if not colon or not digits.isdigit() or not _PORTS[0] <= int(digits) <= _PORTS[1]:
            raise entry.wrong("tracker", "host:port of a TVM RPC tracker")
        port = int(digits)
    if not _HOST.fullmatch(host):
        raise entry.wrong(field, "a host name or address")
    key = entry.text("key")
    if tracker and not key:
        raise InputError(
            f"device '{entry.name}' in {entry.source} lacks 'key', what the tracker lends"
        )
    timeout = entry.seconds("session_timeout", 0.0)
    where = f"tracker {host}:{port}, key {key}" if tracker else f"{host}:{port}"
    return where, {
        "host": host, "port": port, "key": key, "tracker": bool(tracker), "timeout": int(timeout),
    }  # fmt: skip


class RpcTransport:
    """See :class:`edgekit.devices.transport.Transport`."""

    name = "rpc"

    def why_unusable(self) -> str | None:
        if importlib.util.find_spec("tvm") is None:
            return "TVM is missing: pip install 'edgekit[tvm]'"
        return None

    def entry(self, address: str) -> DeviceEntry:
        """``rpc:HOST[:PORT]`` for a server, ``rpc:HOST:PORT/KEY`` for a device of a tracker."""
        where, slash, key = address.partition("/")
        name = f"rpc:{address}"
        if slash:
            return DeviceEntry(name, "rpc", {"transport": "rpc", "tracker": where, "key": key})
        host, colon, port = where.rpartition(":")
        if not colon:
            host, port = where, "9090"
        if not port.isdigit():
            raise InputError(
                f"'{name}': '{port}' is no port; write rpc:host:9090 or rpc:host:9190/key"
            )
        return DeviceEntry(name, "rpc", {"transport": "rpc", "host": host, "port": int(port)})

    def check(self, entry: DeviceEntry) -> None:
        entry.only("host", "port", "tracker", "key", "session_timeout", "kind")
        if entry.text("kind", "measured") not in ("measured", "simulated"):
            raise entry.wrong("kind", "measured or simulated")
        _address(entry)

    def lock_key(self, entry: DeviceEntry) -> str:
        return f"rpc:{_address(entry)[0]}"

    def open(self, entry: DeviceEntry, target: Any = None) -> Device:
        self.check(entry)
        why = self.why_unusable()
        if why:
            raise DeviceError(f"{entry.name}: {why}")
        wait = entry.seconds("lock_wait_s", 0.0) if "lock_wait_s" in entry.settings else None
        lock = DeviceLock(self.lock_key(entry), entry.name, wait)
        lock.acquire()
        return RpcDevice(entry, lock)

    def probe(self, entry: DeviceEntry, timeout_s: float = PROBE_S) -> Probe:
        """Whether something listens there: a session would take the device from others."""
        import socket

        self.check(entry)
        where, connect = _address(entry)
        try:
            with socket.create_connection(
                (connect["host"].strip("[]"), connect["port"]), timeout_s
            ):
                return Probe("ready", None, {"server": where})
        except OSError as e:
            raise DeviceUnavailable(f"nothing answers at {where} ({e.strerror or e})") from None

    def discover(self) -> Sequence[DeviceEntry]:
        return ()


TRANSPORT = RpcTransport()
