"""Forward passes that the learners share: from a network to arrays for the maths."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax import rollout as rollouts
from rlhf_jax.ops import logprobs as logprob_ops
from rlhf_jax.ops import masking
from rlhf_jax.types import (
    ModelInputs,
    Network,
    NetworkOutputs,
    Params,
    PolicyOutputs,
    RankingBatch,
    Rollout,
    SequenceBatch,
)


def merged(base: Params, trainable: Params) -> Params:
    """One variables dict from frozen and trainable collections (LoRA: base + lora)."""
    return {**base, **trainable}


def copied(tree: Params) -> Params:
    """A copy in buffers of its own: donated training state must not alias it."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def language_outputs(
    network: Network, variables: Params, batch: SequenceBatch
) -> PolicyOutputs:
    """Next-token log-probs of a sequence batch, arrays [B L].

    Column `t` holds the log-prob of token `t` given the tokens before it, so it lines
    up with `batch.loss_mask`; column 0 has no past and must never be a target.
    """
    hidden = network.apply(variables, batch.inputs).hidden
    past = jnp.pad(hidden[:, :-1], ((0, 0), (1, 0), (0, 0)))
    values = logprob_ops.token_logprobs(
        past,
        network.unembedding(variables),
        batch.inputs.tokens,
        softcap=network.config.final_softcap,
    )
    return PolicyOutputs(values.logprobs, values.entropy, values.logsumexp)


def policy_outputs(
    network: Network,
    outputs: NetworkOutputs,
    variables: Params,
    rollout: Rollout,
    temperature: float,
) -> PolicyOutputs:
    """Log-probs of the sampled tokens under a forward pass on the whole sequences.

    Args:
      network: the policy; its soft cap applies to the logits.
      outputs: `network.apply(variables, sequences(rollout))`.
      variables: the policy's variables (for the unembedding).
      rollout: what was sampled.
      temperature: sampling temperature; logits are divided by it here as well (N
        implementation details, 10).

    Returns:
      Arrays [B T].
    """
    length = rollout.tokens.shape[1]
    prompt = rollout.prompt.tokens.shape[1]
    values = logprob_ops.token_logprobs(
        rollouts.response_columns(outputs.hidden, prompt, length),
        network.unembedding(variables),
        rollout.tokens,
        temperature=temperature,
        softcap=network.config.final_softcap,
    )
    return PolicyOutputs(values.logprobs, values.entropy, values.logsumexp)


def state_values(scalars: Float[Array, "B L"], rollout: Rollout) -> Array:
    """Values of the states before each response token and after the last: [B T+1]."""
    return scalars[:, rollout.prompt.tokens.shape[1] - 1 :]


def ranking_scores(
    network: Network, variables: Params, batch: RankingBatch
) -> Float[Array, "B K"]:
    """Score of each response: the scalar head at its last real token.

    The K responses of a prompt go through the network as one element of the batch
    (InstructGPT), so they never end up in different minibatches.
    """
    flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch.inputs)
    scores = sequence_scores(network, variables, flat)
    return scores.reshape(batch.ranks.shape)


def sequence_scores(
    network: Network, variables: Params, inputs: ModelInputs
) -> Float[Array, "B"]:
    """The scalar head at the last real token, float32."""
    scalars = network.apply(variables, inputs).scalars
    if scalars is None:
        raise ValueError("this network has no scalar head: build it with scalar_model")
    last = masking.last_real_index(inputs.mask)
    return jnp.take_along_axis(scalars, last[:, None], axis=1)[:, 0]
