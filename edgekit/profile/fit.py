"""Models of kernels: non-negative sums of :mod:`terms`, found in measurements.

Terms are taken one at a time, each time the one that explains most of what is left (orthogonal matching
pursuit, with non-negative coefficients: loops do not run backwards), in relative error, for as long as
layers that were left out are predicted better. What leaving out shows is the model's error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgekit.profile.terms import Dims, Term, terms_of

MAX_TERMS = 14
FOLDS = 5
#: Half the width of the interval holds this share of what was left out.
COVERAGE = 0.9


@dataclass(frozen=True)
class Model:
    """cost = sum of ``weights`` times the ``terms``' counts. error: relative; see :data:`COVERAGE`.
    median: of the absolute relative errors of what was left out. samples: it was fitted to."""

    terms: tuple[Term, ...]
    weights: tuple[float, ...]
    error: float
    median: float
    samples: int

    def cost(self, dims: Dims) -> float:
        return sum(w * dims.value(t) for t, w in zip(self.terms, self.weights, strict=True))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(d: Mapping[str, Any]) -> Model:
        terms = tuple((str(a), str(b), str(c)) for a, b, c in d["terms"])
        weights = tuple(float(w) for w in d["weights"])
        if len(terms) != len(weights):
            raise ValueError("as many weights as terms are needed")
        return Model(terms, weights, float(d["error"]), float(d["median"]), int(d["samples"]))


def nnls(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """argmin |a x - b| for x >= 0 (C. Lawson and R. Hanson, Solving Least Squares Problems, 1974,
    chapter 23). a: ``[m, n]``."""
    n = a.shape[1]
    gram, target = a.T @ a, a.T @ b
    x = np.zeros(n)
    free = np.zeros(n, bool)
    tolerance = 1e-10 * max(1.0, float(np.abs(target).max(initial=0.0)))
    for _ in range(3 * n + 10):
        gradient = target - gram @ x
        gradient[free] = -np.inf
        if free.all() or gradient.max() <= tolerance:
            break
        free[int(gradient.argmax())] = True
        while True:
            s = np.zeros(n)
            s[free] = np.linalg.lstsq(gram[np.ix_(free, free)], target[free], rcond=None)[0]
            if s[free].min() > 0:
                break
            negative = free & (s <= 0)
            step = float((x[negative] / (x[negative] - s[negative] + 1e-300)).min())
            x = x + step * (s - x)
            free &= x > 1e-14
            if not free.any():
                return np.zeros(n)
        x = s
    return x


def fit(dims: Sequence[Dims], values: Sequence[float], max_terms: int = MAX_TERMS) -> Model:
    """dims, values: the measured layers of one kernel; values above zero."""
    y = np.asarray(values, float)
    terms = terms_of(dims)
    table = np.array([[d.value(t) for t in terms] for d in dims])
    a = table / y[:, None]  # relative error is what counts
    scale = np.linalg.norm(a, axis=0)
    keep = scale > 0
    terms = [t for t, k in zip(terms, keep, strict=True) if k]
    a, scale = a[:, keep], scale[keep]
    a, kept = _distinct(a / scale)
    scale, terms = scale[kept], [terms[i] for i in kept]
    count, errors = _how_many(a, min(max_terms, max(1, len(y) - 1)))
    chosen, x = _path(a, np.ones(len(a)), count)[-1]
    if dims[0].counts is not None and len(y) > 3:  # known loops may all be taken at once
        every = _left_out(a, nnls)
        if _score(every) <= _score(errors):
            errors, chosen, x = every, list(range(a.shape[1])), nnls(a, np.ones(len(a)))
    weights = x / scale[chosen]
    used = weights > 0
    return Model(
        tuple(terms[i] for i, u in zip(chosen, used, strict=True) if u),
        tuple(float(w) for w in weights[used]),
        _quantile(errors),
        float(np.median(errors)),
        len(y),
    )


def fit_totals(
    totals: Sequence[tuple[Sequence[tuple[str, Dims]], float]], max_terms: int = 4 * MAX_TERMS
) -> dict[str, Model]:
    """Models of kernels of which only sums are known. totals: the (kernel, dims) of every network's
    layers, and its cost."""
    y = np.asarray([v for _, v in totals], float)
    kernels = dict.fromkeys(k for parts, _ in totals for k, _ in parts)
    columns: list[tuple[str, Term]] = []
    for kernel in kernels:
        own = [d for parts, _ in totals for k, d in parts if k == kernel]
        columns += [(kernel, t) for t in terms_of(own)]
    table = np.array(
        [
            [sum(d.value(t) for k, d in parts if k == kernel) for kernel, t in columns]
            for parts, _ in totals
        ]
    )
    a = table / y[:, None]
    scale = np.linalg.norm(a, axis=0)
    live = np.flatnonzero(scale > 0)
    a, kept = _distinct(a[:, live] / scale[live])
    index = live[kept]
    count, errors = _how_many(a, min(max_terms, max(1, len(y) // 2)))
    chosen, x = _path(a, np.ones(len(a)), count)[-1]
    found: dict[str, tuple[list[Term], list[float]]] = {k: ([], []) for k in kernels}
    for c, v in zip(chosen, x, strict=True):
        kernel, term = columns[index[c]]
        found[kernel][0].append(term)
        found[kernel][1].append(float(v / scale[index[c]]))
    error, median = _quantile(errors), float(np.median(errors))
    return {k: Model(tuple(t), tuple(w), error, median, len(y)) for k, (t, w) in found.items()}


def _quantile(errors: np.ndarray) -> float:
    """The share :data:`COVERAGE` of the errors, a little above for few samples (split conformal:
    the k-th smallest of n, k = ceil((n + 1) * coverage))."""
    n = len(errors)
    k = min(n, int(np.ceil((n + 1) * COVERAGE)))
    return float(np.sort(errors)[k - 1])


def _distinct(a: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Columns that are not copies of an earlier one."""
    seen: dict[bytes, int] = {}
    for i, column in enumerate(np.round(a.T, 9)):
        seen.setdefault(column.tobytes(), i)
    kept = list(seen.values())
    return a[:, kept], kept


