"""Means with errors, and comparisons of runs paired by seed (numpy only).

Modules:
  intervals: `mean`, `clustered_mean`, `paired`, `bootstrap`: an `Estimate` each.
  comparisons: `interquartile_mean`, `sign_flip`, `paired_t`, `holm`, `hedges_g`,
    `equivalence`: what a study says about two columns of paired runs.
  student: Student's t.
"""

from rlhf_jax.stats.comparisons import (
    Equivalence,
    equivalence,
    hedges_g,
    holm,
    interquartile_mean,
    paired_t,
    sign_flip,
    small_sample_factor,
    smallest_sign_flip,
)
from rlhf_jax.stats.intervals import (
    Estimate,
    Side,
    bootstrap,
    clustered_mean,
    mean,
    paired,
)
from rlhf_jax.stats.student import student_t_cdf, student_t_quantile

__all__ = [
    "Equivalence",
    "Estimate",
    "Side",
    "bootstrap",
    "clustered_mean",
    "equivalence",
    "hedges_g",
    "holm",
    "interquartile_mean",
    "mean",
    "paired",
    "paired_t",
    "sign_flip",
    "small_sample_factor",
    "smallest_sign_flip",
    "student_t_cdf",
    "student_t_quantile",
]
