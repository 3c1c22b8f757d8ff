"""Trials on a Ray cluster: ``--executor ray [--address HOST:PORT]``.

Each job is an actor, a process somewhere in the cluster that gets the study's files by way of Ray's object
store and sends back what it made; no file system is shared. Devices are resources: a node that has the
device ``V`` is started with ``ray start --resources '{"device:V": 1}'``, and measurements run on such nodes
only, so many at a time as there are. Virtual devices and the host need no declaration (where some node
declares one, it is respected).

A node that is lost takes no trial with it: what ran there is done again elsewhere, at most
:data:`TRIES` times, for a trial that kills its worker is a result.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.errors import DeviceError, InputError
from edgekit.search.executors import START_S, Outcome
from edgekit.search.folder import Cache, StudyFolder

TRIES = 3
#: Files of a study that its workers need.
_FILES = ("study.json", "data.npz", "val.npz")


def bundle(folder: StudyFolder) -> dict[str, bytes]:
    """The study's files by relative name."""
    names = [*_FILES, *(f"models/{p.name}" for p in sorted((folder.path / "models").iterdir()))]
    return {n: (folder.path / n).read_bytes() for n in names}


class Worker:
    """What an actor does: an evaluator over a copy of the study in a temporary folder."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        try:
            import torch

            torch.set_num_threads(1)
        except ImportError:
            pass
        from edgekit.search.evaluate import Evaluator

        self._tmp = tempfile.TemporaryDirectory(prefix="edgekit-ray-")
        root = Path(self._tmp.name)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (root / "cache").mkdir()
        self.evaluator = Evaluator(StudyFolder.open(root))

    def ready(self) -> str:
        """The name of the node."""
        import socket

        return socket.gethostname()

    def work(
        self, task: dict[str, Any], inputs: Mapping[str, Mapping[str, bytes]]
    ) -> tuple[dict[str, Any], dict[str, dict[str, bytes]]]:
        """The answer (:func:`edgekit.search.worker.answer`), and what is new in the cache."""
        from edgekit.search.worker import answer

        cache = self.evaluator.cache
        for key, files in inputs.items():
            cache.put(key, files)
        result = answer(self.evaluator, task)
        new = (result.get("result") or {}).get("key")
        made = {}
        if new is not None and new not in inputs:
            folder = cache.get(str(new))
            if folder is not None:
                made[str(new)] = {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
        return result, made


@dataclass
class _Actor:
    """device: it holds the device's resource. task: what it works on."""

    handle: Any
    device: bool
    pending: Any  #: the reference that ``ray.wait`` is asked about
    ready: bool = False
    task: int | None = None
    since: float = field(default_factory=time.monotonic)


