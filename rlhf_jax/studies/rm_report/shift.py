"""What changes between samples of the reference and samples of the policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rlhf_jax import stats
from rlhf_jax.studies.rm_report.entries import (
    CONFIDENCE,
    Entry,
    beyond,
    entry,
    unknown,
)

DRIFT_MARGIN = 0.1
"""Standard deviations of the reference's scores that a drift must exceed."""
AUC_BAR = 0.6
"""What the area under the curve must exceed to be called another distribution."""
RIDGE = 0.1
"""Share of the mean variance that is added to the covariance."""


class Samples(NamedTuple):
    """Scored responses of one file: scores float[M], hidden float[M D] (the last hidden
    state of each), clusters str[M]."""

    scores: np.ndarray
    hidden: np.ndarray
    clusters: np.ndarray


def score_drift(reference: Samples | None, policy: Samples | None) -> Entry:
    """Mean score of the policy's samples minus the reference's, in its deviations;
    None where there are no samples, which the verdict then says."""
    said = dict(
        unit="sd of reference scores",
        definition="mean score of the policy's samples minus that of the reference's;"
        " in over-optimization it rises while gold does not",
    )
    if reference is None or policy is None:
        return unknown(_missing(reference, policy), **said)
    size = float(np.std(reference.scores)) or 1.0
    sides = [stats.clustered_mean(s.scores, s.clusters) for s in (policy, reference)]
    value = (sides[0].mean - sides[1].mean) / size
    estimate = _welch(value, [side.se / size for side in sides], [s.n for s in sides])
    word = "higher" if value > 0 else "lower"
    return entry(
        estimate,
        word if beyond(estimate, DRIFT_MARGIN) else "not shown",
        n=len(reference.scores) + len(policy.scores),
        **said,
    )


def _missing(reference: Samples | None, other: Samples | None) -> str:
    sides = (reference, "reference"), (other, "policy")
    return "no samples of the " + " and the ".join(n for x, n in sides if x is None)


def out_of_distribution(
    reference: Samples | None, other: Samples | None, what: str
) -> Entry:
    """How well a distance tells samples from the reference's own: the area under it.

    Mahalanobis distance of last hidden states (Lee et al. 2018) with mean and
    covariance of one half of the reference's prompts; the area is the probability that
    a sample is further away than one of the other half, and its interval resamples
    prompts. 1/2: no different. None: as in `score_drift`.
    """
    said = dict(
        unit="area under the curve",
        definition=f"probability that {what} lies further from the reference's samples"
        " than one of theirs that was held out (Mahalanobis distance of last hidden"
        " states)",
    )
    if reference is None or other is None:
        return unknown(_missing(reference, other), **said)
    names = np.unique(reference.clusters)
    fit_on = np.isin(reference.clusters, names[::2])
    distance = mahalanobis(reference.hidden[fit_on])
    held, rest = distance(reference.hidden[~fit_on]), distance(other.hidden)
    value = auc(rest, held)
    draws = _resampled(rest, other.clusters, held, reference.clusters[~fit_on])
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.percentile(draws, [tail, 100 - tail]) if draws else (math.nan,) * 2
    estimate = stats.Estimate(
        value, float(np.std(draws)), len(names), float(low), float(high)
    )
    return entry(
        estimate,
        "out of distribution" if estimate.low > AUC_BAR else "not shown",
        n=len(rest) + len(held),
        **said,
    )


def mahalanobis(fit_on: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The distance of rows [M D] from the cloud of `fit_on` [N D], a function."""
    center = fit_on.mean(axis=0)
    covariance = np.atleast_2d(np.cov(fit_on, rowvar=False))
    size = float(np.mean(np.diag(covariance))) or 1.0
    inverse = np.linalg.inv(covariance + RIDGE * size * np.eye(len(center)))

    def distance(rows: np.ndarray) -> np.ndarray:
        away = np.asarray(rows, np.float64) - center
        return np.sqrt(np.sum(away @ inverse * away, axis=1))

    return distance


def auc(above: np.ndarray, below: np.ndarray) -> float:
    """Probability that one of `above` is larger than one of `below`; ties half."""
    if not len(above) or not len(below):
        return math.nan
    order = np.sort(below)
    less = np.searchsorted(order, above, side="left")
    equal = np.searchsorted(order, above, side="right") - less
    return float(np.mean(less + 0.5 * equal) / len(below))


def _resampled(
    above: np.ndarray,
    above_clusters: np.ndarray,
    below: np.ndarray,
    below_clusters: np.ndarray,
    draws: int = 300,
) -> list[float]:
    """Areas under the curve of resampled clusters."""
    rng = np.random.default_rng(0)
    one, two = _members(above_clusters), _members(below_clusters)
    return [auc(above[_draw(one, rng)], below[_draw(two, rng)]) for _ in range(draws)]


def _members(clusters: np.ndarray) -> list[np.ndarray]:
    _, where = np.unique(clusters, return_inverse=True)
    order = np.argsort(where, kind="stable")
    return np.split(order, np.cumsum(np.bincount(where))[:-1])


def _draw(members: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    chosen = rng.integers(len(members), size=len(members))
    return np.concatenate([members[c] for c in chosen])


def _welch(value: float, errors: list[float], counts: list[int]) -> stats.Estimate:
    """Difference of two independent means, degrees of freedom by Satterthwaite."""
    variance = sum(e**2 for e in errors)
    if not variance > 0:
        return stats.Estimate(value, math.sqrt(variance), min(counts), value, value)
    parts = [e**4 / (n - 1) for e, n in zip(errors, counts, strict=True)]
    df = max(1, int(variance**2 / sum(parts)))
    half = stats.student_t_quantile(0.5 + CONFIDENCE / 2, df) * math.sqrt(variance)
    low, high = value - half, value + half
    return stats.Estimate(value, math.sqrt(variance), min(counts), low, high)
