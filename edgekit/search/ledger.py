"""The trials of a study in Optuna's storage: SQLite in the study's folder, or any database by URL.

Optuna numbers the trials (atomically, whoever asks), keeps their parameters and hands them to its samplers;
everything else about a trial is one JSON document in a user attribute, written before the trial is told
finished. A trial whose worker was killed stays *running* until somebody sees that its owner is gone; then
it is *lost*: no result, no part of any sampler's history.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit.search import metrics
from edgekit.search.folder import StudyFolder
from edgekit.search.metrics import Budget
from edgekit.search.space import Dimension, Point, Space
from edgekit.search.trial import Trial

#: User attributes: who works on the trial and its ordinal; point and tag; the result.
_CLAIM, _PLAN, _RESULT = "edgekit:claim", "edgekit:plan", "edgekit:result"
#: An owner on another machine that has not been heard of for so many seconds is taken to be gone.
SILENT_S = 300.0
_ATTEMPTS = 3


def _owner() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}


def _born(pid: int) -> str:
    """When a process started, in the kernel's words; "" where it does not run. A process number may
    be used again, with another start."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except OSError:
        if not Path("/proc").is_dir():
            return "unknown"
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def alive(owner: Mapping[str, Any], beat: float | None) -> bool:
    """Whether the worker that owns a trial may still finish it."""
    if owner.get("host") != socket.gethostname():
        return beat is not None and time.time() - beat < SILENT_S
    return bool(owner.get("born")) and _born(int(owner["pid"])) == owner["born"]


def _quicken(engine: Any) -> None:
    """SQLite with a write-ahead log: a commit waits for no disk, a killed process loses nothing, and
    readers (the report) do not wait for writers."""
    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    engine.dispose()


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Among the processes of this machine, where it has such locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        file = path.open("a")
    except OSError:  # a study that can only be read
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Given:
    """A sampler that gives the values of a point, one parameter at a time."""

    def __init__(self, indices: Mapping[str, Any]) -> None:
        self.indices = indices


