"""A board on a serial line: the firmware that an artifact exports, running in QEMU behind a pseudo
terminal; the same bytes and the same instruction counts as on the virtual core."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mcu_case import compile_to, samples, small_net
from netgen import Net, quantized
from serial_case import INSTRUCTION_NS, QEMU, Emulated

from edgekit import api, export
from edgekit.artifact import Artifact
from edgekit.devices import open_device
from edgekit.devices.serial_ import TRANSPORT
from edgekit.devices.serial_board import SerialDevice, SerialOptions
from edgekit.errors import DeviceError, EdgekitError, InputError
from edgekit.graph.reference import run as reference_run
from edgekit.targets import get_backend

pytestmark = pytest.mark.skipif(QEMU is None, reason="qemu-system-arm is not installed")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return compile_to(tmp_path_factory.mktemp("serial") / "a", small_net(), "cortex-m4", "speed")


@pytest.fixture(scope="module")
def firmware(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fw") / "out"
    export.write(artifact, "mlperf-tiny", out, name="kws01")
    return out


@pytest.fixture
def emulated(firmware: Path) -> Iterator[Emulated]:
    board = Emulated(firmware / "firmware.elf")
    yield board
    board.close()


def opened(port: str, timeout_s: float = 30.0) -> SerialDevice:
    return SerialDevice(
        "board", port, SerialOptions(timeout_s=timeout_s, instruction_ns=INSTRUCTION_NS)
    )


def test_same_bytes_and_counts_as_the_virtual_core(artifact: Artifact, emulated: Emulated) -> None:
    graph = artifact.graph
    backend = get_backend("mcu")
    x = samples(graph, 4, 1)
    name = f"serial:{emulated.port}?instruction_ns={INSTRUCTION_NS}&timeout_s=30"
    with open_device(name) as board, open_device("virtual:cortex-m4") as virtual:
        found = backend.run(artifact, board, x)
        assert np.array_equal(found.outputs[0], reference_run(graph, x)[graph.outputs[0]])
        mine, theirs = backend.profile(artifact, board, x), backend.profile(artifact, virtual, x)
        assert mine.kind == "simulated" and mine.latency_ms is None
        assert mine.instructions == theirs.instructions
        assert mine.memory["stack_bytes"] > 0
        known = [(a.name, b.instructions) for a, b in zip(mine.layers, theirs.layers, strict=True)]
        assert [n for n, _ in known] == [n.name for n in graph.nodes]
        for layer, (_, count) in zip(mine.layers, known, strict=True):
            assert abs((layer.instructions or 0) - (count or 0)) <= 40
        traced = backend.run(artifact, board, [v[:2] for v in x], trace_layers=True)
        wanted = backend.run(artifact, virtual, [v[:2] for v in x], trace_layers=True)
        for a, b in zip(traced.layers, wanted.layers, strict=True):
            assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_helium_board(tmp_path: Path) -> None:
    artifact = compile_to(tmp_path / "a", small_net(), "cortex-m55")
    export.write(artifact, "mlperf-tiny", tmp_path / "fw")
    emulated = Emulated(tmp_path / "fw" / "firmware.elf", "mps3-an547")
    try:
        x = samples(artifact.graph, 2)
        with opened(emulated.port) as board:
            found = get_backend("mcu").run(artifact, board, x)
        assert np.array_equal(
            found.outputs[0], reference_run(artifact.graph, x)[artifact.graph.outputs[0]]
        )
    finally:
        emulated.close()


def test_verify_on_the_board(artifact: Artifact, emulated: Emulated, tmp_path: Path) -> None:
    x = samples(artifact.graph, 5, 3)[0]
    np.savez(tmp_path / "d.npz", x=x)
    name = f"serial:{emulated.port}?instruction_ns={INSTRUCTION_NS}&timeout_s=30"
    result = api.verify(artifact.path, f"{tmp_path}/d.npz:x", device=name)
    assert result["samples"] == 5 and result["mismatched_bytes"] == 0


# -- the benchmark's protocol --------------------------------------------------------------------------


class Talk:
    """The benchmark's side of the line, byte by byte."""

    def __init__(self, port: str) -> None:
        self.fd = os.open(port, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.fd)

    def until_ready(self) -> str:
        text = b""
        end = time.monotonic() + 30
        while not text.endswith(b"m-ready\r\n"):
            assert time.monotonic() < end, text
            if select.select([self.fd], [], [], 1.0)[0]:
                text += os.read(self.fd, 4096)
        return text.decode()

    def __call__(self, command: str) -> list[str]:
        os.write(self.fd, f"{command}%".encode())
        return self.until_ready().split("\r\n")[:-2]

    def close(self) -> None:
        os.close(self.fd)


