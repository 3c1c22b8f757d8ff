"""The measuring protocol: how a latency is taken on real silicon so that one can bet on it.

An engine hands over ``take``, which times some inferences in one start of its program. It is called
again and again, with the device's conditions read in between, until the interval of the median is
narrow or the time is up. Every sample is kept, and :mod:`.quality` says whether the figure is good.

The names of the settings are those of TFLite's ``benchmark_model``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from edgekit.devices.base import Device, RunRequest, RunResult
from edgekit.devices.lock import DeviceLock
from edgekit.errors import DeviceError, InputError
from edgekit.profile import conditions, stats
from edgekit.profile.conditions import Conditions

_FEWEST_IN_A_STRETCH, _MOST_IN_A_STRETCH = 5, 500
_SHORTEST_STRETCH_S = 0.02
_PLENTY = 5000  #: samples, after which more would tell nothing
_SHORTEST_LOOP_NS = 5_000_000  #: in which the kernel's count of processor time is exact enough
_COOL_C = 2.0  #: degrees above the beginning that count as cool


@dataclass(frozen=True)
class Protocol:
    """num_runs: timed inferences, at least. warmup_runs: before them, at least. max_secs: for all of
    them, about. narrow: stop early when the interval of the median is this share of it. cpus: the
    cores to run on, empty for any. cool_secs: wait up to so long between stretches for the
    temperature to come down. layers: take the per-layer profile, too."""

    num_runs: int = 20
    warmup_runs: int = 3
    max_secs: float = 2.0
    narrow: float = 0.01
    cpus: tuple[int, ...] = ()
    cool_secs: float = 0.0
    layers: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.num_runs <= 1_000_000 or not 0 <= self.warmup_runs <= 1_000_000:
            raise InputError("the number of runs has to be from 1 to 1,000,000 (warm-up: from 0)")
        if not 0 < self.max_secs <= 86400 or not 0 <= self.cool_secs <= 86400:
            raise InputError("the time to measure has to be positive and at most a day")


_current: ContextVar[Protocol | None] = ContextVar("edgekit_protocol", default=None)


@contextmanager
def protocol(settings: Protocol) -> Iterator[None]:
    """What is measured inside is measured with these settings."""
    token = _current.set(settings)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Protocol:
    return _current.get() or Protocol()


@dataclass(frozen=True)
class Taken:
    """One start of a program. ns: each timed inference. cpu_share: processor time over wall-clock
    while it ran, 1.0 when nobody else wanted the core. switches: how often it was put aside for
    others. cores: those it was seen on, in order. peak_bytes: its memory's high-water mark."""

    ns: Sequence[int]
    cpu_share: float | None = None
    switches: int | None = None
    cores: Sequence[int] = ()
    peak_bytes: int | None = None


Take = Callable[[int], Taken]


def numbers(stdout: str, key: str) -> list[int]:
    """The values of the lines ``key=<digits>``; what is not digits is no value."""
    prefix = f"{key}="
    found = (x[len(prefix) :] for x in stdout.splitlines() if x.startswith(prefix))
    return [int(v) for v in found if v.isascii() and v.isdigit() and len(v) < 20]


def taken(stdout: str, runs: int) -> Taken:
    """What a runner's lines say: ``total_ns`` for each inference; ``loop_ns``, ``cpu_ns``,
    ``switches``, ``core`` and ``peak_kb`` where it tells them. DeviceError unless there are as many
    times as inferences: a program that was cut short gives no figure."""
    times = numbers(stdout, "total_ns")
    if len(times) != runs or min(times, default=0) < 1:
        raise DeviceError(f"the test program timed {len(times)} of {runs} inferences")
    loop, cpu = numbers(stdout, "loop_ns"), numbers(stdout, "cpu_ns")
    switches, peak = numbers(stdout, "switches"), numbers(stdout, "peak_kb")
    known = bool(loop and cpu) and loop[-1] >= _SHORTEST_LOOP_NS
    share = min(1.0, cpu[-1] / loop[-1]) if known else None
    return Taken(
        times,
        share,
        switches[-1] if switches else None,
        numbers(stdout, "core"),
        peak[-1] * 1024 if peak and peak[-1] else None,
    )


