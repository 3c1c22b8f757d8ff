"""Transport ssh against a real sshd on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ssh_case
from fault_case import Proxy
from ssh_case import Server

from edgekit.devices import Device, RunRequest, open_device
from edgekit.devices.registry import attached
from edgekit.errors import DeviceError, DeviceUnavailable, InputError

pytestmark = pytest.mark.skipif(ssh_case.WHY_NOT is not None, reason=str(ssh_case.WHY_NOT))

NASTY = "a;rm -rf ~ $(id) 'b\" `c` & *"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ssh_case.server(tmp_path_factory.mktemp("sshd")) as s:
        yield s


@pytest.fixture(autouse=True)
def names(board: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_LOCKS", str(tmp_path / "locks"))
    use = f"transport: ssh, host: board, config: {board.config}, folder: {board.folder}"
    file = board.yaml(
        "devices:\n"
        f'  pi: {{{use}, lock_wait_s: 0.2, env: {{MODE: "it\'s $HOME; x"}}}}\n'
        f"  gone: {{transport: ssh, host: 127.0.0.1, port: {ssh_case.free_port()}}}\n"
        f"  nowhere: {{{use.replace(str(board.folder), '/nonexistent')}}}\n"
    )
    monkeypatch.setenv("EDGEKIT_DEVICES", str(file))


def script(text: str) -> bytes:
    return f"#!/bin/sh\n{text}\n".encode()


def test_push_run_pull(board: Server, tmp_path: Path) -> None:
    with open_device("pi") as device:
        assert isinstance(device, Device)
        device.push_bytes(script('cat; echo "$1" > out.txt; echo warn >&2; exit 3'), "bin/prog")
        result = device.run(RunRequest("bin/prog", ("a b",), stdin=b"typed"))
        assert (result.exit_code, result.stdout, result.stderr) == (3, "typed", "warn\n")
        assert result.trace is None and result.wall_s > 0
        assert device.pull("out.txt") == b"a b\n"
        data = os.urandom(300_000)
        (tmp_path / "big").write_bytes(data)
        device.push(tmp_path / "big", "big")
        assert device.pull("big") == data
        device.push_bytes(b"", "empty")
        assert device.pull("empty") == b""
        info = device.info()
        assert (info.name, info.transport, info.kind) == ("pi", "ssh", "measured")
        assert info.details["cores"] >= 1 and len(info.details["fingerprint"]) == 16
        assert len(board.leftovers(0)) == 1
    assert board.leftovers() == []


def test_names_and_arguments_are_never_commands(board: Server) -> None:
    with open_device("pi") as device:
        device.push_bytes(
            script('printf "%s|" "$0" "$@" "$MODE" >&1; printf "%s" "$1" >"$1"'), NASTY
        )
        said = device.run(RunRequest(NASTY, (NASTY, "-n", "", "a\nb", "~", "ü"))).stdout
        assert said == "|".join(
            [f"./{NASTY}", NASTY, "-n", "", "a\nb", "~", "ü", "it's $HOME; x", ""]
        )
        assert device.pull(NASTY) != b""
        for path in ("../x", "/etc/passwd", "a/../../x", "", "a\nb", "."):
            with pytest.raises(InputError, match="inside the device's folder"):
                device.pull(path)
    assert board.leftovers() == []


def test_failures_are_one_sentence(board: Server, tmp_path: Path) -> None:
    with open_device("pi") as device:
        device.push_bytes(script("sleep 30"), "slow")
        started = time.monotonic()
        with pytest.raises(DeviceError, match=r"'slow' on pi did not end within 0.3 s"):
            device.run(RunRequest("slow", timeout_s=0.3))
        assert time.monotonic() - started < 5
        device.push_bytes(script("echo dying >&2; kill -SEGV $$"), "crash")
        with pytest.raises(DeviceError, match="ended by signal 11; its last words: dying"):
            device.run(RunRequest("crash"))
        device.push_bytes(b"#!/nonexistent/interpreter\n", "broken")
        with pytest.raises(DeviceError, match="could not be started on pi"):
            device.run(RunRequest("broken"))
        elf = bytearray(64)
        elf[:6], elf[18] = b"\x7fELF\x02\x01", 183
        device.push_bytes(bytes(elf), "arm")
        if os.uname().machine == "x86_64":
            with pytest.raises(DeviceError, match="program for aarch64 and pi is x86_64"):
                device.run(RunRequest("arm"))
        with pytest.raises(DeviceError, match="has no program 'none'"):
            device.run(RunRequest("none"))
        with pytest.raises(DeviceError, match="has no file 'none'"):
            device.pull("none")
        with pytest.raises(InputError, match="virtual: device"):
            device.run(RunRequest("slow", trace=True))
        with pytest.raises(InputError, match="does not exist"):
            device.push(tmp_path / "none", "x")
        device.push_bytes(script("printf 'a\\033[31mb\\r\\n' >&2; kill -9 $$"), "colour")
        with pytest.raises(DeviceError) as ugly:
            device.run(RunRequest("colour"))
        assert "\x1b" not in str(ugly.value)
        device.push_bytes(script("echo fine"), "good")  # and it is as good as new
        assert device.run(RunRequest("good")).stdout == "fine\n"
    with pytest.raises(DeviceError, match="closed"):
        device.pull("out.txt")
    assert board.leftovers() == []


def test_a_program_stays_on_its_core() -> None:
    with open_device("pi") as device:
        core = max(os.sched_getaffinity(0))
        device.push_bytes(script("grep Cpus_allowed_list /proc/self/status"), "where")
        said = device.run(RunRequest("where", cpus=(core,))).stdout
        assert said.split() == ["Cpus_allowed_list:", str(core)]


def test_what_cannot_be_reached(board: Server) -> None:
    with pytest.raises(DeviceUnavailable, match=r"cannot be reached by ssh: .*refused"):
        open_device("gone")
    with pytest.raises(DeviceError, match="there is no folder /nonexistent"):
        open_device("nowhere")
    states = {e.name: p for e, p in attached() if p is not None}
    assert states["gone"].state == "unreachable" and "refused" in str(states["gone"].why)
    assert states["pi"].state == "ready" and states["pi"].fingerprint
    with open_device("pi") as device:
        assert device.info().details["fingerprint"] == states["pi"].fingerprint
        busy = {e.name: p for e, p in attached() if p is not None}["pi"]
        assert (busy.state, busy.why) == ("in use", "in use by this process")
        code = "from edgekit.devices import open_device; open_device('pi')"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
        assert f"in use by process {os.getpid()}" in done.stderr
    assert board.leftovers() == []


def test_a_board_that_is_still_starting(board: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``wait_s`` a device that cannot be reached yet is waited for."""
    port = ssh_case.free_port()
    config = board.write_config(port, "late")
    use = f"transport: ssh, host: board, config: {config}, folder: {board.folder}, wait_s: 300"
    file = board.place / "late.yaml"
    file.write_text(f"devices: {{late: {{{use}}}}}")
    monkeypatch.setenv("EDGEKIT_DEVICES", str(file))
    proxies: list[Proxy] = []
    boot = threading.Timer(1.0, lambda: proxies.append(Proxy(board.port, listen=port)))
    boot.start()
    try:
        with open_device("late") as device:
            device.push_bytes(script("echo up"), "p")
            assert device.run(RunRequest("p")).stdout == "up\n"
    finally:
        boot.join()
        for p in proxies:
            p.stop()
    assert board.leftovers() == []


