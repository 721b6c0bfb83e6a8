"""What a score follows that it should not: length, and the place in the list."""

from __future__ import annotations

import math

import numpy as np

from rlhf_jax import stats
from rlhf_jax.studies.rm_report import regression
from rlhf_jax.studies.rm_report.entries import Entry, beyond, entry, unknown
from rlhf_jax.studies.rm_report.pairs import Pairs

MARGIN = 0.2
"""A partial effect below this (in standard deviations) is small, and called no bias."""
PLACE_MARGIN = 0.02
"""A place preference below this share is called none."""
COLLINEAR = 0.99
"""Beyond this correlation a score is called a function of length."""
UNIT = "sd of score differences per sd of length differences"

BEYOND_GOLD = (
    "slope b of length in the regression of score differences on gold and length"
    " differences, ds = a dg + b dl, as standard deviations of ds per standard"
    " deviation of dl: how the score follows length where gold stays the same"
)
BEYOND_LABEL = (
    "-d/c of the logistic regression of the label on score and length differences,"
    " P = sigmoid(c ds + d dl), as standard deviations of ds per standard deviation of"
    " dl: how much the score overrates length against the labels. Gold is not known, so"
    " a taste for length that the labels share does not show"
)
BY_SCORE = (
    "correlation of score and length differences; score and length say the same, so"
    " the labels cannot tell them apart"
)


def length_bias(difference: np.ndarray, found: Pairs) -> Entry:
    """The partial effect of length on the score; "biased" or "not shown".

    With gold: beyond gold. Without: beyond what the labels bear out. The verdict is
    "biased" where the whole interval lies outside of ± `MARGIN`.
    """
    if not np.any(found.length) or not np.any(difference):
        why = "all lengths are equal" if np.any(difference) else "all scores are equal"
        return unknown(why, unit=UNIT, definition=BEYOND_GOLD)
    per = regression.spread(found.length) / regression.spread(difference)
    if found.gold is not None:
        columns = np.stack([found.gold, found.length], axis=1)
        keep = [k for k in (0, 1) if np.any(columns[:, k])]
        fit = regression.least_squares(columns[:, keep], difference, found.cluster)
        estimate = fit.estimate([per if k == 1 else 0.0 for k in keep])
        return _length_entry(estimate, found.count, BEYOND_GOLD)
    together = regression.correlation(difference, found.length)
    if abs(together) >= COLLINEAR:
        estimate = _correlation(difference, found.length, found.cluster)
        return _length_entry(estimate, found.count, BY_SCORE)
    columns = np.stack([difference, found.length], axis=1)
    fit = regression.logistic(columns, found.cluster)
    estimate = _scaled(fit.minus_ratio(1, 0), per)
    if not fit.estimate([1.0, 0.0]).low > 0:
        why = "the labels do not follow the score"
        return unknown(why, unit=UNIT, definition=BEYOND_LABEL)
    result = _length_entry(estimate, found.count, BEYOND_LABEL)
    if result["verdict"] == "biased" and estimate.mean < 0:
        # Noise in the score does this too, so it is no verdict on the model.
        result["verdict"] = "not shown: underrates length against the labels"
    return result


def length_correlation(difference: np.ndarray, found: Pairs) -> dict[str, Entry]:
    """Correlation of differences with length: of the score, and of gold or label."""
    if not np.any(found.length):
        return {}
    truth = np.ones(found.count) if found.gold is None else found.gold
    name = "label" if found.gold is None else "gold"
    rows = {"length_correlation": difference, f"length_correlation_{name}": truth}
    own = regression.correlation(truth, found.length)
    entries = {}
    for key, values in rows.items():
        estimate = _correlation(values, found.length, found.cluster)
        more = key == "length_correlation" and abs(estimate.mean) > abs(own)
        word = f"more than {name}" if more else f"no more than {name}"
        entries[key] = entry(
            estimate,
            word if key == "length_correlation" else "to compare with",
            n=found.count,
            unit="correlation",
            definition="correlation (about 0) of length differences with differences"
            f" of {'the score' if key == 'length_correlation' else 'the ' + name}",
        )
    return entries


def position_bias(
    listed: np.ndarray, turned: np.ndarray, found: Pairs, unit: str = "share of pairs"
) -> Entry:
    """How much more often the response in the first place wins, over both orders.

    `(P(first wins | as listed) + P(first wins | turned round)) / 2 - 1/2`: 0 for every
    judge with `judge(a, b) + judge(b, a) = 1`, ties counted one half (check B28).

    Args:
      listed: better minus worse as the judge says it of the pair as it is listed, [N].
      turned: likewise with the two in the other order.
      found: the pairs.
      unit: of the value.
    """
    hit, again = (0.5 + 0.5 * np.sign(x) for x in (listed, turned))
    wins = np.where(found.first, hit, 1.0 - hit)
    after = np.where(found.first, 1.0 - again, again)
    estimate = stats.clustered_mean(0.5 * (wins + after) - 0.5, found.cluster)
    return entry(
        estimate,
        "biased" if beyond(estimate, PLACE_MARGIN) else "not shown",
        n=found.count,
        unit=unit,
        definition="mean share of wins of the first place over both orders, minus 1/2;"
        " a model that scores each response by itself has 0",
    )


def _length_entry(estimate: stats.Estimate, n: int, definition: str) -> Entry:
    if math.isnan(estimate.mean):
        why = "score, gold and length cannot be told apart"
        return unknown(why, unit=UNIT, definition=definition)
    return entry(
        estimate,
        "biased" if beyond(estimate, MARGIN) else "not shown",
        n=n,
        unit=UNIT,
        definition=f"{definition}. Biased: the whole interval is beyond ± {MARGIN}",
    )


def _correlation(x: np.ndarray, y: np.ndarray, clusters: np.ndarray) -> stats.Estimate:
    """Correlation with the interval of the standardized slope."""
    scale = regression.spread(x) or 1.0, regression.spread(y) or 1.0
    fit = regression.least_squares((y / scale[1])[:, None], x / scale[0], clusters)
    found = fit.estimate([1.0])
    return found._replace(low=max(found.low, -1.0), high=min(found.high, 1.0))


def _scaled(found: stats.Estimate, by: float) -> stats.Estimate:
    low, high = found.low * by, found.high * by
    return stats.Estimate(found.mean * by, found.se * by, found.n, low, high)
