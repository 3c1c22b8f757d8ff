"""The host as a device: programs run in their own folder, figures are measured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.devices import Device, RunRequest, open_device
from edgekit.errors import DeviceError, InputError


def script(text: str) -> bytes:
    return f"#!/bin/sh\n{text}\n".encode()


def test_push_run_pull() -> None:
    with open_device("host") as device:
        assert isinstance(device, Device)
        device.push_bytes(script('cat; echo "$1" > out.txt; echo warn >&2; exit 3'), "bin/prog")
        result = device.run(RunRequest("bin/prog", ("a b",), stdin=b"typed"))
        assert (result.exit_code, result.stdout, result.stderr) == (3, "typed", "warn\n")
        assert result.trace is None and result.wall_s > 0
        assert device.pull("out.txt") == b"a b\n"


def test_info_is_measured() -> None:
    with open_device("host") as device:
        info = device.info()
    assert (info.name, info.transport, info.kind) == ("host", "local", "measured")
    assert info.details["cores"] >= 1 and info.details["cpu"]


def test_a_forgotten_device_leaves_nothing_behind() -> None:
    code = (
        "from edgekit.devices import open_device;"
        "d = open_device('host'); d.push_bytes(b'x', 'x'); print(d._sandbox.path)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert not Path(done.stdout.strip()).exists()


def test_failures_are_one_sentence(tmp_path: Path) -> None:
    with open_device("host") as device:
        device.push_bytes(script("sleep 5"), "slow")
        with pytest.raises(DeviceError, match=r"did not end within 0.2 s"):
            device.run(RunRequest("slow", timeout_s=0.2))
        device.push_bytes(script("echo dying >&2; kill -SEGV $$"), "crash")
        with pytest.raises(DeviceError, match="signal 11; its last words: dying"):
            device.run(RunRequest("crash"))
        device.push_bytes(b"\x7fELF nonsense", "broken")
        with pytest.raises(DeviceError, match="could not be started"):
            device.run(RunRequest("broken"))
        with pytest.raises(InputError, match="virtual: device"):
            device.run(RunRequest("slow", trace=True))
        with pytest.raises(InputError, match="does not exist"):
            device.push(tmp_path / "none", "x")


def test_folder_is_private_and_goes_away(tmp_path: Path) -> None:
    device = open_device("host")
    device.push_bytes(script("pwd; ln -s /etc/hostname link"), "where")
    folder = Path(device.run(RunRequest("where")).stdout.strip())
    assert folder.stat().st_mode & 0o077 == 0
    for path in ("../x", "/etc/hostname", "a/../../x", "", "link"):
        with pytest.raises(InputError):
            device.pull(path)
    device.close()
    assert not folder.exists()
    with pytest.raises(DeviceError, match="closed"):
        device.pull("where")
    assert os.listdir(tmp_path) == []
