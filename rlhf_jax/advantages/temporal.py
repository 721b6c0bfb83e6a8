"""Estimators that give every token an advantage of its own, from returns and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from rlhf_jax import errors, types
from rlhf_jax.advantages.lifting import stateless
from rlhf_jax.ops import masking, returns

Number = float | types.Array
"""A float, or float[] where it is an argument of the step."""


def gae(
    discount: Number,
    lam: Number,
    *,
    value_lam: Number | None = None,
    bootstrap_truncated: bool = True,
    after_last: bool = False,
) -> types.AdvantageEstimator:
    """Generalized advantage estimation (Schulman et al. 2015), see `ops.returns.gae`.

    Args:
      discount: per token; 1 in RLHF (detail 15 of Huang et al. 2023).
      lam: 0.95 in Ziegler et al. 2019 and since.
      value_lam: of the returns that the critic learns, where it differs from the
        advantages' (decoupled GAE of VC-PPO and VAPO, 2504.05118: 1).
      bootstrap_truncated: True counts the value after the last token of a truncated
        row as what would have followed; False ends every row with 0, as the N+ code.
      after_last: the rewards carry the score one column after the last real token
        (`rewards.score_after_last_token`, the reward index of the N+ code): one more
        step is taken, to a state whose value is `values[:, length]`. Its return stands
        in that column, its advantage does not.

    The trajectory must have values.
    """

    def lams(trajectory: types.Trajectory) -> Number:
        return lam

    return _gae(discount, lams, value_lam, bootstrap_truncated, after_last)


def length_adaptive_gae(
    discount: Number,
    alpha: float = 0.05,
    *,
    value_lam: Number | None = 1.0,
    bootstrap_truncated: bool = True,
    after_last: bool = False,
) -> types.AdvantageEstimator:
    """GAE with `lam = max(0, 1 - 1 / (alpha * length))` of each response.

    VAPO (2504.05118, section 4.2): long responses need a longer memory, or the reward
    at their end decays before it reaches the start.

    Args:
      discount: per token.
      alpha: 0.05 in the paper.
      value_lam: of the returns, 1 in the paper; None takes the advantages'.
      bootstrap_truncated: as in `gae`.
      after_last: as in `gae`.
    """
    if not alpha > 0:
        raise errors.UserError(f"length_adaptive_gae: alpha {alpha} must be above 0")

    def lams(trajectory: types.Trajectory) -> types.Array:
        length = jnp.sum(trajectory.mask.astype(jnp.float32), axis=1)
        return jnp.maximum(1.0 - 1.0 / (alpha * jnp.maximum(length, 1.0)), 0.0)

    return _gae(discount, lams, value_lam, bootstrap_truncated, after_last)


def _gae(
    discount: Number,
    lams: Callable[[types.Trajectory], Any],
    value_lam: Number | None,
    bootstrap_truncated: bool,
    after_last: bool,
) -> types.AdvantageEstimator:
    """GAE with a number of its own for each row, and for the returns."""

    def estimate(rewards: types.Rewards, trajectory: types.Trajectory):
        values = trajectory.values
        if values is None:
            raise errors.UserError(
                "gae needs the values of a critic and the trajectory has none; "
                "without a critic use monte_carlo, leave_one_out or group_relative"
            )
        mask, terminal = trajectory.mask, trajectory.terminal & trajectory.mask
        truncated = trajectory.truncated & bootstrap_truncated
        if after_last:
            mask = masking.extend_by_one(mask)
            columns = jnp.arange(mask.shape[1])[None, :]
            last = columns == masking.last_real_index(mask)[:, None]
            terminal = last & jnp.any(terminal, axis=1, keepdims=True)
        fixed = rewards.tokens, values, mask, terminal, truncated, discount
        found, targets = returns.gae(*fixed, lams(trajectory))
        if value_lam is not None:
            targets = returns.gae(*fixed, value_lam)[1]
        return types.Advantages(jnp.where(trajectory.mask, found, 0.0), targets)

    return stateless(estimate)


def monte_carlo(
    discount: Number, *, bootstrap_truncated: bool = True
) -> types.AdvantageEstimator:
    """Discounted returns, minus the values where the trajectory has any.

    With values this is `gae` at lam = 1 (check C14); without, the advantages are the
    returns (REINFORCE) and a truncated row ends with 0.
    """

    def estimate(rewards: types.Rewards, trajectory: types.Trajectory):
        mask, values = trajectory.mask, trajectory.values
        bootstrap, baseline = None, 0.0
        if values is not None:
            length = masking.last_real_index(mask) + 1
            after = jnp.take_along_axis(values, length[:, None], axis=1)[:, 0]
            cut = trajectory.truncated & ~jnp.any(trajectory.terminal & mask, axis=1)
            bootstrap = jnp.where(cut & bootstrap_truncated, after, 0.0)
            baseline = values[:, :-1]
        found = returns.discounted_returns(rewards.tokens, mask, discount, bootstrap)
        return types.Advantages(jnp.where(mask, found - baseline, 0.0), found)

    return stateless(estimate)
