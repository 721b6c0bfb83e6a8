"""Scorers that are arrays all the way: reward models, worlds, sums and ensembles.

A scorer is called outside of jit and compiles inside. Weights are arguments of the
compiled function (`frozen`), never closed over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.errors import UserError
from rlhf_jax.ops import masking
from rlhf_jax.rollout import scoring
from rlhf_jax.types import ModelInputs, Network, Params, Rollout, Scorer, Scores

Aggregate = Callable[[Array], Array]
"""Scores of the members float32[M B] -> float32[B]."""


def last_token_scores(
    network: Network, params: Params, inputs: ModelInputs
) -> Float[Array, " B"]:
    """The scalar head at the last real token of each row.

    The position comes from the mask, so any padding on either side, and none, gives
    the same score.

    Args:
      network: a network with scalars.
      params: its variables.
      inputs: [B L].

    Returns:
      float32[B].
    """
    scalars = network.apply(params, inputs).scalars
    if scalars is None:
        raise UserError(
            "the reward model has no scalar head; build it with networks.scalar_model"
        )
    index = masking.last_real_index(inputs.mask)
    return jnp.take_along_axis(scalars, index[:, None], axis=1)[:, 0]


def reward_model_program(network: Network) -> Callable[[Any, Rollout], Array]:
    """The compiled step of a `reward_model_scorer`; it closes over no array."""

    @jax.jit
    def score(frozen: Any, rollout: Rollout) -> Array:
        inputs = scoring.sequences(rollout)
        raw = last_token_scores(network, frozen["variables"], inputs)
        return (frozen["gain"] * raw + frozen["bias"]).astype(jnp.float32)

    return score


def reward_model_scorer(
    network: Network,
    variables: Params,
    *,
    gain: float | int = 1.0,
    bias: float | int = 0.0,
    program: Callable[[Any, Rollout], Array] | None = None,
) -> Scorer:
    """A reward model that shares the policy's tokens.

    score = gain * r(prompt, response) + bias, r read at the last real token. Gain and
    bias are fixed numbers measured under the reference (Ziegler et al. 2019, N+
    implementation details, detail 9), so they cannot follow the policy's drift.
    `program` is that of another reward model of the same network, or None.
    """
    score = reward_model_program(network) if program is None else program

    def init() -> Any:
        return {
            "variables": variables,
            "gain": jnp.asarray(gain, jnp.float32),
            "bias": jnp.asarray(bias, jnp.float32),
        }

    def apply(frozen: Any, params: Params, rollout: Rollout) -> Scores:
        del params
        return Scores(score(frozen, rollout))

    return Scorer(init, apply)


def world_scorer(fn: Callable[[Array, Array, Array, Array], Array]) -> Scorer:
    """A reward known in closed form, written in jax.

    Args:
      fn: `fn(prompt_tokens[B P], prompt_mask, tokens[B T], mask) -> scores[B]`.
    """

    @jax.jit
    def score(rollout: Rollout) -> Array:
        prompt = rollout.prompt
        values = fn(prompt.tokens, prompt.mask, rollout.tokens, rollout.mask)
        return values.astype(jnp.float32)

    def init() -> Any:
        return ()

    def apply(frozen: Any, params: Params, rollout: Rollout) -> Scores:
        del frozen, params
        return Scores(score(rollout))

    return Scorer(init, apply)


def ensemble(scorers: Sequence[Scorer], aggregate: Aggregate) -> Scorer:
    """Several scorers of the same responses, made one by `aggregate`.

    Args:
      scorers: the members.
      aggregate: `mean`, `minimum`, `mean_minus_std(k)`, `mean_minus_variance(k)` or any
        function float32[M B] -> float32[B].

    Raises:
      UserError: there is no member.
    """
    members = tuple(scorers)
    if not members:
        raise UserError("an ensemble of scorers has no member; name at least one")

    def init() -> Any:
        return tuple(member.init() for member in members)

    def apply(frozen: Any, params: Params, rollout: Rollout) -> Scores:
        scores = [
            member.apply(state, params, rollout).sequence
            for member, state in zip(members, frozen, strict=True)
        ]
        return Scores(aggregate(jnp.stack(scores).astype(jnp.float32)))

    return Scorer(init, apply)


def sum_of(scorers: Sequence[Scorer], weights: Sequence[float | int]) -> Scorer:
    """The weighted sum of several scorers.

    Raises:
      UserError: the numbers of scorers and weights differ, or both are 0.
    """
    if len(scorers) != len(weights):
        raise UserError(
            f"a sum of {len(scorers)} scorers was given {len(weights)} weights; give "
            "one weight for each"
        )
    weight = jnp.asarray(tuple(weights), jnp.float32)
    return ensemble(scorers, lambda scores: jnp.sum(scores * weight[:, None], axis=0))


def mean(scores: Float[Array, "M B"]) -> Float[Array, " B"]:
    """Mean over the members."""
    return jnp.mean(scores, axis=0)


def minimum(scores: Float[Array, "M B"]) -> Float[Array, " B"]:
    """The most cautious member: worst-case optimization (Coste et al. 2024)."""
    return jnp.min(scores, axis=0)


def mean_minus_std(k: float | int) -> Aggregate:
    """Mean minus k standard deviations (population) over the members."""
    return lambda scores: jnp.mean(scores, axis=0) - k * jnp.std(scores, axis=0)


def mean_minus_variance(k: float | int) -> Aggregate:
    """Uncertainty-weighted optimization (Coste et al. 2024): mean - k * variance."""
    return lambda scores: jnp.mean(scores, axis=0) - k * jnp.var(scores, axis=0)
