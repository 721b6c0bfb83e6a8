"""What makes an ordinary sampler and an ordinary network live in a fixed-length world.

A response of an enumerable world ends because it is complete: its last token is
terminal, and no token beside the contents can be drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from rlhf_jax.errors import UserError
from rlhf_jax.types import Array, Network, NetworkOutputs, Params, Rollout
from rlhf_jax.worlds.tabular import FORBIDDEN


def ended(rollout: Rollout, length: int) -> Rollout:
    """The rollout with its token number `length`, where there is one, terminal.

    A row that the sampler cut at `length` tokens is complete, not truncated.

    Args:
      rollout: responses [B T], T <= length.
      length: tokens of a complete response.
    """
    columns = jnp.arange(rollout.tokens.shape[1])[None, :]
    last = rollout.mask & (columns == length - 1)
    complete = jnp.any(last, axis=1)
    return rollout._replace(
        terminal=rollout.terminal | last, truncated=rollout.truncated & ~complete
    )


def ends_at(sampler: Callable[..., Rollout], length: int) -> Callable[..., Rollout]:
    """A sampler whose responses of `length` tokens end there by themselves.

    Args:
      sampler: `(params, PromptBatch, key) -> Rollout`, with `max_length=length`.
      length: T of the world.
    """
    return lambda *args: ended(sampler(*args), length)


def restricted(network: Network, tokens: Sequence[int]) -> Network:
    """A network that gives tokens other than these probability 0 and no gradient.

    Hidden states get a further entry of 1 and the language head a further column, 0
    for the allowed tokens and `FORBIDDEN` for the others, so that sampling, log-probs
    and exact KL all speak of the same renormalized distribution.

    Args:
      network: a language model, without a soft cap of its logits.
      tokens: the ids that stay, e.g. the contents of an enumerable world.

    Raises:
      UserError: the network caps its logits, which would let forbidden tokens through.
    """
    if network.config.final_softcap is not None:
        raise UserError(
            "a network with final_softcap cannot be restricted to some tokens: the cap"
            " would bring the others back; use a family without it"
        )
    size = network.config.vocab_size
    bias = jnp.full(size, FORBIDDEN).at[jnp.asarray(tuple(tokens))].set(0.0)

    def apply(variables: Params, inputs: Any, cache: Any = None) -> NetworkOutputs:
        outputs = network.apply(variables, inputs, cache)
        one = jnp.ones((*outputs.hidden.shape[:-1], 1), outputs.hidden.dtype)
        hidden = jnp.concatenate([outputs.hidden, one], axis=-1)
        return outputs._replace(hidden=hidden)

    def unembedding(variables: Params) -> Array:
        head = network.unembedding(variables)
        return jnp.concatenate([head, bias[:, None].astype(head.dtype)], axis=1)

    return network._replace(apply=apply, unembedding=unembedding)
