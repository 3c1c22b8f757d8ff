"""200 faults: whatever happens to a device, there is no hang beyond the stated limits, no false number,
nothing left on the device, and the next run works."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import adb_case
import pytest
import ssh_case
from adb_peer import Peer
from fault_case import Proxy

from edgekit.devices import RunRequest, adb, facts, open_device, remote
from edgekit.devices.base import Device
from edgekit.devices.lock import DeviceLock, folder
from edgekit.errors import DeviceError, EdgekitError
from edgekit.profile import measure

#: How often each fault is injected; together 200.
CUTS_SSH, CUTS_ADB, UNPLUGGED, FULL_ADB, FULL_SSH = 24, 60, 14, 22, 6
WRONG_MACHINE, STALE, STALLED, SLOW, HUNG = 16, 40, 4, 4, 10
assert (
    CUTS_SSH + CUTS_ADB + UNPLUGGED + FULL_ADB + FULL_SSH
    + WRONG_MACHINE + STALE + STALLED + SLOW + HUNG
) == 200  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ssh_case.WHY_NOT is not None, reason=str(ssh_case.WHY_NOT)),
    pytest.mark.skipif(adb_case.WHY_NOT is not None, reason=str(adb_case.WHY_NOT)),
]

DATA = random.Random(0).randbytes(30_000)
TIMES = list(range(1001, 1041))
PROGRAM = (
    "#!/bin/sh\ncat in.bin >out.bin\nfor i in "
    + " ".join(map(str, TIMES))
    + "; do echo total_ns=$i; done\n"
).encode()
#: Time limits of a step and of a whole attempt: those of the program are for machines that have time
#: to spare, and a starved one must not look like a fault.
STEP_S, LIMIT_S = 60.0, 200.0


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ssh_case.Server]:
    with ssh_case.server(tmp_path_factory.mktemp("sshd")) as s:
        yield s


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with adb_case.phone(tmp_path_factory.mktemp("adb")) as p:
        yield p


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(remote, "COMMAND_S", STEP_S)
    monkeypatch.setattr(remote, "PATIENCE_S", 60)
    monkeypatch.setattr(adb, "CONNECT_S", STEP_S)


def work(device: Device) -> None:
    """Push, run, measure, pull; every answer that comes is the right one."""
    device.push_bytes(DATA, "in.bin")
    device.push_bytes(PROGRAM, "prog")
    done = device.run(RunRequest("prog", timeout_s=STEP_S))
    assert done.exit_code == 0
    assert list(measure.taken(done.stdout, len(TIMES)).ns) == TIMES
    assert device.pull("out.bin") == DATA


def attempt(name: str) -> EdgekitError | None:
    """Open the device and work; the error, if there was one, after a time that was not too long."""
    started = time.monotonic()
    error: EdgekitError | None = None
    try:
        with open_device(name) as device:
            work(device)
    except EdgekitError as e:
        error = e
        assert "\n" not in str(e) and len(str(e)) > 20
    assert time.monotonic() - started < LIMIT_S, f"it hung: {error}"
    return error


def use_ssh(board: ssh_case.Server, patch: pytest.MonkeyPatch, port: int, key: str = "key") -> str:
    """The device name of the board through ``port``."""
    config = board.write_config(port, f"client-{port}")
    config.write_text(config.read_text().replace(f"{board.place}/key", f"{board.place}/{key}"))
    use = f"transport: ssh, host: board, config: {config}, folder: {board.folder}"
    patch.setenv(
        "EDGEKIT_DEVICES", str(board.yaml(f"devices: {{pi: {{{use}, timeout_s: {STEP_S:g}}}}}"))
    )
    return "pi"


def adb_forget(serial: str) -> None:
    subprocess.run(["adb", "disconnect", serial], capture_output=True, timeout=30, check=False)


def test_ssh_connection_cut(board: ssh_case.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, cut = random.Random(1), 0
    with Proxy(board.port) as whole:
        assert attempt(use_ssh(board, monkeypatch, whole.port)) is None
    for k in range(CUTS_SSH):
        at = rng.randrange(whole.passed)
        with Proxy(board.port, cut_after=at) as proxy:
            error = attempt(use_ssh(board, monkeypatch, proxy.port))
            assert error is None or isinstance(error, DeviceError)
            cut += error is not None
        assert board.leftovers(20) == [], f"cut {k} after {at} bytes: {error}"
    assert cut > CUTS_SSH // 2
    assert attempt(use_ssh(board, monkeypatch, board.port)) is None


def test_adb_connection_cut(phone: Peer) -> None:
    rng, cut = random.Random(2), 0
    with Proxy(phone.port) as whole:
        assert attempt(f"adb:127.0.0.1:{whole.port}") is None
        adb_forget(f"127.0.0.1:{whole.port}")
    for k in range(CUTS_ADB):
        at = rng.randrange(whole.passed)
        with Proxy(phone.port, cut_after=at) as proxy:
            error = attempt(f"adb:127.0.0.1:{proxy.port}")
            assert error is None or isinstance(error, DeviceError)
            cut += error is not None
            adb_forget(f"127.0.0.1:{proxy.port}")
        assert adb_case.leftovers(phone, 20) == [], f"cut {k} after {at} bytes: {error}"
    assert cut > CUTS_ADB // 2
    assert attempt(f"adb:{phone.serial}") is None


def test_unplugged_at_any_time(phone: Peer) -> None:
    rng = random.Random(3)
    for k in range(UNPLUGGED):
        timer = threading.Timer(rng.uniform(0.0, 0.8), phone.unplug)
        timer.start()
        attempt(f"adb:{phone.serial}")
        timer.join()
        assert adb_case.leftovers(phone, 20) == [], k
    assert attempt(f"adb:{phone.serial}") is None


def test_full_phone(phone: Peer) -> None:
    rng = random.Random(4)
    try:
        for _ in range(FULL_ADB):
            phone.full = rng.randrange(len(DATA))
            error = attempt(f"adb:{phone.serial}")
            assert error is not None and "No space left on device" in str(error)
            assert adb_case.leftovers(phone) == []
    finally:
        phone.full = None
    assert attempt(f"adb:{phone.serial}") is None


def test_full_board(board: ssh_case.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may not become larger than so many KiB: less than the data, or than the room that has to
    be left after a run."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(board.place / "limited")],
        check=True, timeout=60,
    )  # fmt: skip
    keys, public = board.place / "authorized", (board.place / "limited.pub").read_text()
    before = keys.read_text()
    try:
        for k in range(FULL_SSH):
            kib = (8, 40)[k % 2]
            limit = f'command="ulimit -f {kib}; eval \\"$SSH_ORIGINAL_COMMAND\\"" '
            keys.write_text(before + limit + public)
            error = attempt(use_ssh(board, monkeypatch, board.port, "limited"))
            assert error is not None
            said = "could be written on" if kib == 8 else "is full"
            assert said in str(error), error
            assert board.leftovers() == []
    finally:
        keys.write_text(before)
    assert attempt(use_ssh(board, monkeypatch, board.port)) is None


def test_wrong_machine(phone: Peer) -> None:
    """Programs of every other architecture, one after the other, on one device."""
    own = os.uname().machine
    numbers = [n for n in (*facts.MACHINES, 8, 20, 21, 22, 94, 106, 247, 258, 9999, 50, 2, 4)
               if facts.MACHINES.get(n) not in (own, "i686")]  # fmt: skip
    assert len(numbers) >= WRONG_MACHINE - 1
    with open_device(f"adb:{phone.serial}") as device:
        for k in range(WRONG_MACHINE):
            head = bytearray(64)
            head[:6] = b"\x7fELF\x02\x01"
            struct.pack_into("<H", head, 18, numbers[k % len(numbers)])
            device.push_bytes(bytes(head), "prog")
            with pytest.raises(DeviceError, match=r"is a program for .* compile for a target"):
                device.run(RunRequest("prog"))
        work(device)
    assert adb_case.leftovers(phone) == []


def test_stale_locks(tmp_path: Path) -> None:
    """Whatever a dead owner left in the file, the device is free at once."""
    rng = random.Random(5)
    with DeviceLock("k", "board"):
        pass
    (path,) = folder().iterdir()
    for k in range(STALE):
        dead = {"pid": 2**22 + k, "since": rng.uniform(-1e9, 1e12), "what": "edgekit\x1b[2J"}
        path.write_bytes(json.dumps(dead).encode() if k % 2 else rng.randbytes(rng.randrange(5000)))
        started = time.monotonic()
        with DeviceLock("k", "board", 0):
            assert time.monotonic() - started < 5
            assert json.loads(path.read_text())["pid"] == os.getpid()


def test_stalled_board(board: ssh_case.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection stays open and nothing passes any more."""
    rng = random.Random(6)
    monkeypatch.setattr(remote, "COMMAND_S", 4.0)
    monkeypatch.setattr(remote, "PATIENCE_S", 3)
    monkeypatch.setattr(remote, "_BEAT_S", 0.5)
    for _ in range(STALLED):
        with Proxy(board.port, stall_after=rng.randrange(5_000, 30_000)) as proxy:
            name = use_ssh(board, monkeypatch, proxy.port)
            file = Path(os.environ["EDGEKIT_DEVICES"])
            file.write_text(file.read_text().replace(f"timeout_s: {STEP_S:g}", "timeout_s: 5"))
            error = attempt(name)
            assert error is not None and proxy.fired
            # while the connection still hangs: the keeper hears nothing and cleans up
            assert board.leftovers(25) == []
    monkeypatch.setattr(remote, "COMMAND_S", STEP_S)
    monkeypatch.setattr(remote, "PATIENCE_S", 60)
    assert attempt(use_ssh(board, monkeypatch, board.port)) is None


