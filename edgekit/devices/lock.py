"""One user of a device at a time, across processes of this machine: a figure taken while somebody else
uses the device is no figure.

The lock is an ``flock`` on a file in the user's cache folder; the file says who holds it since when.
The kernel gives the lock back when its owner dies, so a stale file is only text and is overwritten.
Within a process a lock is re-entrant for the thread that has it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from edgekit.errors import DeviceError, DeviceUnavailable

#: Seconds to wait for a device that is in use, unless its entry or $EDGEKIT_LOCK_WAIT says otherwise.
WAIT_S = 60.0
_POLL_S = 0.05


def folder() -> Path:
    """Where lock files are: $EDGEKIT_LOCKS, or ``locks`` in the user's cache folder."""
    given = os.environ.get("EDGEKIT_LOCKS")
    if given:
        path = Path(given)
    else:
        cache = os.environ.get("EDGEKIT_CACHE")
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        path = (Path(cache) if cache else base / "edgekit") / "locks"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise DeviceError(
            f"lock files cannot be kept in '{path}' ({e.strerror}); set EDGEKIT_LOCKS to a folder"
        ) from None
    return path


def default_wait_s() -> float:
    """$EDGEKIT_LOCK_WAIT in seconds, else :data:`WAIT_S`."""
    given = os.environ.get("EDGEKIT_LOCK_WAIT", "")
    return float(given) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", given) else WAIT_S


def _path(key: str) -> Path:
    """A readable file name for any key; a digest keeps different keys apart."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", key).strip("-")[:60]
    return folder() / f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.lock"


class _Held:
    """A lock that this process has."""

    def __init__(self, file: IO[bytes], thread: int) -> None:
        self.file, self.thread, self.count = file, thread, 1


_held: dict[tuple[int, str], _Held] = {}  # by process (a fork must not inherit it) and key
_guard = threading.Lock()


class DeviceLock:
    """``with DeviceLock("ssh:pi@board:22", "pi5"):`` nobody else uses the device inside.

    key: what is locked: the device itself, not one of its names. name: what the user calls it.
    wait_s: give up after so long. waiting: told once who has the device, when it has to be waited for.
    Raises DeviceUnavailable that names the owner.
    """

    def __init__(
        self,
        key: str,
        name: str,
        wait_s: float | None = None,
        waiting: Callable[[str], None] | None = None,
    ) -> None:
        self.key, self.name = key, name
        self.wait_s = default_wait_s() if wait_s is None else wait_s
        self._waiting = waiting

    @property
    def _key(self) -> tuple[int, str]:
        return os.getpid(), self.key

    def acquire(self) -> None:
        # a moment at least: somebody may just be looking whether the lock is free (in_use)
        end = time.monotonic() + max(self.wait_s, 0.2)
        told = False
        while not self._try():
            if not told and self._waiting:
                self._waiting(f"waiting for '{self.name}', in use by {owner_of(self.key)}")
            told = True
            if time.monotonic() >= end:
                raise DeviceUnavailable(
                    f"device '{self.name}' is in use by {owner_of(self.key)}; waited "
                    f"{self.wait_s:g} s for it"
                )
            time.sleep(_POLL_S)

    def _try(self) -> bool:
        with _guard:
            mine = _held.get(self._key)
            if mine is not None:
                if mine.thread != threading.get_ident():
                    return False
                mine.count += 1
                return True
            file = _open(_path(self.key))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                return False
            what = " ".join([Path(sys.argv[0] or "python").name, *sys.argv[1:2]])[:80]
            text = {"pid": os.getpid(), "what": what, "since": time.time(), "device": self.name}
            file.seek(0)
            file.truncate()
            file.write(json.dumps(text).encode())
            file.flush()
            _held[self._key] = _Held(file, threading.get_ident())
            return True

    def release(self) -> None:
        """Give one ``acquire`` back; does nothing when there is none (also from another thread, as
        garbage collection and the end of the process may call it)."""
        with _guard:
            mine = _held.get(self._key)
            if mine is None:
                return
            mine.count -= 1
            if mine.count:
                return
            del _held[self._key]
            try:
                mine.file.seek(0)
                mine.file.truncate()
            except OSError:  # the disk is full: the lock itself is what counts
                pass
            finally:
                mine.file.close()

    def __enter__(self) -> DeviceLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.release()


def _open(path: Path) -> IO[bytes]:
    """The lock file; never a link, device or pipe that somebody put in its place."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(0, "it is not a plain file")
    except OSError as e:
        raise DeviceError(f"the lock file '{path}' cannot be opened ({e.strerror})") from None
    return os.fdopen(fd, "r+b")


def _text(key: str) -> dict[str, Any]:
    """What the lock file says; empty when it says nothing sensible."""
    try:
        with _open(_path(key)) as f:
            found = json.loads(f.read(4096))
    except (DeviceError, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def owner_of(key: str) -> str:
    """Who has the lock, in words, from the text of its file."""
    text = _text(key)
    pid, since = text.get("pid"), text.get("since")
    if not isinstance(pid, int) or not isinstance(since, (int, float)):
        return "another process"
    try:
        clock = time.strftime("%H:%M:%S", time.localtime(since))
    except (OverflowError, ValueError, OSError):
        clock = "?"
    return f"process {pid} ({str(text.get('what', '?'))[:80]}) since {clock}"


def in_use(key: str) -> str | None:
    """Who has the device now, or None when it is free. Does not wait, and keeps nothing."""
    with _guard:
        if (os.getpid(), key) in _held:
            return "this process"
    path = _path(key)
    if not path.exists():
        return None
    with _open(path) as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return owner_of(key)
    return None
