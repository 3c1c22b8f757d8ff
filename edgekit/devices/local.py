"""``host``: the machine edgekit runs on. Real silicon, so its figures are ``measured``."""

from __future__ import annotations

import os
import platform
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgekit.devices.base import DeviceInfo, RunRequest, RunResult
from edgekit.devices.sandbox import Sandbox
from edgekit.errors import DeviceError, InputError


def cpu_model() -> str:
    """The processor's name, from /proc/cpuinfo where there is one."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Hardware", "Model") and value.strip():
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores this process may run on (not all that the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def fingerprint() -> str:
    """16 hex digits for this machine and its system."""
    from edgekit.devices import far_scripts
    from edgekit.devices.facts import facts_of
    from edgekit.devices.facts import fingerprint as of

    words = far_scripts.shell(far_scripts.FACTS)
    try:
        done = subprocess.run(words, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise DeviceError(f"this machine's shell does not answer ({e})") from None
    return of(facts_of(done.stdout))


class LocalDevice:
    """Runs native programs in a private folder, which is their working folder."""

    name = "host"

    def __init__(self) -> None:
        self._sandbox = Sandbox()

    def info(self) -> DeviceInfo:
        return DeviceInfo(
            self.name,
            "local",
            "measured",
            f"this machine: {cpu_model()}",
            {
                "cpu": cpu_model(),
                "cores": usable_cores(),
                "machine": platform.machine(),
                "system": f"{platform.system()} {platform.release()}",
            },
        )

    def push(self, local: Path, remote: str) -> None:
        self._sandbox.push(local, remote)

    def push_bytes(self, data: bytes, remote: str) -> None:
        self._sandbox.push_bytes(data, remote)

    def pull(self, remote: str) -> bytes:
        return self._sandbox.pull(remote)

    def run(self, request: RunRequest) -> RunResult:
        """Run a pushed program. ``trace`` and ``sections`` are refused: a host counts nothing."""
        if request.trace or request.sections:
            raise InputError(
                "the host cannot count instructions by function or section; use a virtual: device"
            )
        path = self._sandbox.resolve(request.program)
        if not path.is_file():
            raise DeviceError(f"the device has no program '{request.program}'; push it first")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        started = time.monotonic()
        try:
            with _on(request.cpus):
                process = subprocess.Popen(
                    [str(path), *request.args],
                    cwd=self._sandbox.path,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            done = _finish(process, request)
        except subprocess.TimeoutExpired:
            raise DeviceError(
                f"'{request.program}' on host did not end within {request.timeout_s:g} s"
            ) from None
        except OSError as error:
            raise DeviceError(
                f"'{request.program}' could not be started on host: {error.strerror}; "
                f"a program for {platform.machine()} is accepted"
            ) from None
        if done.returncode < 0:
            raise DeviceError(
                f"'{request.program}' on host was ended by signal {-done.returncode}; its last "
                f"words: {_tail(done.stderr) or 'none'}"
            )
        return RunResult(
            done.returncode,
            done.stdout.decode("utf-8", "replace"),
            done.stderr.decode("utf-8", "replace"),
            time.monotonic() - started,
        )

    def close(self) -> None:
        self._sandbox.close()

    def __enter__(self) -> LocalDevice:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextmanager
def _on(cpus: Sequence[int]) -> Iterator[None]:
    """What is started inside runs on these cores only; this thread goes back to its own."""
    if not cpus:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise DeviceError("this system cannot keep a program on one core")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, OverflowError):
        allowed = ", ".join(str(c) for c in sorted(before))
        raise InputError(
            f"the program cannot be kept on core {', '.join(map(str, cpus))} of the host; "
            f"this process may use {allowed}"
        ) from None
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _finish(
    process: subprocess.Popen[bytes], request: RunRequest
) -> subprocess.CompletedProcess[bytes]:
    with process:
        try:
            out, err = process.communicate(request.stdin, timeout=request.timeout_s)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(request.program, process.returncode, out, err)


def _tail(data: bytes) -> str:
    lines = data.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else ""
