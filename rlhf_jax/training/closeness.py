"""Whether two runs ended alike up to rounding, part by part.

Runs on different meshes add their numbers in another order, so their digests differ;
here every array is held to its largest entry, and every number of a row to 1 or to its
size, whichever is more.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.training.digest import PARTS, contents, rows

_ABSENT = math.inf
"""The gap between things that cannot be compared."""


class Gap(NamedTuple):
    """How far two runs are apart in one part.

    Attributes:
      size: largest relative difference; infinite where shapes, names or texts differ.
      where: the array or row that has it.
    """

    size: float
    where: str


def gaps(
    workdir: str | os.PathLike[str], other: str | os.PathLike[str]
) -> dict[str, Gap]:
    """The largest difference between two runs in each of `digest.PARTS`.

    Raises:
      UserError: one of them has no checkpoint, or they have other stages.
    """
    ours, theirs = contents(workdir), contents(other)
    if ours.keys() != theirs.keys():
        raise UserError(
            f"{workdir} has the stages {', '.join(ours)} and {other} has"
            f" {', '.join(theirs)}; compare runs of the same experiment"
        )
    found = {part: Gap(0.0, "") for part in PARTS}
    for stage, parts in ours.items():
        for part, value in parts.items():
            gap = _between(value, theirs[stage][part], stage)
            found[part] = max(found[part], gap)
    for part in ("metrics", "samples"):
        here, there = rows(Path(workdir), part), rows(Path(other), part)
        found[part] = _between(here, there, part)
    return found


def _between(x: Any, y: Any, where: str) -> Gap:
    """The largest gap in two structures of mappings, lists, arrays and values."""
    if isinstance(x, Mapping) and isinstance(y, Mapping):
        if x.keys() != y.keys():
            return Gap(_ABSENT, f"{where}/{sorted(map(str, x.keys() ^ y.keys()))[0]}")
        pairs = [(x[key], y[key], f"{where}/{key}") for key in x]
    elif isinstance(x, list | tuple) and isinstance(y, list | tuple):
        if len(x) != len(y):
            return Gap(_ABSENT, f"{where} ({len(x)} against {len(y)})")
        pairs = [
            (a, b, f"{where}/{i}") for i, (a, b) in enumerate(zip(x, y, strict=True))
        ]
    else:
        return Gap(_apart(x, y), where)
    return max((_between(*pair) for pair in pairs), default=Gap(0.0, where))


def _apart(x: Any, y: Any) -> float:
    """Relative difference of two arrays or values; texts and counts are exact."""
    if isinstance(x, str) or isinstance(y, str) or x is None or y is None:
        return 0.0 if x == y else _ABSENT
    one, two = np.asarray(x), np.asarray(y)
    if one.shape != two.shape or (one.ndim and one.dtype != two.dtype):
        return _ABSENT
    if not one.size or np.array_equal(one, two):
        return 0.0
    exact = isinstance(x, np.ndarray) and not jnp.issubdtype(one.dtype, jnp.floating)
    if exact or isinstance(x, bool):
        return _ABSENT
    wide, other = one.astype(np.float64), two.astype(np.float64)
    scale = np.max(np.abs(other))
    if not isinstance(x, np.ndarray):
        scale = max(1.0, scale)
    gap = np.max(np.abs(wide - other)) / scale if scale else _ABSENT
    return float(gap) if math.isfinite(gap) else _ABSENT
