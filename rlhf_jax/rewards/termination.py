"""Penalties on how a response ends: without a stop token, or too late."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax import metrics, types
from rlhf_jax.rewards import chaining


def _unfinished(trajectory: types.Trajectory) -> types.Array:
    """bool[B], True where no real token is terminal."""
    return ~jnp.any(trajectory.terminal & trajectory.mask, axis=1)


def _missing_eos(missing_score) -> types.RewardTransformation:
    def update(rewards: types.Rewards, trajectory: types.Trajectory):
        missing = _unfinished(trajectory)
        scores = rewards.scores.astype(jnp.float32)
        scores = jnp.where(missing, missing_score(scores), scores)
        fraction = metrics.mean(missing.astype(jnp.float32), weight=trajectory.weight)
        logged = {"rewards/missing_eos_fraction": fraction}
        return rewards._replace(scores=scores), logged

    return chaining.stateless(update)


def missing_eos_penalty(penalty: float | types.Array) -> types.RewardTransformation:
    """Subtracts `penalty` from the score of a response without a stop token.

    The "EOS trick" as TRL's `missing_eos_penalty` has it. Stands before the placement.
    """
    return _missing_eos(lambda scores: scores - penalty)


def missing_eos_replacement(score: float) -> types.RewardTransformation:
    """Replaces the score of a response without a stop token by `score`.

    -1 in Ziegler et al. 2019 and in the N+ code. Stands before the placement.
    """
    return _missing_eos(lambda scores: jnp.full_like(scores, score))


def length_penalty(
    coef: float | types.Array, start: int = 0, limit: float | None = None
) -> types.RewardTransformation:
    """Subtracts `min(coef * max(0, length - start), limit)` from the score.

    `length_penalty(1 / cache, start=longest - cache, limit=1.0)` is the soft overlong
    punishment of DAPO (2503.14476, eq. 13).

    Args:
      coef: reward per token.
      start: real tokens that are free.
      limit: the largest penalty, or None.
    """

    def update(rewards: types.Rewards, trajectory: types.Trajectory):
        length = jnp.sum(trajectory.mask.astype(jnp.float32), axis=1)
        penalty = coef * jnp.maximum(length - start, 0.0)
        if limit is not None:
            penalty = jnp.minimum(penalty, limit)
        logged = {
            "rewards/length_penalty": metrics.mean(penalty, weight=trajectory.weight)
        }
        scores = rewards.scores.astype(jnp.float32) - penalty
        return rewards._replace(scores=scores), logged

    return chaining.stateless(update)
