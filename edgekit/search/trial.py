"""A trial as data: what was tried, what came out, how much of it is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from edgekit.search import metrics
from edgekit.search.metrics import Budget
from edgekit.search.space import Point

#: running: somebody works on it. complete: measured on the device. stopped: not worth the next rung.
#: failed: an error, a timeout, out of memory: infinite cost. lost: its worker was killed; not a result.
State = Literal["running", "complete", "stopped", "failed", "lost"]
#: How far it got: predicted cost, accuracy after the repair, measured, measured after training.
Rung = Literal["predicted", "repaired", "measured", "trained"]


@dataclass(frozen=True)
class Trial:
    """number: in the study's database. ordinal: the how manieth result of the study it is (what its
    randomness comes from). values: metric -> figure; kinds: metric -> measured, simulated, estimated.
    predicted: ``value``, ``error``, ``unit``, ``metric`` of the cost before it was measured; off:
    predicted / measured - 1. recipe, compile: what makes it again. key: of its artifacts in the cache.
    seconds: by phase. why: why it was stopped or failed, one sentence."""

    number: int
    ordinal: int
    state: State
    point: Point
    rung: Rung | None = None
    values: Mapping[str, float | None] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    predicted: Mapping[str, Any] | None = None
    off: float | None = None
    recipe: Mapping[str, Any] | None = None
    compile: Mapping[str, str] | None = None
    key: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    why: str | None = None
    tag: Mapping[str, Any] = field(default_factory=dict)  #: the strategy's own notes
    quality: Mapping[str, Any] = field(default_factory=dict)
    started: float | None = None  #: seconds since the study began
    finished: float | None = None
    worker: str = ""

    @property
    def settled(self) -> bool:
        return self.state in ("complete", "stopped", "failed")

    @property
    def measured(self) -> bool:
        return self.state == "complete"

    def value(self, metric: str) -> float | None:
        return self.values.get(metric)

    def losses(self, objectives: Sequence[str]) -> tuple[float, ...]:
        """The objectives as values to minimize; infinite where not known."""
        return tuple(metrics.loss(o, self.values.get(o)) for o in objectives)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Trial:
        known = {f.name for f in fields(Trial)}
        return Trial(**{k: v for k, v in document.items() if k in known})


def total_violation(budgets: Sequence[Budget], values: Mapping[str, Any]) -> float:
    return sum(metrics.violations(budgets, values).values())


def rank(trial: Trial, objectives: Sequence[str], budgets: Sequence[Budget]) -> tuple[Any, ...]:
    """The order of measured trials: budgets first, then the objectives as named (the first decides,
    the next ones break ties), then the earlier trial."""
    over = total_violation(budgets, trial.values)
    return (over > 0, over if over > 0 else 0.0, *trial.losses(objectives), trial.ordinal)


def best(
    trials: Iterable[Trial], objectives: Sequence[str], budgets: Sequence[Budget]
) -> Trial | None:
    """The best measured trial, one that keeps the budgets if there is any."""
    measured = [t for t in trials if t.measured]
    return min(measured, key=lambda t: rank(t, objectives, budgets), default=None)


def pareto(trials: Iterable[Trial], objectives: Sequence[str]) -> list[Trial]:
    """Measured trials that no other beats in all objectives, in the order of the last objective."""
    measured = [t for t in trials if t.measured]
    kept = metrics.front([t.losses(objectives) for t in measured])
    return sorted((measured[i] for i in kept), key=lambda t: (t.losses(objectives)[-1], t.ordinal))
