"""KL penalties in the rewards: fixed, scheduled, or by a controller.

The reward of token t becomes `r_t - coef * kl_t`, where `kl_t` estimates KL(policy ||
reference) from the log-probs of the policy before the update (`old_logprobs`). The
minus is what keeps the policy near the reference (checks B3, C33). A KL *loss* is
another thing and lives in `losses`; use one of the two (invariant 6).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from rlhf_jax import metrics, types
from rlhf_jax.ops import controllers, kl, masking


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


def _controlled(
    controller: controllers.Controller, estimator: str | kl.Estimator
) -> types.RewardTransformation:
    """This batch is penalized with the coefficient that the batches before it left.

    Episodes of weight 0 (filling) do not count. The state is the controller's.
    """
    function = kl.named(estimator)

    def update(rewards: types.Rewards, state: Any, trajectory: types.Trajectory):
        coef = controller.coef(state)
        shaped, mean_kl, logged = _penalize(rewards, trajectory, coef, function)
        episodes = jnp.sum((trajectory.weight > 0).astype(jnp.float32))
        return shaped, controller.update(state, mean_kl, episodes), logged

    return types.RewardTransformation(controller.init, update)


def kl_penalty(
    coef: controllers.Coefficient, estimator: str | kl.Estimator = kl.k1
) -> types.RewardTransformation:
    """Subtracts `coef * estimator(old_logprobs, ref_logprobs)` from every real token.

    Args:
      coef: a number, or a schedule of the update count.
      estimator: `k1` (Ziegler et al. 2019 and since) or another of `ops.kl`, by name
        or as a function.

    Logs `objective/kl` (sum over the sequence by `estimator`, mean over sequences),
    the same by k1, k2 and k3, `objective/kl_coef`, and `objective/rlhf_reward` (score
    as it reaches this link, minus the penalty). State: coefficient and update count.
    """
    return _controlled(controllers.fixed(coef), estimator)


def adaptive_kl_penalty(
    init_coef: float,
    target: float,
    horizon: float,
    estimator: str | kl.Estimator = kl.k1,
) -> types.RewardTransformation:
    """The penalty under Ziegler's proportional controller, `controllers.proportional`.

    Logs what `kl_penalty` logs. State: `controllers.Followed`, part of checkpoints.
    """
    return _controlled(controllers.proportional(init_coef, target, horizon), estimator)


def lagrangian_kl_penalty(
    init_coef: float, target: float, rate: float, estimator: str | kl.Estimator = kl.k1
) -> types.RewardTransformation:
    """The penalty as the multiplier of `KL <= target`, `controllers.lagrangian`.

    Logs what `kl_penalty` logs. State: `controllers.Followed`, part of checkpoints.
    """
    return _controlled(controllers.lagrangian(init_coef, target, rate), estimator)
