"""Transport adb: the real client against a peer that speaks adbd's protocol."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import adb_case
import pytest
from adb_case import leftovers
from adb_peer import Peer

from edgekit.devices import Device, RunRequest, open_device
from edgekit.devices.registry import attached
from edgekit.errors import DeviceError, DeviceUnavailable, InputError

pytestmark = pytest.mark.skipif(adb_case.WHY_NOT is not None, reason=str(adb_case.WHY_NOT))

NASTY = "a;rm -rf ~ $(id) 'b\" `c` & *"


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with adb_case.phone(tmp_path_factory.mktemp("adb")) as peer:
        yield peer


def script(text: str) -> bytes:
    return f"#!/bin/sh\n{text}\n".encode()


def test_push_run_pull(phone: Peer, tmp_path: Path) -> None:
    with open_device(f"adb:{phone.serial}") as device:
        assert isinstance(device, Device)
        device.push_bytes(script('cat; echo "$1" > out.txt; echo warn >&2; exit 3'), "bin/prog")
        result = device.run(RunRequest("bin/prog", ("a b",), stdin=b"typed\r\n\0"))
        assert (result.exit_code, result.stdout) == (3, "typed\r\n\0")
        assert result.stderr == "warn\n"
        assert device.pull("out.txt") == b"a b\n"
        data = os.urandom(700_000)
        (tmp_path / "big").write_bytes(data)
        device.push(tmp_path / "big", "big")
        assert device.pull("big") == data
        info = device.info()
        assert (info.transport, info.kind) == ("adb", "measured")
        assert info.details["model"] == "Edgekit Test Phone" and "SoC 9000" in info.details["soc"]
        assert info.details["android"] == "14" and info.details["cores"] >= 1
        assert "EK0001" not in str(info)
        assert len(leftovers(phone, 0)) == 1
    assert leftovers(phone) == []


def test_names_and_arguments_are_never_commands(phone: Peer) -> None:
    with open_device(f"adb:{phone.serial}") as device:
        device.push_bytes(script('printf "%s|" "$0" "$@"; printf "%s" "$1" >"$1"'), NASTY)
        said = device.run(RunRequest(NASTY, (NASTY, "-n", "", "a\nb", "~", "ü"))).stdout
        assert said == "|".join([f"./{NASTY}", NASTY, "-n", "", "a\nb", "~", "ü", ""])
        assert device.pull(NASTY) != b""
    assert leftovers(phone) == []


def test_failures_are_one_sentence(phone: Peer) -> None:
    with open_device(f"adb:{phone.serial}") as device:
        device.push_bytes(script("sleep 30"), "slow")
        started = time.monotonic()
        with pytest.raises(DeviceError, match=r"did not end within 0.3 s"):
            device.run(RunRequest("slow", timeout_s=0.3))
        assert time.monotonic() - started < 5
        device.push_bytes(script("echo dying >&2; kill -SEGV $$"), "crash")
        with pytest.raises(DeviceError, match="ended by signal 11; its last words: dying"):
            device.run(RunRequest("crash"))
        with pytest.raises(DeviceError, match="has no file 'none'"):
            device.pull("none")
        phone.full = 1000
        try:
            with pytest.raises(DeviceError, match="No space left on device"):
                device.push_bytes(bytes(2000), "big")
        finally:
            phone.full = None
        device.push_bytes(bytes(2000), "big")
        assert device.pull("big") == bytes(2000)
    assert leftovers(phone) == []


def test_what_cannot_be_reached(phone: Peer) -> None:
    with pytest.raises(DeviceUnavailable, match=r"cannot be used by adb: .*not found"):
        open_device("adb:NOTPLUGGEDIN")
    with pytest.raises(DeviceUnavailable, match="cannot be reached by adb"):
        open_device("adb:127.0.0.1:1")
    with pytest.raises(InputError, match="field 'serial'"):
        open_device("adb:a;id")
    with open_device(f"adb:{phone.serial}"):
        found = {e.name: p for e, p in attached() if p is not None}
        assert found[f"adb:{phone.serial}"].state == "in use"
    found = {e.name: p for e, p in attached() if p is not None}
    assert found[f"adb:{phone.serial}"].state == "ready"


def test_an_old_android_is_refused(tmp_path: Path, phone: Peer) -> None:
    old = Peer(tmp_path / "old", features="cmd")
    try:
        with pytest.raises(DeviceError, match="an Android before 7"):
            open_device(f"adb:{old.serial}")
    finally:
        old.stop()
        subprocess.run(
            ["adb", "disconnect", old.serial], capture_output=True, timeout=30, check=False
        )


def test_unplugged_in_the_middle(phone: Peer) -> None:
    device = open_device(f"adb:{phone.serial}")
    try:
        device.push_bytes(script("echo $$ >pid; sleep 60"), "p")
        code = "import sys, time; time.sleep(1); sys.exit(0)"
        timer = subprocess.Popen([sys.executable, "-c", code])
        import threading

        threading.Thread(target=lambda: (timer.wait(), phone.unplug())).start()
        started = time.monotonic()
        with pytest.raises(DeviceUnavailable, match="was lost"):
            device.run(RunRequest("p", timeout_s=40))
        assert time.monotonic() - started < 20
        with pytest.raises(DeviceUnavailable, match="was lost"):
            device.pull("pid")
    finally:
        device.close()
    assert leftovers(phone) == []
    with open_device(f"adb:{phone.serial}") as again:  # plugged in again
        again.push_bytes(script("echo fine"), "good")
        assert again.run(RunRequest("good")).stdout == "fine\n"
    assert leftovers(phone) == []


def test_no_server_is_started_to_find_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssh_case import free_port

    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    if list(Path("/sys/bus/usb/devices").glob("*")):
        pytest.skip("this machine has USB, where a phone may be")
    attached()
    assert shutil.which("adb")
    from edgekit.devices.adb import _server_runs

    assert not _server_runs()