def test_runner_protocol(artifact: Artifact, emulated: Emulated) -> None:
    """What the benchmark's runner sends, and the answers that it matches."""
    graph = artifact.graph
    x = samples(graph, 1, 5)[0][:1]
    data = x.tobytes()
    talk = Talk(emulated.port)
    assert "m-init-done\r\nm-ready\r\n" in talk.until_ready()
    assert talk("name") == ["m-name-dut-[edgekit]"]
    assert talk("profile") == ["m-profile-[ULPMark for tinyML Firmware V0.0.1]", "m-model-[kws01]"]
    (lap,) = talk("timestamp")
    assert re.fullmatch(r"m-lap-us-\d+", lap)
    assert talk(f"db load {len(data)}") == [f"m-[Expecting {len(data)} bytes]"]
    for at in range(0, len(data), 31):
        answer = talk(f"db {data[at : at + 31].hex()}")
    assert answer == ["m-load-done"]
    printed = "".join(line.removeprefix("m-buffer-") for line in talk("db print"))
    assert bytes.fromhex(printed.replace("-", "")) == data
    lines = talk("infer 3 1")
    assert lines[:3] == ["m-warmup-start-1", "m-warmup-done", "m-infer-start-3"]
    first, second = (int(re.fullmatch(r"m-lap-us-(\d+)", line)[1]) for line in lines[3:5])  # type: ignore[index]
    assert second > first and lines[5] == "m-infer-done"
    out = reference_run(graph, [x])[graph.outputs[0]]
    q = graph.tensor(graph.outputs[0]).quant
    assert q is not None
    real = (out.astype(np.float64).reshape(-1) - q.zp) * q.s
    assert re.fullmatch(r"m-results-\[\d+\.\d{3}(,\d+\.\d{3})*\]", lines[6])
    shown = [float(v) for v in lines[6][11:-1].split(",")]
    assert np.allclose(shown, real, atol=6e-4)
    assert talk("results") == lines[6:]
    assert talk("infer 0") == ["e-[Inference iterations must be >0]"]
    assert talk("db 0") == ["e-[Insufficent number of hex digits]"]
    assert talk("db zz") == ["e-[Invalid hex digit]"]
    assert talk("db load 0") == ["e-[Command 'db load' must be >0 bytes]"]
    assert talk("nonsense 1 2") == ["e-[Unknown command: nonsense]"]
    assert talk("x" * 500) == [f"e-[Unknown command: {'x' * 80}]"]
    talk.close()


def test_pixels_and_autoencoders_as_the_benchmark_sends_them(tmp_path: Path) -> None:
    """uint8 pixels are moved by 128; an autoencoder takes floats and gives its mean squared error."""
    net = Net(np.random.default_rng(3), (1, 16))
    graph = quantized(net.finish(net.dense("x", 16)), np.random.default_rng(4))
    artifact = compile_to(tmp_path / "a", graph, "cortex-m4")
    export.write(artifact, "mlperf-tiny", tmp_path / "fw", name="ad01")
    emulated = Emulated(tmp_path / "fw" / "firmware.elf")
    talk = Talk(emulated.port)
    try:
        talk.until_ready()
        real = np.random.default_rng(0).uniform(-1, 1, 16).astype("<f4")
        talk(f"db load {real.nbytes}")
        for at in range(0, real.nbytes, 32):
            talk(f"db {real.tobytes()[at : at + 32].hex()}")
        result = talk("infer 1 0")[-1]
        qi, qo = graph.tensor(graph.inputs[0]).quant, graph.tensor(graph.outputs[0]).quant
        assert qi is not None and qo is not None
        x = np.clip(np.round(real / np.float32(qi.s)) + qi.zp, -128, 127).astype(np.int8)
        out = reference_run(graph, [x.reshape(1, 16)])[graph.outputs[0]].astype(np.float64)
        error = np.mean(((out.reshape(-1) - qo.zp) * qo.s - real) ** 2)
        assert float(result[11:-1]) == pytest.approx(error, abs=2e-3)
    finally:
        talk.close()
        emulated.close()
    header = (tmp_path / "fw" / "src" / "ek_serial_model.h").read_text()
    assert "#define EK_DB_FORMAT EK_DB_FLOATS" in header


# -- what goes wrong -----------------------------------------------------------------------------------


