"""From records to verdicts: statistics of differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from rlhf_jax import stats
from rlhf_jax.studies.ablation import plan as plans
from rlhf_jax.studies.ablation.plan import Cell, Metric, Plan
from rlhf_jax.studies.ablation.records import Record

Verdict = Literal["baseline", "up", "down", "undecided"]


class Equal(NamedTuple):
    """Two one-sided tests against the metric's margin.

    Attributes:
      margin: which difference does not matter.
      p: of the tests together.
      p_adjusted: by Holm over the cells.
      equivalent: whether the adjusted p decides for it.
    """

    margin: float
    p: float
    p_adjusted: float
    equivalent: bool


class Comparison(NamedTuple):
    """One metric of one cell, and how it differs from the baseline.

    Everything from `difference` on is about pairs (the same seed in the cell and in
    the baseline, neither diverged) and NaN where there are fewer than two of them.

    Attributes:
      cell: name of the cell.
      metric: name of the metric.
      values: seed -> number, of the seeds that did not diverge.
      diverged: how many seeds diverged.
      mean: over seeds; NaN where all diverged.
      iqm: interquartile mean.
      sd: sample deviation over seeds.
      difference: mean, error and paired-t interval of cell - baseline; `n` pairs.
      studentized: low and high end of the studentized bootstrap interval of it.
      p_sign_flip: two-sided, exact up to 16 pairs.
      p_t: of the paired t test, two-sided.
      p_adjusted: that of the two which the plan decides by, by Holm over the cells.
      g: Hedges' g of the paired differences.
      verdict: whether the metric went `up` or `down`, or the study cannot tell.
      better: whether that is the better direction; None where undecided.
      exploratory: too few pairs for more than a hint.
      equal: equivalence, where the metric has a margin.
    """

    cell: str
    metric: str
    values: dict[int, float]
    diverged: int
    mean: float
    iqm: float
    sd: float
    difference: stats.Estimate
    studentized: tuple[float, float]
    p_sign_flip: float
    p_t: float
    p_adjusted: float
    g: float
    verdict: Verdict
    better: bool | None
    exploratory: bool
    equal: Equal | None


class Analysis(NamedTuple):
    """A study in numbers.

    Attributes:
      plan: what was asked.
      comparisons: metric by metric in the order of the plan, cell by cell.
      diverged: each run that did, `{"cell", "seed", "step", "reason"}`.
      missing: cell and seed of each run that is not there yet.
    """

    plan: Plan
    comparisons: list[Comparison]
    diverged: list[dict[str, Any]]
    missing: list[tuple[str, int]]

    def of(self, cell: str, metric: str) -> Comparison:
        """The comparison of one cell and one metric."""
        return next(c for c in self.comparisons if (c.cell, c.metric) == (cell, metric))


def analyse(plan: Plan, found: Sequence[Record]) -> Analysis:
    """Statistics of a study, complete or not; the same records give the same numbers.

    Args:
      plan: of the study.
      found: its records, in any order.
    """
    by_key = {(record.cell, record.seed): record for record in found}
    comparisons = [
        one for metric in plan.metrics for one in _family(plan, metric, by_key)
    ]
    keys = [(cell.name, seed) for cell in plan.cells for seed in plan.seeds]
    diverged = [
        {"cell": r.cell, "seed": r.seed, "step": r.step, "reason": r.diverged}
        for r in (by_key[key] for key in keys if key in by_key)
        if r.diverged
    ]
    return Analysis(plan, comparisons, diverged, [k for k in keys if k not in by_key])


def _family(
    plan: Plan, metric: Metric, by_key: dict[tuple[str, int], Record]
) -> list[Comparison]:
    """All cells of one metric: the family over which p values are adjusted."""
    base = _values(plan, plan.baseline, metric, by_key)
    raw = [_compare(plan, cell, metric, by_key, base) for cell in plan.cells]
    p_values = [one.p_t if plan.test == "paired_t" else one.p_sign_flip for one in raw]
    adjusted = stats.holm(p_values).tolist()
    equal = stats.holm([math.nan if o.equal is None else o.equal.p for o in raw])
    alpha = 1 - plan.confidence
    return [
        _decide(one, metric, p, float(q), alpha)
        for one, p, q in zip(raw, adjusted, equal, strict=True)
    ]


def _values(
    plan: Plan, cell: Cell, metric: Metric, by_key: dict[tuple[str, int], Record]
) -> dict[int, float]:
    kept = [by_key[cell.name, s] for s in plan.seeds if (cell.name, s) in by_key]
    return {r.seed: r.metrics[metric.name] for r in kept if not r.diverged}


def _compare(
    plan: Plan,
    cell: Cell,
    metric: Metric,
    by_key: dict[tuple[str, int], Record],
    base: dict[int, float],
) -> Comparison:
    """A comparison before its family is known."""
    values = _values(plan, cell, metric, by_key)
    records = [by_key[cell.name, s] for s in plan.seeds if (cell.name, s) in by_key]
    shared = [] if cell.baseline else [seed for seed in values if seed in base]
    own = np.asarray([values[seed] for seed in shared])
    other = np.asarray([base[seed] for seed in shared])
    tested = len(shared) > 1
    drawn = stats.bootstrap(own - other, confidence=plan.confidence) if tested else None
    return Comparison(
        cell=cell.name,
        metric=metric.name,
        values=values,
        diverged=sum(bool(record.diverged) for record in records),
        **_location(list(values.values())),
        difference=stats.paired(own, other, confidence=plan.confidence)
        if shared
        else stats.Estimate(math.nan, math.nan, 0),
        studentized=(drawn.low, drawn.high) if drawn else (math.nan, math.nan),
        p_sign_flip=stats.sign_flip(own - other) if tested else math.nan,
        p_t=stats.paired_t(own - other),
        p_adjusted=math.nan,
        g=stats.hedges_g(own, other),
        verdict="baseline" if cell.baseline else "undecided",
        better=None,
        exploratory=len(shared) <= plans.EXPLORATORY_UP_TO and not cell.baseline,
        equal=_equal(plan, metric, own, other) if tested else None,
    )


def _location(values: list[float]) -> dict[str, float]:
    if not values:
        return {"mean": math.nan, "iqm": math.nan, "sd": math.nan}
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    center = float(np.mean(values))
    return {"mean": center, "iqm": stats.interquartile_mean(values), "sd": spread}


def _equal(
    plan: Plan, metric: Metric, own: np.ndarray, other: np.ndarray
) -> Equal | None:
    if metric.margin is None:
        return None
    found = stats.equivalence(own, other, metric.margin, confidence=plan.confidence)
    return Equal(metric.margin, found.p, math.nan, False)


def _decide(
    one: Comparison, metric: Metric, p: float, p_equal: float, alpha: float
) -> Comparison:
    """The comparison with its adjusted p values and what follows from them."""
    equal = one.equal
    if equal is not None:
        equal = equal._replace(p_adjusted=p_equal, equivalent=p_equal <= alpha)
    one = one._replace(p_adjusted=p, equal=equal)
    if not p <= alpha or not one.difference.mean:
        return one
    verdict: Verdict = "up" if one.difference.mean > 0 else "down"
    return one._replace(verdict=verdict, better=verdict == metric.direction)


def to_json(found: Analysis) -> dict[str, Any]:
    """`ablation.json`: plan and numbers, no times; the same for the same records."""
    return {
        "plan": plans.to_json(found.plan),
        "warnings": plans.warnings(found.plan),
        "complete": not found.missing,
        "missing": [{"cell": cell, "seed": seed} for cell, seed in found.missing],
        "diverged": found.diverged,
        "comparisons": [_row(one) for one in found.comparisons],
    }


def _row(one: Comparison) -> dict[str, Any]:
    row = one._asdict() | {
        "values": {str(seed): value for seed, value in one.values.items()},
        "difference": one.difference._asdict(),
        "equal": None if one.equal is None else one.equal._asdict(),
    }
    return row
