"""Value-function terms: `PolicyOutputs.values` against the returns, values [B T]."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import metrics, types
from rlhf_jax.errors import UserError
from rlhf_jax.losses.combine import LossTerm

Array = jax.Array


class ExplainedVariance(NamedTuple):
    """The metric `1 - Var(return - value) / Var(return)`, kept as sums that merge.

    Attributes:
      count: float32[], weight of the tokens.
      returns, returns_squares: float32[], sums of return and its square.
      errors, errors_squares: float32[], sums of return - value and its square.
    """

    count: Array
    returns: Array
    returns_squares: Array
    errors: Array
    errors_squares: Array

    def merge(self, other: ExplainedVariance) -> ExplainedVariance:
        return ExplainedVariance(*(a + b for a, b in zip(self, other, strict=True)))

    def finish(self) -> float:
        """Host number; nan where the returns do not vary."""
        count, total, squares, error, error_squares = (float(x) for x in self)
        if not count:
            return float("nan")
        variance = squares / count - (total / count) ** 2
        error_variance = error_squares / count - (error / count) ** 2
        return 1.0 - error_variance / variance if variance > 0 else float("nan")


def squared_value() -> LossTerm:
    """`(V_t - R_t)^2 / 2`, R the return; reports `value/loss` and
    `value/explained_variance`."""

    def values(
        outputs: types.PolicyOutputs, batch: types.Experience
    ) -> tuple[Array, types.Metrics]:
        predicted, returns = _values(outputs), _returns(batch)
        loss = 0.5 * (predicted - returns) ** 2
        return loss, _report(loss, predicted, returns, batch)

    return values


def clipped_value(clip_eps: float | Array = 0.2) -> LossTerm:
    """PPO's clipped value loss, `max((V - R)^2, (clip(V, V_old +- eps) - R)^2) / 2`.

    V_old are the values at rollout time, `trajectory.values`. The half is that of the
    N+ paper's code (its coefficient 0.1 belongs to this form). Reports `value/loss`,
    `value/clip_fraction` (tokens whose loss the clip raises) and
    `value/explained_variance`, over tokens.

    Args:
      clip_eps: half-width of the interval, in units of the value.
    """

    def values(
        outputs: types.PolicyOutputs, batch: types.Experience
    ) -> tuple[Array, types.Metrics]:
        predicted, returns = _values(outputs), _returns(batch)
        old = _old_values(batch)[:, : predicted.shape[1]]
        near = jnp.clip(predicted, old - clip_eps, old + clip_eps)
        free, clipped = (predicted - returns) ** 2, (near - returns) ** 2
        loss = 0.5 * jnp.maximum(free, clipped)
        report = _report(loss, predicted, returns, batch)
        trajectory = batch.trajectory
        report["value/clip_fraction"] = metrics.mean(
            clipped > free, trajectory.mask, trajectory.weight[:, None]
        )
        return loss, report

    return values


def _values(outputs: types.PolicyOutputs) -> Array:
    if outputs.values is None:
        raise UserError(
            "a value term needs PolicyOutputs.values, got None; give the learner a "
            "value function or leave the value term out"
        )
    return outputs.values


def _old_values(batch: types.Experience) -> Array:
    if batch.trajectory.values is None:
        raise UserError(
            "clipped_value needs Trajectory.values of the rollout, got None; use "
            "squared_value or compute values at rollout time"
        )
    return jax.lax.stop_gradient(batch.trajectory.values)


def _returns(batch: types.Experience) -> Array:
    return jax.lax.stop_gradient(batch.advantages.returns)


def _report(
    loss: Array, predicted: Array, returns: Array, batch: types.Experience
) -> dict[str, Any]:
    mask, weight = batch.trajectory.mask, batch.trajectory.weight[:, None]
    loss, predicted = jax.lax.stop_gradient((loss, predicted))
    scale = jnp.where(mask, weight, 0.0).astype(jnp.float32)

    def total(x: Array) -> Array:
        return jnp.sum(jnp.where(scale != 0, x, 0.0).astype(jnp.float32) * scale)

    error = returns - predicted
    sums = (total(returns), total(returns**2), total(error), total(error**2))
    return {
        "value/loss": metrics.mean(loss, mask, weight),
        "value/explained_variance": ExplainedVariance(jnp.sum(scale), *sums),
    }
