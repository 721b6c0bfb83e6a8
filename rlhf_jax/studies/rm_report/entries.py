"""One line of a reward-model report: a number, its interval and a word."""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np

from rlhf_jax import stats

CONFIDENCE = 0.95
"""Of every interval of the report."""


class Entry(TypedDict):
    """What `rm_report.json` says of one thing.

    Attributes:
      value: the number; NaN (null in the file) where it could not be measured.
      ci: its 95 % interval, clustered by prompt; NaN where there is none.
      verdict: one or a few words.
      n: pairs (or responses) that it rests on.
      unit: of value and interval.
      definition: what exactly was measured.
    """

    value: float
    ci: list[float]
    verdict: str
    n: int
    unit: str
    definition: str


def entry(
    found: stats.Estimate, verdict: str, *, n: int, unit: str, definition: str
) -> Entry:
    """An entry from an estimate."""
    return {
        "value": found.mean,
        "ci": [found.low, found.high],
        "verdict": verdict,
        "n": int(n),
        "unit": unit,
        "definition": definition,
    }


def unknown(why: str, *, unit: str, definition: str) -> Entry:
    """An entry of something that these data cannot tell."""
    nothing = stats.Estimate(math.nan, math.nan, 0)
    return entry(nothing, f"not measured: {why}", n=0, unit=unit, definition=definition)


def share_of(hits: np.ndarray, clusters: np.ndarray) -> stats.Estimate:
    """Mean of values in 0 .. 1 with the error of independent clusters.

    Where all are 0 or all are 1 they have no spread and t would be sure of itself;
    the interval is then the exact one of Clopper and Pearson (1934) for as many
    independent trials as there are clusters, which ends at `(alpha / 2)^(1 / C)`.

    Args:
      hits: [N].
      clusters: [N] labels.
    """
    found = stats.clustered_mean(hits, clusters)
    if found.n < 2 or not (np.all(hits == 0) or np.all(hits == 1)):
        return found
    near = ((1.0 - CONFIDENCE) / 2) ** (1 / found.n)
    low, high = (near, 1.0) if found.mean else (0.0, 1.0 - near)
    return found._replace(low=low, high=high)


def beyond(found: stats.Estimate, margin: float) -> bool:
    """Whether the whole interval lies outside of `[-margin, margin]`."""
    return found.low > margin or found.high < -margin


def within(found: stats.Estimate, margin: float) -> bool:
    """Whether the whole interval lies inside of `[-margin, margin]`."""
    return -margin <= found.low and found.high <= margin


def against(found: stats.Estimate, bar: float, above: str, below: str) -> str:
    """`above` or `below` where the interval lies on that side of a bar, between them
    `undecided`."""
    if found.low >= bar:
        return above
    return below if found.high < bar else "undecided"
