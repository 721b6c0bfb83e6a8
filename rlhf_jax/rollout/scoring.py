"""What the training graph says about sampled responses: one path for log-probs.

The policy update, old and reference log-probs, evaluation and the mismatch gauge all
call these functions; none of them forms `[B, T, V]`.

Minimum length is the one restriction of the support that training can follow: before
it, stop tokens have probability 0 whatever the parameters are. Given `min_length` and
`stop_tokens`, all functions speak of the distribution renormalized without them, as
the sampler does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax import metrics
from rlhf_jax.ops import chunks, logprobs, masking
from rlhf_jax.ops import exact_kl as exact_kl_of
from rlhf_jax.types import ModelInputs, Network, Params, Rollout

Number = float | int | Array
"""A temperature: a number, or an array float32[], an argument of a program."""

_LEAST_REST = 1e-6
"""Floor of the probability left beside the stop tokens; keeps its log finite."""


def sequences(rollout: Rollout) -> ModelInputs:
    """Prompt and response joined, `[B, P + T]`, as the training graph reads them."""
    return masking.join(
        rollout.prompt.tokens, rollout.prompt.mask, rollout.tokens, rollout.mask
    )


def response_columns(
    hidden: Float[Array, "B L *D"], prompt_length: int, response_length: int
) -> Float[Array, "B T *D"]:
    """Columns that predict the response: token t is predicted at `P + t - 1`.

    Args:
      hidden: anything with a value per column of `P + T` columns.
      prompt_length: P, padding included.
      response_length: T, padding included.
    """
    return hidden[:, prompt_length - 1 : prompt_length + response_length - 1]


def response_hidden(network: Network, params: Params, rollout: Rollout) -> Array:
    """Hidden states `[B, T, D]` that predict the response tokens."""
    outputs = network.apply(params, sequences(rollout))
    return response_columns(
        outputs.hidden, rollout.prompt.tokens.shape[1], rollout.tokens.shape[1]
    )


def logprobs_from_hidden(
    network: Network,
    params: Params,
    hidden: Float[Array, "B T D"],
    rollout: Rollout,
    *,
    temperature: Number = 1.0,
    min_length: int = 0,
    stop_tokens: Sequence[int] = (),
    **chunking: Any,
) -> logprobs.TokenLogprobs:
    """`response_logprobs` for hidden states `[B, T, D]` that are there already."""
    scored = logprobs.token_logprobs(
        hidden,
        network.unembedding(params),
        rollout.tokens,
        temperature=temperature,
        softcap=network.config.final_softcap,
        **chunking,
    )
    if min_length > 0 and stop_tokens:
        stops = _stops(
            network, params, hidden, scored.logsumexp, temperature, stop_tokens
        )
        early = jnp.arange(hidden.shape[1]) < min_length
        changed = _without_stops(scored, stops)
        scored = logprobs.TokenLogprobs(
            *(jnp.where(early, new, x) for new, x in zip(changed, scored, strict=True))
        )
    return logprobs.TokenLogprobs(*(jnp.where(rollout.mask, x, 0.0) for x in scored))


def response_logprobs(
    network: Network,
    params: Params,
    rollout: Rollout,
    *,
    temperature: Number = 1.0,
    min_length: int = 0,
    stop_tokens: Sequence[int] = (),
    **chunking: Any,
) -> logprobs.TokenLogprobs:
    """Log-probs of the response tokens by the training graph, differentiable.

    Args:
      network: the language model.
      params: its variables; old, new or reference.
      rollout: the responses.
      temperature: the one that they were sampled at.
      min_length: the one that they were sampled with.
      stop_tokens: the stop tokens, needed with `min_length`.
      **chunking: `chunk_size` of `ops.logprobs.token_logprobs`.

    Returns:
      log-probs, entropy and logsumexp, float32[B T]; 0 on padding, whose gradient is 0
      as well.
    """
    return logprobs_from_hidden(
        network,
        params,
        response_hidden(network, params, rollout),
        rollout,
        temperature=temperature,
        min_length=min_length,
        stop_tokens=stop_tokens,
        **chunking,
    )


def exact_kl(
    network: Network,
    params: Params,
    ref_params: Params,
    rollout: Rollout,
    *,
    temperature: Number = 1.0,
    min_length: int = 0,
    stop_tokens: Sequence[int] = (),
    **chunking: Any,
) -> Float[Array, "B T"]:
    """KL(policy || reference) over the vocabulary at every sampled prefix.

    Its sum along a response that the policy sampled is an unbiased estimate of the
    sequence KL (chain rule), of lower variance than the log-ratio of its tokens.

    Returns:
      nats, float32[B T]; 0 on padding.
    """
    return exact_kl_from_hidden(
        network,
        (params, response_hidden(network, params, rollout)),
        (ref_params, response_hidden(network, ref_params, rollout)),
        rollout,
        temperature=temperature,
        min_length=min_length,
        stop_tokens=stop_tokens,
        **chunking,
    )


def exact_kl_from_hidden(
    network: Network,
    policy: tuple[Params, Array],
    reference: tuple[Params, Array],
    rollout: Rollout,
    *,
    temperature: Number = 1.0,
    min_length: int = 0,
    stop_tokens: Sequence[int] = (),
    **chunking: Any,
) -> Float[Array, "B T"]:
    """`exact_kl` for (variables, hidden states [B T D]) that are there already."""
    softcap = network.config.final_softcap
    values = exact_kl_of.exact_kl(
        policy[1],
        network.unembedding(policy[0]),
        reference[1],
        network.unembedding(reference[0]),
        temperature=temperature,
        softcap_p=softcap,
        softcap_q=softcap,
        **chunking,
    )
    if min_length > 0 and stop_tokens:
        own, other = (
            _stops_of(network, *side, rollout, temperature, stop_tokens, chunking)
            for side in (policy, reference)
        )
        lost = jnp.sum(jnp.exp(own.logprobs) * (own.logprobs - other.logprobs), axis=-1)
        rest = jnp.exp(own.log_rest)
        changed = (values - lost) / rest - own.log_rest + other.log_rest
        early = jnp.arange(values.shape[1]) < min_length
        values = jnp.where(early, changed, values)
    return jnp.where(rollout.mask, values, 0.0)


class _Stops(NamedTuple):
    """Log-probs of the stop tokens [B T S], log of what is left beside them [B T]."""

    logprobs: Array
    log_rest: Array


def _stops(
    network: Network,
    params: Params,
    hidden: Array,
    logsumexp: Array,
    temperature: Number,
    stop_tokens: Sequence[int],
) -> _Stops:
    rows = network.unembedding(params)[jnp.asarray(tuple(stop_tokens))]
    logits = jnp.einsum("btd,sd->bts", hidden, rows, preferred_element_type=jnp.float32)
    softcap = network.config.final_softcap
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    stops = chunks.tempered(logits, temperature) - logsumexp[..., None]
    mass = jnp.minimum(jnp.sum(jnp.exp(stops), axis=-1), 1.0 - _LEAST_REST)
    return _Stops(stops, jnp.log1p(-mass))


def _stops_of(
    network: Network,
    params: Params,
    hidden: Array,
    rollout: Rollout,
    temperature: Number,
    stop_tokens: Sequence[int],
    chunking: dict[str, Any],
) -> _Stops:
    scored = logprobs.token_logprobs(
        hidden,
        network.unembedding(params),
        rollout.tokens,
        temperature=temperature,
        softcap=network.config.final_softcap,
        **chunking,
    )
    return _stops(network, params, hidden, scored.logsumexp, temperature, stop_tokens)


def _without_stops(
    scored: logprobs.TokenLogprobs, stops: _Stops
) -> logprobs.TokenLogprobs:
    """Statistics of p(v) / rest over the tokens v that do not stop."""
    kept = scored.entropy + jnp.sum(jnp.exp(stops.logprobs) * stops.logprobs, axis=-1)
    return logprobs.TokenLogprobs(
        scored.logprobs - stops.log_rest,
        kept / jnp.exp(stops.log_rest) + stops.log_rest,
        scored.logsumexp + stops.log_rest,
    )


def logprob_difference(
    sampled: Float[Array, "B T"],
    scored: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> dict[str, metrics.Max]:
    """The mismatch gauge: max |sampler - training graph| over real tokens.

    Meaningful for the parameters that sampled, with the temperature and the minimum
    length sampled with, without top-k and top-p.
    """
    difference = jnp.abs(sampled - scored)
    return {"rollout/logprob_difference": metrics.maximum(difference, mask)}