def test_a_strange_host_key_is_refused(board: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    text = board.config.read_text().replace(f"{board.place}/known", "/dev/null")
    (board.place / "strange").write_text(text)
    file = board.place / "strange.yaml"
    file.write_text(
        f"devices: {{pi: {{transport: ssh, host: board, config: {board.place}/strange}}}}"
    )
    monkeypatch.setenv("EDGEKIT_DEVICES", str(file))
    with pytest.raises(DeviceUnavailable, match="Host key verification failed"):
        open_device("pi")


@pytest.mark.parametrize("how", ["forgotten", "killed"])
def test_nothing_stays_when_nobody_closes(board: Server, how: str) -> None:
    """A process that forgets the device, or dies by SIGKILL in the middle of a program."""
    code = (
        "import os, sys; from edgekit.devices import RunRequest, open_device;"
        "d = open_device('pi'); d.push_bytes(b'#!/bin/sh\\necho $$ >pid; sleep 60\\n', 'p');"
        "print('open', flush=True);"
        + ("" if how == "forgotten" else "d.run(RunRequest('p', timeout_s=60))")
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"open\n"
    if how == "killed":
        end = time.monotonic() + 20
        pids = board.folder
        while not (found := [f for f in pids.glob("*/w/pid") if f.read_text().strip()]):
            assert time.monotonic() < end
            time.sleep(0.02)
        pid = int(found[0].read_text())
        process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stdout.close()
    assert board.leftovers(15) == []
    if how == "killed":
        time.sleep(0.1)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with open_device("pi"):  # and the lock is free
        pass


def test_a_keeper_that_died_is_swept_up(board: Server) -> None:
    stale = board.folder / "edgekit-stale1"
    (stale / "w").mkdir(parents=True)
    (stale / "keeper").write_text("2147483000\n")
    (board.folder / "edgekit-link12").symlink_to("/etc")
    try:
        with open_device("pi"):
            assert not stale.exists()
    finally:
        (board.folder / "edgekit-link12").unlink()
    assert board.leftovers() == []
