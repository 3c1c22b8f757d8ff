"""A real OpenSSH server on loopback, as the user who runs the tests: its own host key, configuration
and authorized key in a temporary folder, nothing of the machine's touched."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else None)
WHY_NOT = None if SSHD else "no sshd here: apt-get install openssh-server"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Server:
    """``config``: the client's configuration, with the host ``board``. ``folder``: where devices
    make their folders, so that a test can look for leftovers."""

    def __init__(self, place: Path, port: int) -> None:
        self.place, self.port = place, port
        self.config, self.folder = place / "client", place / "far"
        self.folder.mkdir()

    def write_config(self, port: int | None = None, name: str = "client") -> Path:
        """A client's configuration for the host ``board``, reached through ``port``."""
        path = self.place / name
        path.write_text(
            f"Host board\n  HostName 127.0.0.1\n  Port {port or self.port}\n"
            f"  HostKeyAlias board\n  IdentityFile {self.place}/key\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.place}/known\n  GlobalKnownHostsFile /dev/null\n"
            "  StrictHostKeyChecking yes\n"
        )
        return path

    def leftovers(self, patience_s: float = 5.0) -> list[str]:
        """What is left in the folder of devices, after they had time to clean up."""
        end = time.monotonic() + patience_s
        while (found := sorted(os.listdir(self.folder))) and time.monotonic() < end:
            time.sleep(0.05)
        return found

    def yaml(self, text: str) -> Path:
        path = self.place / "devices.yaml"
        path.write_text(text)
        return path


def _run(*words: object) -> str:
    return subprocess.run(
        [str(w) for w in words], check=True, capture_output=True, text=True, timeout=60
    ).stdout


@contextmanager
def server(place: Path) -> Iterator[Server]:
    """Start a server in the empty folder ``place``."""
    assert SSHD is not None
    for name in ("host_key", "key"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / name)
    board = Server(place, free_port())
    shutil.copy(place / "key.pub", place / "authorized")
    (place / "known").write_text(f"board {(place / 'host_key.pub').read_text()}")
    config = place / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1\nPort {board.port}\nHostKey {place}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {place}/authorized\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin yes\nMaxSessions 30\nMaxStartups 100\n"
    )
    if os.geteuid() == 0:  # the server's own check, for root only
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    board.write_config()
    log = (place / "log").open("wb")
    process = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    try:
        _wait_for(board.port, process)
        yield board
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        assert process.poll() is None, "sshd ended"
        with socket.socket() as s:
            s.settimeout(1)
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("sshd did not start")
