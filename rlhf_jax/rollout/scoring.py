"""What the training graph says about sampled responses: one path for log-probs.

The policy update, old and reference log-probs, evaluation and the mismatch gauge all
call these functions; none of them forms `[B, T, V]`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax import metrics
from rlhf_jax.ops import exact_kl as exact_kl_of
from rlhf_jax.ops import logprobs, masking
from rlhf_jax.types import ModelInputs, Network, Params, Rollout


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
    hidden: Array,
    rollout: Rollout,
    *,
    temperature: float = 1.0,
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
    return logprobs.TokenLogprobs(*(jnp.where(rollout.mask, x, 0.0) for x in scored))


def response_logprobs(
    network: Network,
    params: Params,
    rollout: Rollout,
    *,
    temperature: float = 1.0,
    **chunking: Any,
) -> logprobs.TokenLogprobs:
    """Log-probs of the response tokens by the training graph, differentiable.

    Args:
      network: the language model.
      params: its variables; old, new or reference.
      rollout: the responses.
      temperature: the one that they were sampled at.
      **chunking: `chunk_size` of `ops.logprobs.token_logprobs`.

    Returns:
      log-probs, entropy and logsumexp, float32[B T], over the whole vocabulary; 0 on
      padding, whose gradient is 0 as well.
    """
    hidden = response_hidden(network, params, rollout)
    return logprobs_from_hidden(
        network, params, hidden, rollout, temperature=temperature, **chunking
    )


def exact_kl(
    network: Network,
    params: Params,
    ref_params: Params,
    rollout: Rollout,
    *,
    temperature: float = 1.0,
    **chunking: Any,
) -> Float[Array, "B T"]:
    """KL(policy || reference) over the vocabulary at every sampled prefix.

    Its sum along a response that the policy sampled is an unbiased estimate of the
    sequence KL (chain rule), of lower variance than the log-ratio of its tokens.

    Returns:
      nats, float32[B T]; 0 on padding.
    """
    softcap = network.config.final_softcap
    values = exact_kl_of.exact_kl(
        response_hidden(network, params, rollout),
        network.unembedding(params),
        response_hidden(network, ref_params, rollout),
        network.unembedding(ref_params),
        temperature=temperature,
        softcap_p=softcap,
        softcap_q=softcap,
        **chunking,
    )
    return jnp.where(rollout.mask, values, 0.0)


def logprob_difference(
    sampled: Float[Array, "B T"],
    scored: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> dict[str, metrics.Max]:
    """The mismatch gauge: max |sampler - training graph| over real tokens.

    Meaningful for the parameters that sampled, at the temperature sampled at, without
    top-k, top-p or minimum length.
    """
    difference = jnp.abs(sampled - scored)
    return {"rollout/logprob_difference": metrics.maximum(difference, mask)}
