"""TVM's RPC with real servers and a real tracker on the loopback: same bytes as a direct run, keys,
time limits, a device that reboots."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from engine_case import compile_with, int8_net
from netgen import random_inputs

from edgekit.artifact import Artifact
from edgekit.devices import open_device, rpc
from edgekit.devices.rpc import TRANSPORT
from edgekit.devices.transport import probed
from edgekit.errors import DeviceError, DeviceUnavailable, EdgekitError
from edgekit.graph.reference import run as reference_run
from edgekit.targets import get_backend

pytest.importorskip("tvm", reason="apache-tvm is not installed")
pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Server:
    """``python -m tvm.exec.rpc_server`` (or tracker), ready when its port answers."""

    def __init__(self, *arguments: str, module: str = "rpc_server") -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"tvm.exec.{module}", "--host", "127.0.0.1", "--port",
             str(self.port), "--port-end", str(self.port + 1), *arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        end = time.monotonic() + 180
        while True:
            assert self.process.poll() is None and time.monotonic() < end
            try:
                socket.create_connection(("127.0.0.1", self.port), 5).close()
                return
            except OSError:
                time.sleep(0.2)

    def close(self) -> None:
        # The one that listens is a child of the one that was started.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return compile_with(tmp_path_factory.mktemp("rpc") / "a", int8_net(), "x86-64-host", "tvm")


@pytest.fixture
def server() -> Iterator[Server]:
    s = Server()
    yield s
    s.close()


def test_bytes_and_time_of_a_server_that_reboots(artifact: Artifact, server: Server) -> None:
    graph = artifact.graph
    x = random_inputs(graph, np.random.default_rng(1), 3)
    want = reference_run(graph, x)[graph.outputs[0]]
    backend = get_backend("server")
    name = f"rpc:127.0.0.1:{server.port}"
    assert probed(TRANSPORT.entry(f"127.0.0.1:{server.port}")).state == "ready"
    with open_device(name) as device:
        found = backend.run(artifact, device, x)
        assert np.array_equal(found.outputs[0], want)
        profile = backend.profile(artifact, device, x)
        assert profile.kind == "measured" and profile.latency_ms and profile.latency_ms > 0
        server.close()  # the device loses its power in the middle of a session
        started = time.monotonic()
        with pytest.raises(DeviceUnavailable):
            backend.run(artifact, device, x)
        with pytest.raises(DeviceUnavailable, match="open the device again"):
            backend.run(artifact, device, x)
        assert time.monotonic() - started < 30
    assert probed(TRANSPORT.entry(f"127.0.0.1:{server.port}")).state == "unreachable"
    again = Server()
    try:
        with open_device(f"rpc:127.0.0.1:{again.port}") as device:
            assert np.array_equal(backend.run(artifact, device, x).outputs[0], want)
    finally:
        again.close()


def test_tracker_lends_a_device_of_the_key(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Server(module="rpc_tracker")
    worker = None
    try:
        worker = Server("--tracker", f"127.0.0.1:{tracker.port}", "--key", "board")
        file = tmp_path / "devices.yaml"
        monkeypatch.setenv("EDGEKIT_DEVICES", str(file))
        file.write_text(
            f"devices:\n  farm: {{transport: rpc, tracker: '127.0.0.1:{tracker.port}', key: board, "
            "session_timeout: 60}\n"
        )
        x = random_inputs(artifact.graph, np.random.default_rng(2), 2)
        with open_device("farm") as device:
            found = get_backend("server").run(artifact, device, x)
        assert np.array_equal(
            found.outputs[0], reference_run(artifact.graph, x)[artifact.graph.outputs[0]]
        )
    finally:
        if worker is not None:
            worker.close()
        tracker.close()


def test_time_limits_keys_and_programs(artifact: Artifact, tmp_path: Path) -> None:
    keyed = Server("--key", "secret")
    try:
        with pytest.raises(DeviceUnavailable):
            open_device(f"rpc:127.0.0.1:{keyed.port}")  # without its key
    finally:
        keyed.close()
    silent = socket.create_server(("127.0.0.1", 0))  # accepts, never answers
    entry = TRANSPORT.entry(f"127.0.0.1:{silent.getsockname()[1]}")
    started = time.monotonic()
    kept, rpc._START_S = rpc._START_S, 20.0
    try:
        with pytest.raises(DeviceUnavailable, match=r"did not answer within 20 s"):
            TRANSPORT.open(entry)
    finally:
        rpc._START_S = kept
        silent.close()
    assert time.monotonic() - started < 40
    (tmp_path / "not.so").write_bytes(b"not a library")
    plain = Server()
    try:
        with open_device(f"rpc:127.0.0.1:{plain.port}") as device:
            with pytest.raises(DeviceError, match="runs no programs"):
                device.push(tmp_path / "not.so", "x")
            with pytest.raises(DeviceUnavailable, match="failed while loading"):
                device.load_library(tmp_path / "not.so")  # type: ignore[attr-defined]
    finally:
        plain.close()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("{transport: rpc}", "either 'host'"),
        ("{transport: rpc, host: a, tracker: 'b:1', key: k}", "either 'host'"),
        ("{transport: rpc, tracker: 'b:1'}", "lacks 'key'"),
        ("{transport: rpc, tracker: b, key: k}", "'tracker' is 'b'"),
        ("{transport: rpc, host: 'a;rm -rf ~'}", "'host' is 'a;rm -rf ~'"),
        ("{transport: rpc, host: a, port: 70000}", "'port' is '70000'"),
        ("{transport: rpc, host: a, password: p}", "has no field 'password'"),
    ],
)
def test_wrong_entries(
    body: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "devices.yaml").write_text(f"devices:\n  b: {body}\n")
    monkeypatch.setenv("EDGEKIT_DEVICES", str(tmp_path / "devices.yaml"))
    with pytest.raises(EdgekitError, match=re.escape(why)):
        open_device("b")
