"""What a study measures, wants and must keep: metrics, objectives and budgets.

Accuracies are in percent of the samples of ``--val``. Without labels, *agreement* takes their place: the
share of samples for which the network says the same as the original (for networks that do not classify:
``100 * (1 - distance)``, where distance is the squared error relative to the variance), and every
document says so (``quality: "agreement"``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgekit.errors import InputError

#: Metric -> (larger is better, what it is).
METRICS: dict[str, tuple[bool, str]] = {
    "accuracy": (True, "percent of the samples of --val (agreement with the original without labels)"),
    "accuracy_drop": (False, "points of accuracy lost against the model as given"),
    "distance": (False, "mean KL divergence to the original in nats, or relative squared error"),
    "latency_ms": (False, "one inference on the device"),
    "cycles": (False, "one inference on the device"),
    "instructions": (False, "one inference on the device"),
    "ram_bytes": (False, "activations, scratch, data and stack"),
    "flash_bytes": (False, "code and constants"),
    "macs": (False, "multiply-accumulates of one inference"),
    "parameters": (False, "constants of all layers"),
}  # fmt: skip
#: Metrics that say how well the network does its work; the others are costs.
QUALITY = ("accuracy", "accuracy_drop", "distance")
#: Costs that come from the device.
DEVICE = ("latency_ms", "cycles", "instructions")
#: What a failed trial is worth to samplers that want a finite number.
WORST = 1e18


def check_metric(name: str, where: str) -> str:
    if name not in METRICS:
        raise InputError(f"{where} names '{name}'; known metrics are {', '.join(METRICS)}")
    return name


@dataclass(frozen=True)
class Budget:
    """A limit that the result has to keep: ``metric op limit``."""

    metric: str
    op: Literal["<=", ">="]
    limit: float

    def __str__(self) -> str:
        return f"{self.metric}{self.op}{self.limit:g}"

    def violation(self, value: float | None) -> float:
        """How far over the limit, relative to it; 0 when kept, infinite when not known."""
        if value is None or not math.isfinite(value):
            return math.inf
        over = value - self.limit if self.op == "<=" else self.limit - value
        return max(0.0, over) / max(abs(self.limit), 1e-9)


def parse_budget(text: str) -> Budget:
    """``latency_ms<=20``; InputError says what is accepted."""
    m = re.fullmatch(r"\s*([a-z_]+)\s*(<=|>=)\s*([-+0-9.eE_]+)\s*", text)
    try:
        limit = float(m[3]) if m else math.nan
    except ValueError:
        limit = math.nan
    if m is None or not math.isfinite(limit):
        raise InputError(f"budget '{text}' is not metric<=number (or >=), such as latency_ms<=20")
    check_metric(m[1], f"budget '{text}'")
    return Budget(m[1], m[2], limit)  # type: ignore[arg-type]


def parse_objectives(text: str) -> tuple[str, ...]:
    names = tuple(n.strip() for n in text.split(",") if n.strip())
    if not names or len(set(names)) != len(names):
        raise InputError(
            f"objective '{text}' is not a list of different metrics, such as accuracy,latency_ms"
        )
    return tuple(check_metric(n, f"objective '{text}'") for n in names)


def better(metric: str) -> int:
    """1 when larger values are better, else -1."""
    return 1 if METRICS[metric][0] else -1


def loss(metric: str, value: float | None) -> float:
    """The value as something to minimize; infinite when not known."""
    return math.inf if value is None else -better(metric) * value


def violations(budgets: Sequence[Budget], values: Mapping[str, Any]) -> dict[str, float]:
    """Budget -> how far it is missed (0: kept)."""
    return {str(b): b.violation(values.get(b.metric)) for b in budgets}


def feasible(budgets: Sequence[Budget], values: Mapping[str, Any]) -> bool:
    return all(v <= 0 for v in violations(budgets, values).values())


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """``a`` at least as good everywhere and better somewhere (values to minimize)."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(
        x < y for x, y in zip(a, b, strict=True)
    )


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other dominates (values to minimize); of equals the first."""
    kept = []
    for i, p in enumerate(points):
        if any(not math.isfinite(v) for v in p):
            continue
        if any(dominates(q, p) or (tuple(q) == tuple(p) and j < i) for j, q in enumerate(points)):
            continue
        kept.append(i)
    return kept


def cost_metric(objectives: Sequence[str], budgets: Sequence[Budget]) -> str:
    """The cost that is predicted and driven down: the first device cost that is asked for, else what
    is counted, else the latency (memory is a sum over layers in no way that could be priced)."""
    asked = [*objectives, *(b.metric for b in budgets)]
    for kind in (DEVICE, ("macs", "parameters")):
        for name in asked:
            if name in kind:
                return name
    return "latency_ms"
