"""Whether a claim holds, fails, or cannot be told from its measurements.

Decided by one-sided intervals over seeds (paired-t): an inequality holds where the
95 % bound lies beyond its threshold, fails where the bound from the other side does not
reach it, and is undecided between. For bands and equivalences both bounds must lie
inside (two one-sided tests); an interval that lies outside is a failure. Exact claims
are about each seed and never undecided.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from rlhf_jax import stats
from rlhf_jax.studies.reproduction import claim as claims
from rlhf_jax.studies.reproduction.claim import Claim, Threshold
from rlhf_jax.studies.reproduction.curves import Curve

Verdict = Literal["holds", "fails", "undecided"]

EXIT_CODES: dict[Verdict, int] = {"holds": 0, "fails": 1, "undecided": 3}


class Finding(NamedTuple):
    """One quantity of a claim against its threshold.

    Attributes:
      name: of the quantity; "" where the claim has one.
      threshold: as a formula.
      verdict: whether it is met.
      effect: mean over seeds.
      low: one-sided lower bound (least value for exact claims); NaN where unknown.
      high: one-sided upper bound (largest value for exact claims).
      values: by seed.
    """

    name: str
    threshold: str
    verdict: Verdict
    effect: float
    low: float
    high: float
    values: dict[int, float]


class Beside(NamedTuple):
    """A quantity that was measured and decides nothing.

    Attributes:
      name: of the quantity.
      effect: mean over seeds.
      low: lower end of its two-sided interval; NaN where unknown.
      high: upper end.
      values: by seed.
    """

    name: str
    effect: float
    low: float
    high: float
    values: dict[int, float]


class Result(NamedTuple):
    """A claim with what was found.

    Attributes:
      claim: as stated.
      verdict: of all its quantities together.
      findings: a quantity each.
      seconds: wall time over all seeds.
      beside: quantities without a threshold.
      curves: what is drawn, by seed.
      cpu_seconds: of all cores, over all seeds; unlike `seconds` it hardly depends on
        what else the machine does. What claims share counts for the first of them.
    """

    claim: Claim
    verdict: Verdict
    findings: list[Finding]
    seconds: float
    beside: tuple[Beside, ...] = ()
    curves: Mapping[int, Sequence[Curve]] = {}
    cpu_seconds: float = math.nan


def judge(
    claim: Claim, measured: Mapping[int, Mapping[str, float]], seconds: float = math.nan
) -> Result:
    """The verdict on a claim.

    Every threshold is tested at the claim's confidence; asking for all of them needs no
    correction (an intersection-union test). It fails if one of them does. A value that
    is not finite leaves an inequality undecided and fails an exact claim.

    Args:
      claim: as stated.
      measured: seed -> quantity -> value, at least for the claim's seeds.
      seconds: what the measurements took.
    """
    findings = []
    for name, threshold in claim.thresholds.items():
        values = {seed: float(measured[seed][name]) for seed in claim.seeds}
        findings.append(_find(name, threshold, values, claim.confidence))
    verdicts = [one.verdict for one in findings]
    together: Verdict = "holds"
    if "fails" in verdicts:
        together = "fails"
    elif "undecided" in verdicts:
        together = "undecided"
    beside = tuple(_beside(claim, measured))
    return Result(claim, together, findings, seconds, beside)


def _beside(
    claim: Claim, measured: Mapping[int, Mapping[str, float]]
) -> Iterator[Beside]:
    """What every seed measured and no threshold names."""
    rows = [measured[seed] for seed in claim.seeds]
    for name in rows[0]:
        if name in claim.thresholds or not all(name in row for row in rows):
            continue
        values = {seed: float(measured[seed][name]) for seed in claim.seeds}
        found = list(values.values())
        if len(found) > 1 and np.all(np.isfinite(found)):
            one = stats.mean(found, confidence=claim.confidence)
            yield Beside(name, one.mean, one.low, one.high, values)
        else:
            yield Beside(name, float(np.mean(found)), math.nan, math.nan, values)


def _find(
    name: str, threshold: Threshold, values: dict[int, float], confidence: float
) -> Finding:
    found = list(values.values())
    text = claims.describe(threshold)
    if isinstance(threshold, claims.Exact):
        return Finding(name, text, *_exact(threshold, found), values)
    if not np.all(np.isfinite(found)):
        return Finding(name, text, "undecided", math.nan, math.nan, math.nan, values)
    low = stats.mean(found, confidence=confidence, side="greater").low
    both = stats.mean(found, confidence=confidence, side="less")
    verdict = decide(threshold, low, both.high)
    return Finding(name, text, verdict, both.mean, low, both.high, values)


def decide(threshold: Threshold, low: float, high: float) -> Verdict:
    """The verdict from the two one-sided bounds; unknown (NaN) bounds decide nothing.

    Args:
      threshold: not `Exact`.
      low: one-sided lower bound of the effect.
      high: one-sided upper bound.
    """
    least, most = -math.inf, math.inf
    if isinstance(threshold, claims.Above):
        least = threshold.effect
    elif isinstance(threshold, claims.Below):
        most = threshold.effect
    elif isinstance(threshold, claims.Band):
        least, most = threshold.low, threshold.high
    elif isinstance(threshold, claims.Equivalence):
        least, most = -threshold.margin, threshold.margin
    if low > least and high < most:
        return "holds"
    return "fails" if high <= least or low >= most else "undecided"


def _exact(
    threshold: claims.Exact, values: list[float]
) -> tuple[Verdict, float, float, float]:
    near = [abs(value - threshold.value) <= threshold.tolerance for value in values]
    verdict: Verdict = "holds" if all(near) else "fails"
    return verdict, float(np.mean(values)), min(values), max(values)


def exit_code(results: Sequence[Result]) -> int:
    """0: all hold. 1: one fails. 3: none fails, one is undecided."""
    verdicts = {result.verdict for result in results}
    if "fails" in verdicts:
        return EXIT_CODES["fails"]
    return EXIT_CODES["undecided"] if "undecided" in verdicts else 0
