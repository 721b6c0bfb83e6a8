"""Scale, clip, normalize and whiten, of scores or of token rewards."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import errors, metrics, types
from rlhf_jax.ops import masking
from rlhf_jax.rewards import chaining

Part = Literal["scores", "tokens"]
"""Which part of the rewards a link edits: `scores` before the placement (afterwards
they no longer reach the tokens), `tokens` after it."""


def _edit(rewards: types.Rewards, of: Part, change) -> types.Rewards:
    if of == "scores":
        return rewards._replace(scores=change(rewards.scores.astype(jnp.float32)))
    if of == "tokens":
        return rewards._replace(tokens=change(rewards.tokens.astype(jnp.float32)))
    raise errors.UserError(f"of={of!r} must be 'scores' or 'tokens'")


def scale(factor: float, of: Part = "scores") -> types.RewardTransformation:
    """Multiplies scores (or token rewards) by `factor`."""

    def update(rewards: types.Rewards, trajectory: types.Trajectory):
        return _edit(rewards, of, lambda x: x * factor), {}

    return chaining.stateless(update)


def clip(
    minimum: float, maximum: float, of: Part = "scores"
) -> types.RewardTransformation:
    """Clips scores (or the rewards of real tokens) to [minimum, maximum].

    Logs `rewards/clipped_fraction`.
    """
    if minimum > maximum:
        raise errors.UserError(f"clip: minimum {minimum} is above maximum {maximum}")

    def update(rewards: types.Rewards, trajectory: types.Trajectory):
        mask = trajectory.mask
        real = jnp.ones(mask.shape[:1], bool) if of == "scores" else mask
        before = rewards.scores if of == "scores" else rewards.tokens
        shaped = _edit(
            rewards, of, lambda x: jnp.where(real, jnp.clip(x, minimum, maximum), x)
        )
        outside = ((before < minimum) | (before > maximum)).astype(jnp.float32)
        weights = masking.weights_of(real, trajectory.weight)
        return shaped, {
            "rewards/clipped_fraction": metrics.mean(outside, weight=weights)
        }

    return chaining.stateless(update)


class RunningMoments(NamedTuple):
    """Count, mean and sum of squared deviations of all scores so far, float32[]."""

    count: types.Array
    mean: types.Array
    squares: types.Array


def _merge_moments(
    state: RunningMoments, scores: types.Array, weight: types.Array
) -> RunningMoments:
    """Chan, Golub and LeVeque 1979: moments of the union of two samples."""
    weight = weight.astype(jnp.float32)
    real = jnp.ones(scores.shape, bool)
    count = jnp.sum(weight)
    mean = masking.masked_mean(scores, real, weight)
    squares = jnp.sum(weight * jnp.where(weight > 0, scores - mean, 0.0) ** 2)
    total = state.count + count
    gap = mean - state.mean
    share = count / jnp.where(total > 0, total, 1.0)
    return RunningMoments(
        total,
        state.mean + gap * share,
        state.squares + squares + gap**2 * state.count * share,
    )


def running_normalization(
    shift_mean: bool = True, eps: float = 1e-8
) -> types.RewardTransformation:
    """Scales scores by the moments of all scores so far, this batch included.

    `(score - mean) / sqrt(var + eps)`; with `shift_mean` False only the division. The
    moments follow the policy, so an unbounded drift of the score is hidden from the
    curves (check B25); where scores must stay comparable use `gain_and_bias`.

    Logs `rewards/running_mean` and `rewards/running_std`. State: `RunningMoments`.
    """

    def init() -> Any:
        return RunningMoments(*jnp.zeros((3,), jnp.float32))

    def update(rewards: types.Rewards, state: Any, trajectory: types.Trajectory):
        scores = rewards.scores.astype(jnp.float32)
        state = _merge_moments(state, scores, trajectory.weight)
        variance = state.squares / jnp.maximum(state.count, 1e-30)
        shifted = scores - state.mean if shift_mean else scores
        logged = {
            "rewards/running_mean": metrics.scalar(state.mean),
            "rewards/running_std": metrics.scalar(jnp.sqrt(variance)),
        }
        # Scores that have not varied yet stay as they are: 1 / sqrt(eps) is no scale.
        factor = jnp.where(variance > eps, jax.lax.rsqrt(variance + eps), 1.0)
        return rewards._replace(scores=shifted * factor), state, logged

    return types.RewardTransformation(init, update)


class GainAndBias(NamedTuple):
    """`gain * score + bias`."""

    gain: float
    bias: float


def measure_gain_and_bias(
    scores: Any, weight: Any = None, mean: float = 0.0, std: float = 1.0
) -> GainAndBias:
    """The gain and bias that give these scores a mean and a standard deviation.

    Measure on responses of the *reference* policy and keep the result (Ziegler et al.
    2019; detail 9 of Huang et al. 2023): normalizing by what the current policy scores
    would hide its drift (check B25, invariant 23).

    Args:
      scores: [N] numbers on the host.
      weight: [N] or None.
      mean: wanted mean.
      std: wanted population standard deviation.

    Raises:
      UserError: where the scores do not vary or are not finite.
    """
    values = np.asarray(scores, np.float64).reshape(-1)
    weights = np.ones_like(values) if weight is None else np.asarray(weight, np.float64)
    center = np.average(values, weights=weights)
    spread = np.sqrt(np.average((values - center) ** 2, weights=weights))
    if not np.isfinite(spread) or spread <= 1e-12 * max(1.0, abs(center)):
        raise errors.UserError(
            f"gain and bias need scores that vary: {values.size} reference scores "
            f"around {center:.6g} have standard deviation {spread:.3g}; "
            "check the scorer, or set gain and bias by hand"
        )
    gain = float(std / spread)
    return GainAndBias(gain, float(mean - gain * center))


def gain_and_bias(gain: float, bias: float) -> types.RewardTransformation:
    """Scores become `gain * score + bias`, fixed numbers measured under the reference
    (`measure_gain_and_bias`)."""

    def update(rewards: types.Rewards, trajectory: types.Trajectory):
        return _edit(rewards, "scores", lambda x: gain * x + bias), {}

    return chaining.stateless(update)


def whiten(
    shift_mean: bool = False, eps: float = 1e-8, after_last: bool = False
) -> types.RewardTransformation:
    """Whitens token rewards over the real tokens of the global batch.

    Rewards keep their mean by default (`shift_mean=False`), as in Ziegler et al. 2019
    (detail 18 of Huang et al. 2023). Stands after the placement.

    Args:
      shift_mean: True also moves the mean to 0.
      eps: added to the population variance.
      after_last: also counts the column after the last real token, where
        `score_after_last_token` puts the score.

    Logs `rewards/whiten_mean` and `rewards/whiten_std`, the moments before.
    """

    def update(rewards: types.Rewards, trajectory: types.Trajectory):
        mask, tokens = trajectory.mask, rewards.tokens.astype(jnp.float32)
        mask = masking.extend_by_one(mask) if after_last else mask
        weight = trajectory.weight
        mean = masking.masked_mean(tokens, mask, weight)
        variance = masking.masked_mean((tokens - mean) ** 2, mask, weight)
        logged = {
            "rewards/whiten_mean": metrics.scalar(mean),
            "rewards/whiten_std": metrics.scalar(jnp.sqrt(variance)),
        }
        white = masking.masked_whiten(tokens, mask, shift_mean, eps, weight)
        return rewards._replace(tokens=white), logged

    return chaining.stateless(update)
