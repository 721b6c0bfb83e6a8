"""Slopes with intervals that know of clusters: least squares and logistic.

Both are without an intercept, for differences of two responses: turning a pair round
negates its row and its answer and changes nothing. Covariances are the sandwich with
sums over clusters, times C / (C - 1); intervals are t with C - 1 degrees of freedom
(Liang and Zeger 1986).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax import stats
from rlhf_jax.studies.rm_report.entries import CONFIDENCE

STEPS, TOLERANCE = 60, 1e-10


class Fit(NamedTuple):
    """Slopes float64[K], their covariance float64[K K], and the number of clusters.

    NaN where nothing can be said: one cluster, collinear columns, separable labels.
    """

    slopes: np.ndarray
    covariance: np.ndarray
    clusters: int

    def estimate(self, weights: Any) -> stats.Estimate:
        """A weighted sum of the slopes, with its interval."""
        w = np.asarray(weights, np.float64)
        variance = float(w @ self.covariance @ w)
        return interval(float(w @ self.slopes), variance, self.clusters)

    def minus_ratio(self, over: int, under: int) -> stats.Estimate:
        """`-slopes[over] / slopes[under]`, interval by the delta method."""
        d, c = float(self.slopes[over]), float(self.slopes[under])
        if not c:
            return stats.Estimate(math.nan, math.nan, self.clusters)
        gradient = np.zeros(len(self.slopes))
        gradient[over], gradient[under] = -1.0 / c, d / c**2
        variance = float(gradient @ self.covariance @ gradient)
        return interval(-d / c, variance, self.clusters)


def interval(value: float, variance: float, clusters: int) -> stats.Estimate:
    """A value with a t interval of `clusters - 1` degrees of freedom."""
    if clusters < 2 or not variance >= 0:
        return stats.Estimate(value, math.nan, clusters)
    se = math.sqrt(variance)
    half = stats.student_t_quantile(0.5 + CONFIDENCE / 2, clusters - 1) * se
    return stats.Estimate(value, se, clusters, value - half, value + half)


def least_squares(x: Any, y: Any, clusters: Any) -> Fit:
    """`y = x @ slopes + error`.

    Args:
      x: [N K].
      y: [N].
      clusters: [N] labels.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    bread = _inverse(x.T @ x)
    slopes = bread @ (x.T @ y)
    return _sandwich(slopes, bread, x * (y - x @ slopes)[:, None], clusters)


def logistic(x: Any, clusters: Any, wins: Any = None) -> Fit:
    """`P(first wins) = sigmoid(x @ slopes)` by maximum likelihood (Newton's method).

    Args:
      x: [N K] differences, first minus second.
      clusters: [N] labels.
      wins: [N] 1 where the first won, 0 where it lost; None: it always did.
    """
    x = np.asarray(x, np.float64)
    if wins is not None:
        x = np.where(np.asarray(wins)[:, None] > 0, x, -x)
    scale = np.sqrt(np.mean(x**2, axis=0))
    if not len(x) or np.any(scale == 0):
        return _nothing(x.shape[1], 0)
    z = x / scale
    slopes = np.zeros(x.shape[1])
    for _ in range(STEPS):
        lost = _sigmoid(-(z @ slopes))
        curvature = (z * (lost * (1 - lost))[:, None]).T @ z
        step = _inverse(curvature) @ (z.T @ lost)
        slopes = slopes + np.clip(step, -3.0, 3.0)
        if np.max(np.abs(step)) < TOLERANCE:
            break
    else:  # the labels are separable, or the columns say the same
        return _nothing(x.shape[1], len(np.unique(clusters)))
    lost = _sigmoid(-(z @ slopes))
    bread = _inverse((z * (lost * (1 - lost))[:, None]).T @ z)
    fit = _sandwich(slopes, bread, z * lost[:, None], clusters)
    return Fit(
        fit.slopes / scale, fit.covariance / np.outer(scale, scale), fit.clusters
    )


def correlation(x: Any, y: Any) -> float:
    """Correlation of differences, about zero: `sum xy / sqrt(sum x^2 sum y^2)`."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    size = math.sqrt(float(np.sum(x**2)) * float(np.sum(y**2)))
    return float(np.sum(x * y)) / size if size else math.nan


def spread(values: Any) -> float:
    """Root mean square of differences: their standard deviation about zero."""
    return float(np.sqrt(np.mean(np.asarray(values, np.float64) ** 2)))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _sandwich(
    slopes: np.ndarray, bread: np.ndarray, moments: np.ndarray, clusters: Any
) -> Fit:
    names, where = np.unique(np.asarray(clusters), return_inverse=True)
    count = len(names)
    if count < 2:
        return Fit(slopes, np.full(bread.shape, math.nan), count)
    columns = [np.bincount(where, weights=m, minlength=count) for m in moments.T]
    sums = np.stack(columns, axis=1)
    covariance = count / (count - 1) * bread @ (sums.T @ sums) @ bread
    return Fit(slopes, covariance, count)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse; NaN where the columns say the same."""
    if not np.all(np.isfinite(matrix)) or np.linalg.cond(matrix) > 1e12:
        return np.full(matrix.shape, math.nan)
    return np.linalg.inv(matrix)


def _nothing(size: int, clusters: int) -> Fit:
    nan = np.full(size, math.nan)
    return Fit(nan, np.full((size, size), math.nan), clusters)
