"""Metrics that merge over microbatches and devices and finish on the host.

Inside jit a metric is a total and a count; only `finish` divides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Mean(NamedTuple):
    """A weighted mean: total float32[], count float32[]."""

    total: Array
    count: Array

    def merge(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    def finish(self) -> float:
        count = float(self.count)
        return float(self.total) / count if count else float("nan")


class Max(NamedTuple):
    """A maximum: value float32[]."""

    value: Array

    def merge(self, other: Max) -> Max:
        return Max(jnp.maximum(self.value, other.value))

    def finish(self) -> float:
        return float(self.value)


class Moments(NamedTuple):
    """First two moments: count, total, squares (all float32[]); finishes as the mean,
    with `_std` (population) beside it."""

    count: Array
    total: Array
    squares: Array

    def merge(self, other: Moments) -> Moments:
        return Moments(*(a + b for a, b in zip(self, other, strict=True)))

    def finish(self) -> float:
        return Mean(self.total, self.count).finish()

    def std(self) -> float:
        mean = self.finish()
        variance = float(self.squares) / max(float(self.count), 1e-30) - mean**2
        return float(np.sqrt(max(variance, 0.0)))


def mean(values: Array, mask: Array | None = None, weight: Array | None = None) -> Mean:
    """Weighted masked mean as (total, count); counts are float32 sums of the mask."""
    scale = jnp.ones(values.shape, jnp.float32)
    if mask is not None:
        scale = jnp.where(mask, scale, 0.0)
    if weight is not None:
        scale = scale * weight
    safe = jnp.where(scale != 0, values.astype(jnp.float32), 0.0)
    return Mean(jnp.sum(safe * scale), jnp.sum(scale))


def scalar(value: Any) -> Mean:
    """One number with count one."""
    return Mean(jnp.asarray(value, jnp.float32), jnp.ones((), jnp.float32))


def maximum(values: Array, mask: Array | None = None) -> Max:
    """Masked maximum; minus infinity where nothing is real."""
    values = values.astype(jnp.float32)
    return Max(jnp.max(values if mask is None else jnp.where(mask, values, -jnp.inf)))


def moments(
    values: Array, mask: Array | None = None, weight: Array | None = None
) -> Moments:
    """Masked, weighted count, sum and sum of squares."""
    scale = jnp.ones(values.shape, jnp.float32)
    if mask is not None:
        scale = jnp.where(mask, scale, 0.0)
    if weight is not None:
        scale = scale * weight
    safe = jnp.where(scale != 0, values.astype(jnp.float32), 0.0)
    return Moments(jnp.sum(scale), jnp.sum(safe * scale), jnp.sum(safe**2 * scale))


def merge(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge metric dicts key by key."""
    merged: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            merged[name] = merged[name].merge(value) if name in merged else value
    return merged


def reduce_stacked(stacked: Mapping[str, Any]) -> dict[str, Any]:
    """Merge metrics that `lax.scan` stacked along axis 0."""

    def reduce_one(value: Any) -> Any:
        if isinstance(value, Max):
            return Max(jnp.max(value.value, axis=0))
        return type(value)(*(jnp.sum(x, axis=0) for x in value))

    return {name: reduce_one(value) for name, value in stacked.items()}


def finish(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Host numbers; a `Moments` also yields `<name>_std`."""
    host = jax.device_get(dict(metrics))
    result: dict[str, float] = {}
    for name, value in host.items():
        result[name] = value.finish()
        if isinstance(value, Moments):
            result[name + "_std"] = value.std()
    return result