class Line(threading.Thread):
    """A pseudo terminal between the host and the board that spoils what passes.

    spoil(direction, bytes) -> bytes: ``up`` is from the board to the host."""

    def __init__(self, port: str, spoil: Callable[[str, bytes], bytes]) -> None:
        super().__init__(daemon=True)
        self._board = os.open(port, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._board)
        self._host, self._slave = pty.openpty()
        tty.setraw(self._host)
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._spoil = spoil
        self.stop = False
        self.start()

    def run(self) -> None:
        try:
            while not self.stop:
                for fd in select.select([self._board, self._host], [], [], 0.2)[0]:
                    up = fd == self._board
                    data = self._spoil("up" if up else "down", os.read(fd, 4096))
                    if data:
                        os.write(self._host if up else self._board, data)
        except OSError:
            pass

    def close(self) -> None:
        self.stop = True
        self.join(5)
        for fd in (self._board, self._host, self._slave):
            os.close(fd)


@pytest.mark.slow
def test_garbage_on_the_line_gives_no_false_number(artifact: Artifact, emulated: Emulated) -> None:
    """60 injections: flipped, lost, doubled and invented bytes, in both directions. Every call either
    gives the right answer (after a retry) or a DeviceError within its time limit; afterwards the
    board works."""
    rng = np.random.default_rng(11)
    graph = artifact.graph
    x = samples(graph, 1, 9)
    data = [v[:1].tobytes() for v in x]
    want = reference_run(graph, [v[:1] for v in x])[graph.outputs[0]].tobytes()
    todo: list[tuple[str, str, int]] = []

    def spoil(direction: str, passing: bytes) -> bytes:
        if not todo or todo[0][0] != direction:
            return passing
        _, kind, at = todo[0]
        if at >= len(passing):
            todo[0] = (direction, kind, at - len(passing))
            return passing
        todo.clear()
        if kind == "flip":
            bad = bytes([passing[at] ^ (1 << int(rng.integers(8)))])
            return passing[:at] + bad + passing[at + 1 :]
        if kind == "lose":
            return passing[:at] + passing[at + 1 :]
        if kind == "double":
            return passing[: at + 1] + passing[at:]
        return passing[:at] + rng.bytes(40) + passing[at:]

    with opened(emulated.port) as clean:
        clean.load(data)
        laps, nothing = clean.laps(1)
        true = clean.ticks_to_instructions(laps[0], nothing)
    line = Line(emulated.port, spoil)
    failed = right = 0
    try:
        for k in range(60):
            kind = ("flip", "lose", "double", "garbage")[k % 4]
            todo[:] = [("up" if k % 2 else "down", kind, int(rng.integers(0, 700)))]
            started = time.monotonic()
            try:
                with opened(line.port, timeout_s=8.0) as board:
                    board.load(data)
                    board.infer()
                    assert board.output(0) == want
                    found, empty = board.laps(1)
                    assert board.ticks_to_instructions(found[0], empty) == true
                right += 1
            except DeviceError as e:
                assert "\n" not in str(e)
                failed += 1
            assert time.monotonic() - started < 40
            todo.clear()
        with opened(line.port) as board:
            board.load(data)
            board.infer()
            assert board.output(0) == want
    finally:
        line.close()
    assert right >= 50, (right, failed)


def test_a_board_that_dies_or_was_never_there(artifact: Artifact, emulated: Emulated) -> None:
    with opened(emulated.port, timeout_s=3.0) as board:
        assert len(board.model_id()) == 16
        emulated.close()
        started = time.monotonic()
        with pytest.raises(DeviceError, match=r"did not answer|unplugged|garbage"):
            board.laps(1)
        assert time.monotonic() - started < 15
    with pytest.raises(DeviceError, match="no such port"):
        SerialDevice("b", "/dev/ttyNOTHERE")
    host, slave = pty.openpty()  # somebody is there and says nothing
    try:
        silent = opened(os.ttyname(slave), timeout_s=1.0)
        with silent, pytest.raises(DeviceError, match=r"did not answer within 1 s"):
            _ = silent.model_id()
    finally:
        os.close(host)
        os.close(slave)


