"""Whether score differences are log-odds: slope, expected error, reliability."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhf_jax import stats
from rlhf_jax.studies.rm_report import regression
from rlhf_jax.studies.rm_report.entries import (
    Entry,
    beyond,
    entry,
    share_of,
    unknown,
    within,
)
from rlhf_jax.studies.rm_report.pairs import Pairs

BINS = 10
FEWEST = 10
"""Pairs a bin below which nothing is called calibrated: bins of one are never off by
less than labels by chance are."""
DRAWS = 400
MARGIN = 0.2
"""A slope within 1 ± this is "calibrated" where its interval says so."""


class Reliability(NamedTuple):
    """One point of the reliability plot: pairs of like confidence.

    Attributes:
      forecast: mean of sigmoid(|score difference|).
      share: share of them that is ordered right, with its interval.
      n: pairs.
    """

    forecast: float
    share: stats.Estimate
    n: int


def measure(difference: np.ndarray, found: Pairs) -> dict[str, Entry]:
    """`calibration_slope` and `ece` of raw score differences, better minus worse."""
    fit = regression.logistic(difference[:, None], found.cluster)
    slope = fit.estimate([1.0])
    definition = (
        "slope of the logistic regression of the label on the difference of raw scores"
        " (before gain and bias): 1 where score differences are log-odds, below 1"
        " where the model is too sure"
    )
    entries: dict[str, Entry] = {}
    if np.isnan(slope.mean):
        why = "every pair is ordered right, so no finite slope fits best"
        why = why if np.all(difference > 0) else "the scores do not differ"
        entries["calibration_slope"] = unknown(why, unit="1", definition=definition)
    else:
        entries["calibration_slope"] = entry(
            slope,
            _slope_verdict(slope),
            n=found.count,
            unit="1",
            definition=definition,
        )
    entries["ece"] = ece(difference, found)
    return entries


def ece(difference: np.ndarray, found: Pairs) -> Entry:
    """Expected calibration error over bins of equal size, by a clustered bootstrap.

    `sum_b n_b / N |share right - mean sigmoid(|difference|)|` (Guo et al. 2017, bins of
    equal size). It is above 0 for a perfect model too, by the noise of its bins; the
    verdict compares it with what labels drawn from the forecasts themselves give.
    """
    sizes, hits = np.abs(difference), difference > 0
    forecast = 1.0 / (1.0 + np.exp(-sizes))
    bins = bins_of(sizes)
    value = _error(forecast, np.where(difference == 0, 0.5, hits), bins)
    rng = np.random.default_rng(0)
    chance = np.percentile(
        [
            _error(forecast, rng.random(len(forecast)) < forecast, bins)
            for _ in range(DRAWS)
        ],
        95,
    )
    rows = np.stack([forecast, np.where(difference == 0, 0.5, hits), bins], axis=1)
    boot = stats.bootstrap(
        rows,
        found.cluster,
        lambda x: _error(x[:, 0], x[:, 1], x[:, 2].astype(int)),
        resamples=DRAWS,
    )
    return entry(
        boot._replace(mean=float(value)),
        _ece_verdict(float(value), float(chance), found.count),
        n=found.count,
        unit="probability",
        definition=f"expected calibration error over {BINS} bins of equal size;"
        f" labels drawn from the forecasts themselves give up to {chance:.3g}",
    )


def reliability(difference: np.ndarray, found: Pairs) -> list[Reliability]:
    """Points of the reliability plot, by rising confidence."""
    sizes = np.abs(difference)
    forecast = 1.0 / (1.0 + np.exp(-sizes))
    hits = 0.5 + 0.5 * np.sign(difference)
    bins = bins_of(sizes)
    points = []
    for number in np.unique(bins):
        where = bins == number
        share = share_of(hits[where], found.cluster[where])
        points.append(
            Reliability(float(forecast[where].mean()), share, int(where.sum()))
        )
    return points


def bins_of(sizes: np.ndarray) -> np.ndarray:
    """Bin of each pair, int[N]; equal sizes share a bin."""
    edges = np.quantile(sizes, np.linspace(0, 1, BINS + 1)[1:-1])
    return np.searchsorted(edges, sizes, side="right")


def _error(forecast: np.ndarray, hits: np.ndarray, bins: np.ndarray) -> float:
    gaps = np.bincount(bins, weights=hits - forecast, minlength=BINS)
    return float(np.sum(np.abs(gaps)) / len(forecast))


def _ece_verdict(value: float, chance: float, count: int) -> str:
    if value > chance:
        return "miscalibrated"
    return "calibrated" if count >= BINS * FEWEST else "no miscalibration shown"


def _slope_verdict(slope: stats.Estimate) -> str:
    shifted = slope._replace(
        mean=slope.mean - 1, low=slope.low - 1, high=slope.high - 1
    )
    if within(shifted, MARGIN):
        return "calibrated"
    if beyond(shifted, 0.0):
        return "too sure" if slope.mean < 1 else "not sure enough"
    return "no miscalibration shown"
