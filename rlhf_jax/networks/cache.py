"""The key-value cache: static size, one write column for the whole batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.errors import UserError
from rlhf_jax.networks import positions as places
from rlhf_jax.networks.config import TransformerConfig
from rlhf_jax.types import ModelInputs

Array = jax.Array


class AngleTable(NamedTuple):
    """Cosine and sine of the rotary angles of positions 0 ... S - 1, float32[S R]."""

    cos: Array
    sin: Array

    def at(self, positions: Array) -> tuple[Array, Array]:
        """Cosine and sine at int32[B L], float32[B L R] each; the last row's beyond."""
        return self.cos.at[positions].get(mode="clip"), self.sin.at[positions].get(
            mode="clip"
        )


class Cache(NamedTuple):
    """What a decoder remembers of the columns that it has read.

    Everything but `index` and the tables of angles leads with the batch axis. Keys and
    values are one array per layer, so that a decode step updates them in place.

    Attributes:
      keys: for each layer, [B K S E], after norm and rotation.
      values: for each layer, [B K S E].
      mask: bool[B S], True where a real token is held.
      positions: int32[B S].
      segment_ids: int32[B S].
      index: the column that the next chunk starts at: int32 scalar, or the Python
        number 0 where nothing was ever written.
      angles: by kind of layer (False: global, True: with a window), none without rotary
        positions. Made once: computed in a decode step, every layer would do it again.
        Chunks after the first are at positions below S; beyond, the last row is read.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    mask: Array
    positions: Array
    segment_ids: Array
    index: Any
    angles: dict[bool, AngleTable]


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
        angles=_tables(config, length),
    )


def _tables(config: TransformerConfig, length: int) -> dict[bool, AngleTable]:
    """The angles of every position that `length` columns can hold."""
    if config.positions != "rope":
        return {}
    columns = jnp.arange(length, dtype=jnp.int32)[None]
    found = {}
    for local in sorted({False, *config.local_layers}):
        rates = places.inverse_frequencies(config, local=local)
        cos, sin = jax.lax.optimization_barrier(places.rotary_angles(columns, rates))
        found[local] = AngleTable(cos[0], sin[0])
    return found


def repeat_cache(cache: Any, times: int) -> Any:
    """Each row `times` times, neighbours: a prefilled prompt for several responses.

    Any cache will do whose arrays lead with rows; numbers, such as `index`, and tables
    of angles stay.
    """

    def repeat(x: Any) -> Any:
        if isinstance(x, AngleTable) or not jnp.ndim(x):
            return x
        return jnp.repeat(x, times, axis=0)

    return jax.tree.map(repeat, cache, is_leaf=lambda x: isinstance(x, AngleTable))


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
