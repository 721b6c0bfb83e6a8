"""Advantage estimators: token rewards and values to advantages and returns.

An estimator is `init() -> state` and `update(Rewards, state, Trajectory) ->
(Advantages, state)`; those without state are lifted by `stateless`. No gradient leaves
an estimator (check B16). Statistics and groups need the global batch: estimate first,
shuffle into minibatches later (check B18).
"""

from rlhf_jax.advantages.grouped import (
    above_threshold,
    batch_mean,
    best_of_group,
    greedy_baseline,
    group_relative,
    leave_one_out,
)
from rlhf_jax.advantages.lifting import stateless, whitened
from rlhf_jax.advantages.temporal import gae, length_adaptive_gae, monte_carlo

__all__ = [
    "above_threshold",
    "batch_mean",
    "best_of_group",
    "gae",
    "greedy_baseline",
    "group_relative",
    "leave_one_out",
    "length_adaptive_gae",
    "monte_carlo",
    "stateless",
    "whitened",
]