class RayExecutor:
    """``jobs`` actors. Connects to the cluster at ``address``, else to the one of this process, else
    starts one on this machine."""

    def __init__(self, folder: StudyFolder, jobs: int, timeout: float, address: str | None) -> None:
        try:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            import ray

            self.ray: Any = ray
        except ImportError:
            raise InputError("executor 'ray' needs Ray; pip install 'edgekit[ray]'") from None
        self.folder, self.slots, self.timeout = folder, jobs, timeout
        self.cache = Cache(folder.cache)
        self._mine = not ray.is_initialized()
        if self._mine:
            try:
                options: dict[str, Any] = {"address": address} if address else {
                    "num_cpus": jobs, "include_dashboard": False
                }  # fmt: skip
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
            except (ConnectionError, ValueError, RuntimeError, TimeoutError) as e:
                reason = " ".join(str(e).split())[:160]
                raise DeviceError(
                    f"the Ray cluster at '{address}' cannot be reached ({reason})"
                ) from None
        self._resource: str | None = self._device_resource()
        self._files = ray.put(bundle(folder))
        # retried by us, elsewhere: Ray must not bring an actor back on its own
        self._class: Any = ray.remote(max_restarts=0, max_task_retries=0)(Worker)
        self._actors: list[_Actor] = []
        self._queue: deque[tuple[int, Mapping[str, Any]]] = deque()
        self._tasks: dict[int, tuple[Mapping[str, Any], int, float]] = {}
        self._deaths = 0

    def _device_resource(self) -> str | None:
        """The resource that stands for the study's device, None where it needs none."""
        device = str(self.folder.spec["device"])
        name = f"device:{device}"
        if name in self.ray.cluster_resources():
            return name
        if device.startswith("virtual:") or device in ("host", "ethos-u", "estimator"):
            return None
        raise DeviceError(
            f"no node of the Ray cluster has the resource '{name}'; start the node of the device with "
            f"ray start --resources '{{\"{name}\": 1}}'"
        )

    # -- actors ------------------------------------------------------------------------------------

    def _wanted(self, device: bool) -> int:
        if not device:
            return self.slots
        total = self.ray.cluster_resources().get(self._resource, 0)
        return max(1, min(self.slots, int(total)))

    def _spawn(self, device: bool) -> _Actor:
        options: dict[str, Any] = {"num_cpus": 1}
        if device:
            options = {"num_cpus": 0, "resources": {str(self._resource): 1}}
        handle = self._class.options(**options).remote(self._files)
        actor = _Actor(handle, device, handle.ready.remote())
        self._actors.append(actor)
        return actor

    def _needs_device(self, task: Mapping[str, Any]) -> bool:
        return self._resource is not None and task["do"] == "measure"

    def submit(self, id: int, task: Mapping[str, Any]) -> None:
        self._tasks[id] = (task, 0, time.monotonic())
        self._queue.append((id, task))
        self._feed()

    def _feed(self) -> None:
        waiting = list(self._queue)
        self._queue.clear()
        for id, task in waiting:
            device = self._needs_device(task)
            mine = [a for a in self._actors if a.device == device]
            idle = [a for a in mine if a.ready and a.task is None]
            if not idle:
                starting = sum(not a.ready for a in mine)
                want = sum(self._needs_device(t) == device for _, t in self._queue) + 1
                if len(mine) < self._wanted(device) and starting < want:
                    self._spawn(device)
                self._queue.append((id, task))
                continue
            actor = idle[0]
            inputs = {}
            if task["do"] == "measure":
                folder = self.cache.get(str(task["key"]))
                if folder is not None:
                    inputs[str(task["key"])] = {
                        p.name: p.read_bytes() for p in sorted(folder.iterdir())
                    }
            actor.task, actor.since = id, time.monotonic()
            actor.pending = actor.handle.work.remote({**task, "id": id}, inputs)

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            if not self._tasks:
                return []
            self._feed()
            busy = {a.pending: a for a in self._actors if a.task is not None or not a.ready}
            left = 0.5 if end is None else max(0.0, min(0.5, end - time.monotonic()))
            done: list[Any] = []
            if busy:
                done, _ = self.ray.wait(list(busy), num_returns=1, timeout=left)
            else:
                time.sleep(left)
            found = [o for ref in done if (o := self._take(busy[ref])) is not None]
            found += self._overdue()
            if found or (end is not None and time.monotonic() >= end):
                return found

    def _take(self, actor: _Actor) -> Outcome | None:
        from ray.exceptions import RayError

        try:
            value = self.ray.get(actor.pending)
        except RayError as e:
            return self._died(actor, e)
        if not actor.ready:
            actor.ready, self._deaths = True, 0
            return None
        answer, made = value
        for key, files in made.items():
            self.cache.put(key, files)
        id, actor.task = answer["id"], None
        _, _, since = self._tasks.pop(id)
        return Outcome(id, answer.get("result"), answer.get("error"), time.monotonic() - since)

    def _died(self, actor: _Actor, error: Exception) -> Outcome | None:
        """Its task is done again elsewhere, unless it was tried often enough."""
        self._remove(actor)
        self._deaths += 1
        if self._deaths > 3 * (self.slots + TRIES):
            raise DeviceError(
                f"the workers on the Ray cluster do not start ({' '.join(str(error).split())[:160]})"
            )
        if actor.task is None:
            return None
        task, tries, since = self._tasks[actor.task]
        if tries + 1 >= TRIES:
            del self._tasks[actor.task]
            why = f"its worker ended {TRIES} times ({type(error).__name__})"
            return Outcome(actor.task, None, why, time.monotonic() - since)
        self._tasks[actor.task] = (task, tries + 1, since)
        self._queue.appendleft((actor.task, task))
        return None

    def _remove(self, actor: _Actor) -> None:
        self._actors.remove(actor)
        with contextlib.suppress(Exception):  # it is gone already, in one of Ray's many ways
            self.ray.kill(actor.handle)

    def _overdue(self) -> list[Outcome]:
        found = []
        for a in list(self._actors):
            over = time.monotonic() - a.since
            if a.ready and a.task is not None and over > self.timeout:
                self._remove(a)
                del self._tasks[a.task]
                found.append(Outcome(a.task, None, f"it took longer than {self.timeout:g} s", over))
            elif not a.ready and over > START_S and not any(b.ready for b in self._actors):
                raise DeviceError(
                    f"no worker started on the Ray cluster within {START_S:g} s; its free resources are "
                    f"{dict(self.ray.available_resources())}"
                )
        return found

    def close(self) -> None:
        for a in list(self._actors):
            self._remove(a)
        if self._mine:
            self.ray.shutdown()