def test_slow_board(board: ssh_case.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow is not wrong: it takes longer and gives the same."""
    for delay in (0.005, 0.01, 0.02, 0.03)[:SLOW]:
        with Proxy(board.port, delay_s=delay) as proxy:
            assert attempt(use_ssh(board, monkeypatch, proxy.port)) is None
    assert board.leftovers() == []


@pytest.mark.parametrize("kind", ["ssh", "adb"])
def test_hung_programs(
    kind: str, board: ssh_case.Server, phone: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = use_ssh(board, monkeypatch, board.port) if kind == "ssh" else f"adb:{phone.serial}"
    left: Callable[[], list[str]] = (
        board.leftovers if kind == "ssh" else lambda: adb_case.leftovers(phone)
    )
    rng = random.Random(7)
    with open_device(name) as device:
        texts = ("exec sleep 1000", "while :; do :; done", "trap '' TERM INT HUP; exec sleep 1000")
        for k in range(HUNG // 2):
            device.push_bytes(f"#!/bin/sh\n{texts[k % 3]}\n".encode(), f"hung{k}")
            started = time.monotonic()
            with pytest.raises(DeviceError, match="did not end within"):
                device.run(RunRequest(f"hung{k}", timeout_s=rng.uniform(0.1, 0.5)))
            assert time.monotonic() - started < STEP_S
        work(device)
    assert left() == []
