"""Do annotators agree? Krippendorff's alpha and Cohen's kappa."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from rlhf_jax.errors import UserError


def krippendorff_alpha(values: Any, level: str = "nominal") -> float:
    """Krippendorff's alpha, `1 - D_observed / D_expected` (Krippendorff 2011).

    With `o[c, k]` the coincidences of values c and k inside units (a unit with m values
    gives `1/(m - 1)` for each ordered pair), `n_c` their margins and n their sum:
    `alpha = 1 - (n - 1) sum o[c, k] d(c, k) / sum n_c n_k d(c, k)`, where d is 1 for
    different values (nominal), the squared difference (interval), or `(sum of n from c
    to k - (n_c + n_k)/2)^2` (ordinal). Units with fewer than two values do not count.

    Args:
      values: [annotators, units]; a missing value is NaN (or None).
      level: how values differ: nominal, ordinal or interval.

    Returns:
      1 for perfect agreement, 0 for chance, below 0 for disagreement by system; NaN
      where nothing can be compared or all values are the same.

    Raises:
      UserError: unknown level, or not a table.
    """
    if level not in ("nominal", "ordinal", "interval"):
        raise UserError(f"unknown level '{level}'; use nominal, ordinal or interval")
    table = np.asarray(values, np.float64)
    if table.ndim != 2:
        raise UserError(f"alpha needs [annotators, units], got shape {table.shape}")
    known = ~np.isnan(table)
    categories = np.unique(table[known])
    counts = np.stack(
        [np.sum(known & (table == c), axis=0) for c in categories], axis=1
    ) if len(categories) else np.zeros((table.shape[1], 0))  # fmt: skip
    size = counts.sum(axis=1)
    counts, size = counts[size >= 2].astype(float), size[size >= 2]
    each = counts / (size - 1)[:, None]
    observed = each.T @ counts - np.diag(each.sum(axis=0))
    margin = observed.sum(axis=1)
    distance = _distances(categories, margin, level)
    expected = np.sum(np.outer(margin, margin) * distance)
    if expected == 0:
        return float("nan")
    total = margin.sum()
    return float(1 - (total - 1) * np.sum(observed * distance) / expected)


def _distances(categories: np.ndarray, margin: np.ndarray, level: str) -> np.ndarray:
    if level == "nominal":
        return 1.0 - np.eye(len(categories))
    if level == "interval":
        return (categories[:, None] - categories[None]) ** 2
    ends = np.cumsum(margin)
    middle = ends - margin / 2  # the mean rank of a category
    return (middle[:, None] - middle[None]) ** 2


def cohen_kappa(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    *,
    weights: str | None = None,
) -> float:
    """Cohen's kappa of two annotators, `1 - sum w p / sum w e` (Cohen 1960, 1968).

    p is the joint distribution of their labels, e the product of its margins and w the
    cost of a disagreement: 1 where labels differ, or the distance (or its square)
    between their places in sorted order.

    Args:
      first: labels of one annotator.
      second: of the other, on the same things.
      weights: None, `linear` or `quadratic`.

    Returns:
      1 for perfect agreement, 0 for chance; NaN where both give one label only.

    Raises:
      UserError: different or no lengths, unknown weights.
    """
    if len(first) != len(second) or not len(first):
        raise UserError(f"kappa needs equal numbers, got {len(first)}, {len(second)}")
    if weights not in (None, "linear", "quadratic"):
        raise UserError(f"unknown weights {weights!r}; use None, linear or quadratic")
    known: list[Any] = sorted(set(first) | set(second))
    place = {label: index for index, label in enumerate(known)}
    joint = np.zeros((len(known), len(known)))
    for one, two in zip(first, second, strict=True):
        joint[place[one], place[two]] += 1 / len(first)
    gap = np.abs(np.subtract.outer(np.arange(len(known)), np.arange(len(known))))
    cost = {None: gap > 0, "linear": gap, "quadratic": gap**2}[weights]
    expected = np.sum(cost * np.outer(joint.sum(axis=1), joint.sum(axis=0)))
    return float(1 - np.sum(cost * joint) / expected) if expected else float("nan")
