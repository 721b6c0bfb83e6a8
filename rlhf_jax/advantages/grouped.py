"""Estimators that compare a response with others: of its prompt, or of the batch.

One advantage per response, the same on each of its tokens; the reward of a response is
the sum of its token rewards.
"""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax import errors, types
from rlhf_jax.advantages.lifting import stateless
from rlhf_jax.ops import masking


def _totals(
    rewards: types.Rewards, trajectory: types.Trajectory, after: bool
) -> types.Array:
    """Reward of each response, float32[B]."""
    mask = masking.extend_by_one(trajectory.mask) if after else trajectory.mask
    return jnp.sum(jnp.where(mask, rewards.tokens.astype(jnp.float32), 0.0), axis=1)


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
    total = _totals(rewards, trajectory, after)
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


def batch_mean(*, after_last: bool = False) -> types.AdvantageEstimator:
    """REINFORCE with the batch's mean reward as baseline.

    `r_i - mean_j r_j` over all B responses, weighted, itself included: the expected
    gradient is `1 - 1/B` times the true one (check C17).

    Args:
      after_last: as in `gae`.
    """

    def estimate(rewards: types.Rewards, trajectory: types.Trajectory):
        size = trajectory.mask.shape[0]
        total, weight = _grouped(rewards, trajectory, size, after_last)
        centered, _ = _center(total, weight)
        return _spread(centered, total, trajectory.mask)

    return stateless(estimate)


def greedy_baseline(*, after_last: bool = False) -> types.AdvantageEstimator:
    """ReMax (Li et al. 2023, 2310.10505): `r(y) - r(greedy y)` of the same prompt.

    The baseline is the score of the likeliest response before any shaping
    (`Trajectory.baseline`, see `algorithms.ppo(baseline_sampler=...)`); it depends on
    the prompt alone, so the gradient stays unbiased.

    Args:
      after_last: as in `gae`.
    """

    def estimate(rewards: types.Rewards, trajectory: types.Trajectory):
        if trajectory.baseline is None:
            raise errors.UserError(
                "greedy_baseline needs the scores of greedy responses and the"
                " trajectory has none; give algorithms.ppo a baseline_sampler"
            )
        total = _totals(rewards, trajectory, after_last)
        return _spread(total - trajectory.baseline, total, trajectory.mask)

    return stateless(estimate)


def best_of_group(
    group_size: int, *, after_last: bool = False
) -> types.AdvantageEstimator:
    """1 for the best response of a prompt, 0 for the others (the first of equals).

    With `losses.policy_gradient` this is fine-tuning on best-of-n samples: RAFT (Dong
    et al. 2023, 2304.06767), the rejection sampling of Llama 2. Its limit is the
    best-of-n distribution itself (check C35).

    Args:
      group_size: G responses of one prompt, neighbours in the batch.
      after_last: as in `gae`.
    """

    def estimate(rewards: types.Rewards, trajectory: types.Trajectory):
        total, weight = _grouped(rewards, trajectory, group_size, after_last)
        real = jnp.where(weight > 0, total, -jnp.inf)
        best = jnp.arange(group_size)[None] == jnp.argmax(real, axis=1)[:, None]
        return _spread(
            (best & (weight > 0)).astype(jnp.float32), total, trajectory.mask
        )

    return stateless(estimate)


def above_threshold(
    threshold: float, *, after_last: bool = False
) -> types.AdvantageEstimator:
    """1 where the reward of a response exceeds `threshold`, else 0.

    With `losses.policy_gradient` this is the improve step of ReST (Gulcehre et al.
    2023, 2308.08998) and expert iteration: imitation of what was good enough.

    Args:
      threshold: in units of the shaped reward, summed over the response.
      after_last: as in `gae`.
    """

    def estimate(rewards: types.Rewards, trajectory: types.Trajectory):
        total = _totals(rewards, trajectory, after_last)
        kept = (total > threshold).astype(jnp.float32)
        return _spread(kept, total, trajectory.mask)

    return stateless(estimate)
