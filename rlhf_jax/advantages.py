"""Advantage estimators: token rewards and values to advantages and returns.

An estimator is `init() -> state` and `update(Rewards, state, Trajectory) ->
(Advantages, state)`; those without state are lifted by `stateless`. No gradient leaves
an estimator (check B16). Statistics and groups need the global batch: estimate first,
shuffle into minibatches later (check B18).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax import errors, types
from rlhf_jax.ops import masking, returns

__all__ = [
    "gae",
    "group_relative",
    "leave_one_out",
    "monte_carlo",
    "stateless",
    "whitened",
]


def stateless(
    estimate: Callable[[types.Rewards, types.Trajectory], types.Advantages],
) -> types.AdvantageEstimator:
    """An estimator from a function without state."""

    def update(rewards: types.Rewards, state: Any, trajectory: types.Trajectory):
        advantages = jax.lax.stop_gradient(estimate(rewards, trajectory))
        return advantages, state

    return types.AdvantageEstimator(lambda: (), update)


def gae(
    discount: float,
    lam: float,
    *,
    bootstrap_truncated: bool = True,
    after_last: bool = False,
) -> types.AdvantageEstimator:
    """Generalized advantage estimation (Schulman et al. 2015), see `ops.returns.gae`.

    Args:
      discount: per token; 1 in RLHF (detail 15 of Huang et al. 2023).
      lam: 0.95 in Ziegler et al. 2019 and since.
      bootstrap_truncated: True counts the value after the last token of a truncated
        row as what would have followed; False ends every row with 0, as the N+ code.
      after_last: the rewards carry the score one column after the last real token
        (`rewards.score_after_last_token`, the reward index of the N+ code): one more
        step is taken, to a state whose value is `values[:, length]`. Its return stands
        in that column, its advantage does not.

    The trajectory must have values.
    """

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
        found, targets = returns.gae(
            rewards.tokens, values, mask, terminal, truncated, discount, lam
        )
        return types.Advantages(jnp.where(trajectory.mask, found, 0.0), targets)

    return stateless(estimate)


def monte_carlo(
    discount: float, *, bootstrap_truncated: bool = True
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


def whitened(
    estimator: types.AdvantageEstimator, shift_mean: bool = True, eps: float = 1e-8
) -> types.AdvantageEstimator:
    """Whitens the advantages of `estimator` over real tokens, weighted by example.

    Population variance over the global batch; the returns stay as they are (detail 18
    of Huang et al. 2023).
    """

    def update(rewards: types.Rewards, state: Any, trajectory: types.Trajectory):
        found, state = estimator.update(rewards, state, trajectory)
        white = masking.masked_whiten(
            found.advantages, trajectory.mask, shift_mean, eps, trajectory.weight
        )
        return found._replace(advantages=white), state

    return types.AdvantageEstimator(estimator.init, update)


def _grouped(
    rewards: types.Rewards, trajectory: types.Trajectory, group_size: int, after: bool
) -> tuple[types.Array, types.Array]:
    """(sequence rewards, weights), each float32[groups G]."""
    batch = trajectory.mask.shape[0]
    if group_size < 2 or batch % group_size:
        raise errors.UserError(
            f"group_size {group_size} must be at least 2 and divide the batch of "
            f"{batch} sequences (rows of one prompt are neighbours)"
        )
    mask = masking.extend_by_one(trajectory.mask) if after else trajectory.mask
    total = jnp.sum(jnp.where(mask, rewards.tokens.astype(jnp.float32), 0.0), axis=1)
    weight = trajectory.weight.astype(jnp.float32)
    total = jnp.where(weight > 0, total, 0.0)
    return total.reshape(-1, group_size), weight.reshape(-1, group_size)


def _center(total: types.Array, weight: types.Array) -> tuple[types.Array, types.Array]:
    """Rewards minus their group's weighted mean, and bool[groups 1] where they vary.

    A group of equal rewards centers to exactly 0 and not to round-off (check B19).
    """
    real = weight > 0
    largest = jnp.max(jnp.where(real, total, -jnp.inf), axis=1, keepdims=True)
    smallest = jnp.min(jnp.where(real, total, jnp.inf), axis=1, keepdims=True)
    varies = largest > smallest
    count = jnp.sum(weight, axis=1, keepdims=True)
    count = jnp.where(count > 0, count, 1.0)
    shifted = jnp.where(real & varies, total - smallest, 0.0)
    mean = jnp.sum(shifted * weight, axis=1, keepdims=True) / count
    return jnp.where(real & varies, shifted - mean, 0.0), varies


def _spread(sequence: types.Array, total: types.Array, mask: types.Array):
    """One advantage and one return per sequence, on each of its real tokens."""
    return types.Advantages(
        jnp.where(mask, sequence.reshape(-1)[:, None], 0.0),
        jnp.where(mask, total.reshape(-1)[:, None], 0.0),
    )


def leave_one_out(
    group_size: int, *, after_last: bool = False
) -> types.AdvantageEstimator:
    """RLOO (Ahmadian et al. 2024, 2402.14740): reward minus the mean of the others.

    The reward of a response is the sum of its token rewards (one action per response);
    `r_i - mean_{j != i} r_j = G / (G - 1) * (r_i - mean r)` at equal weights.

    Args:
      group_size: G responses of one prompt, neighbours in the batch.
      after_last: as in `gae`.
    """

    def estimate(rewards: types.Rewards, trajectory: types.Trajectory):
        total, weight = _grouped(rewards, trajectory, group_size, after_last)
        centered, _ = _center(total, weight)
        count = jnp.sum(weight, axis=1, keepdims=True)
        others = count - weight
        factor = jnp.where(others > 0, count / jnp.where(others > 0, others, 1.0), 0.0)
        return _spread(centered * factor, total, trajectory.mask)

    return stateless(estimate)


def group_relative(
    group_size: int,
    *,
    scale_by_std: bool = True,
    min_std: float = 1e-4,
    after_last: bool = False,
) -> types.AdvantageEstimator:
    """GRPO (Shao et al. 2024, 2402.03300): centered in the group, over its deviation.

    Args:
      group_size: G responses of one prompt, neighbours in the batch.
      scale_by_std: False leaves the division out (Dr. GRPO, 2503.20783).
      min_std: floor of the population standard deviation, so that the noise of a group
        of nearly equal rewards is not blown up (check B19); equal rewards give 0.
      after_last: as in `gae`.
    """

    def estimate(rewards: types.Rewards, trajectory: types.Trajectory):
        total, weight = _grouped(rewards, trajectory, group_size, after_last)
        centered, _ = _center(total, weight)
        count = jnp.sum(weight, axis=1, keepdims=True)
        squares = jnp.sum(weight * centered**2, axis=1, keepdims=True)
        std = jnp.sqrt(squares / jnp.where(count > 0, count, 1.0))
        if scale_by_std:
            centered = centered / jnp.maximum(std, min_std)
        return _spread(centered, total, trajectory.mask)

    return stateless(estimate)
