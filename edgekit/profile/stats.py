"""Statistics of repeated timings. Timings are skewed and depend on each other in time, so everything
here is about medians, ranks and blocks; nothing assumes a normal distribution.

Sources: order-statistic intervals of quantiles (Conover, "Practical Nonparametric Statistics", 3.2);
Theil-Sen slopes (Sen 1968); the block bootstrap (Kuensch 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

CONFIDENCE = 0.95
_RESAMPLES = 2000
_BINS = 24


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the median from the samples' ranks: for independent samples of any
    distribution. The whole range where there are too few for that (fewer than six)."""
    x = np.sort(np.asarray(samples, np.float64))
    n = len(x)
    if n < 6:
        return float(x[0]), float(x[-1])
    if n > 200:  # the binomial's normal form, rounded outwards
        half = 1.959964 * np.sqrt(n) / 2
        low, high = int(np.floor(n / 2 - half)), int(np.ceil(n / 2 + half))
        return float(x[max(low, 0)]), float(x[min(high, n - 1)])
    tail, k = 0.0, 0  # P(Binomial(n, 1/2) <= k - 1) <= 2.5 %
    while tail + comb(n, k) / 2**n <= (1 - CONFIDENCE) / 2:
        tail += comb(n, k) / 2**n
        k += 1
    return float(x[max(k - 1, 0)]), float(x[min(n - k, n - 1)])


def blocked_interval(blocks: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float]:
    """A 95 % interval of the median of all samples that come in blocks (programs started one after
    the other): the wider of the one by ranks and one by resampling whole blocks, which sees what
    differs from block to block."""
    whole = np.concatenate([np.asarray(b, np.float64) for b in blocks])
    low, high = median_interval(whole)  # type: ignore[arg-type]
    if len(blocks) < 3:
        return low, high
    rng = np.random.default_rng(seed)
    middles = np.array([np.median(b) for b in blocks])
    picked = rng.integers(0, len(middles), (_RESAMPLES, len(middles)))
    means = np.median(middles[picked], axis=1)
    ends = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return min(low, float(ends[0])), max(high, float(ends[1]))


def _binned(samples: Sequence[float]) -> np.ndarray:
    x = np.asarray(samples, np.float64)
    return np.array([np.median(part) for part in np.array_split(x, min(_BINS, len(x)))])


def drift(samples: Sequence[float]) -> float:
    """How much slower the end is than the beginning, as a share of the median (0.2: 20 % slower), by
    the median of all slopes between medians of stretches of time."""
    bins = _binned(samples)
    if len(bins) < 4:
        return 0.0
    i, j = np.triu_indices(len(bins), 1)
    slope = float(np.median((bins[j] - bins[i]) / (j - i)))
    return slope * (len(bins) - 1) / float(np.median(bins))


@dataclass(frozen=True)
class Step:
    """From sample ``at`` on the median is ``ratio`` times what it was; ``spread`` of the samples on
    the slower side (interquartile range over median); ``clear``: far beyond the scatter."""

    at: int
    ratio: float
    spread: float
    clear: bool


def step(samples: Sequence[float]) -> Step | None:
    """The place where the level changes most, at least a tenth of the samples from either end."""
    x = np.asarray(samples, np.float64)
    n = len(x)
    edge = max(3, n // 10)
    if n < 2 * edge + 2:
        return None
    places = np.unique(np.linspace(edge, n - edge, min(200, n - 2 * edge + 1)).astype(int))
    logs = np.log(np.maximum(x, 1e-12))
    # the split that leaves the least absolute deviation on its two sides
    costs = [
        np.abs(logs[:k] - np.median(logs[:k])).sum() + np.abs(logs[k:] - np.median(logs[k:])).sum()
        for k in places
    ]
    at = int(places[int(np.argmin(costs))])
    before, after = x[:at], x[at:]
    ratio = float(np.median(after) / np.median(before))
    slow = after if ratio >= 1 else before
    spread = float(np.subtract(*np.quantile(slow, [0.75, 0.25])) / np.median(slow))
    scatter = max(_scatter(logs[:at]), _scatter(logs[at:]), 1e-6)
    error = scatter * np.sqrt(1 / at + 1 / (n - at))
    return Step(at, ratio, spread, bool(abs(np.log(ratio)) > max(6 * error, scatter)))


def _scatter(logs: np.ndarray) -> float:
    """A robust standard deviation."""
    return 1.4826 * float(np.median(np.abs(logs - np.median(logs))))


def ratio_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """(ratio, low, high) of paired figures: by how much ``second`` is larger than ``first``, with a
    95 % interval: the median of the pairs' log-ratios and its interval by ranks, which needs no
    resampling and holds for few pairs, too. ValueError for no pair."""
    logs = np.log(np.asarray(second, np.float64) / np.asarray(first, np.float64))
    if not len(logs):
        raise ValueError("no pairs")
    low, high = median_interval(logs.tolist())
    return float(np.exp(np.median(logs))), float(np.exp(low)), float(np.exp(high))
