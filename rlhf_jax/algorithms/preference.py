"""Learning a policy from comparisons and labels directly, without rollouts.

One update: score the batch with the reference (or read its cached log-probs) and, where
a term couples the batch, with the parameters before the update; prepare the terms on
the global minibatch; then accumulate gradients over microbatches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from rlhf_jax import losses
from rlhf_jax.algorithms import forward
from rlhf_jax.algorithms.preference_scoring import (
    Needs,
    order_measures,
    response_logprobs,
    scoring,
    shaped,
)
from rlhf_jax.algorithms.updates import apply_gradients
from rlhf_jax.losses import microbatch
from rlhf_jax.losses.preference import PreferenceOutputs
from rlhf_jax.placement import pinned
from rlhf_jax.types import (
    ComparisonBatch,
    Learner,
    Metrics,
    Network,
    Params,
    TrainState,
)


class PreferenceFrozen(NamedTuple):
    """What preference learning reads and never changes.

    Attributes:
      base: variables under the trainable ones; `{}` unless LoRA trains.
      reference: variables of the reference policy; None where no term reads it or the
        batches bring its log-probs along.
    """

    base: Params
    reference: Params | None


def preference(
    network: Network,
    *,
    initial: Callable[[Array], Params],
    loss: losses.Loss,
    optimizer: optax.GradientTransformation,
    needs: Needs,
    reference: Network | None = None,
    microbatches: int = 1,
) -> Learner:
    """A policy from preferences (group `policy`).

    Args:
      network: the policy.
      initial: `key -> trainable variables`.
      loss: combined preference terms, `losses.preference.term(...)`.
      optimizer: updates the trainable variables.
      needs: of the terms, see `needs`.
      reference: network of the reference policy, scored in each update with
        `frozen.reference`; None where no term reads it or batches bring its log-probs.
      microbatches: the batch is cut into so many parts whose gradients are summed;
        the result does not depend on the number.

    Returns:
      A learner on `ComparisonBatch`es whose `frozen` is a `PreferenceFrozen`.
    """
    scored = scoring(network, needs, reference, microbatches)

    def init(key: Array) -> TrainState:
        params = {"policy": forward.copied(initial(key))}
        opt_state = {"policy": optimizer.init(params["policy"])}
        extra = {"loss": loss.init()}
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, key, extra)

    def update(
        state: TrainState, frozen: PreferenceFrozen, batch: ComparisonBatch
    ) -> tuple[TrainState, Metrics]:
        params = state.params["policy"]
        facts = scored(forward.merged(frozen.base, params), frozen.reference, batch)
        prepared, carried = loss.prepare(facts, state.extra["loss"])

        def objective(params: Params, part: Any, shared: Any) -> tuple[Array, Metrics]:
            tokens, about = part
            variables = forward.merged(frozen.base, params)
            values, _ = response_logprobs(
                network, variables, tokens.inputs, tokens.response
            )
            result = PreferenceOutputs(shaped(values, needs))
            value, measured = loss.apply(result, about, shared, state.step)
            return value, {**order_measures(values, tokens, about), **measured}

        (_, measured), gradients = microbatch.accumulated_gradients(
            objective, params, (batch, facts), prepared, microbatches
        )
        params, opt_state, norms = apply_gradients(
            optimizer, gradients, state.opt_state["policy"], params
        )
        state = state._replace(
            step=state.step + 1,
            params={"policy": params},
            opt_state={"policy": opt_state},
            extra={"loss": carried},
        )
        return pinned(state), {**measured, **norms}

    return Learner(init, jax.jit(update, donate_argnums=0))
