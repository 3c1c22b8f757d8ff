"""A device behind a :mod:`.link`: a Linux board over ssh, a phone over adb.

Nothing is installed there. A keeper (``far_scripts.KEEPER``) makes a private folder and removes it
when it no longer hears from us, so nothing is left behind even where the connection is cut or this
process is killed. Programs write to files, and what they said is read back with its length: a cut
connection is an error, never a shorter answer.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit.devices import far_scripts
from edgekit.devices.base import DeviceInfo, Kind, RunRequest, RunResult, Trace
from edgekit.devices.emulated import FarEmulator, emulator_of
from edgekit.devices.entries import DeviceEntry
from edgekit.devices.facts import SAME, describe, facts_of, fingerprint, machine_of
from edgekit.devices.link import Answer, Link, LinkTimeout, last_line
from edgekit.devices.lock import DeviceLock
from edgekit.errors import DeviceError, DeviceUnavailable, InputError
from edgekit.text import visible

#: Seconds a small command may take, and bytes a second a transfer has to reach.
COMMAND_S, SLOWEST = 20.0, 50_000
#: Seconds between signs of life, and how long the far side waits for one.
_BEAT_S, PATIENCE_S = 4.0, 20
_FOLDER = re.compile(rb"edgekit-folder=(/[!-~]{1,200}/edgekit-[A-Za-z0-9]{6,})\n")
_END = re.compile(rb"edgekit-end ([0-9]{1,3}) ([0-9]{1,15}) ([0-9]{1,15}) ([01])\n")
_SIZE = re.compile(rb"edgekit-size ([0-9]{1,15})\n")

#: Fields of devices.yaml that every device with a shell has.
FIELDS = ("folder", "wrapper", "env", "python", "kind")


@dataclass(frozen=True)
class Settings:
    """folder: where the private folder is made. wrapper: words in front of each program, such as
    ``qemu-aarch64 -cpu cortex-a53``. env: of each program. python: the interpreter there."""

    folder: str
    wrapper: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    python: str = "python3"
    kind: Kind = "measured"

    @staticmethod
    def of(entry: DeviceEntry, folder: str) -> Settings:
        """InputError for fields that cannot be used."""
        wrapper = entry.words("wrapper")
        where = entry.text("folder", folder)
        if not re.fullmatch(r"/[!-~]{0,200}", where):
            raise entry.wrong("folder", "an absolute path without spaces")
        emulated = emulator_of(wrapper) is not None
        kind = entry.text("kind", "simulated" if emulated else "measured")
        if kind not in ("measured", "simulated") or (emulated and kind == "measured"):
            raise entry.wrong("kind", "measured or simulated, and simulated under an emulator")
        return Settings(
            where.rstrip("/") or "/",
            wrapper,
            entry.pairs("env"),
            entry.text("python", "python3"),
            "simulated" if kind == "simulated" else "measured",
        )


class RemoteDevice:
    """``connect`` opens the link once the lock is there; a ``describe`` of facts makes the text."""

    def __init__(
        self,
        entry: DeviceEntry,
        settings: Settings,
        lock: DeviceLock,
        connect: Callable[[], Link],
    ) -> None:
        self.name = entry.name
        self.entry = entry
        self._settings = settings
        self._pushed: dict[str, tuple[str, bytes]] = {}  # name -> digest, first bytes
        self._programs: dict[str, bytes] = {}  # ELF files that symbols may be asked of
        self._broken: str | None = None
        self._closed = False
        lock.acquire()
        try:
            self._link = _patiently(connect, entry.seconds("wait_s", 0))
        except BaseException:
            lock.release()
            raise
        self._close = weakref.finalize(self, _close, state := _Open(self._link, lock))
        self._state = state
        try:
            self._start_keeper()
            self.facts = facts_of(self._execute(far_scripts.shell(far_scripts.FACTS)).stdout)
            self._emulator = self._find_emulator()
        except BaseException:
            self._close()
            raise

    # -- the connection ------------------------------------------------------------------------

    def _start_keeper(self) -> None:
        words = far_scripts.shell(far_scripts.KEEPER, self._settings.folder, str(PATIENCE_S))
        keeper = self._link.start(words)
        self._state.keeper = keeper
        said = _read_line(keeper, COMMAND_S)
        found = _FOLDER.fullmatch(said)
        if not found:
            if said.startswith(b"edgekit-error="):
                raise DeviceError(f"{self.name}: {last_line(said).partition('=')[2]}")
            raise DeviceUnavailable(
                f"{self.name} ({self._link.where}) gave no folder to work in: "
                f"{last_line(said) or 'the connection ended'}"
            )
        self._folder = found.group(1).decode()
        self._state.folder = self._folder
        threading.Thread(
            target=_beat, args=(keeper, self._state.stop), name="edgekit-beat", daemon=True
        ).start()

    def _lost(self, why: str) -> DeviceUnavailable:
        self._broken = why
        return DeviceUnavailable(
            f"the connection to {self.name} ({self._link.where}) was lost: {why}"
        )

    def _check(self) -> None:
        if self._closed:
            raise DeviceError("the device has been closed; open it again to use it")
        if self._broken:
            raise self._lost(self._broken)
        if self._state.keeper is not None and self._state.keeper.poll() is not None:
            raise self._lost("it no longer answers")

    def _execute(
        self, words: Sequence[str], timeout_s: float | None = None, stdin: bytes = b""
    ) -> Answer:
        self._check()
        timeout_s = COMMAND_S if timeout_s is None else timeout_s
        try:
            return self._link.execute(words, stdin=stdin, timeout_s=timeout_s)
        except LinkTimeout:
            raise self._lost(f"no answer within {timeout_s:g} s") from None
        except DeviceUnavailable as e:
            self._broken = str(e)
            raise

    def _find_emulator(self) -> FarEmulator | None:
        model = emulator_of(self._settings.wrapper)
        if model is None:
            return None
        return FarEmulator.find(
            self._settings.wrapper,
            model,
            str(self.facts.get("machine", "")),
            lambda words: self._execute(words).stdout,
        )

    # -- Device --------------------------------------------------------------------------------

    def info(self) -> DeviceInfo:
        """``details`` has the facts, the fingerprint and what runs the programs."""
        facts = dict(self.facts)
        details: dict[str, Any] = {
            **facts,
            "cpu": facts.get("cpu") or facts.get("soc") or facts.get("hardware")
            or facts.get("model") or facts.get("machine", "not known"),
            "fingerprint": fingerprint(facts),
            "address": self._link.where,
            "python": self._settings.python,
        }  # fmt: skip
        text = describe(facts)
        if self._emulator is not None:
            details |= self._emulator.details()
            text = (
                f"{details['backend']} as {details['cpu']}, on {text}; its wall-clock is no latency"
            )
        elif self._settings.wrapper:
            details["wrapper"] = " ".join(self._settings.wrapper)
        if self._settings.kind == "simulated" and self._emulator is None:
            details["counts_instructions"] = False
        return DeviceInfo(self.name, self._link.transport, self._settings.kind, text, details)

    def _remote(self, name: str) -> str:
        pure = PurePosixPath(name)
        bad = not name or "\0" in name or "\n" in name or pure.is_absolute() or ".." in pure.parts
        if bad or not pure.parts:
            raise InputError(
                f"the device path '{name}' is not inside the device's folder; "
                "give a relative path without '..'"
            )
        return f"{self._folder}/w/{pure}"

    def push(self, local: Path, remote: str) -> None:
        local = Path(local)
        if not local.is_file():
            raise InputError(f"the file '{local}' to push does not exist or is not a plain file")
        self.push_bytes(local.read_bytes(), remote)

    def push_bytes(self, data: bytes, remote: str) -> None:
        """A file that is there already with the same content is not sent again."""
        path = self._remote(remote)
        digest = hashlib.sha256(data).hexdigest()
        known = self._pushed.get(remote)
        if known is not None and known[0] == digest:
            return
        self._pushed.pop(remote, None)
        self._check()
        parent = str(PurePosixPath(path).parent)
        if parent != f"{self._folder}/w":
            self._execute(["mkdir", "-p", "--", parent])
        self._upload(data, path)
        self._pushed[remote] = (digest, data[:64])
        if data[:4] == b"\x7fELF" and self._emulator is not None:
            self._programs[remote] = data

    def _upload(self, data: bytes, path: str) -> None:
        limit = COMMAND_S + len(data) / SLOWEST
        try:
            self._link.upload(data, path, limit)
        except LinkTimeout:
            raise self._lost(f"{len(data):,} bytes were not sent within {limit:.0f} s") from None
        except DeviceUnavailable as e:
            self._broken = str(e)
            raise

    def pull(self, remote: str) -> bytes:
        return self._download(self._remote(remote), remote)

    def _download(self, path: str, name: str) -> bytes:
        """The time limit depends on the file's size, which is asked first."""
        said = self._execute(far_scripts.shell(far_scripts.SIZE, path)).stdout
        found = _SIZE.fullmatch(said)
        if not found:
            if said == b"edgekit-none\n":
                raise DeviceError(f"the device has no file '{name}'")
            raise self._lost(f"the size of '{name}' was not told")
        limit = COMMAND_S + int(found.group(1)) / SLOWEST
        try:
            data = self._link.download(path, limit)
        except LinkTimeout:
            raise self._lost(f"'{name}' did not arrive within {limit:.0f} s") from None
        except DeviceUnavailable as e:
            self._broken = str(e)
            raise
        if len(data) != int(found.group(1)):
            raise self._lost(f"{len(data):,} of {int(found.group(1)):,} bytes of '{name}' arrived")
        return data

    def run(self, request: RunRequest) -> RunResult:
        """Run a pushed program under the entry's wrapper. An exit code from 129 to 192 is taken as
        the end by a signal, as the shell there reports it."""
        path = self._remote(request.program)
        if request.program not in self._pushed:
            self._adopt(request.program, path)
        head = self._pushed[request.program][1]
        self._check_program(request.program, head)
        emulator, traced = self._emulator, False
        words: list[str] = [*self._settings.wrapper]
        if request.trace or request.sections:
            if emulator is None and self._settings.kind == "measured":
                raise InputError(
                    f"{self.name} cannot count instructions by function or section; "
                    "use a virtual: device"
                )
            traced = emulator is not None and emulator.why_not is None
        symbols = None
        if traced and emulator is not None:
            symbols = emulator.symbols(self._program_bytes(request.program, path))
            self._push_plugin(emulator)
            words = emulator.command(request, symbols, f"{self._folder}/plugin.so", self._counts)
        stdin = "/dev/null"
        if request.stdin:
            stdin = f"{self._folder}/in"
            self._upload(request.stdin, stdin)
        command = [*self._pinned(request.cpus), *words, f"./{PurePosixPath(request.program)}"]
        exports = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in self._settings.env.items())
        script = exports + far_scripts.RUN
        started = time.monotonic()
        self._check()
        try:
            answer = self._link.execute(
                far_scripts.shell(script, self._folder, stdin, *command, *request.args),
                timeout_s=request.timeout_s,
            )
        except LinkTimeout:
            self._kill()
            raise DeviceError(
                f"'{request.program}' on {self.name} did not end within {request.timeout_s:g} s"
            ) from None
        except DeviceUnavailable as e:
            self._broken = str(e)
            raise
        wall = time.monotonic() - started
        code, out, err = self._parts(answer)
        trace: Trace | None = None
        if traced and emulator is not None and symbols is not None:
            emulator.check(request, self.name, code, err)
            if code < 128:
                trace = emulator.trace(
                    self._download(self._counts, "counts"), symbols, request.sections
                )
        self._check_end(request.program, code, err)
        return RunResult(
            code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), wall, trace
        )

    @property
    def _counts(self) -> str:
        return f"{self._folder}/counts"

    def sh(self, script: str, *parameters: str, timeout_s: float | None = None) -> str:
        """What a script of ours prints on the device (conditions, counters of energy)."""
        answer = self._execute(far_scripts.shell(script, *parameters), timeout_s)
        return answer.stdout[: 1 << 20].decode("utf-8", "replace")

    def _adopt(self, name: str, path: str) -> None:
        """A program that another program made on the device."""
        answer = self._execute(["head", "-c", "64", "--", path])
        if answer.exit_code or not answer.stdout:
            raise DeviceError(f"the device has no program '{name}'; push it first")
        self._pushed[name] = ("", answer.stdout)

    def _program_bytes(self, name: str, path: str) -> bytes:
        return self._programs.get(name) or self._download(path, name)

    def _push_plugin(self, emulator: FarEmulator) -> None:
        if "\0plugin" not in self._pushed:
            self._upload(emulator.plugin().read_bytes(), f"{self._folder}/plugin.so")
            self._pushed["\0plugin"] = ("", b"")

    def _pinned(self, cpus: Sequence[int]) -> list[str]:
        if cpus and "taskset" not in self.facts:
            raise DeviceError(f"{self.name} has no 'taskset' to keep a program on one core with")
        return far_scripts.pinned([], cpus)

    def _check_program(self, name: str, head: bytes) -> None:
        """Refuse another architecture's program here: shells read it as a script."""
        machine = machine_of(head)
        emulated = self._emulator is not None
        accepted = "aarch64" if emulated else str(self.facts.get("machine", ""))
        accepted = SAME.get(accepted, accepted)
        if machine is None:
            if emulated:
                raise DeviceError(
                    f"'{name}' is no ELF program, and {self.name} runs programs under "
                    f"{self._settings.wrapper[0]}"
                )
            return
        fits = machine == accepted or (machine, accepted) == ("i686", "x86_64")
        if accepted and not fits and not (self._settings.wrapper and not emulated):
            raise DeviceError(
                f"'{name}' is a program for {machine} and {self.name} is {accepted}; compile for "
                f"a target that is {accepted}"
            )

    def _parts(self, answer: Answer) -> tuple[int, bytes, bytes]:
        """(exit code, stdout, stderr) of a program; DeviceUnavailable unless all of it arrived."""
        first, newline, rest = answer.stdout.partition(b"\n")
        found = _END.fullmatch(first + newline)
        if not found:
            raise self._lost(last_line(answer.stderr) or "the program's end was not reported")
        code, out, err, full = (int(x) for x in found.groups())
        if full:
            raise DeviceError(
                f"the folder '{self._settings.folder}' of {self.name} is full: what the program "
                "wrote there may be incomplete; make room or name another 'folder' in devices.yaml"
            )
        if len(rest) != out + err:
            raise self._lost(f"{len(rest):,} of {out + err:,} bytes arrived")
        return code, rest[:out], rest[out:]

    def _check_end(self, name: str, code: int, err: bytes) -> None:
        words = visible(last_line(err)) or "none"
        if code in (126, 127):
            raise DeviceError(
                f"'{name}' could not be started on {self.name} (its shell says: {words}); the folder "
                f"'{self._settings.folder}' has to allow programs, see 'folder' in devices.yaml"
            )
        if 128 < code <= 192:
            hint = ""
            if code == 132:
                hint = ", an illegal instruction: it was compiled for ISA features this core lacks"
            raise DeviceError(
                f"'{name}' on {self.name} was ended by signal {code - 128}{hint}; its last words: "
                f"{words}"
            )

    def _kill(self) -> None:
        try:
            words = far_scripts.shell(far_scripts.KILL, self._folder)
            done = self._link.execute(words, timeout_s=COMMAND_S / 2)
            if b"edgekit-killed" in done.stdout:
                return
        except (LinkTimeout, DeviceError):
            pass
        self._broken = "a program could not be stopped"

    def close(self) -> None:
        self._closed = True
        self._close()

    def __enter__(self) -> RemoteDevice:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass
