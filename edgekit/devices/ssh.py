"""Transport ``ssh``: any Linux board, through the user's own OpenSSH client, configuration and
known_hosts. Never asks for a password, and accepts no host key that the user has not accepted.

One connection is shared by all commands (OpenSSH's ControlMaster, with a socket of our own in a
private folder); it ends with the device, or a minute after this process.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
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
from edgekit.errors import DeviceError, DeviceUnavailable, ToolchainError

CONNECT_S = 10.0
_LOST = 255  #: OpenSSH's own exit code
_OPTIONS = (
    "BatchMode=yes", "ClearAllForwardings=yes", "ForwardAgent=no", "ForwardX11=no",
    "PermitLocalCommand=no", "RemoteCommand=none", "RequestTTY=no", "EscapeChar=none",
    "LogLevel=ERROR", "ServerAliveInterval=5", "ServerAliveCountMax=3",
)  # fmt: skip
_UPLOAD = 'cat >"$1" && chmod 700 "$1"; echo "edgekit-size $(($(wc -c <"$1")))"'
_DOWNLOAD = (
    '[ -f "$1" ] && { echo "edgekit-size $(($(wc -c <"$1")))"; cat "$1"; } || echo edgekit-none'
)
_SIZE = re.compile(rb"edgekit-size ([0-9]{1,15})\n")


def _host(entry: DeviceEntry) -> str:
    """``[user@]host`` as ssh takes it; never an option of ssh."""
    host = entry.needed("host")
    if not re.fullmatch(r"[A-Za-z0-9_\[:][A-Za-z0-9_.:@%\[\]-]{0,254}", host):
        raise entry.wrong("host", "a host name of your ssh configuration, or user@host")
    return host


def _base(entry: DeviceEntry, connect_s: float) -> list[str]:
    """The client's command up to the host."""
    words = ["ssh"]
    config = entry.text("config")
    if config:
        words += ["-F", str(Path(config).expanduser())]
    for option in (*_OPTIONS, f"ConnectTimeout={max(1, round(connect_s))}"):
        words += ["-o", option]
    if "port" in entry.settings:
        words += ["-p", str(entry.whole("port", 22, 1, 65535))]
    user = entry.text("user")
    if user:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.$-]{0,63}", user):
            raise entry.wrong("user", "a user name")
        words += ["-l", user]
    identity = entry.text("identity")
    if identity:
        words += ["-i", str(Path(identity).expanduser())]
    return words


