"""KL penalties in the rewards: fixed, scheduled, and Ziegler's controller.

The reward of token t becomes `r_t - coef * kl_t`, where `kl_t` estimates KL(policy ||
reference) from the log-probs of the policy before the update (`old_logprobs`). The
minus is what keeps the policy near the reference (checks B3, C33). A KL *loss* is
another thing and lives in `losses`; use one of the two (invariant 6).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from rlhf_jax import errors, metrics, types
from rlhf_jax.ops import kl, masking

Coefficient = float | Callable[[types.Array], Any]
"""A number, or a schedule from the number of updates so far (int32) to one."""

_MOST_ERROR = 0.2


def _penalize(
    rewards: types.Rewards,
    trajectory: types.Trajectory,
    coef: types.Array,
    estimator: kl.Estimator,
) -> tuple[types.Rewards, types.Array, dict[str, Any]]:
    """Subtracts `coef * kl` on real tokens; returns also the batch mean of the
    sequence sums, and the metrics."""
    mask = trajectory.mask
    # Padding is made equal first, so that garbage there stays finite and unseen.
    policy = jnp.where(mask, trajectory.old_logprobs, 0.0)
    reference = jnp.where(mask, trajectory.ref_logprobs, 0.0)

    def per_sequence(one: kl.Estimator) -> types.Array:
        return jnp.sum(jnp.where(mask, one(policy, reference), 0.0), axis=1)

    penalty = -coef * jnp.where(mask, estimator(policy, reference), 0.0)
    sequence_kl, real = per_sequence(estimator), jnp.ones(mask.shape[:1], bool)
    mean_kl = masking.masked_mean(sequence_kl, real, trajectory.weight)
    rlhf_reward = rewards.scores + jnp.sum(penalty, axis=1)
    weight = trajectory.weight
    logged = {
        "objective/kl": metrics.mean(sequence_kl, weight=weight),
        "objective/kl_k1": metrics.mean(per_sequence(kl.k1), weight=weight),
        "objective/kl_k2": metrics.mean(per_sequence(kl.k2), weight=weight),
        "objective/kl_k3": metrics.mean(per_sequence(kl.k3), weight=weight),
        "objective/kl_coef": metrics.scalar(coef),
        "objective/rlhf_reward": metrics.mean(rlhf_reward, weight=weight),
    }
    return rewards._replace(tokens=rewards.tokens + penalty), mean_kl, logged


def kl_penalty(
    coef: Coefficient, estimator: kl.Estimator = kl.k1
) -> types.RewardTransformation:
    """Subtracts `coef * estimator(old_logprobs, ref_logprobs)` from every real token.

    Args:
      coef: a number, or a schedule of the update count.
      estimator: `kl.k1` (Ziegler et al. 2019 and since), `kl.k2` or `kl.k3`.

    Logs `objective/kl` (sum over the sequence by `estimator`, mean over sequences),
    the same by k1, k2 and k3, `objective/kl_coef`, and `objective/rlhf_reward` (score
    as it reaches this link, minus the penalty). State: the update count, int32.
    """

    def init() -> Any:
        return jnp.zeros((), jnp.int32)

    def update(rewards: types.Rewards, state: Any, trajectory: types.Trajectory):
        value = coef(state) if callable(coef) else coef
        value = jnp.asarray(value, jnp.float32)
        shaped, _, logged = _penalize(rewards, trajectory, value, estimator)
        return shaped, state + 1, logged

    return types.RewardTransformation(init, update)


def adaptive_kl_penalty(
    init_coef: float,
    target: float,
    horizon: float,
    estimator: kl.Estimator = kl.k1,
) -> types.RewardTransformation:
    """The proportional controller of Ziegler et al. 2019 (1909.08593, section 2.2).

    After each batch of n episodes, `coef *= 1 + clip(KL / target - 1, -0.2, 0.2) * n /
    horizon`; this batch is still penalized with the old coefficient. Episodes of weight
    0 (filling) do not count.

    Args:
      init_coef: the first coefficient (0.15 in the paper).
      target: nats per sequence (6 in the paper), above 0.
      horizon: episodes over which an error of 1 would change the coefficient e-fold
        if it were not clipped (10,000 in the paper), above 0.
      estimator: of the KL that is penalized and controlled.

    Logs what `kl_penalty` logs. State: the coefficient, float32, part of checkpoints.
    """
    if target <= 0 or horizon <= 0:
        raise errors.UserError(
            f"adaptive KL penalty: target {target} and horizon {horizon} must be above "
            "0; for a fixed coefficient use kl_penalty"
        )

    def init() -> Any:
        return jnp.asarray(init_coef, jnp.float32)

    def update(rewards: types.Rewards, state: Any, trajectory: types.Trajectory):
        shaped, mean_kl, logged = _penalize(rewards, trajectory, state, estimator)
        episodes = jnp.sum((trajectory.weight > 0).astype(jnp.float32))
        error = jnp.clip(mean_kl / target - 1.0, -_MOST_ERROR, _MOST_ERROR)
        # A NaN would stay in the coefficient, and in every checkpoint, for good.
        error = jnp.where(jnp.isfinite(mean_kl), error, 0.0)
        return shaped, state * (1.0 + error * episodes / horizon), logged

    return types.RewardTransformation(init, update)
