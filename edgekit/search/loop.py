"""The closed loop: propose, predict, repair, measure, correct; until the trials are used up.

A trial climbs *rungs*, each dearer than the one before (successive halving's idea, with a rule for who goes
on instead of a fixed share): *predicted* (cost only), *repaired* (a quick least-squares repair, compared
with the original on all samples of ``--val``), *measured* (a thorough repair, compiled, run on the device).
Who does not go on says why. What is measured corrects the prices of everything that follows.

With one worker every decision depends on the seed and the trials so far only, so that a study that was
killed ends as it would have ended.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.search import metrics
from edgekit.search.costs import Estimate, Estimator
from edgekit.search.evaluate import Evaluator, assess_task, measure_task
from edgekit.search.executors import Executor, Outcome
from edgekit.search.folder import StudyFolder
from edgekit.search.halving import is_training, next_training, planned
from edgekit.search.ledger import Ledger
from edgekit.search.metrics import DEVICE, QUALITY, Budget, cost_metric
from edgekit.search.space import Fidelity
from edgekit.search.strategies import Ask, Proposal, get_strategy
from edgekit.search.trial import Trial, pareto

#: A trial is not measured when it misses an accuracy budget by more than this many points (and by this
#: many standard errors), or when its predicted cost is over the budget by more than the error and this.
POINTS, ERRORS, OVER = 0.5, 1.0, 0.1
#: What a quick repair hides: points that a thorough one may win back.
REPAIR_POINTS = 0.7
#: Networks of the front that correct the latency table at the end.
TEACH = 8


@dataclass(frozen=True)
class Plan:
    """What a study is for, out of its spec."""

    objectives: tuple[str, ...]
    budgets: tuple[Budget, ...]
    strategy: str
    seed: int
    trials: int
    quick: Fidelity
    thorough: Fidelity
    train_steps: int = 0

    @staticmethod
    def of(folder: StudyFolder) -> Plan:
        s = folder.spec
        return Plan(
            tuple(s["objectives"]), tuple(metrics.parse_budget(b) for b in s["budgets"]),
            s["strategy"], int(s["seed"]), int(s["trials"]),
            Fidelity(**s["fidelity"]["quick"]), Fidelity(**s["fidelity"]["thorough"]),
            int(s["finetune_steps"]),
        )  # fmt: skip

    @property
    def total(self) -> int:
        """Trials of the search and those that training adds, at most."""
        return self.trials + planned(self.train_steps)

    @property
    def metric(self) -> str:
        """The cost that is predicted and driven down."""
        return "macs" if self.strategy == "macs" else cost_metric(self.objectives, self.budgets)

    def driving(self) -> tuple[tuple[str, ...], tuple[Budget, ...]]:
        """Objectives and budgets as the strategy sees them: without a clock where it has none."""
        if self.strategy != "macs":
            return self.objectives, self.budgets
        seen = tuple(dict.fromkeys("macs" if o in DEVICE else o for o in self.objectives))
        return seen, tuple(b for b in self.budgets if b.metric not in DEVICE)


@dataclass
class _Open:
    """A trial that somebody works on. task: its id at the executor."""

    trial: Trial
    estimate: Estimate | None
    began: float
    seconds: dict[str, float] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)


Watch = Callable[["Loop"], None]


class Loop:
    """One process's work on a study. ``spent``: seconds by what they went into."""

    def __init__(
        self,
        folder: StudyFolder,
        executor: Callable[[], Executor],
        watch: Watch | None = None,
        predictor: Any = None,
    ) -> None:
        self.folder = folder
        self.plan = Plan.of(folder)
        self.ledger = Ledger(folder, self.plan.objectives, self.plan.budgets)
        self.evaluator = Evaluator(folder)
        self.space = self.evaluator.space
        self.strategy = get_strategy(self.plan.strategy)
        self.predictor = predictor
        self.estimator = self._estimator()
        self.watch = watch
        self.spent = {"waiting": 0.0, "proposing": 0.0, "database": 0.0, "prices": 0.0, "all": 0.0}
        self.started = time.perf_counter()
        self._make_executor = executor
        self._executor: Executor | None = None
        self._open: dict[int, _Open] = {}
        self._learned: set[int] = set()
        self._tasks = 0

    def _estimator(self) -> Estimator:
        return Estimator(self.space, self.plan.metric, self.evaluator.scaffold, self.predictor)

    # -- running -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Until the study has its trials."""
        self.ledger.reap()
        self.started = time.perf_counter()
        try:
            while True:
                while self._room() and self._begin():
                    pass
                if not self._open:
                    if not self._others():
                        break
                    time.sleep(1.0)
                    continue
                if self.watch is not None:
                    self.watch(self)
                at = time.perf_counter()
                outcomes = self.executor.wait(1.0)
                self.spent["waiting"] += time.perf_counter() - at
                self.ledger.beat()
                for o in outcomes:
                    self._advance(o)
        finally:
            self.ledger.give_up()
            if self._executor is not None:
                self._executor.close()
            self.spent["all"] += time.perf_counter() - self.started
        self._teach()
        if self.watch is not None:
            self.watch(self)

    def _others(self) -> bool:
        """Whether other processes still work on trials; what a dead one had is to be done again."""
        self.ledger.beat()
        lost = self.ledger.reap()
        return bool(lost) or bool(self.history()[1])

    def _teach(self) -> None:
        """Correct the device's latency table by the networks of the front, for studies to come."""
        if self.predictor is None:
            return
        settled, _ = self.history()
        taught = 0
        for t in pareto(settled, ("accuracy", self.plan.metric))[:TEACH]:
            profile = self.evaluator.cache.json(str(t.tag.get("measured")), "profile.json")
            if profile is not None and t.key is not None:
                with contextlib.suppress(EdgekitError):
                    self.predictor.correct(self.evaluator.graph_of(t.key), profile)
                    taught += 1
        if taught:
            with contextlib.suppress(EdgekitError, OSError):
                self.predictor.save()

    @property
    def executor(self) -> Executor:
        if self._executor is None:
            self._executor = self._make_executor()
        return self._executor

    def _room(self) -> bool:
        return len(self._open) < self.executor.slots

    def history(self) -> tuple[list[Trial], list[Trial]]:
        """Settled trials by ordinal, and those that are worked on, by anybody."""
        at = time.perf_counter()
        known = self.ledger.trials()
        self.spent["database"] += time.perf_counter() - at
        settled = sorted((t for t in known if t.settled), key=lambda t: (t.ordinal, t.number))
        return settled, [t for t in known if t.state == "running"]

    def _learn(self, settled: Sequence[Trial]) -> None:
        """Correct the prices by what others measured, and by what was measured before a restart, in
        the order in which it was finished."""
        at = time.perf_counter()
        new = [t for t in settled if t.measured and t.number not in self._learned]
        for t in sorted(new, key=lambda t: (t.finished or 0.0, t.number)):
            self._learned.add(t.number)
            profile = self.evaluator.cache.json(str(t.tag.get("measured", "")), "profile.json")
            if profile is None or t.key is None:
                continue
            seen = t.predicted or {}
            before = None
            if seen.get("value"):
                before = Estimate(seen["value"], 0.0, str(seen.get("by")))
            self._observe(t, profile, before)
        self.spent["prices"] += time.perf_counter() - at

    def _observe(
        self, trial: Trial, profile: Mapping[str, Any], estimate: Estimate | None
    ) -> float | None:
        return self.estimator.observe(trial.point, profile, trial.value(self.plan.metric), estimate)

    def _begin(self) -> bool:
        """Start the next trial; False when there is none to start."""
        settled, running = self.history()
        searched = [t for t in (*settled, *running) if not is_training(t)]
        training = None
        if len(searched) >= self.plan.trials:
            if any(t.state == "running" for t in searched):
                return False
            training = next_training(
                self.plan.train_steps, settled, running, self.plan.metric,
                *self.plan.driving(),
            )  # fmt: skip
            if training is None:
                return False
        at = time.perf_counter()
        number, ordinal, frozen = self.ledger.begin()
        self.spent["database"] += time.perf_counter() - at
        self._learn(settled)
        at = time.perf_counter()
        objectives, budgets = self.plan.driving()
        ask = Ask(
            ordinal, self.plan.trials, self.plan.seed, self.space, settled,
            [t for t in running if t.number != number], self.estimator, self.evaluator.scores,
            self.plan.metric, objectives, budgets, self.ledger.optuna, frozen,
        )  # fmt: skip
        if training is not None:
            proposal = Proposal(training.point, training.tag)
        else:
            proposal = self.strategy.propose(ask)
        point = self.space.check(proposal.point)
        self.spent["proposing"] += time.perf_counter() - at
        at = time.perf_counter()
        self.ledger.choose(number, self.space, point, proposal.tag)
        self.spent["database"] += time.perf_counter() - at
        at = time.perf_counter()
        estimate = self.estimator.estimate(point)
        self.spent["prices"] += time.perf_counter() - at
        trial = Trial(
            number, ordinal, "running", point, tag=dict(proposal.tag), started=self.ledger.now(),
            compile=self.space.compile_of(point), recipe=self.space.recipe(point, self.plan.quick),
            predicted=None if estimate is None else estimate.to_json(self.plan.metric),
        )  # fmt: skip
        opened = _Open(trial, estimate, time.perf_counter())
        why = self._too_dear(trial, estimate)
        if why is not None and estimate is not None:
            values = {self.plan.metric: estimate.value}
            self._settle(opened, replace(trial, state="stopped", rung="predicted", values=values,
                                         kinds={self.plan.metric: "estimated"}, why=why))  # fmt: skip
            return True
        fidelity = self.plan.thorough if proposal.tag.get("as") == "uncut" else self.plan.quick
        if training is not None:
            fidelity = replace(self.plan.thorough, train_steps=training.steps)
        self._submit(opened, assess_task(point, fidelity))
        return True

    def _submit(self, opened: _Open, task: Mapping[str, Any]) -> None:
        self._tasks += 1
        self._open[self._tasks] = opened
        self.executor.submit(self._tasks, task)

    def _settle(self, opened: _Open, trial: Trial) -> None:
        at = time.perf_counter()
        seconds = {**opened.seconds, "all": round(time.perf_counter() - opened.began, 3)}
        trial = replace(trial, seconds=seconds, finished=self.ledger.now())
        self.ledger.finish(trial)
        self.spent["database"] += time.perf_counter() - at
        if self.watch is not None:
            self.watch(self)

    # -- from rung to rung -------------------------------------------------------------------------

    def _advance(self, outcome: Outcome) -> None:
        opened = self._open.pop(outcome.id)
        trial = opened.trial
        if outcome.result is None:
            self._settle(opened, replace(trial, state="failed", why=outcome.error or "it failed"))
            return
        result = outcome.result
        for phase, s in result.get("seconds", {}).items():
            opened.seconds[phase] = round(opened.seconds.get(phase, 0.0) + s, 3)
        if "recipe" in result:
            self._assessed(opened, result)
        else:
            self._measured(opened, result)

    def _assessed(self, opened: _Open, result: Mapping[str, Any]) -> None:
        trial = opened.trial
        values: dict[str, float | None] = dict(result["values"])
        kinds = dict.fromkeys(values, "measured") | dict.fromkeys(("macs", "parameters"), "counted")
        if opened.estimate is not None and self.plan.metric not in values:
            values[self.plan.metric] = opened.estimate.value
            kinds[self.plan.metric] = "estimated"
        first = trial.rung is None
        trial = replace(trial, rung="repaired", values=values, kinds=kinds, key=result["key"],
                        recipe=result["recipe"], quality=result["quality"])  # fmt: skip
        opened.trial = trial
        if first and trial.tag.get("as") not in ("uncut", "trained"):
            why = self._not_worth_measuring(trial, opened.estimate)
            if why is not None:
                self._settle(opened, replace(trial, state="stopped", why=why))
                return
            if self.plan.thorough != self.plan.quick:
                self._submit(opened, assess_task(trial.point, self.plan.thorough))
                return
        self._submit(opened, measure_task(str(trial.key), trial.compile or {}))

    def _measured(self, opened: _Open, result: Mapping[str, Any]) -> None:
        trial = opened.trial
        values = {**trial.values, **{k: v for k, v in result["values"].items() if v is not None}}
        kinds = {**trial.kinds, **result["kinds"]}
        kinds |= {m: "linked" for m in ("ram_bytes", "flash_bytes") if m in values}
        trial = replace(
            trial, state="complete", rung="trained" if is_training(trial) else "measured",
            values=values, kinds=kinds,
            quality=result["quality"] or trial.quality,
            tag={**trial.tag, "measured": result["key"], "engine": result["engine"]},
        )  # fmt: skip
        at = time.perf_counter()
        profile = self.evaluator.cache.json(result["key"], "profile.json")
        self._learned.add(trial.number)
        if profile is not None:
            off = self._observe(trial, profile, opened.estimate)
            trial = replace(trial, off=None if off is None else round(off, 6))
        self.spent["prices"] += time.perf_counter() - at
        self._settle(opened, trial)

    # -- who goes on -------------------------------------------------------------------------------

    def _too_dear(self, trial: Trial, estimate: Estimate | None) -> str | None:
        """Why the predicted cost alone rules the trial out, or None."""
        if estimate is None or trial.tag.get("as") in ("uncut", "trained"):
            return None
        least = estimate.value * (1 - estimate.error)
        for b in self.plan.driving()[1]:
            if b.metric == self.plan.metric and b.op == "<=" and least > b.limit * (1 + OVER):
                return f"{b.metric} is predicted to be {estimate.value:.6g}, over the budget of {b.limit:g}"
        return None

    def _not_worth_measuring(self, trial: Trial, estimate: Estimate | None) -> str | None:
        """Why a repaired trial is not measured, or None."""
        objectives, budgets = self.plan.driving()
        settled, _ = self.history()
        measured = [t for t in settled if t.measured]
        error = 100 * float(trial.quality.get("standard_error") or 0.0)
        slack = max(POINTS, ERRORS * error) + (
            REPAIR_POINTS if self.plan.quick != self.plan.thorough else 0.0
        )
        for b in budgets:
            value = trial.value(b.metric)
            if b.metric not in QUALITY or b.metric == "distance" or value is None:
                continue
            over = (value - b.limit) if b.op == "<=" else (b.limit - value)
            if over > slack:
                return f"{b.metric} is {value:.2f}, too far from the budget of {b.limit:g}"
        if estimate is None:
            return None
        accuracy = trial.value("accuracy") or 0.0
        for t in measured:
            cost, acc = t.value(self.plan.metric), t.value("accuracy")
            if cost is None or acc is None:
                continue
            if cost <= estimate.value * (1 - estimate.error) and acc >= accuracy + slack:
                return f"trial {t.number} is cheaper and better by more than the errors"
        # where quality is limited and cost is sought, what costs more than the best is no news
        if metrics.better(objectives[0]) < 0 and objectives[0] == self.plan.metric:
            ok = [t for t in measured if metrics.feasible(budgets, t.values)]
            best = min((t.value(self.plan.metric) or metrics.WORST for t in ok), default=None)
            if best is not None and estimate.value * (1 - estimate.error) > best:
                return f"its {self.plan.metric} is predicted to be more than the best's"
        return None
