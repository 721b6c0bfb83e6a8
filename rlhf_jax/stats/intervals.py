"""Means with errors: paired-t, cluster and bootstrap intervals (numpy only).

Samples of one prompt, prompts of one module, pairs of one ranking are not independent:
name their cluster and the standard error is that of the clusters. Comparisons of runs
are paired by seed and use the t distribution (a percentile bootstrap covers 83 % at
n = 5; the studentized one does not).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.stats import student

Side = Literal["two", "greater", "less"]
"""`two`: both ends finite. `greater`: the one-sided lower bound, for "the difference is
above x" (high is infinite). `less`: the one-sided upper bound."""


class Estimate(NamedTuple):
    """A mean with its standard error over `n` independent things, and an interval.

    `se`, `low` and `high` are NaN where n < 2.
    """

    mean: float
    se: float
    n: int
    low: float = math.nan
    high: float = math.nan

    def row(self) -> dict[str, float]:
        """`{"mean", "se", "n"}`, as tables show it."""
        return {"mean": self.mean, "se": self.se, "n": self.n}


def mean(
    values: Any,
    weights: Any = None,
    *,
    confidence: float = 0.95,
    side: Side = "two",
) -> Estimate:
    """Mean of independent values, its standard error, and a t interval.

    Args:
      values: [N].
      weights: [N], non-negative, or None; values of weight 0 do not count.
      confidence: of the interval.
      side: which ends are finite.
    """
    return clustered_mean(
        values,
        np.arange(np.size(values)),
        weights,
        confidence=confidence,
        side=side,
    )


def clustered_mean(
    values: Any,
    clusters: Any,
    weights: Any = None,
    *,
    confidence: float = 0.95,
    side: Side = "two",
) -> Estimate:
    """Mean over all values with the error of independent *clusters*.

    With C clusters, weights w and mean m: `var = C / (C - 1) * sum_c (sum_{i in c} w_i
    (x_i - m))^2 / (sum w)^2` (the linearized ratio estimator; with clusters of one
    element it is the usual variance of a mean), and t with C - 1 degrees of freedom.

    Args:
      values: [N].
      clusters: [N] labels that compare equal within a cluster (numbers or text).
      weights: [N], non-negative, or None.
      confidence: of the interval.
      side: which ends are finite.

    Returns:
      An `Estimate` whose `n` counts clusters.

    Raises:
      UserError: where the lengths differ, or nothing has weight.
    """
    x = np.asarray(values, np.float64).reshape(-1)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    w = w.reshape(-1)
    labels = np.asarray(clusters).reshape(-1)
    if not len(x) == len(w) == len(labels):
        raise UserError(
            f"{len(x)} values, {len(w)} weights and {len(labels)} cluster labels: "
            "give one of each per value"
        )
    x, w, labels = x[w > 0], w[w > 0], labels[w > 0]
    if not len(x):
        raise UserError(
            "a mean of no values: nothing was measured, or all weights are 0"
        )
    center = float(np.sum(w * x) / np.sum(w))
    names, where = np.unique(labels, return_inverse=True)
    count = len(names)
    if count < 2:
        return Estimate(center, math.nan, count)
    sums = np.bincount(where, weights=w * (x - center), minlength=count)
    variance = count / (count - 1) * np.sum(sums**2) / np.sum(w) ** 2
    se = float(np.sqrt(variance))
    low, high = _t_interval(center, se, count - 1, confidence, side)
    return Estimate(center, se, count, low, high)


def paired(
    first: Any, second: Any, *, confidence: float = 0.95, side: Side = "two"
) -> Estimate:
    """Paired-t: mean of `first - second` over pairs (seeds, prompts), t interval.

    Args:
      first: [N].
      second: [N], in the same order.
      confidence: of the interval.
      side: `greater` for the claim that `first` is larger.

    Raises:
      UserError: where the lengths differ.
    """
    a, b = (np.asarray(x, np.float64).reshape(-1) for x in (first, second))
    if a.shape != b.shape:
        raise UserError(
            f"a paired comparison needs pairs: {a.size} values against {b.size}"
        )
    return mean(a - b, confidence=confidence, side=side)


def bootstrap(
    values: Any,
    clusters: Any = None,
    statistic: Callable[[np.ndarray], float] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Bootstrap interval: studentized for the mean, percentile for a statistic.

    Args:
      values: [N] or [N ...]; rows are resampled.
      clusters: [N] labels; whole clusters are resampled. None: every row is its own.
      statistic: of the resampled rows. None: the mean of all values, with the interval
        from the bootstrap distribution of `(mean* - mean) / se*`, which at few clusters
        is wider than the percentiles, as it should be.
      confidence: of the two-sided interval.
      resamples: number of draws.
      seed: of the draws.

    Returns:
      `mean` is the statistic of the data, `se` the deviation of its draws.
    """
    x = np.asarray(values, np.float64)
    labels = np.arange(len(x)) if clusters is None else np.asarray(clusters)
    names, where = np.unique(labels, return_inverse=True)
    members = [np.flatnonzero(where == c) for c in range(len(names))]
    draws = np.random.default_rng(seed).integers(
        len(names), size=(resamples, len(names))
    )
    tail = 50.0 * (1.0 - confidence)
    if statistic is not None:
        found = np.array([statistic(_rows(x, members, draw)) for draw in draws])
        low, high = np.percentile(found, [tail, 100.0 - tail])
        value = float(statistic(x))
        return Estimate(
            value, float(np.std(found)), len(names), float(low), float(high)
        )
    sums = np.array([np.sum(x[rows]) for rows in members])
    sizes = np.array([x[rows].size for rows in members], np.float64)
    return _studentized(sums, sizes, draws, tail)


def _rows(x: np.ndarray, members: Sequence[np.ndarray], draw: np.ndarray) -> np.ndarray:
    return x[np.concatenate([members[c] for c in draw])]


def _studentized(
    sums: np.ndarray, sizes: np.ndarray, draws: np.ndarray, tail: float
) -> Estimate:
    """Bootstrap-t of a ratio of cluster sums to cluster sizes; draws [R C]."""

    def center_and_error(s: np.ndarray, n: np.ndarray) -> tuple[Any, Any]:
        center = s.sum(-1) / n.sum(-1)
        residual = s - center[..., None] * n
        count = s.shape[-1]
        squares = np.sum(residual**2, axis=-1) * count / max(count - 1, 1)
        return center, np.sqrt(squares) / n.sum(-1)

    center, error = center_and_error(sums, sizes)
    centers, errors = center_and_error(sums[draws], sizes[draws])
    if len(sums) < 2:
        return Estimate(float(center), math.nan, len(sums))
    usable = errors > 1e-9 * max(float(error), 1e-300)
    if not error or not usable.any():
        return Estimate(float(center), 0.0, len(sums), float(center), float(center))
    pivots = (centers[usable] - center) / errors[usable]
    low, high = np.percentile(pivots, [tail, 100.0 - tail])
    return Estimate(
        float(center),
        float(np.std(centers)),
        len(sums),
        float(center - high * error),
        float(center - low * error),
    )


def _t_interval(
    center: float, se: float, df: int, confidence: float, side: Side
) -> tuple[float, float]:
    if side == "two":
        half = student.student_t_quantile(0.5 + confidence / 2, df) * se
        return center - half, center + half
    half = student.student_t_quantile(confidence, df) * se
    if side == "greater":
        return center - half, math.inf
    if side == "less":
        return -math.inf, center + half
    raise UserError(f"side={side!r} must be 'two', 'greater' or 'less'")
