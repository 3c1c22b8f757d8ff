"""The distribution of least-squares estimates in high dimensions, and what pruning makes of it.

Chang, Li, Oymak, Thrampoulidis, "Provable Benefits of Overparameterization in Model Compression: From
Double Descent to Pruning Neural Networks", AAAI 2021. For ``n`` samples ``y = x . beta + sigma z`` with
Gaussian features of covariance ``diag(lam)``, the coordinates of the (minimum-norm) least-squares
estimate behave like independent Gaussians:

    beta_hat_i ~ N(theta_i beta_i, tau_i^2).

With ``p < n`` features it is ordinary least squares: ``theta = 1`` and ``tau_i^2 = gamma / (n lam_i)`` with
``gamma = sigma^2 / (1 - p/n)``. With ``p > n``, let ``xi > 0`` solve
``sum_i xi lam_i / (1 + xi lam_i) = n``. Then

    theta_i = xi lam_i / (1 + xi lam_i),       tau_i^2 = gamma theta_i^2 / (n lam_i),
    gamma   = (sigma^2 + sum_i lam_i beta_i^2 (1 - theta_i)^2) / (1 - sum_i theta_i^2 / n).

``gamma`` is also the test error of the dense estimate. The test error behind pruning is an expectation over
these Gaussians, in closed form for magnitude and Hessian pruning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

Score = Literal["magnitude", "hessian"]


@dataclass(frozen=True)
class Estimate:
    """Coordinates are N(theta * beta, tau^2). gamma: test error without pruning (noise included)."""

    theta: np.ndarray
    tau: np.ndarray
    gamma: float


def estimate(lam: np.ndarray, beta: np.ndarray, samples: int, noise: float) -> Estimate:
    """lam, beta: float ``[p]``: variances of the features, true coefficients. noise: variance of what the
    features do not explain. ValueError for p == samples, where the error is infinite."""
    p, n = len(lam), samples
    if p == n:
        raise ValueError("at p == n the estimate has no finite variance")
    if p < n:
        theta, gamma = np.ones(p), noise / (1.0 - p / n)
        return Estimate(theta, np.sqrt(gamma / (n * lam)), gamma)

    def excess(log_xi: float) -> float:
        x = np.exp(log_xi) * lam
        return float((x / (1.0 + x)).sum() - n)

    x = np.exp(brentq(excess, -60.0, 60.0, xtol=1e-13)) * lam
    theta = x / (1.0 + x)
    bias = float((lam * beta**2 * (1.0 - theta) ** 2).sum())
    gamma = (noise + bias) / (1.0 - float((theta**2).sum()) / n)
    return Estimate(theta, theta * np.sqrt(gamma / (n * lam)), gamma)


def pruned_error(
    lam: np.ndarray, beta: np.ndarray, noise: float, e: Estimate, keep: int, score: Score
) -> float:
    """Test error when only the ``keep`` coordinates of largest score are kept: ``|beta_hat|`` or
    ``sqrt(lam) |beta_hat|``. The threshold is the one that keeps that many on average."""
    if keep >= len(lam):
        return e.gamma
    mean, scale = e.theta * beta, np.ones_like(lam) if score == "magnitude" else np.sqrt(lam)

    def bounds(t: float) -> tuple[np.ndarray, np.ndarray]:
        cut = t / scale
        return (-cut - mean) / e.tau, (cut - mean) / e.tau

    def excess(t: float) -> float:
        a, b = bounds(t)
        return float((1.0 - (ndtr(b) - ndtr(a))).sum() - keep)

    top = float((scale * (np.abs(mean) + 10.0 * e.tau)).max())
    a, b = bounds(brentq(excess, 0.0, top, xtol=1e-14))
    dropped = ndtr(b) - ndtr(a)
    off = mean - beta
    fa, fb = (np.exp(-(v**2) / 2.0) / np.sqrt(2.0 * np.pi) for v in (a, b))
    # E[(x - beta)^2; |x| below the cut], subtracted from the whole
    low = off**2 * dropped + 2 * off * e.tau * (fa - fb) + e.tau**2 * (dropped + a * fa - b * fb)
    kept = off**2 + e.tau**2 - low
    return noise + float((lam * (beta**2 * dropped + kept)).sum())


def oracle_error(lam: np.ndarray, beta: np.ndarray, noise: float, e: Estimate, keep: int) -> float:
    """Test error when the first ``keep`` coordinates are kept, whatever was estimated."""
    mse = (e.theta * beta - beta) ** 2 + e.tau**2
    return noise + float((lam * np.where(np.arange(len(lam)) < keep, mse, beta**2)).sum())


def rotated_sample(
    covariance: np.ndarray, beta: np.ndarray, samples: int, noise: float, rng: np.random.Generator,
    draws: int,
) -> np.ndarray:  # fmt: skip
    """Draws ``[draws, p]`` of the estimate's distribution for features of any covariance: independent in
    the eigenvectors' coordinates, where the formula above holds."""
    lam, vectors = np.linalg.eigh(covariance)
    lam = np.maximum(lam, lam[-1] * 1e-12)
    there = vectors.T @ beta
    e = estimate(lam, there, samples, noise)
    h = rng.normal(size=(draws, len(lam)))
    return (e.theta * there + e.tau * h) @ vectors.T
