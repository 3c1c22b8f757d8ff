"""Calibration observers: from the values a tensor takes to the range that is quantized.

All of them see every calibration sample twice: first the extremes (and the channel means that bias
correction wants), then, except for ``minmax``, a histogram over them.

* ``auto``: quantizes with several of the others and keeps the result whose outputs are nearest to
  the float model's on the calibration samples (:mod:`.ptq` does that).
* ``minmax``: the extremes.
* ``percentile``: cuts the given share of values off at both ends.
* ``mse``: the range with the smallest expected squared quantization error (Banner et al. 2018 use
  the same criterion with an assumed distribution; here it is the histogram).
* ``entropy``: the range whose quantized histogram loses least information (Kullback-Leibler), as in
  S. Migacz, "8-bit inference with TensorRT", GTC 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from edgekit.errors import InputError
from edgekit.graph.ir import Graph

Observer = Literal["auto", "minmax", "percentile", "mse", "entropy"]
OBSERVERS: tuple[Observer, ...] = ("auto", "minmax", "percentile", "mse", "entropy")

_BINS = 2048
_BATCH = 16
_LEVELS = 256


@dataclass
class Statistics:
    """What calibration saw of one tensor. mean: per channel (last axis), over samples, positions."""

    lo: float = np.inf
    hi: float = -np.inf
    count: int = 0
    total: np.ndarray | None = None
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(_BINS, np.int64))

    @property
    def mean(self) -> np.ndarray:
        assert self.total is not None
        return self.total / max(1, self.count)


def calibrate(
    graph: Graph,
    inputs: Sequence[np.ndarray],
    observer: Observer,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Statistics]:
    """Run the float graph over all samples; statistics of every float activation tensor.

    inputs: one float32 array a graph input, samples along axis 0. InputError when a value is not
    finite (naming the tensor).
    """
    from edgekit.graph.reference import run

    names = [t.name for t in graph.tensors.values() if not t.is_const and t.is_float]
    stats = {n: Statistics() for n in names}
    samples = len(inputs[0])
    for second in (False, True) if observer != "minmax" else (False,):
        for start in range(0, samples, _BATCH):
            if progress:
                progress(
                    f"calibrating{', histograms' if second else ''}: {start} of {samples} samples"
                )
            values = run(graph, [a[start : start + _BATCH] for a in inputs], keep="all")
            for n in names:
                _observe(stats[n], values[n], n, second)
    return stats


def _observe(s: Statistics, value: np.ndarray, name: str, second: bool) -> None:
    if second:
        per_unit = _BINS / (s.hi - s.lo) if s.hi > s.lo else np.inf
        if np.isfinite(per_unit):
            # Not np.histogram: it refuses ranges that are a few float32 steps wide.
            bins = ((value.reshape(-1).astype(np.float64) - s.lo) * per_unit).astype(np.int64)
            s.histogram += np.bincount(np.clip(bins, 0, _BINS - 1), minlength=_BINS)
        return
    lo, hi = float(value.min()), float(value.max())
    if not (np.isfinite(lo) and np.isfinite(hi)):
        raise InputError(
            f"tensor '{name}' takes values that are not finite on the calibration data; "
            "check the model's weights and that the data is in the model's own units"
        )
    s.lo, s.hi = min(s.lo, lo), max(s.hi, hi)
    flat = value.reshape(-1, value.shape[-1] if value.ndim else 1).astype(np.float64)
    total = flat.sum(axis=0)
    s.total = total if s.total is None else s.total + total
    s.count += len(flat)


def choose_range(s: Statistics, observer: Observer, percentile: float) -> tuple[float, float]:
    """The range to quantize, always containing 0."""
    lo, hi = min(s.lo, 0.0), max(s.hi, 0.0)
    if observer == "minmax" or s.hi <= s.lo or not s.histogram.any():
        return lo, hi
    edges = np.linspace(s.lo, s.hi, _BINS + 1)
    if observer == "percentile":
        share = np.cumsum(s.histogram) / s.histogram.sum()
        cut = (100.0 - percentile) / 100.0
        a = edges[np.searchsorted(share, cut)]
        b = edges[min(_BINS, int(np.searchsorted(share, 1.0 - cut)) + 1)]
        return min(float(a), 0.0), max(float(b), 0.0)
    cost = _mse if observer == "mse" else _divergence
    best, chosen = np.inf, (lo, hi)
    centers = (edges[:-1] + edges[1:]) / 2
    for shrink_hi in np.linspace(1.0, 0.3, 36):
        for shrink_lo in (1.0,) if lo == 0.0 else np.linspace(1.0, 0.3, 15):
            a, b = lo * shrink_lo, hi * shrink_hi
            if b - a <= 0:
                continue
            c = cost(s.histogram, centers, a, b)
            if c < best:
                best, chosen = c, (float(a), float(b))
    return chosen


def _mse(hist: np.ndarray, centers: np.ndarray, lo: float, hi: float) -> float:
    step = (hi - lo) / (_LEVELS - 1)
    q = lo + np.round((np.clip(centers, lo, hi) - lo) / step) * step
    return float((hist * (centers - q) ** 2).sum())


def _divergence(hist: np.ndarray, centers: np.ndarray, lo: float, hi: float) -> float:
    """KL(clipped histogram || the same after quantization to 256 levels)."""
    step = (hi - lo) / (_LEVELS - 1)
    level = np.round((np.clip(centers, lo, hi) - lo) / step).astype(np.int64)
    inside = (centers >= lo) & (centers <= hi)
    p = np.where(inside, hist, 0).astype(np.float64)
    p[np.flatnonzero(inside)[[0, -1]]] += [hist[centers < lo].sum(), hist[centers > hi].sum()]
    # What quantization keeps: the unclipped mass of a level, spread over its occupied bins.
    used = inside & (hist > 0)
    mass = np.bincount(level[inside], hist[inside], _LEVELS)
    bins = np.bincount(level[used], minlength=_LEVELS)
    q = np.where(used, mass[level] / np.maximum(bins[level], 1), 0.0)
    p, q = p / max(p.sum(), 1e-12), q / max(q.sum(), 1e-12)
    live = p > 0
    return float((p[live] * np.log(p[live] / np.maximum(q[live], 1e-10))).sum())
