"""Which networks are trained, and for how long: successive halving (Jamieson and Talwalkar, AISTATS 2016).

After the search, the most promising networks are distilled for a quarter of the steps, the better half of
them for half, the better half of those for all. Networks that were never measured may be among them:
training wins back what the repair could not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.search import metrics
from edgekit.search.metrics import QUALITY, Budget
from edgekit.search.space import Point
from edgekit.search.trial import Trial, rank

#: Networks in each round, and the share of the steps that they are trained.
ROUNDS = ((6, 0.25), (3, 0.5), (1, 1.0))
#: Points by which a network may miss an accuracy budget before it is trained.
HOPE = 12.0


@dataclass(frozen=True)
class Training:
    point: Point
    steps: int
    tag: dict[str, Any]


def planned(steps: int) -> int:
    """How many trials training adds to a study."""
    return sum(n for n, _ in ROUNDS) if steps else 0


def is_training(trial: Trial) -> bool:
    return trial.tag.get("as") == "trained"


def candidates(
    trials: Sequence[Trial], metric: str, budgets: Sequence[Budget], count: int
) -> list[Trial]:
    """Networks of the front of distance and cost (predicted where it was not measured) that training
    may bring within the budgets, spread over the costs."""
    hopeful = []
    for t in trials:
        cost, distance = t.value(metric), t.value("distance")
        if is_training(t) or t.tag.get("as") == "uncut" or t.key is None:
            continue
        if cost is None or distance is None:
            continue
        far = [
            b for b in budgets
            if b.metric in QUALITY and b.metric != "distance" and (v := t.value(b.metric)) is not None
            and (v - b.limit if b.op == "<=" else b.limit - v) > HOPE
        ]  # fmt: skip
        dear = [b for b in budgets if b.metric == metric and b.violation(cost) > 0]
        if not far and not dear:
            hopeful.append(t)
    points = [(float(t.value("distance") or 0), float(t.value(metric) or 0)) for t in hopeful]
    front = sorted(
        (hopeful[i] for i in metrics.front(points)), key=lambda t: float(t.value(metric) or 0)
    )
    if len(front) <= count:
        return front
    pick = [round(i * (len(front) - 1) / (count - 1)) for i in range(count)] if count > 1 else [0]
    return [front[i] for i in dict.fromkeys(pick)]


def next_training(
    steps: int,
    trials: Sequence[Trial],
    running: Sequence[Trial],
    metric: str,
    objectives: Sequence[str],
    budgets: Sequence[Budget],
) -> Training | None:
    """The next network to train, None when there is none (now: a round begins when the one before it
    is over)."""
    if not steps:
        return None
    searched = [t for t in trials if not is_training(t)]
    chosen = candidates(searched, metric, budgets, ROUNDS[0][0])
    for r, (count, share) in enumerate(ROUNDS):
        begun = [t for t in (*trials, *running) if is_training(t) and t.tag.get("round") == r]
        have = {t.tag.get("of") for t in begun}
        for t in chosen[:count]:
            if t.number not in have:
                tag = {"as": "trained", "of": t.number, "round": r}
                return Training(dict(t.point), max(1, round(share * steps)), tag)
        if any(t.state == "running" for t in begun):
            return None
        done = {t.tag.get("of"): t for t in begun if t.measured}
        order = sorted(
            (t for t in chosen if t.number in done),
            key=lambda t: rank(done[t.number], objectives, budgets),
        )
        chosen = order
    return None