def _sampler_class() -> Any:
    from optuna.samplers import BaseSampler

    class Given(_Given, BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(
            self, study: Any, trial: Any, param_name: str, param_distribution: Any
        ) -> Any:
            return self.indices[param_name]

    return Given


def distribution(dim: Dimension) -> Any:
    """Of the dimension's index: an ordered number, or a category."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if dim.ordered:
        return IntDistribution(0, len(dim.values) - 1)
    return CategoricalDistribution(list(range(len(dim.values))))


class Ledger:
    """The study's trials. Not thread-safe; any number of processes may have one each.

    ``optuna``: the Optuna study, for samplers.
    """

    def __init__(self, folder: StudyFolder, objectives: Sequence[str], budgets: Sequence[Budget]):
        import optuna

        logging.getLogger("optuna").setLevel(logging.ERROR)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", module="optuna")
        self.folder = folder
        self.objectives = tuple(objectives)
        self.budgets = tuple(budgets)
        self._sampler = _sampler_class()({})
        url = folder.storage_url()
        try:
            with one_at_a_time(folder.path / ".lock"):
                self.storage, self.optuna = self._connect(url)
        except ImportError as e:
            raise InputError(f"the database of the study needs a driver: {e}") from None
        except Exception as e:  # every driver has errors of its own
            reason = " ".join(str(e).split())[:160]
            raise InputError(f"the database of the study cannot be used ({reason})") from None
        self._born: float | None = None
        self._me = _owner()
        self._last_beat = 0.0
        self._open: dict[int, Any] = {}
        self._done: dict[int, Trial] = {}

    def _connect(self, url: str) -> tuple[Any, Any]:
        """The storage and the study in it, both made where they are not there. Processes on other
        machines may make them at the same time: who comes second finds them."""
        import optuna

        sqlite = url.startswith("sqlite")
        options: dict[str, Any] = {"connect_args": {"timeout": 120}} if sqlite else {}
        ways = {1: "maximize", -1: "minimize"}
        directions: list[Any] = [ways[metrics.better(o)] for o in self.objectives]
        for attempt in range(_ATTEMPTS):
            try:
                storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
                if sqlite:
                    _quicken(storage.engine)
                study = optuna.create_study(
                    study_name=str(self.folder.spec["study_name"]), storage=storage,
                    load_if_exists=True, directions=directions, sampler=self._sampler,
                )  # fmt: skip
                return storage, study
            except ImportError:
                raise
            except Exception:
                if attempt + 1 == _ATTEMPTS:
                    raise
                time.sleep(0.5 * (attempt + 1))
        raise AssertionError

    def close(self) -> None:
        self.storage.engine.dispose()

    @property
    def worker(self) -> str:
        return f"{self._me['host']}:{self._me['pid']}"

    def beat(self) -> None:
        """Say that this process lives (others cannot see processes of another machine)."""
        now = time.time()
        if now - self._last_beat > SILENT_S / 10:
            self._last_beat = now
            self.optuna.set_user_attr(f"beat:{self.worker}", now)

    def began(self) -> float:
        """Wall-clock time at which the study began."""
        if self._born is None:
            known = self.optuna.user_attrs.get("began")
            if known is None:
                known = time.time()
                self.optuna.set_user_attr("began", known)
            self._born = float(known)
        return self._born

    # -- reading -----------------------------------------------------------------------------------

    def trials(self) -> list[Trial]:
        """All trials by number, lost ones included."""
        found = []
        for frozen in self.optuna.get_trials(deepcopy=False):
            done = self._done.get(frozen.number)
            if done is None:
                done = self._trial(frozen)
                if frozen.state.is_finished():
                    self._done[frozen.number] = done
            found.append(done)
        return found

    def _trial(self, frozen: Any) -> Trial:
        attrs = frozen.user_attrs
        document = attrs.get(_RESULT)
        if frozen.state.is_finished() and document and frozen.state.name == "COMPLETE":
            return Trial.from_json(json.loads(document))
        started = None if frozen.datetime_start is None else frozen.datetime_start.timestamp()
        claim, chosen = attrs.get(_CLAIM) or {}, attrs.get(_PLAN) or {}
        owner = claim.get("owner") or {}
        return Trial(
            number=frozen.number,
            ordinal=int(claim.get("ordinal", frozen.number)),
            state="running" if not frozen.state.is_finished() else "lost",
            point=chosen.get("point", {}),
            tag=chosen.get("tag", {}),
            started=None if started is None else round(started - self.began(), 3),
            worker=f"{owner.get('host', '')}:{owner.get('pid', '')}",
            why="its worker was killed" if frozen.state.is_finished() else None,
        )

    def reap(self) -> list[int]:
        """Mark the trials whose workers are gone as lost; their numbers."""
        from optuna.trial import TrialState

        beats = self.optuna.user_attrs
        lost = []
        for frozen in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if frozen.number in self._open:
                continue
            owner = (frozen.user_attrs.get(_CLAIM) or {}).get("owner")
            if owner is None:  # killed between two writes, or about to be written
                begun = frozen.datetime_start
                age = SILENT_S if begun is None else time.time() - begun.timestamp()
                if age < 10 and not self._alone(beats):
                    continue
            elif alive(owner, beats.get(f"beat:{owner.get('host')}:{owner.get('pid')}")):
                continue
            self.optuna.tell(frozen.number, state=TrialState.FAIL, skip_if_finished=True)
            lost.append(frozen.number)
        return lost

    def _alone(self, beats: Mapping[str, Any]) -> bool:
        """No other process that is known to have worked on this study lives."""
        for key, beat in beats.items():
            if not key.startswith("beat:") or key == f"beat:{self.worker}":
                continue
            host, _, pid = key.removeprefix("beat:").rpartition(":")
            if host == socket.gethostname():
                if pid.isdigit() and _born(int(pid)):
                    return False
            elif time.time() - float(beat) < SILENT_S:
                return False
        return True

    # -- writing -----------------------------------------------------------------------------------

    def begin(self) -> tuple[int, int, Any]:
        """A new trial: its number, its ordinal (how many trials before it are no lost ones), and
        Optuna's frozen form of it, for samplers."""
        self.began()
        self.beat()
        from optuna.trial import TrialState

        trial = self.optuna.ask()
        lost = sum(
            t.number < trial.number
            for t in self.optuna.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        )
        ordinal = trial.number - lost
        trial.set_user_attr(_CLAIM, {"owner": self._me, "ordinal": ordinal})
        self._open[trial.number] = trial
        return trial.number, ordinal, self.storage.get_trial(trial._trial_id)

    def choose(self, number: int, space: Space, point: Point, tag: Mapping[str, Any]) -> None:
        """Write down what the trial tries."""
        trial = self._open[number]
        trial.set_user_attr(_PLAN, {"point": point, "tag": dict(tag)})
        chosen = {
            d.name: d.index(point[d.name])
            for d in space.dimensions(space.base_of(point))
            if d.name in point
        }
        self._sampler.indices = chosen
        for d in space.dimensions(space.base_of(point)):
            dist = distribution(d)
            if d.ordered:
                trial.suggest_int(d.name, dist.low, dist.high)
            else:
                trial.suggest_categorical(d.name, dist.choices)

    def finish(self, trial: Trial) -> Trial:
        """Write the result down, then that there is one: a kill between them loses the trial only."""
        from optuna.trial import TrialState

        handle = self._open.pop(trial.number)
        trial = replace(trial, worker=self.worker)
        handle.set_user_attr(_RESULT, json.dumps(trial.to_json(), sort_keys=True, allow_nan=False))
        failed = trial.state == "failed"
        for name, over in metrics.violations(self.budgets, trial.values).items():
            handle.set_constraint(name, metrics.WORST if failed else min(over, metrics.WORST))
        if failed:
            handle.set_constraint("failed", metrics.WORST)
        values = []
        for o in self.objectives:
            v = trial.values.get(o)
            values.append(-metrics.better(o) * metrics.WORST if failed or v is None else float(v))
        self.optuna.tell(trial.number, values, state=TrialState.COMPLETE)
        return trial

    def now(self) -> float:
        """Seconds since the study began."""
        return round(time.time() - self.began(), 3)

    def give_up(self) -> None:
        """Trials of this process that will not be finished are lost."""
        from optuna.trial import TrialState

        for number in list(self._open):
            self._open.pop(number)
            self.optuna.tell(number, state=TrialState.FAIL, skip_if_finished=True)