@dataclass
class Measurement:
    """A latency with everything that was seen while it was taken. Times in milliseconds."""

    settings: Protocol
    first_ms: float  #: of the very first inference in the first program
    stretches: list[Taken] = field(default_factory=list)
    readings: list[Conditions] = field(default_factory=list)
    cooled_s: float = 0.0
    mixed_cores: bool = False  #: the device has cores of several kinds

    @property
    def samples_ms(self) -> list[float]:
        return [ns / 1e6 for t in self.stretches for ns in t.ns]

    @property
    def median_ms(self) -> float:
        return float(np.median(self.samples_ms))

    @property
    def interval_ms(self) -> tuple[float, float]:
        return stats.blocked_interval([[ns / 1e6 for ns in t.ns] for t in self.stretches])

    @property
    def width(self) -> float:
        low, high = self.interval_ms
        return (high - low) / self.median_ms

    @property
    def peak_bytes(self) -> int | None:
        return max((t.peak_bytes for t in self.stretches if t.peak_bytes), default=None)

    def energy(self) -> dict[str, Any] | None:
        """Joules an inference, by the counter that the device has; everything that it counted in the
        time is in it, idle power included. None where there is no counter, or it did not move."""
        spent: dict[str, float] = {}
        for a, b in pairwise(self.readings):
            found = conditions.energy(a, b)
            if found:
                spent[found[0]] = spent.get(found[0], 0.0) + found[1]
        if len(spent) != 1:
            return None
        ((source, joules),) = spent.items()
        runs = sum(len(t.ns) for t in self.stretches)
        return {"millijoules": 1e3 * joules / runs, "source": source, "kind": "measured"}

    def to_json(self) -> dict[str, Any]:
        """``details["measurement"]`` of a profile: docs/json.md."""
        from edgekit.profile.quality import judge

        samples = self.samples_ms
        low, high = self.interval_ms
        cores = [c for t in self.stretches for c in t.cores]
        verdict = judge(self)
        document: dict[str, Any] = {
            "runs": len(samples),
            "warmup_runs": self.settings.warmup_runs,
            "median_ms": self.median_ms,
            "interval_ms": [low, high],
            "confidence": stats.CONFIDENCE,
            "min_ms": min(samples),
            "p90_ms": float(np.quantile(samples, 0.9)),
            "mean_ms": float(np.mean(samples)),
            "first_ms": self.first_ms,
            "samples_ms": [round(s, 6) for s in samples],
            "stretches": [len(t.ns) for t in self.stretches],
            "pinned_to": list(self.settings.cpus),
            "cores_seen": sorted(set(cores)),
            "migrations": sum(1 for a, b in pairwise(cores) if a != b),
            "conditions": [r.to_json() for r in self.readings],
            "started": round(self.readings[0].at, 3),
            "ended": round(self.readings[-1].at, 3),
            "quality": verdict.quality,
            "reasons": list(verdict.reasons),
            "notes": list(verdict.notes),
        }
        for key in ("cpu_share", "switches"):
            values = [getattr(t, key) for t in self.stretches if getattr(t, key) is not None]
            if values:
                document[key] = min(values) if key == "cpu_share" else sum(values)
        if self.cooled_s:
            document["cooled_s"] = round(self.cooled_s, 1)
        spent = self.energy()
        if spent:
            document["energy"] = spent
        if self.peak_bytes:
            document["peak_rss_bytes"] = self.peak_bytes
        return document


def alone(device: Device) -> AbstractContextManager[Any]:
    """Nobody else of this user measures on the device inside. Attached devices are locked for as long
    as they are open; this is for the machine itself."""
    return DeviceLock("host", "host") if device.info().transport == "local" else nullcontext()


def collect(device: Device, take: Take) -> Measurement:
    """Measure with the current protocol. ``take(n)`` times ``n`` inferences (after a warm-up of its
    own) and may be called many times."""
    settings = current()
    with alone(device):
        return _collect(device, take, settings)


