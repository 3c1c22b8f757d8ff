"""A phone of :mod:`adb_peer` behind an adb server of its own, so that the user's is left alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from adb_peer import Peer
from ssh_case import free_port

WHY_NOT = None if shutil.which("adb") else "no adb here: apt-get install adb"


@contextmanager
def phone(place: Path) -> Iterator[Peer]:
    """A peer, and the environment in which ``adb`` finds it."""
    peer = Peer(place / "phone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
        patch.setenv("EDGEKIT_LOCKS", str(place / "locks"))
        # the cache of compiled plug-ins stays where it is
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        patch.setenv("XDG_CACHE_HOME", cache)
        patch.setenv("HOME", str(place))  # adb makes its keys there
        try:
            yield peer
        finally:
            peer.stop()
            subprocess.run(["adb", "kill-server"], capture_output=True, timeout=30, check=False)


def leftovers(peer: Peer, patience_s: float = 5.0) -> list[str]:
    """What is left on the phone, after it had time to clean up."""
    end = time.monotonic() + patience_s
    while (found := sorted(os.listdir(peer.folder))) and time.monotonic() < end:
        time.sleep(0.05)
    return found
