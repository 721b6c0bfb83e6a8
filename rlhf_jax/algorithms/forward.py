"""Forward passes that the learners share: from a network to arrays for the maths."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax import losses
from rlhf_jax.ops import logprobs
from rlhf_jax.rollout import scorers
from rlhf_jax.types import (
    Network,
    Params,
    PolicyOutputs,
    RankingBatch,
    SequenceBatch,
)


def merged(base: Params, trainable: Params) -> Params:
    """One variables dict from frozen and trainable collections (LoRA: base + lora)."""
    return {**base, **trainable}


def copied(tree: Params) -> Params:
    """A copy in buffers of its own: donated training state must not alias it."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def duplicate(tree: Any) -> Any:
    """A copy that a compiled program takes like the tree itself: placed as it is.

    Unlike `copied` it is of arrays that are there, so not for use under `jax.jit`.
    Whether an array is committed to its devices is part of what a program is compiled
    for, so a copy that differed there would be compiled for anew.
    """

    def one(x: Array) -> Array:
        if not x.committed:
            return jnp.array(x, copy=True)
        # Shard by shard: those of other processes are not to be had here.
        held = [shard.data for shard in x.addressable_shards]
        parts = [jax.device_put(y, y.sharding, may_alias=False) for y in held]
        return jax.make_array_from_single_device_arrays(x.shape, x.sharding, parts)

    return jax.tree.map(one, tree)


def language_outputs(
    network: Network, variables: Params, batch: SequenceBatch
) -> PolicyOutputs:
    """Next-token log-probs of a sequence batch: float32[B L-1].

    Column `t` speaks of token `t + 1`, as `losses.targets` and the language terms do.
    """
    hidden = network.apply(variables, batch.inputs).hidden
    values = logprobs.token_logprobs(
        hidden[:, :-1],
        network.unembedding(variables),
        losses.targets(batch).tokens,
        softcap=network.config.final_softcap,
    )
    return PolicyOutputs(values.logprobs, values.entropy, values.logsumexp)


def ranking_scores(
    network: Network, variables: Params, batch: RankingBatch
) -> Float[Array, "B K"]:
    """Score of each response: the scalar head at its last real token.

    The K responses of a prompt go through the network as one element of the batch
    (InstructGPT), so they never end up in different minibatches.
    """
    flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch.inputs)
    scores = scorers.last_token_scores(network, variables, flat)
    return scores.reshape(batch.ranks.shape)
