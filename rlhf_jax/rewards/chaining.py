"""Composing links, and what a chain starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax import metrics, types


def initial(
    trajectory: types.Trajectory,
    token_scores: Float[Array, "B T"] | None = None,
) -> types.Rewards:
    """What a chain starts from: the trajectory's scores, and no token rewards.

    Args:
      trajectory: of B sequences and T tokens; `scores` of any number type.
      token_scores: [B T] of a scorer that judges tokens, or None for zeros; ignored on
        padding.

    Returns:
      float32 `Rewards`: integer scores must not make integer rewards (invariant 1).
    """
    tokens = jnp.zeros(trajectory.mask.shape, jnp.float32)
    if token_scores is not None:
        tokens = jnp.where(trajectory.mask, token_scores.astype(jnp.float32), 0.0)
    return types.Rewards(trajectory.scores.astype(jnp.float32), tokens)


def stateless(
    update: Callable[
        [types.Rewards, types.Trajectory], tuple[types.Rewards, types.Metrics]
    ],
) -> types.RewardTransformation:
    """A link from a function without state."""

    def with_state(rewards: types.Rewards, state: Any, trajectory: types.Trajectory):
        shaped, logged = update(rewards, trajectory)
        return shaped, state, logged

    return types.RewardTransformation(lambda: (), with_state)


def chain(*links: types.RewardTransformation) -> types.RewardTransformation:
    """Apply links in order; the state is a tuple of theirs.

    Adds `objective/scores`, the mean of the scores that come in, with its standard
    deviation. Where two links log one name, the later gets `_2`, `_3` ... .
    """

    def init() -> Any:
        return tuple(link.init() for link in links)

    def update(rewards: types.Rewards, state: Any, trajectory: types.Trajectory):
        incoming, logged, states = rewards.scores, {}, []
        for link, link_state in zip(links, state, strict=True):
            rewards, link_state, new = link.update(rewards, link_state, trajectory)
            states.append(link_state)
            _add(logged, new)
        logged["objective/scores"] = metrics.moments(incoming, weight=trajectory.weight)
        return rewards, tuple(states), logged

    return types.RewardTransformation(init, update)


def _add(logged: dict[str, Any], new: types.Metrics) -> None:
    for name, value in new.items():
        unique, count = name, 1
        while unique in logged:
            count += 1
            unique = f"{name}_{count}"
        logged[unique] = value
