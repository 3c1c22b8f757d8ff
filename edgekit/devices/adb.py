"""Transport ``adb``: Android phones, through the real ``adb`` client; programs run in a folder of their
own below ``/data/local/tmp``.

Needs Android 7 or later (shell protocol 2, which carries exit codes). The adb server is the user's; one
is started when there is none, as ``adb`` itself does.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgekit.devices import far_scripts
from edgekit.devices.base import Device
from edgekit.devices.entries import DeviceEntry
from edgekit.devices.facts import describe, facts_of, fingerprint
from edgekit.devices.link import Answer, LinkTimeout, last_line
from edgekit.devices.lock import DeviceLock
from edgekit.devices.remote import FIELDS, RemoteDevice, Settings
from edgekit.devices.transport import PROBE_S, Probe
from edgekit.errors import DeviceError, DeviceUnavailable, EdgekitError, ToolchainError

FOLDER = "/data/local/tmp"
CONNECT_S = 15.0
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")
_NETWORK = re.compile(r"[A-Za-z0-9.-]+:[0-9]{1,5}")
_ADB_INTERFACE = ("ff", "42", "01")  #: USB class, subclass and protocol of adb


def _adb(words: Sequence[str], timeout_s: float, stdin: bytes | None = None) -> Answer:
    """Run the client; LinkTimeout when it does not end in time."""
    try:
        done = subprocess.run(
            ["adb", *words],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LinkTimeout from None
    except OSError as e:
        raise ToolchainError(f"the program adb cannot be started ({e.strerror})") from None
    return Answer(done.returncode, done.stdout, done.stderr)


def _server_runs() -> bool:
    port = os.environ.get("ANDROID_ADB_SERVER_PORT", "5037")
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 5037
    with socket.socket() as s:
        s.settimeout(1)
        try:
            return s.connect_ex(("127.0.0.1", number)) == 0
        except OverflowError:
            return False


def _start_server() -> None:
    """With nothing of ours open in it: the server outlives this process."""
    if _server_runs():
        return
    try:
        subprocess.run(
            ["adb", "start-server"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=CONNECT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        raise ToolchainError("the adb server does not start; try 'adb start-server'") from None


def _phone_is_plugged_in() -> bool:
    for place in Path("/sys/bus/usb/devices").glob("*/bInterfaceClass"):
        names = ("bInterfaceClass", "bInterfaceSubClass", "bInterfaceProtocol")
        with suppress(OSError):
            if tuple((place.parent / n).read_text().strip() for n in names) == _ADB_INTERFACE:
                return True
    return False


class AdbLink:
    """Commands through the adb server; each is a process of its own."""

    transport = "adb"

    def __init__(self, serial: str, connect_s: float = CONNECT_S) -> None:
        self.where = serial
        _start_server()
        try:
            features = self._greet(connect_s)
            if features.exit_code and _NETWORK.fullmatch(serial):
                # a server keeps calling a phone "connected" that went away: make it look again
                _adb(["disconnect", serial], connect_s)
                features = self._greet(connect_s)
        except LinkTimeout:
            raise DeviceUnavailable(
                f"{serial} did not answer within {connect_s:g} s; it may be hung or starting"
            ) from None
        if features.exit_code:
            raise DeviceUnavailable(f"{serial} cannot be used by adb: {_why(features)}")
        if b"shell_v2" not in features.stdout:
            raise DeviceError(f"{serial} has an Android before 7, whose adb has no exit codes")

    def _greet(self, connect_s: float) -> Answer:
        """What ``adb features`` says of it."""
        if _NETWORK.fullmatch(self.where):
            said = _adb(["connect", self.where], connect_s)
            if said.exit_code or b"connected to" not in said.stdout:
                raise DeviceUnavailable(
                    f"{self.where} cannot be reached by adb: "
                    f"{last_line(said.stdout + said.stderr) or 'adb gave no reason'}"
                )
        return _adb(["-s", self.where, "features"], connect_s)

    def _shell(self, words: Sequence[str]) -> list[str]:
        # One word: the client puts a space between words, and the phone's shell reads the result.
        return ["-s", self.where, "shell", "-T", shlex.join(words)]

    def execute(self, words: Sequence[str], *, stdin: bytes = b"", timeout_s: float) -> Answer:
        answer = _adb(self._shell(words), timeout_s, stdin)
        if answer.exit_code and not answer.stdout and _own_error(answer):
            raise DeviceUnavailable(f"the connection to {self.where} was lost: {_why(answer)}")
        return answer

    def start(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["adb", *self._shell(words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def upload(self, data: bytes, path: str, timeout_s: float) -> None:
        with tempfile.TemporaryDirectory(prefix="edgekit-adb-") as scratch:
            local = Path(scratch) / "file"
            local.write_bytes(data)
            local.chmod(0o700)
            done = _adb(["-s", self.where, "push", str(local), path], timeout_s)
        if done.exit_code:
            raise self._transfer_failed(done, f"{len(data):,} bytes could not be written")

    def download(self, path: str, timeout_s: float) -> bytes:
        with tempfile.TemporaryDirectory(prefix="edgekit-adb-") as scratch:
            local = Path(scratch) / "file"
            done = _adb(["-s", self.where, "pull", path, str(local)], timeout_s)
            if done.exit_code == 0 and local.is_file():
                return local.read_bytes()
        said = done.stdout + done.stderr
        if b"does not exist" in said or b"No such file" in said:
            raise DeviceError(f"the device has no file '{Path(path).name}'")
        raise self._transfer_failed(done, f"'{Path(path).name}' could not be read")

    def _transfer_failed(self, done: Answer, what: str) -> DeviceError:
        """The device's own refusal (it is full, ...), or the end of the connection."""
        if b"remote" in done.stdout + done.stderr:
            return DeviceError(f"{what} on {self.where}: {_why(done)}")
        return DeviceUnavailable(f"the connection to {self.where} was lost: {_why(done)}")

    def close(self) -> None:
        """The server keeps its connection, for the next one who asks."""


