"""Accuracy of a reward model, overall and by slice, against what can be reached."""

from __future__ import annotations

import math

import numpy as np

from rlhf_jax import stats
from rlhf_jax.studies.rm_report import regression
from rlhf_jax.studies.rm_report.entries import Entry, entry, share_of, unknown
from rlhf_jax.studies.rm_report.pairs import Pairs

MOST_VALUES = 12
"""A field with more different values is no category."""
FEWEST = 10
"""Pairs that a slice needs to be shown."""
LEAST_SHARE = 0.8
"""Of the way from chance to the ceiling that an accuracy "near the ceiling" has."""

DEFINITION = (
    "share of untied pairs that the scores order as the label does; an equal score"
    " counts one half"
)


def right(difference: np.ndarray) -> np.ndarray:
    """1 where the better response has the higher score, 1/2 where both are equal."""
    return 0.5 + 0.5 * np.sign(difference)


def overall(
    difference: np.ndarray, found: Pairs, noise: float | None
) -> dict[str, Entry]:
    """`accuracy`; with gold also `accuracy_gold`, `ceiling`, `share_of_ceiling`.

    Args:
      difference: scores of better minus worse, [N].
      found: the pairs.
      noise: scale of the label noise, None where unknown.
    """
    estimate = share_of(right(difference), found.cluster)
    reach = ceiling(found, noise)
    word = _verdict(estimate, None if reach is None else reach.mean)
    rows = {"accuracy": _entry(estimate, word, found.count)}
    if found.gold is not None and np.any(found.gold):
        rows["accuracy_gold"] = _against_gold(difference, found, found.gold)
    if reach is None:
        return rows
    known = "as given" if noise is not None else "fitted to labels and gold"
    rows["ceiling"] = entry(
        reach,
        "what label noise leaves",
        n=found.count,
        unit="share of pairs",
        definition="mean of max(p, 1 - p) over the same pairs, p = sigmoid of the gold"
        f" difference over the label noise ({known})",
    )
    if reach.mean > 0.5:
        rows["share_of_ceiling"] = _share(difference, found, reach.mean)
    return rows


def ceiling(found: Pairs, noise: float | None) -> stats.Estimate | None:
    """Mean of max(p, 1 - p): the accuracy of gold itself in expectation (C23).

    Where the noise is unknown it is one over the logistic slope of label on gold.
    """
    if found.gold is None:
        return None
    if noise is None:
        slope = float(regression.logistic(found.gold[:, None], found.cluster).slopes[0])
        noise = 1.0 / slope if slope > 0 else 0.0 if math.isnan(slope) else None
    if noise is None:
        return None
    size = np.abs(found.gold)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(size > 0, size / noise, 0.0)
    return stats.clustered_mean(1.0 / (1.0 + np.exp(-z)), found.cluster)


def slices(difference: np.ndarray, found: Pairs) -> dict[str, dict[str, Entry]]:
    """Accuracy by length difference, by margin and by every categorical field.

    Returns:
      slice -> bin -> entry; bins of fewer than `FEWEST` pairs are left out.
    """
    hits = right(difference)
    groups = {"length": length_bins(found.length)}
    if found.gold is not None:
        groups["gold margin"] = thirds(np.abs(found.gold))
    if np.any(found.margin):
        groups["margin"] = {
            f"{value:g}": found.margin == value for value in np.unique(found.margin)
        }
    for name, values in found.fields.items():
        if len(np.unique(values)) <= MOST_VALUES:
            groups[name] = categories(values)
    shown = {}
    for name, bins in groups.items():
        rows = {
            text: _entry(
                share_of(hits[where], found.cluster[where]),
                "slice",
                int(where.sum()),
            )
            for text, where in bins.items()
            if where.sum() >= FEWEST
        }
        if rows and 1 < len(bins) <= MOST_VALUES:
            shown[name] = rows
    return shown


def length_bins(length: np.ndarray) -> dict[str, np.ndarray]:
    """Where the better response is longer or shorter, by a little or a lot."""
    size = np.abs(length[length != 0])
    if not len(size):
        return {"equal length": length == 0}
    edge = float(np.median(size))
    return {
        f"better shorter by {edge:g} or more": length <= -edge,
        f"better shorter by less than {edge:g}": (length < 0) & (length > -edge),
        "equal length": length == 0,
        f"better longer by less than {edge:g}": (length > 0) & (length < edge),
        f"better longer by {edge:g} or more": length >= edge,
    }


def thirds(size: np.ndarray) -> dict[str, np.ndarray]:
    """Lower, middle and upper third of a size."""
    low, high = np.quantile(size, [1 / 3, 2 / 3])
    return {
        f"below {low:.3g}": size < low,
        f"{low:.3g} to {high:.3g}": (size >= low) & (size < high),
        f"{high:.3g} and above": size >= high,
    }


def categories(values: np.ndarray) -> dict[str, np.ndarray]:
    """One bin a value."""
    return {str(value): values == value for value in np.unique(values)}


def _against_gold(difference: np.ndarray, found: Pairs, gold: np.ndarray) -> Entry:
    """What a model knows of gold, which labels with a taste of their own hide."""
    known = gold != 0
    hits = right(difference * np.sign(gold))[known]
    estimate = stats.clustered_mean(hits, found.cluster[known])
    return entry(
        estimate,
        _verdict(estimate, None),
        n=int(known.sum()),
        unit="share of pairs",
        definition="share of the same pairs that the scores order as gold does, where"
        " gold differs; an equal score counts one half",
    )


def _entry(estimate: stats.Estimate, verdict: str, n: int) -> Entry:
    unit = "share of pairs"
    return entry(estimate, verdict, n=n, unit=unit, definition=DEFINITION)


def _verdict(estimate: stats.Estimate, reach: float | None) -> str:
    if not estimate.low > 0.5:
        return "worse than chance" if estimate.high < 0.5 else "no better than chance"
    if reach is None:
        return "better than chance"
    near = 0.5 + LEAST_SHARE * (reach - 0.5)
    if estimate.low >= near:
        return "near the ceiling"
    return "below the ceiling" if estimate.high < near else "better than chance"


def _share(difference: np.ndarray, found: Pairs, reach: float) -> Entry:
    share = (right(difference) - 0.5) / (reach - 0.5)
    estimate = stats.clustered_mean(share, found.cluster)
    definition = "(accuracy - 1/2) / (ceiling - 1/2), the ceiling taken as exact"
    if not math.isfinite(estimate.low):
        return unknown("one prompt", unit="share", definition=definition)
    word = "high" if estimate.low >= LEAST_SHARE else "room left"
    if estimate.low > 1:
        word = "above it: the labels follow more than gold"
    return entry(
        estimate, word, n=found.count, unit="share of the way", definition=definition
    )
