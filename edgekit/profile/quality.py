"""Whether a measured latency is one to bet on: ``ok``, ``noisy`` or ``throttled``, with the reasons.

The limits are deliberate and few; each reason says what was seen and what would help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgekit.profile import stats

if TYPE_CHECKING:
    from edgekit.profile.measure import Measurement

Quality = Literal["ok", "noisy", "throttled"]

FEWEST = 10  #: samples
WIDTH = 0.05  #: of the interval of the median, as a share of it
TAIL = 1.25  #: the 90th percentile over the median
DRIFT = 0.05  #: from the first to the last sample
STEP = 1.08  #: a lasting change of the level
TIGHT = 0.06  #: spread of samples that a lower clock makes slower, all alike
FREQUENCY = 0.9  #: of the highest clock seen in the run
CPU_SHARE = 0.95  #: processor time over wall-clock
WARMER_C = 5.0
FIRST = 1.5  #: the first inference over the median


@dataclass(frozen=True)
class Verdict:
    """notes: worth knowing, and not held against the figure."""

    quality: Quality
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def judge(found: Measurement) -> Verdict:
    """Look at the samples, at what the program was told by its kernel, and at the device."""
    noisy, slowed = list[str](), list[str]()
    samples = found.samples_ms
    median = found.median_ms
    crowded = _others(found, noisy)
    if len(samples) < FEWEST:
        noisy.append(f"only {len(samples)} inferences were timed; use --num-runs or --max-secs")
    elif found.width > WIDTH:
        noisy.append(
            f"the interval of the median is {100 * found.width:.0f} % of it; use --max-secs"
        )
    tail = float(np.quantile(samples, 0.9)) / median
    if tail > TAIL:
        noisy.append(f"one inference in ten takes {tail:.2f} times the median or more")
    _levels(samples, crowded, noisy, slowed)
    _device(found, slowed)
    if found.mixed_cores and len({c for t in found.stretches for c in t.cores}) > 1:
        noisy.append("it moved between cores on a device with several kinds; use --cpu")
    quality: Quality = "throttled" if slowed else "noisy" if noisy else "ok"
    notes = []
    if found.first_ms > FIRST * median:
        notes.append(f"the first inference took {found.first_ms / median:.1f} times the median")
    return Verdict(quality, (*slowed, *noisy), tuple(notes))


def _others(found: Measurement, noisy: list[str]) -> bool:
    """Whether somebody else wanted the core."""
    shares = {k: t.cpu_share for k, t in enumerate(found.stretches) if t.cpu_share is not None}
    worst = min(shares, key=lambda k: shares[k], default=None)
    if worst is None or shares[worst] >= CPU_SHARE:
        return False
    noisy.append(
        f"other programs took {100 * (1 - shares[worst]):.0f} % of the core in stretch {worst + 1} "
        f"of {len(found.stretches)}"
    )
    return True


def _levels(samples: list[float], crowded: bool, noisy: list[str], slowed: list[str]) -> None:
    """A lasting change of the level, else a drift. Slower samples that are all alike are a lower
    clock; slower and scattered ones are other programs."""
    if len(samples) < FEWEST:
        return
    step, drift = stats.step(samples), stats.drift(samples)
    if step is not None and step.clear and max(step.ratio, 1 / step.ratio) > STEP:
        where = f"from inference {step.at + 1} of {len(samples)} on"
        if step.ratio < 1:
            noisy.append(f"{where} it is {1 / step.ratio:.2f} times as fast; use --warmup-runs")
        elif step.spread < TIGHT and not crowded:
            slowed.append(f"{where} it takes {step.ratio:.2f} times as long, as with a lower clock")
        else:
            noisy.append(f"{where} it takes {step.ratio:.2f} times as long, and scatters")
    elif drift > DRIFT:
        (noisy if crowded else slowed).append(f"it became {100 * drift:.0f} % slower over the run")
    elif drift < -DRIFT:
        noisy.append(f"it became {-100 * drift:.0f} % faster over the run; use --warmup-runs")


def _device(found: Measurement, slowed: list[str]) -> None:
    """The clock and the temperature, where the device tells them."""
    used = set(found.settings.cpus) | {c for t in found.stretches for c in t.cores}
    for core in sorted(used):
        limits = [r.limit_khz[core] for r in found.readings if core in r.limit_khz]
        if limits and min(limits) < FREQUENCY * max(limits):
            slowed.append(
                f"the highest clock that core {core} may have fell from {max(limits) / 1e6:.2f} to "
                f"{min(limits) / 1e6:.2f} GHz"
            )
    cooling = [r.cooling for r in found.readings if r.cooling is not None]
    warm = [r.temperature_c for r in found.readings if r.temperature_c is not None]
    if cooling and max(cooling) > cooling[0]:
        hot = f" at {max(warm):.0f} C" if warm else ""
        slowed.append(f"the device began to cool itself{hot}; use --cool-secs")
    elif slowed and warm and max(warm) > warm[0] + WARMER_C:
        slowed.append(f"it warmed up from {warm[0]:.0f} to {max(warm):.0f} C; use --cool-secs")