def test_wrong_firmware_is_refused_or_flashed(
    artifact: Artifact, emulated: Emulated, tmp_path: Path
) -> None:
    net = Net(np.random.default_rng(9), (1, 8))
    other = quantized(net.finish(net.dense("x", 4)), np.random.default_rng(1))
    second = compile_to(tmp_path / "b", other, "cortex-m4")
    x = samples(other, 1)
    backend = get_backend("mcu")
    with opened(emulated.port) as board:
        with pytest.raises(DeviceError, match="runs the firmware of another model"):
            backend.run(second, board, x)
        with pytest.raises(DeviceError, match="no flash command"):
            board.flash(tmp_path / "x.elf")
    emulated.close()
    # A "programmer": puts the ELF where the emulator is restarted from.
    link = tmp_path / "tty"
    script = tmp_path / "program.py"
    script.write_text(
        "import os, re, shutil, subprocess, sys, time\n"
        f"folder, link = {str(tmp_path)!r}, {str(link)!r}\n"
        "kept, log = shutil.copy(sys.argv[1], folder + '/kept.elf'), folder + '/log'\n"
        f"p = subprocess.Popen([{str(QEMU)!r}, '-M', 'mps2-an386', '-kernel', kept, '-display',\n"
        "    'none', '-monitor', 'none', '-icount', 'shift=7,sleep=off', '-chardev', 'pty,id=s',\n"
        "    '-serial', 'chardev:s'], stdout=open(log, 'w'), stdin=subprocess.DEVNULL,\n"
        "    stderr=subprocess.STDOUT, start_new_session=True)\n"
        "open(folder + '/pid', 'w').write(str(p.pid))\n"
        "while not (found := re.search(r'/dev/pts/\\d+', open(log).read())):\n"
        "    time.sleep(0.05)\n"
        "os.unlink(link)\n"
        "os.symlink(found[0], link)\n"
    )
    host, slave = pty.openpty()
    os.symlink(os.ttyname(slave), link)  # a board without firmware
    options = SerialOptions(115200, 5.0, INSTRUCTION_NS, (sys.executable, str(script), "{elf}"))
    try:
        with SerialDevice("board", str(link), options) as board:
            found = backend.run(second, board, x)
            assert np.array_equal(found.outputs[0], reference_run(other, x)[other.outputs[0]])
    finally:
        os.close(host)
        os.close(slave)
        if (tmp_path / "pid").exists():
            os.kill(int((tmp_path / "pid").read_text()), 9)


def test_entries_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = TRANSPORT.entry("/dev/ttyX?baud=921600&timeout_s=300")
    assert entry.settings["baud"] == 921600 and entry.settings["timeout_s"] == 300.0
    for bad in ("", "/dev/x?speed=1", "/dev/x?baud=fast"):
        with pytest.raises(InputError):
            TRANSPORT.entry(bad)
    file = tmp_path / "devices.yaml"
    monkeypatch.setenv("EDGEKIT_DEVICES", str(file))
    for body, why in (
        ("{transport: serial}", "lacks the field 'port'"),
        ("{transport: serial, port: /dev/x, baud: 1}", "'baud' is '1'"),
        ("{transport: serial, port: /dev/x, flash: pyocd flash}", "with {elf} where"),
        ("{transport: serial, port: /dev/x, instruction_ns: -1}", "'instruction_ns' is '-1'"),
        ("{transport: serial, port: /dev/x, password: y}", "has no field 'password'"),
    ):
        file.write_text(f"devices:\n  b: {body}\n")
        with pytest.raises(EdgekitError, match=re.escape(why)):
            open_device("b")


def test_a_lock_keeps_two_users_apart(emulated: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_LOCK_WAIT", "0.3")
    name = f"serial:{emulated.port}?instruction_ns={INSTRUCTION_NS}&timeout_s=20"
    code = (
        "import sys\nfrom edgekit.devices import open_device\nfrom edgekit.errors import EdgekitError\n"
        "try:\n    open_device(sys.argv[1])\nexcept EdgekitError as e:\n    print(e)\n"
    )
    with open_device(name):
        done = subprocess.run(
            [sys.executable, "-c", code, name],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert "is in use by process" in done.stdout
    with open_device(name) as again:
        assert json.dumps(dict(again.info().details))


def test_firmware_is_clean_for_gcc(firmware: Path, tmp_path: Path) -> None:
    """The exported project with its own CMake file, as one builds it for a board."""
    command = ["cmake", "-S", firmware, "-B", tmp_path / "b", "-DCMAKE_SYSTEM_NAME=Generic",
               "-DCMAKE_C_COMPILER=arm-none-eabi-gcc",
               "-DCMAKE_TRY_COMPILE_TARGET_TYPE=STATIC_LIBRARY"]  # fmt: skip
    for step in (command, ["cmake", "--build", tmp_path / "b"]):
        done = subprocess.run(
            [str(c) for c in step], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "b" / "firmware.elf").stat().st_size > 4000
