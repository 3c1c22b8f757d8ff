"""A against B on one device, in turn: what changes on the device changes for both, so their ratio is
known better than either latency.

Each block is four short measurements, A B B A: what drifts evenly falls out of it. Counted figures
(instructions of a virtual device) do not scatter: one of each is enough, and there is no interval.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import DeviceError, InputError
from edgekit.profile import measure, stats

if TYPE_CHECKING:
    from edgekit.artifact import Artifact
    from edgekit.devices.base import Device
    from edgekit.profile.measure import Protocol
    from edgekit.targets.base import Backend, Profile, Progress

FEWEST, MOST = 8, 128  #: blocks of two pairs
_LOOKS = (12, 24, 48, 96)
NARROW = 0.01  #: of the interval, as a share of the ratio: then it stops
WIDE = 0.05  #: beyond which the result is called noisy
_ROUND_S = 0.06  #: of one measurement in a pair, about


@dataclass(frozen=True)
class Side:
    """One of the two: ``name`` in the result, and what is needed to profile it."""

    name: str
    artifact: Artifact
    backend: Backend
    device: Device
    inputs: Sequence[np.ndarray] | None = None

    def profile(self) -> Profile:
        return self.backend.profile(self.artifact, self.device, self.inputs)


def compare_sides(
    a: Side, b: Side, settings: Protocol, progress: Progress | None = None
) -> dict[str, Any]:
    """The document of ``compare --json``: ``ratio`` is B's figure over A's, so that 0.8 means that B
    takes four fifths of A's time. InputError where the two have no figure in common."""
    with measure.alone(a.device):
        if a.device.info().kind == "measured":
            return _timed(a, b, settings, progress)
        return _counted(a, b)


def _document(
    a: Side, b: Side, figure: str, unit: str, values: Sequence[float], kind: str
) -> dict[str, Any]:
    def side(s: Side, value: float) -> dict[str, Any]:
        art = s.artifact
        return {
            "artifact": s.name,
            "target": art.target.name,
            "engine": art.engine,
            "value": value,
        }

    return {
        "device": a.device.name,
        "figure": figure,
        "unit": unit,
        "kind": kind,
        "a": side(a, values[0]),
        "b": side(b, values[1]),
        "ratio": values[1] / values[0],
        "interval": None,
        "confidence": None,
        "pairs": 1,
        "quality": None,
        "reasons": [],
    }


def _counted(a: Side, b: Side) -> dict[str, Any]:
    one, two = a.profile(), b.profile()
    for figure, unit in (("cycles", "cycles"), ("instructions", "instructions")):
        values = [getattr(p, figure) for p in (one, two)]
        if all(values):
            kinds = [p.kinds.get(figure, p.kind) for p in (one, two)]
            if kinds[0] != kinds[1]:
                raise InputError(f"{figure} are {kinds[0]} for A and {kinds[1]} for B")
            document = _document(a, b, figure, unit, values, kinds[0])
            document["verdict"] = _verdict(document["ratio"], 0.0, 0.0, counted=True)
            return document
    raise InputError(f"{a.device.name} gives no figure that both artifacts have")


def _timed(a: Side, b: Side, settings: Protocol, progress: Progress | None) -> dict[str, Any]:
    short = replace(settings, max_secs=_ROUND_S, narrow=1.0, layers=False)
    found: tuple[list[float], list[float]] = ([], [])
    begin = time.monotonic()
    with measure.protocol(short):
        while True:
            for k in (0, 1, 1, 0):
                latency = (a, b)[k].profile().latency_ms
                if latency is None or not latency > 0:
                    raise DeviceError(f"{a.device.name} timed nothing for {(a, b)[k].name}")
                found[k].append(latency)
            blocks = [np.sqrt(np.prod(np.reshape(side, (-1, 2)), axis=1)) for side in found]
            ratio, low, high = stats.ratio_interval(blocks[0].tolist(), blocks[1].tolist())
            pairs, done = len(found[0]), len(blocks[0])
            if progress:
                progress(
                    f"comparing: {pairs} pairs, B over A {ratio:.4g} ({low:.4g} to {high:.4g})"
                )
            # Looked at seldom: who stops as soon as an interval is narrow gets one too narrow.
            if done in _LOOKS and (high - low) / ratio <= NARROW:
                break
            if done >= MOST or (time.monotonic() - begin >= settings.max_secs and done >= 2):
                break
    values = [float(np.median(side)) for side in found]
    document = _document(a, b, "latency", "ms", values, "measured")
    width = (high - low) / ratio
    noisy = done < FEWEST or width > WIDE
    document |= {
        "ratio": ratio,
        "interval": [low, high],
        "confidence": stats.CONFIDENCE,
        "pairs": pairs,
        "verdict": _verdict(ratio, low, high),
        "quality": "noisy" if noisy else "ok",
        "reasons": [f"the interval of the ratio is {100 * width:.0f} % of it; use --max-secs"]
        if noisy
        else [],
        "samples": {"a_ms": found[0], "b_ms": found[1]},
    }
    return document


def _verdict(ratio: float, low: float, high: float, counted: bool = False) -> str:
    """In words; silent about a difference that the interval does not show."""
    if counted:
        if ratio == 1:
            return "A and B cost the same"
    elif low <= 1 <= high:
        return "no difference is seen"
    return f"B takes {100 * abs(ratio - 1):.3g} % {'less' if ratio < 1 else 'more'}"
