"""From one score per sequence to a reward at one token."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax import types
from rlhf_jax.ops import masking
from rlhf_jax.rewards import chaining


def _place(
    rewards: types.Rewards, mask: types.Array, column: types.Array
) -> types.Rewards:
    """Adds each score at its column [B]; a column of -1 is nowhere."""
    here = jnp.arange(mask.shape[1])[None, :] == column[:, None]
    tokens = jnp.where(mask, rewards.tokens.astype(jnp.float32), 0.0)
    scores = rewards.scores.astype(jnp.float32)[:, None]
    return rewards._replace(tokens=tokens + jnp.where(here, scores, 0.0))


def score_at_last_token() -> types.RewardTransformation:
    """Adds the score to the reward of the last real token (the stop token if any).

    Token rewards on padding become 0. A row without a real token gets nothing.
    """

    def update(rewards: types.Rewards, trajectory: types.Trajectory):
        column = masking.last_real_index(trajectory.mask)
        return _place(rewards, trajectory.mask, column), {}

    return chaining.stateless(update)


def score_after_last_token() -> types.RewardTransformation:
    """Adds the score one column *after* the last real token, where there is one.

    The reward index of the N+ code (Huang et al. 2024, 2403.17031: `rewards[[i,
    sequence_length + 1]] += score`), for reproducing it (check B2): with lam < 1 the
    stop token then sees only `lam` of the score's surprise. The reward stands on
    padding, so it needs `advantages.gae(..., after_last=True)` and, if used,
    `whiten(..., after_last=True)`, which count that column in.
    """

    def update(rewards: types.Rewards, trajectory: types.Trajectory):
        mask = trajectory.mask
        last = masking.last_real_index(mask)
        after = jnp.where(last < 0, -1, jnp.minimum(last + 1, mask.shape[1] - 1))
        return _place(rewards, mask, after), {}

    return chaining.stateless(update)