class _Open:
    """What has to be closed; apart from the device, so that garbage collection can close it."""

    link: Link
    lock: DeviceLock
    keeper: subprocess.Popen[bytes] | None = None
    folder: str = ""
    stop: threading.Event = field(default_factory=threading.Event)


def _close(state: _Open) -> None:
    """The keeper removes the folder when its input ends; it is waited for a moment, then left to its
    own time limit."""
    state.stop.set()
    try:
        keeper = state.keeper
        if keeper is not None:
            with suppress(OSError, ValueError):
                if keeper.stdin:
                    keeper.stdin.close()
            try:
                keeper.wait(COMMAND_S / 2)
            except subprocess.TimeoutExpired:
                keeper.kill()
                keeper.wait(5)
            if keeper.stdout:
                keeper.stdout.close()
        state.link.close()
    finally:
        state.lock.release()


def _patiently(connect: Callable[[], Link], wait_s: float) -> Link:
    """Try again for ``wait_s`` seconds while the device cannot be reached: it may be starting."""
    end = time.monotonic() + wait_s
    while True:
        try:
            return connect()
        except DeviceUnavailable:
            if time.monotonic() >= end:
                raise
            time.sleep(min(1.0, max(0.0, end - time.monotonic())))


def _beat(keeper: subprocess.Popen[bytes], stop: threading.Event) -> None:
    """Signs of life, until the device is closed or the keeper is gone."""
    while not stop.wait(_BEAT_S):
        try:
            if keeper.stdin is None or keeper.poll() is not None:
                return
            keeper.stdin.write(b".\n")
            keeper.stdin.flush()
        except (OSError, ValueError):
            return


def _read_line(process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
    """One line of a process's output, or what there is of it after ``timeout_s``."""
    found: list[bytes] = []
    stdout = process.stdout
    assert stdout is not None
    reader = threading.Thread(target=lambda: found.append(stdout.readline(4096)), daemon=True)
    reader.start()
    reader.join(timeout_s)
    return found[0] if found else b""
