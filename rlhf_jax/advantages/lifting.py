"""Making estimators from functions, and from other estimators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from rlhf_jax import types
from rlhf_jax.ops import masking


def stateless(
    estimate: Callable[[types.Rewards, types.Trajectory], types.Advantages],
) -> types.AdvantageEstimator:
    """An estimator from a function without state."""

    def update(rewards: types.Rewards, state: Any, trajectory: types.Trajectory):
        advantages = jax.lax.stop_gradient(estimate(rewards, trajectory))
        return advantages, state

    return types.AdvantageEstimator(lambda: (), update)


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
