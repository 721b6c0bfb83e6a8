"""One program that takes the step of several runs at once (`vmap` over seeds).

For accelerators, where a small model leaves most of the device idle. Weights, keys
and data are stacked inside of the program; each run keeps a state of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax import rng
from rlhf_jax.algorithms import collecting, forward
from rlhf_jax.algorithms.parts import Frozen, Parts, PPOBatch
from rlhf_jax.errors import UserError
from rlhf_jax.types import Array, Metrics, TrainState

Step = tuple[Any, Any, Any]
"""`(TrainState, Frozen, PPOBatch)` of one run."""


def check(parts: Parts) -> None:
    """Whether the learner's step is one pure function.

    Raises:
      UserError: a part that needs the host between sampling and learning.
    """
    if parts.selection is not None or parts.term_gradients:
        what = "dynamic sampling" if parts.selection is not None else "term_gradients"
        raise UserError(
            f"packed runs take their step as one program, and {what} needs the host in"
            " the middle of it; switch it off, or run without --pack"
        )


def step(parts: Parts, learn: Callable[..., Any]) -> Callable[..., Any]:
    """`(state, frozen, batch) -> (state, metrics)`, pure: sample, score, learn.

    A run whose parameters are no longer finite keeps the ones that it had (its metrics
    show what happened), so that it disturbs no other run.

    Args:
      parts: of the learner; its scorer must be arrays all the way.
      learn: `PPO.programs.learn`, everything after the scores.
    """
    check(parts)
    temperature = jnp.asarray(parts.temperature, jnp.float32)

    def take(state: TrainState, frozen: Frozen, batch: PPOBatch):
        variables = forward.merged(frozen.policy_base, state.params["policy"])
        key = rng.named(state.key, state.step, "rollout")
        rollout = parts.sampler(variables, batch.prompts, key)
        scores = parts.scorer.apply(frozen.scorer, variables, rollout).sequence
        baseline = None
        if parts.baseline_sampler is not None:
            greedy = parts.baseline_sampler(variables, batch.prompts, key)
            found = parts.scorer.apply(frozen.scorer, variables, greedy).sequence
            baseline = jnp.repeat(found, rollout.mask.shape[0] // found.shape[0])
        version = jnp.full(scores.shape, state.step, jnp.int32)
        scored = collecting.Scored(rollout, scores, baseline, version)
        if parts.staleness is not None:
            buffer, scored = collecting.exchange(
                state.extra["buffer"], scored, state.step
            )
            state = state._replace(extra={**state.extra, "buffer": buffer})
        fixed = frozen._replace(scorer=())
        rest = batch.pretraining, scored, temperature
        moved, measured = learn(state, fixed, *rest)
        kept = jax.tree.map(
            lambda new, old: jnp.where(_finite(moved), new, old), moved, state
        )
        return kept, measured

    return take


def _finite(state: TrainState) -> Array:
    leaves = jax.tree.leaves(state.params)
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def packed(
    take: Callable[..., tuple[TrainState, Metrics]],
) -> Callable[[tuple[Step, ...]], tuple[tuple[TrainState, Metrics], ...]]:
    """Steps of several runs as one program.

    Args:
      take: a pure step, see `step`.

    Returns:
      `(steps of the runs) -> (state, metrics) of each`; states are not donated.
    """

    @jax.jit
    def together(steps: tuple[Step, ...]) -> tuple[Any, ...]:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *steps)
        found = jax.vmap(lambda one: take(*one))(stacked)
        return tuple(
            jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(len(steps))
        )

    return together
