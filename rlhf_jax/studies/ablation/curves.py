"""Means over seeds by step, with the interval of that mean as a band."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax import stats
from rlhf_jax.studies.ablation.plan import Plan
from rlhf_jax.studies.ablation.records import Record


class Band(NamedTuple):
    """A curve over seeds.

    Attributes:
      steps: float64[N], every step that any seed has.
      mean: float64[N], over the seeds that have a finite value there.
      half: float64[N], half-width of its t interval; NaN where fewer than two have.
    """

    steps: np.ndarray
    mean: np.ndarray
    half: np.ndarray


def band(plan: Plan, found: Sequence[Record], cell: str, name: str) -> Band | None:
    """Mean and interval of one curve of one cell; None where no seed has it.

    Runs that diverged are left out, as they are from the statistics.
    """
    curves = [
        record.curves[name]
        for record in found
        if record.cell == cell and not record.diverged and name in record.curves
    ]
    if not any(len(steps) for steps, _ in curves):
        return None
    steps = np.unique(np.concatenate([steps for steps, _ in curves]))
    table = np.full((len(curves), len(steps)), np.nan)
    for row, (at, values) in zip(table, curves, strict=True):
        row[np.searchsorted(steps, at)] = values
    table[~np.isfinite(table)] = np.nan
    count = np.sum(np.isfinite(table), axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns without a number
        mean = np.nanmean(table, axis=0)
        deviation = np.nanstd(table, axis=0, ddof=1)
    quantiles = {
        n: stats.student_t_quantile(0.5 + plan.confidence / 2, n - 1) / math.sqrt(n)
        for n in set(count.tolist())
        if n > 1
    }
    scale = np.asarray([quantiles.get(n, math.nan) for n in count.tolist()])
    return Band(steps, mean, scale * deviation)


def names(plan: Plan, found: Sequence[Record]) -> list[str]:
    """Curves to draw: those of the plan that any run has, else all that runs have."""
    have = list(dict.fromkeys(name for record in found for name in record.curves))
    wanted = [name for name in plan.curves if name in have]
    return wanted or have
