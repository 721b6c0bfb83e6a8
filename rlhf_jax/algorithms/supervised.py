"""Learners whose batch holds everything: fine-tuning and reward models.

Both are one function: outputs of a network on a batch, a combined loss, an optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlhf_jax import losses, metrics
from rlhf_jax.algorithms import forward
from rlhf_jax.algorithms.updates import apply_gradients
from rlhf_jax.losses import microbatch
from rlhf_jax.placement import pinned
from rlhf_jax.types import (
    Array,
    Learner,
    Metrics,
    Network,
    Params,
    RankingBatch,
    SequenceBatch,
    TrainState,
)

Initial = Callable[[Array], Params]
Outputs = Callable[[Params, Any], Any]


def supervised(
    group: str,
    *,
    outputs: Outputs,
    initial: Initial,
    loss: losses.Loss,
    optimizer: optax.GradientTransformation,
    microbatches: int = 1,
    measures: Callable[[Any, Any], Metrics] | None = None,
) -> Learner:
    """A learner for losses of (outputs, batch).

    Args:
      group: name of the parameter group, e.g. `policy` or `reward`.
      outputs: `(variables, batch) -> outputs` that the loss terms read.
      initial: `key -> trainable variables`.
      loss: the combined loss terms.
      optimizer: updates the trainable variables.
      microbatches: the batch is cut into so many parts whose gradients are summed;
        the result does not depend on the number.
      measures: `(outputs, batch) -> metrics` beside those of the terms.

    Returns:
      A learner whose `frozen` argument is the dict of variables that do not train
      (`{}` in full fine-tuning, the base model with LoRA).
    """

    def init(key: Array) -> TrainState:
        params = {group: forward.copied(initial(key))}
        opt_state = {group: optimizer.init(params[group])}
        extra = {"loss": loss.init()}
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, key, extra)

    def update(
        state: TrainState, frozen: Params, batch: Any
    ) -> tuple[TrainState, Metrics]:
        prepared, carried = loss.prepare(batch, state.extra["loss"])

        def objective(params: Params, part: Any, shared: Any) -> tuple[Array, Metrics]:
            result = outputs(forward.merged(frozen, params), part)
            value, measured = loss.apply(result, part, shared, state.step)
            return value, {**measured, **(measures(result, part) if measures else {})}

        (_, measured), gradients = microbatch.accumulated_gradients(
            objective, state.params[group], batch, prepared, microbatches
        )
        params, opt_state, norms = apply_gradients(
            optimizer, gradients, state.opt_state[group], state.params[group]
        )
        state = state._replace(
            step=state.step + 1,
            params={group: params},
            opt_state={group: opt_state},
            extra={"loss": carried},
        )
        return pinned(state), {**measured, **norms}

    return Learner(init, jax.jit(update, donate_argnums=0))


def fine_tuning(
    network: Network,
    *,
    initial: Initial,
    loss: losses.Loss,
    optimizer: optax.GradientTransformation,
    microbatches: int = 1,
) -> Learner:
    """Supervised fine-tuning on demonstrations (group `policy`).

    The usual loss is token-mean cross-entropy on the response tokens,
    `-sum_t m_t log pi(y_t | x, y_<t) / sum_t m_t`.
    """

    def outputs(variables: Params, batch: SequenceBatch) -> Any:
        return forward.language_outputs(network, variables, batch)

    return supervised(
        "policy",
        outputs=outputs,
        initial=initial,
        loss=loss,
        optimizer=optimizer,
        microbatches=microbatches,
    )


def reward_model(
    network: Network,
    *,
    initial: Initial,
    loss: losses.Loss,
    optimizer: optax.GradientTransformation,
    microbatches: int = 1,
) -> Learner:
    """A reward model from rankings of K responses (group `reward`)."""

    def outputs(variables: Params, batch: RankingBatch) -> Array:
        return forward.ranking_scores(network, variables, batch)

    return supervised(
        "reward",
        outputs=outputs,
        initial=initial,
        loss=loss,
        optimizer=optimizer,
        microbatches=microbatches,
        measures=pair_accuracy,
    )


def pair_accuracy(scores: Array, batch: RankingBatch) -> Metrics:
    """Share of strictly ordered pairs that the scores order the same way.

    Equal scores count one half, as a coin would.
    """
    ranks = batch.ranks
    ranked = (ranks > 0) & jnp.any(batch.inputs.mask, axis=-1)
    better = (ranks[:, :, None] < ranks[:, None, :]) & (
        ranked[:, :, None] & ranked[:, None, :]
    )
    difference = scores[:, :, None] - scores[:, None, :]
    right = jnp.where(difference == 0, 0.5, (difference > 0).astype(jnp.float32))
    weight = jnp.broadcast_to(batch.weight[:, None, None], right.shape)
    return {
        "reward_model/accuracy": metrics.mean(right, better, weight),
        "reward_model/margin": metrics.mean(difference, better, weight),
    }
