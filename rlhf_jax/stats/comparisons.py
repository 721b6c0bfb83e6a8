"""What two columns of runs, paired by seed, say about each other.

Agarwal et al. 2021 (interquartile mean), Fisher 1935 (sign flips), Holm 1979
(step-down), Hedges 1981 (effect size without its small-sample bias), Schuirmann 1987
(equivalence by two one-sided tests).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.stats import intervals, student

EXACT_UP_TO = 16
"""Sign flips are enumerated up to this many pairs (2^16 of them), drawn beyond it."""

ROUND_OFF = 1e-9
"""Two sums nearer than this, relative to the sum of sizes, count as equal."""


class Equivalence(NamedTuple):
    """Two one-sided t tests of `|mean difference| < margin`.

    Attributes:
      mean: of the paired differences.
      low: lower end of the interval at 2 * confidence - 1 (90 % for 95 %): both ends
        inside the margin is the same as both tests rejecting.
      high: its upper end.
      n: number of pairs.
      margin: below which a difference does not matter, stated beforehand.
      p: the larger p value of the two tests; NaN where n < 2.
      equivalent: whether both tests reject.
    """

    mean: float
    low: float
    high: float
    n: int
    margin: float
    p: float
    equivalent: bool


def interquartile_mean(values: Any) -> float:
    """Mean of the middle half of the sorted values; robust and still efficient.

    Value i of n covers the share [i/n, (i+1)/n] of the ranks and counts with the part
    of it that lies in [1/4, 3/4], so any n works; where 4 divides n this is the 25 %
    trimmed mean of Agarwal et al. 2021.

    Args:
      values: [N], any order.

    Raises:
      UserError: no values.
    """
    x = np.sort(np.asarray(values, np.float64).reshape(-1))
    if not len(x):
        raise UserError("the interquartile mean of no values: nothing was measured")
    edges = np.arange(len(x) + 1) / len(x)
    inside = np.clip(edges, 0.25, 0.75)
    return float(np.sum(np.diff(inside) * x) / 0.5)


def sign_flip(
    differences: Any,
    *,
    side: intervals.Side = "two",
    draws: int = 100_000,
    seed: int = 0,
) -> float:
    """P value of "no difference": how rare a mean this large is under random signs.

    If a change does nothing, each paired difference is as likely with either sign. The
    p value is the share of all sign patterns whose mean is at least as extreme as the
    one seen (itself included). Needs no normality, only symmetry. All 2^N patterns are
    counted up to N = 16; beyond it `(1 + hits) / (1 + draws)` of random patterns.

    Args:
      differences: [N] paired differences.
      side: `greater` tests for a positive mean, `less` for a negative one.
      draws: random patterns where N > 16.
      seed: of those patterns.

    Returns:
      p in (0, 1]; NaN where N = 0. It cannot be below `smallest_sign_flip(N)`.
    """
    d = np.asarray(differences, np.float64).reshape(-1)
    _require_side(side)
    if not len(d):
        return math.nan
    d = -d if side == "less" else d
    exact = len(d) <= EXACT_UP_TO
    sums = _all_sums(d) if exact else _drawn_sums(d, draws, seed)
    seen = float(np.sum(d))
    if side == "two":
        sums, seen = np.abs(sums), abs(seen)
    hits = np.count_nonzero(sums >= seen - ROUND_OFF * np.sum(np.abs(d)))
    return float(hits / len(sums) if exact else (1 + hits) / (1 + len(sums)))


def smallest_sign_flip(n: int, side: intervals.Side = "two") -> float:
    """The least p value that n pairs can give: `2 / 2^n`, one-sided `1 / 2^n`."""
    _require_side(side)
    return min(1.0, (2.0 if side == "two" else 1.0) * 0.5**n)


def paired_t(differences: Any, *, side: intervals.Side = "two") -> float:
    """P value of the paired t test; NaN below two pairs.

    Differences that are all equal have no spread: p is 0 where they point to the side
    tested, 1 where not (and where all are 0).
    """
    d = np.asarray(differences, np.float64).reshape(-1)
    _require_side(side)
    if len(d) < 2:
        return math.nan
    center, error = float(np.mean(d)), float(np.std(d, ddof=1) / math.sqrt(len(d)))
    if error <= 0.0:
        points = {"two": center != 0, "greater": center > 0, "less": center < 0}
        return 0.0 if points[side] else 1.0
    below = student.student_t_cdf(center / error, len(d) - 1)
    if side == "two":
        return min(1.0, 2.0 * min(below, 1.0 - below))
    return 1.0 - below if side == "greater" else below


def holm(p_values: Any) -> np.ndarray:
    """Holm's step-down adjustment: p values valid for the whole family at once.

    `adjusted_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))` over the sorted p values. A
    claim counts where its adjusted p is at most alpha; the chance of one false claim
    among all m is then at most alpha, whatever their dependence.

    Args:
      p_values: [M]; NaN (a comparison that could not be made) is no member of the
        family and stays NaN.

    Returns:
      [M] float64 in the order given.

    Raises:
      UserError: a p value outside 0 to 1.
    """
    p = np.asarray(p_values, np.float64).reshape(-1)
    known = np.flatnonzero(~np.isnan(p))
    wrong = [float(p[i]) for i in known if not 0 <= p[i] <= 1]
    if wrong:
        raise UserError(f"p values lie between 0 and 1, got {wrong[0]}")
    order = known[np.argsort(p[known], kind="stable")]
    steps = (len(order) - np.arange(len(order))) * p[order]
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def hedges_g(first: Any, second: Any) -> float:
    """Effect size of paired data: mean difference in standard deviations of it.

    `g = J(n - 1) * mean(d) / sd(d)` with `d = first - second`, the sample deviation,
    and J the factor that removes the bias of small samples. It is the size of d
    between seeds (d_z), not in units of the spread of either run.

    Args:
      first: [N].
      second: [N], in the same order.

    Returns:
      0 where all differences are 0, infinite where they are equal and not 0, NaN below
      two pairs.

    Raises:
      UserError: where the lengths differ.
    """
    found = intervals.paired(first, second) if np.size(first) else None
    if found is None or found.n < 2:
        return math.nan
    deviation = found.se * math.sqrt(found.n)
    if deviation <= 0.0:
        return math.copysign(math.inf, found.mean) if found.mean else 0.0
    return small_sample_factor(found.n - 1) * found.mean / deviation


def small_sample_factor(df: int) -> float:
    """Hedges' J: `Gamma(df/2) / (sqrt(df/2) Gamma((df - 1)/2))`, 0 for df = 1.

    About `1 - 3 / (4 df - 1)`; below 1, towards 1 as df grows.
    """
    if df < 2:
        return 0.0
    logs = math.lgamma(df / 2) - math.lgamma((df - 1) / 2)
    return math.exp(logs - 0.5 * math.log(df / 2))


def equivalence(
    first: Any, second: Any, margin: float, *, confidence: float = 0.95
) -> Equivalence:
    """Whether two paired columns differ by less than a margin (two one-sided tests).

    A difference that is not significant is no evidence of equality; this is. Each of
    "mean > -margin" and "mean < margin" is tested at `1 - confidence`.

    Args:
      first: [N].
      second: [N], in the same order.
      margin: positive, in the units of the values.
      confidence: of each one-sided test.

    Raises:
      UserError: where the lengths differ, or the margin is not positive.
    """
    if not margin > 0:
        raise UserError(
            f"an equivalence needs a positive margin, got {margin}: say which "
            "difference does not matter"
        )
    a, b = (np.asarray(x, np.float64).reshape(-1) for x in (first, second))
    found = intervals.paired(a, b, confidence=2 * confidence - 1)
    d = a - b
    p = max(paired_t(d + margin, side="greater"), paired_t(d - margin, side="less"))
    ends = (found.mean, found.low, found.high)
    return Equivalence(*ends, found.n, margin, p, bool(p < 1 - confidence))


def _all_sums(d: np.ndarray) -> np.ndarray:
    """Sums of d under each of its 2^N sign patterns."""
    sums = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _drawn_sums(d: np.ndarray, draws: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    parts = []
    for start in range(0, draws, 10_000):
        count = min(10_000, draws - start)
        parts.append((2.0 * generator.integers(2, size=(count, len(d))) - 1.0) @ d)
    return np.concatenate(parts)


def _require_side(side: str) -> None:
    if side not in ("two", "greater", "less"):
        raise UserError(f"side={side!r} must be 'two', 'greater' or 'less'")