def _collect(device: Device, take: Take, settings: Protocol) -> Measurement:
    warm = take(max(3, settings.warmup_runs))
    each_s = max(min(warm.ns) / 1e9, 1e-7)
    found = Measurement(settings, warm.ns[0] / 1e6, mixed_cores=_mixed(device))
    found.readings.append(conditions.read(device))
    begin = time.monotonic()
    stretch_s = settings.max_secs / 6
    while True:
        done = len(found.samples_ms)
        wanted = int(np.clip(stretch_s / each_s, _FEWEST_IN_A_STRETCH, _MOST_IN_A_STRETCH))
        left = settings.num_runs - done
        if left > 0:
            least = int(np.ceil(_SHORTEST_STRETCH_S / each_s))
            share = max(_FEWEST_IN_A_STRETCH, -(-settings.num_runs // 3), least)
            wanted = min(wanted, share)
        found.stretches.append(take(wanted))
        found.readings.append(conditions.read(device))
        spent = time.monotonic() - begin - found.cooled_s
        enough = done + wanted >= settings.num_runs
        if enough and len(found.stretches) >= 3 and found.width <= settings.narrow:
            break
        if enough and done + wanted >= _PLENTY and len(found.stretches) >= 3:
            break
        if spent >= settings.max_secs and (enough or spent >= 5 * settings.max_secs):
            break
        found.cooled_s += _cool(device, found.readings, settings.cool_secs)
    return found


def _cool(device: Device, readings: list[Conditions], limit_s: float) -> float:
    """Wait until the device is about as cool as at the beginning; seconds waited."""
    first = readings[0].temperature_c
    if not limit_s or first is None:
        return 0.0
    begin = time.monotonic()
    while (now := readings[-1].temperature_c) is not None and now > first + _COOL_C:
        if time.monotonic() - begin >= limit_s:
            break
        time.sleep(min(1.0, limit_s))
        readings[-1] = conditions.read(device)
    return time.monotonic() - begin


def _mixed(device: Device) -> bool:
    """Whether the device's cores are of several kinds (big.LITTLE), from the part numbers of
    /proc/cpuinfo as ``uniq -c`` counts them."""
    parts = str(device.info().details.get("parts", "")).split()
    return len({p for p in parts if p.startswith("0x")}) > 1


class Pinned:
    """A device whose programs run on some cores only; everything else is the device's own."""

    def __init__(self, device: Device, cpus: Sequence[int]) -> None:
        if device.info().kind != "measured":
            raise InputError(f"{device.name} is no real silicon: there is no core to pin to")
        self._device, self._cpus = device, tuple(cpus)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def run(self, request: RunRequest) -> RunResult:
        from dataclasses import replace

        return self._device.run(replace(request, cpus=self._cpus))

    def __enter__(self) -> Pinned:
        return self

    def __exit__(self, *exc: object) -> None:
        self._device.close()


def pinned(device: Device, cpus: Sequence[int]) -> Device:
    """The device itself, or pinned where there are cores to pin to."""
    return Pinned(device, cpus) if cpus else device


def cpus_of(text: str) -> tuple[int, ...]:
    """``4``, ``4-7`` or ``0,2,4-5`` as core numbers; InputError for anything else."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = (first, last if dash else first)
        if not all(e.isascii() and e.isdigit() and len(e) < 4 for e in ends):
            raise InputError(f"--cpu '{text}' is not a list of cores such as 4 or 4-7 or 0,2")
        low, high = int(ends[0]), int(ends[1])
        if low > high or high > 1023:
            raise InputError(f"--cpu '{text}' is not a list of cores such as 4 or 4-7 or 0,2")
        found |= set(range(low, high + 1))
    return tuple(sorted(found))


def figures(found: Measurement | None) -> Mapping[str, Any]:
    """What engines put into ``Profile.details``."""
    if found is None:
        return {}
    samples = found.samples_ms
    return {
        "repeats": len(samples),
        "latency_ms_min": min(samples),
        "latency_ms_max": max(samples),
        "measurement": found.to_json(),
    }
