"""CP decomposition of a convolution's weights by alternating least squares.

Lebedev et al., "Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition", ICLR 2015;
with the two axes of the kernel taken as one (Astrid & Lee, BigComp 2017), so that a k x k convolution
becomes 1x1, depthwise k x k, 1x1: ``w[o, i, j, c] = sum_r out[o, r] middle[(i, j), r] in[c, r]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ROUNDS = 40
#: Ridge on the factors, relative to the tensor's scale: CP factors may grow without bound while their
#: sum stays small, which then cannot be quantized.
_RIDGE = 1e-4


@dataclass(frozen=True, eq=False)
class CP:
    """out ``[O, R]``, middle ``[kh * kw, R]``, inside ``[C, R]``. lost: share of the energy."""

    out: np.ndarray
    middle: np.ndarray
    inside: np.ndarray
    lost: float


def _khatri_rao(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``[I * J, R]``, the rows of ``b`` running fastest."""
    return (a[:, None] * b[None]).reshape(-1, a.shape[1])


def decompose(weights: np.ndarray, rank: int, seed: int = 0) -> CP:
    """weights: float ``[O, kh, kw, C]``. Seeded; the same arguments give the same factors."""
    o, kh, kw, c = weights.shape
    x = weights.astype(np.float64).reshape(o, kh * kw, c)
    scale = float(np.sqrt((x**2).sum())) or 1.0
    x = x / scale
    unfolded = [np.moveaxis(x, k, 0).reshape(x.shape[k], -1) for k in range(3)]
    rng = np.random.default_rng([seed, rank])
    factors = []
    for flat in unfolded:
        u = np.linalg.svd(flat, full_matrices=False)[0][:, :rank]
        more = rng.normal(size=(len(flat), rank - u.shape[1])) / np.sqrt(len(flat))
        factors.append(np.concatenate([u, more], axis=1))
    eye = np.eye(rank)
    for _ in range(_ROUNDS):
        for k in range(3):
            a, b = (factors[j] for j in range(3) if j != k)
            gram = (a.T @ a) * (b.T @ b)
            ridge = _RIDGE * float(np.trace(gram)) / rank
            right = unfolded[k] @ _khatri_rao(a, b)
            factors[k] = np.linalg.solve(gram + ridge * eye, right.T).T
        sizes = np.stack([np.linalg.norm(f, axis=0) for f in factors])
        even = np.exp(np.log(np.maximum(sizes, 1e-30)).mean(axis=0))
        factors = [f * (even / np.maximum(s, 1e-30)) for f, s in zip(factors, sizes, strict=True)]
    back = factors[0] @ _khatri_rao(factors[1], factors[2]).T
    lost = float(((back - unfolded[0]) ** 2).sum() / max(float((x**2).sum()), 1e-30))
    each = scale ** (1.0 / 3.0)
    return CP(factors[0] * each, factors[1] * each, factors[2] * each, lost)
