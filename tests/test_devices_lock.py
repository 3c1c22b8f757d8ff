"""One user of a device at a time, across processes; stale locks; waiting with a limit."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgekit.devices.lock import DeviceLock, folder, in_use
from edgekit.errors import DeviceError, DeviceUnavailable

HOLD = (
    "import sys, time;"
    "from edgekit.devices.lock import DeviceLock;"
    "lock = DeviceLock(sys.argv[1], 'board', 30); lock.acquire();"
    "a = time.time(); print('held', flush=True); time.sleep(float(sys.argv[2]));"
    "print(a, time.time(), flush=True); lock.release()"
)


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKIT_LOCKS", str(tmp_path / "locks"))
    return tmp_path / "locks"


def holder(key: str, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, key, str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process


def test_processes_take_turns() -> None:
    """Three processes want one device: the times in which they have it do not overlap."""
    processes = [holder("one", 0.2) for _ in range(3)]
    spans = []
    for p in processes:
        out, _ = p.communicate(timeout=60)
        start, end = out.splitlines()[1].split()
        spans.append((float(start), float(end)))
    spans.sort()
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans)), spans


def test_waiting_has_a_limit_and_names_the_owner() -> None:
    p = holder("two", 30)
    assert p.stdout is not None and p.stdout.readline() == "held\n"
    said: list[str] = []
    started = time.monotonic()
    with pytest.raises(DeviceUnavailable, match=rf"'board' is in use by process {p.pid} \(-c"):
        DeviceLock("two", "board", 0.3, said.append).acquire()
    assert 0.25 < time.monotonic() - started < 5
    assert len(said) == 1 and str(p.pid) in said[0]
    assert in_use("two") is not None and in_use("other") is None
    with DeviceLock("three", "another board", 0.3):  # other devices are free
        pass
    p.send_signal(signal.SIGKILL)
    p.wait(10)
    assert in_use("two") is None  # the lock of a dead process is nobody's
    with DeviceLock("two", "board", 1):
        assert in_use("two") == "this process"
    p.stdout.close()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\x00garbage" * 100,
        b"[1, 2]",
        b'{"pid": "x", "since": null}',
        json.dumps({"pid": 1, "since": 1e300, "what": "\x1b[31m", "device": 3}).encode(),
        json.dumps({"pid": 2**31 - 7, "since": 0, "what": "edgekit profile"}).encode(),
    ],
)
def test_a_stale_file_is_only_text(text: bytes) -> None:
    with DeviceLock("k", "board"):
        pass
    (path,) = folder().iterdir()
    path.write_bytes(text)
    assert in_use("k") is None
    with DeviceLock("k", "board", 0):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert path.read_bytes() == b""


def test_reentrant_for_a_thread_but_not_for_two() -> None:
    with DeviceLock("r", "board"), DeviceLock("r", "board", 0):
        result: list[object] = []

        def other() -> None:
            try:
                DeviceLock("r", "board", 0).acquire()
            except DeviceUnavailable as e:
                result.append(e)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(10)
        assert len(result) == 1
    assert in_use("r") is None


def test_a_link_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with DeviceLock("k", "board"):
        pass
    (path,) = folder().iterdir()
    path.unlink()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim)
    with pytest.raises(DeviceError, match="cannot be opened"):
        DeviceLock("k", "board", 0).acquire()
    assert victim.read_text() == "precious"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DeviceError, match="cannot be opened"):
        DeviceLock("k", "board", 0).acquire()