def _own_error(answer: Answer) -> bool:
    return answer.stderr.lstrip().startswith((b"error:", b"adb:")) or not answer.stderr


def _why(answer: Answer) -> str:
    lines = [x for x in (answer.stderr + answer.stdout).splitlines() if b"error:" in x]
    said = last_line(b"\n".join(lines)) or last_line(answer.stderr) or last_line(answer.stdout)
    said = said or "adb gave no reason"
    return re.sub(r"^(adb: )?(error: )?", "", said)


class AdbTransport:
    """``serial`` (as ``adb devices`` lists it, or ``host:port`` of a phone on the network) and the
    fields of every device with a shell."""

    name = "adb"

    def why_unusable(self) -> str | None:
        return None if shutil.which("adb") else "adb is missing: apt-get install adb"

    def entry(self, address: str) -> DeviceEntry:
        return DeviceEntry(f"adb:{address}", "adb", {"transport": "adb", "serial": address})

    def _serial(self, entry: DeviceEntry) -> str:
        serial = entry.needed("serial")
        if not _SERIAL.fullmatch(serial):
            raise entry.wrong("serial", "a serial number from 'adb devices', or host:port")
        return serial

    def check(self, entry: DeviceEntry) -> None:
        entry.only("serial", *FIELDS)
        self._serial(entry)
        Settings.of(entry, FOLDER)

    def lock_key(self, entry: DeviceEntry) -> str:
        return f"adb:{self._serial(entry)}"

    def open(self, entry: DeviceEntry, target: Any = None) -> Device:
        why = self.why_unusable()
        if why:
            raise ToolchainError(f"device '{entry.name}' cannot be used: {why}")
        self.check(entry)
        wait = entry.seconds("lock_wait_s", 0) if "lock_wait_s" in entry.settings else None
        lock = DeviceLock(self.lock_key(entry), entry.name, wait)
        serial = self._serial(entry)
        connect_s = entry.seconds("timeout_s", CONNECT_S) or CONNECT_S
        return RemoteDevice(
            entry, Settings.of(entry, FOLDER), lock, lambda: AdbLink(serial, connect_s)
        )

    def probe(self, entry: DeviceEntry, timeout_s: float = PROBE_S) -> Probe:
        link = AdbLink(self._serial(entry), timeout_s)
        try:
            words = far_scripts.shell(far_scripts.FACTS)
            facts = facts_of(link.execute(words, timeout_s=timeout_s).stdout)
        except LinkTimeout:
            return Probe("unreachable", why=f"no answer within {timeout_s:g} s")
        return Probe("ready", fingerprint(facts), {**facts, "description": describe(facts)})

    def discover(self) -> Sequence[DeviceEntry]:
        """What ``adb devices`` lists. No server is started only to find out that there is no phone."""
        if not _server_runs() and not _phone_is_plugged_in():
            return ()
        try:
            _start_server()
            listed = _adb(["devices"], PROBE_S).stdout.decode("utf-8", "replace")
        except (LinkTimeout, EdgekitError):
            return ()
        serials = [line.split("\t")[0] for line in listed.splitlines() if "\t" in line]
        return [self.entry(s) for s in serials if _SERIAL.fullmatch(s)]


TRANSPORT = AdbTransport()
