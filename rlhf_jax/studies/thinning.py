"""Fewer points of a long series, without hiding what happened in it."""

from __future__ import annotations

import numpy as np

POINTS = 400
"""A line keeps at most about this many points; more would not be seen."""


def kept(y: np.ndarray, limit: int = POINTS) -> np.ndarray:
    """Indices int[M] of at most about `limit` of the values float[N].

    Kept are both ends, the lowest and the highest of each stretch (spikes stay), and a
    non-finite one where a stretch has any (a gap stays a gap).
    """
    count = len(y)
    if count <= limit:
        return np.arange(count)
    keep = {0, count - 1}
    for part in np.array_split(np.arange(count), limit // 2):
        values = y[part]
        finite = np.isfinite(values)
        if finite.any():
            keep.add(int(part[np.argmin(np.where(finite, values, np.inf))]))
            keep.add(int(part[np.argmax(np.where(finite, values, -np.inf))]))
        if not finite.all():
            keep.add(int(part[np.argmin(finite)]))
    return np.asarray(sorted(keep))


def bucket_means(
    x: np.ndarray, layers: list[np.ndarray], limit: int = POINTS // 4
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Means over at most `limit` stretches: sums of layers and areas stay true.

    Args:
      x: float[N] positions.
      layers: float[N] each.
      limit: stretches; fewer points than that stay as they are.
    """
    count = min(max(len(x), 1), limit)
    parts = [part for part in np.array_split(np.arange(len(x)), count) if len(part)]

    def means(values: np.ndarray) -> np.ndarray:
        return np.asarray([values[part].mean() for part in parts])

    return means(x), [means(y) for y in layers]