def _path(a: np.ndarray, b: np.ndarray, count: int) -> list[tuple[list[int], np.ndarray]]:
    """Columns and coefficients after each step."""
    chosen: list[int] = []
    residual = b
    out: list[tuple[list[int], np.ndarray]] = []
    x = np.zeros(0)
    norms = np.linalg.norm(a, axis=0) + 1e-12
    for _ in range(count):
        gain = (a.T @ residual) / norms
        gain[chosen] = -np.inf
        best = int(gain.argmax())
        if not gain[best] > 1e-9:
            break
        chosen = [*chosen, best]
        x = nnls(a[:, chosen], b)
        if len(chosen) > 2:  # what became zero makes room
            chosen = [c for c, v in zip(chosen, x, strict=True) if v > 0]
            x = x[x > 0]
        residual = b - a[:, chosen] @ x
        out.append((list(chosen), x))
    return out or [([], x)]


def _folds(n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(left out, rest), by turns."""
    order = np.random.default_rng(0).permutation(n)
    folds = min(FOLDS, n)
    for k in range(folds):
        out = order[k::folds]
        yield out, np.setdiff1d(order, out)


def _left_out(a: np.ndarray, solve: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Absolute relative errors of what was left out, all columns taken."""
    errors = np.zeros(len(a))
    for out, rest in _folds(len(a)):
        errors[out] = np.abs(a[out] @ solve(a[rest], np.ones(len(rest))) - 1.0)
    return errors


def _score(errors: np.ndarray) -> np.ndarray:
    """What is made small: large errors count more than small ones, none counts alone."""
    return np.sqrt((errors**2).mean(axis=-1)) + errors.mean(axis=-1)


def _how_many(a: np.ndarray, most: int) -> tuple[int, np.ndarray]:
    """(steps of the pursuit, absolute relative errors of what was left out at that many)."""
    n = len(a)
    if n < 4:
        return 1, np.full(n, 0.5)
    errors = np.full((most, n), np.nan)
    for out, rest in _folds(n):
        path = _path(a[rest], np.ones(len(rest)), most)
        for step in range(most):
            chosen, x = path[min(step, len(path) - 1)]
            errors[step, out] = np.abs(a[out][:, chosen] @ x - 1.0) if chosen else 1.0
    score = _score(errors)
    # as few terms as are within a few percent of the best
    best = int(np.flatnonzero(score <= 1.03 * score.min())[0])
    return best + 1, errors[best]
