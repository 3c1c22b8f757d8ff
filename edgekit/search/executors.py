"""Who does the work of the trials: processes on this machine, or a Ray cluster (:mod:`.ray_`).

An executor takes tasks (:meth:`edgekit.search.evaluate.Evaluator.work`) and gives outcomes back, in
whatever order they come. A task that fails, takes too long or takes its worker with it has an outcome,
too.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgekit.errors import DeviceError

#: Seconds that a worker may take to get ready (it imports torch and reads the study).
START_S = 300.0


@dataclass(frozen=True)
class Outcome:
    """id: of the task. result: what the worker answered, or None. error: why there is none.
    seconds: from the task's start to its end, as the executor saw it."""

    id: int
    result: dict[str, Any] | None
    error: str | None
    seconds: float


class Executor(Protocol):
    """slots: tasks that run at the same time."""

    slots: int

    def submit(self, id: int, task: Mapping[str, Any]) -> None: ...

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """At least one outcome, unless ``timeout`` seconds pass (or nothing was submitted)."""
        ...

    def close(self) -> None: ...


class _Process:
    """One worker process and the task it has."""

    def __init__(self, folder: Path, log: Path) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
               "TF_CPP_MIN_LOG_LEVEL": "3"}  # fmt: skip
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgekit.search.worker", str(folder)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=env,
                start_new_session=True,
            )  # fmt: skip
        self.task: int | None = None
        self.since = time.monotonic()
        self.ready = False
        self.buffer = b""

    @property
    def fd(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, id: int, task: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        self.task, self.since = id, time.monotonic()
        self.process.stdin.write(json.dumps({**task, "id": id}).encode() + b"\n")
        self.process.stdin.flush()

    def lines(self) -> list[dict[str, Any]] | None:
        """Answers that have arrived; None when the process is gone."""
        chunk = os.read(self.fd, 1 << 20)
        if not chunk:
            return None
        self.buffer += chunk
        *whole, self.buffer = self.buffer.split(b"\n")
        return [json.loads(line) for line in whole]

    def kill(self) -> str:
        """End it with everything it started; how it ended, in words."""
        early = self.process.poll()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, 9)
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        code = early if early is not None else code
        return f"signal {-code}" if code < 0 else f"exit status {code}"


class LocalExecutor:
    """``jobs`` worker processes on this machine. timeout: seconds that a task may take."""

    def __init__(self, folder: Path, jobs: int, timeout: float) -> None:
        self.folder, self.slots, self.timeout = folder, jobs, timeout
        self._log = folder / "worker.log"
        self._queue: deque[tuple[int, Mapping[str, Any]]] = deque()
        self._workers: list[_Process] = []
        self._selector = selectors.DefaultSelector()
        self._early_deaths = 0

    def submit(self, id: int, task: Mapping[str, Any]) -> None:
        self._queue.append((id, task))
        self._feed()

    def _feed(self) -> None:
        while self._queue:
            idle = [w for w in self._workers if w.task is None]
            if idle:
                chosen = next((w for w in idle if w.ready), idle[0])
            elif len(self._workers) < self.slots:
                chosen = _Process(self.folder, self._log)
                self._workers.append(chosen)
                self._selector.register(chosen.fd, selectors.EVENT_READ, chosen)
            else:
                return
            id, task = self._queue.popleft()
            try:
                chosen.send(id, task)
            except OSError:  # it died between two tasks
                chosen.task = None
                self._queue.appendleft((id, task))
                self._drop(chosen)

    def _drop(self, worker: _Process) -> str:
        self._selector.unregister(worker.fd)
        self._workers.remove(worker)
        return worker.kill()

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            if not any(w.task is not None for w in self._workers) and not self._queue:
                return []
            events = self._selector.select(self._patience(end))
            found: list[Outcome] = []
            for k, _ in events:
                found += self._read(k.data)
            found += self._overdue()
            self._feed()
            if found or (end is not None and time.monotonic() >= end):
                return found

    def _patience(self, end: float | None) -> float:
        """Seconds until somebody has to look again: a task is overdue, or the caller wants to know."""
        now = time.monotonic()
        busy = [w for w in self._workers if w.task is not None]
        due = [w.since + (self.timeout if w.ready else START_S) - now for w in busy]
        left = [0.5, *due, *([] if end is None else [end - now])]
        return max(0.0, min(left))

    def _read(self, worker: _Process) -> list[Outcome]:
        found = []
        lines = worker.lines()
        if lines is None:
            id, since, ready = worker.task, worker.since, worker.ready
            how = self._drop(worker)
            self._early_deaths = 0 if ready else self._early_deaths + 1
            if self._early_deaths >= 3:
                raise DeviceError(
                    f"the workers of the study do not start ({how}); '{self._log}' says why"
                )
            if id is not None:
                what = "out of memory, or killed" if how == "signal 9" else "crashed"
                found.append(
                    Outcome(id, None, f"its worker ended ({how}: {what})", time.monotonic() - since)
                )
            return found
        for answer in lines:
            if answer.get("ready"):
                worker.ready = True
                if worker.task is not None:
                    worker.since = time.monotonic()
                continue
            self._early_deaths = 0
            seconds = time.monotonic() - worker.since
            worker.task = None
            found.append(Outcome(answer["id"], answer.get("result"), answer.get("error"), seconds))
        return found

    def _overdue(self) -> list[Outcome]:
        found = []
        for w in list(self._workers):
            limit = self.timeout if w.ready else START_S
            if w.task is not None and time.monotonic() - w.since > limit:
                id = w.task
                self._drop(w)
                found.append(Outcome(id, None, f"it took longer than {limit:g} s", limit))
        return found

    def close(self) -> None:
        for w in list(self._workers):
            self._drop(w)
        self._selector.close()