class SshLink:
    """The shared connection."""

    transport = "ssh"

    def __init__(self, entry: DeviceEntry, connect_s: float = CONNECT_S) -> None:
        self.where = _host(entry)
        self._base = _base(entry, connect_s)
        # The socket's path may have about 100 characters: not below a deep TMPDIR.
        short = "/tmp" if os.path.isdir("/tmp") else None
        self._scratch = Path(tempfile.mkdtemp(prefix="ekssh-", dir=short))
        self._socket = self._scratch / "s"
        try:
            self._connect(connect_s)
        except BaseException:
            self.close()
            raise

    def _connect(self, connect_s: float) -> None:
        said = self._scratch / "said"  # a file: the process that stays behind keeps it open
        master = ["-o", "ControlMaster=yes", "-o", f"ControlPath={self._socket}"]
        master += ["-o", "ControlPersist=60", "-N", "-f"]
        try:
            with said.open("wb") as errors:
                done = subprocess.run(
                    [*self._base, *master, "--", self.where],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    timeout=connect_s + 5,
                    check=False,
                )
        except subprocess.TimeoutExpired:
            raise DeviceUnavailable(
                f"{self.where} did not answer within {connect_s + 5:g} s; it may be hung"
            ) from None
        except OSError as e:
            raise ToolchainError(f"the program ssh cannot be started ({e.strerror})") from None
        if done.returncode:
            why = last_line(said.read_bytes()) or f"ssh ended with code {done.returncode}"
            raise DeviceUnavailable(f"{self.where} cannot be reached by ssh: {why}")

    def _command(self, words: Sequence[str]) -> list[str]:
        # Without the shared connection there is none: a new one would find the folder gone.
        shared = ["-o", "ControlMaster=no", "-o", f"ControlPath={self._socket}"]
        return [
            *self._base,
            *shared,
            "-o",
            "ProxyCommand=false",
            "--",
            self.where,
            shlex.join(words),
        ]

    def execute(self, words: Sequence[str], *, stdin: bytes = b"", timeout_s: float) -> Answer:
        try:
            done = subprocess.run(
                self._command(words),
                input=stdin,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LinkTimeout from None
        except OSError as e:
            raise ToolchainError(f"the program ssh cannot be started ({e.strerror})") from None
        if done.returncode == _LOST and not self._alive():
            raise DeviceUnavailable(
                f"the connection to {self.where} was lost: "
                f"{last_line(done.stderr) or 'ssh gave no reason'}"
            )
        return Answer(done.returncode, done.stdout, done.stderr)

    def _alive(self) -> bool:
        check = [*self._base, "-o", f"ControlPath={self._socket}", "-O", "check", "--", self.where]
        try:
            done = subprocess.run(
                check, stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0

    def start(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command(words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def upload(self, data: bytes, path: str, timeout_s: float) -> None:
        done = self.execute(far_scripts.shell(_UPLOAD, path), stdin=data, timeout_s=timeout_s)
        found = _SIZE.search(done.stdout)
        if not found:
            raise DeviceUnavailable(f"{self.where} did not confirm a file of {len(data):,} bytes")
        if int(found.group(1)) != len(data):
            raise DeviceError(
                f"only {int(found.group(1)):,} of {len(data):,} bytes could be written on "
                f"{self.where}: {last_line(done.stderr) or 'its disk may be full'}"
            )

    def download(self, path: str, timeout_s: float) -> bytes:
        done = self.execute(far_scripts.shell(_DOWNLOAD, path), timeout_s=timeout_s)
        first, newline, rest = done.stdout.partition(b"\n")
        found = _SIZE.fullmatch(first + newline)
        if not found:
            if first == b"edgekit-none":
                raise DeviceError(f"the device has no file '{Path(path).name}'")
            raise DeviceUnavailable(f"{self.where} did not send '{Path(path).name}'")
        if len(rest) != int(found.group(1)):
            raise DeviceUnavailable(
                f"the connection to {self.where} was lost: {len(rest):,} of "
                f"{int(found.group(1)):,} bytes arrived"
            )
        return rest

    def close(self) -> None:
        if self._socket.exists():
            stop = [
                *self._base,
                "-o",
                f"ControlPath={self._socket}",
                "-O",
                "exit",
                "--",
                self.where,
            ]
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    stop, stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False
                )
        shutil.rmtree(self._scratch, ignore_errors=True)


class SshTransport:
    """``host`` (``[user@]host``), ``user``, ``port``, ``identity``, ``config`` (a file for ``ssh
    -F``) and the fields of every device with a shell."""

    name = "ssh"

    def why_unusable(self) -> str | None:
        return None if shutil.which("ssh") else "ssh is missing: apt-get install openssh-client"

    def entry(self, address: str) -> DeviceEntry:
        return DeviceEntry(f"ssh:{address}", "ssh", {"transport": "ssh", "host": address})

    def check(self, entry: DeviceEntry) -> None:
        entry.only("host", "user", "port", "identity", "config", *FIELDS)
        _host(entry)
        _base(entry, CONNECT_S)
        Settings.of(entry, "/tmp")

    def lock_key(self, entry: DeviceEntry) -> str:
        """The host that the user's configuration makes of the name, so that two names are one."""
        host = _host(entry)
        shown = b""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            shown = subprocess.run(
                [*_base(entry, CONNECT_S), "-G", "--", host],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=10,
                check=False,
            ).stdout
        found = dict(
            line.split(" ", 1)
            for line in shown.decode("utf-8", "replace").splitlines()
            if " " in line
        )
        return f"ssh:{found.get('hostname', host)}:{found.get('port', entry.text('port', '22'))}"

    def open(self, entry: DeviceEntry, target: Any = None) -> Device:
        why = self.why_unusable()
        if why:
            raise ToolchainError(f"device '{entry.name}' cannot be used: {why}")
        self.check(entry)
        wait = entry.seconds("lock_wait_s", 0) if "lock_wait_s" in entry.settings else None
        lock = DeviceLock(self.lock_key(entry), entry.name, wait)
        connect_s = entry.seconds("timeout_s", CONNECT_S) or CONNECT_S
        return RemoteDevice(
            entry, Settings.of(entry, "/tmp"), lock, lambda: SshLink(entry, connect_s)
        )

    def probe(self, entry: DeviceEntry, timeout_s: float = PROBE_S) -> Probe:
        link = SshLink(entry, min(timeout_s, entry.seconds("timeout_s", CONNECT_S) or CONNECT_S))
        try:
            words = far_scripts.shell(far_scripts.FACTS)
            facts = facts_of(link.execute(words, timeout_s=timeout_s).stdout)
        except LinkTimeout:
            return Probe("unreachable", why=f"no answer within {timeout_s:g} s")
        finally:
            link.close()
        return Probe("ready", fingerprint(facts), {**facts, "description": describe(facts)})

    def discover(self) -> Sequence[DeviceEntry]:
        return ()


TRANSPORT = SshTransport()
