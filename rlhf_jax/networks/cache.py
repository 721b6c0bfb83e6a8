"""The key-value cache: static size, one write column for the whole batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.errors import UserError
from rlhf_jax.networks.config import TransformerConfig
from rlhf_jax.types import ModelInputs

Array = jax.Array


class Cache(NamedTuple):
    """What a decoder remembers of the columns that it has read.

    Everything but `index` leads with the batch axis. Keys and values are one array per
    layer, so that a decode step updates them in place.

    Attributes:
      keys: for each layer, [B K S E], after norm and rotation.
      values: for each layer, [B K S E].
      mask: bool[B S], True where a real token is held.
      positions: int32[B S].
      segment_ids: int32[B S].
      index: the column that the next chunk starts at: int32 scalar, or the Python
        number 0 where nothing was ever written.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    mask: Array
    positions: Array
    segment_ids: Array
    index: Any


def empty_cache(
    config: TransformerConfig, batch_size: int, length: int, dtype: Any
) -> Cache:
    """A cache of `length` columns that holds nothing.

    Raises:
      UserError: `length` exceeds the table of learned positions.
    """
    if config.positions == "learned" and length > config.max_length:
        raise UserError(
            f"a cache of {length} columns exceeds the context of {config.max_length} "
            "tokens that this model has positions for; shorten prompt or response"
        )
    shape = (batch_size, config.kv_heads, length, config.head_width)
    layers = range(config.num_layers)
    return Cache(
        keys=tuple(jnp.zeros(shape, dtype) for _ in layers),
        values=tuple(jnp.zeros(shape, dtype) for _ in layers),
        mask=jnp.zeros((batch_size, length), bool),
        positions=jnp.zeros((batch_size, length), jnp.int32),
        segment_ids=jnp.zeros((batch_size, length), jnp.int32),
        index=0,
    )


def repeat_cache(cache: Any, times: int) -> Any:
    """Each row `times` times, neighbours: a prefilled prompt for several responses.

    Any cache will do whose arrays lead with rows; numbers, such as `index`, stay.
    """
    return jax.tree.map(
        lambda x: jnp.repeat(x, times, axis=0) if jnp.ndim(x) else x, cache
    )


def record(cache: Cache, inputs: ModelInputs) -> Cache:
    """Write mask, positions and segments of a chunk; keys and values follow later."""
    start = (0, cache.index)

    def write(old: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice(old, new.astype(old.dtype), start)

    return cache._replace(
        mask=write(cache.mask, inputs.mask),
        positions=write(cache.positions, inputs.positions),
        segment_ids=write(cache.segment_ids, inputs.segment_ids),
    )
