"""What the layers of one call share: masks and rotary angles, computed once."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.networks import kernels
from rlhf_jax.networks import positions as places
from rlhf_jax.networks.attention import LayerInputs
from rlhf_jax.networks.cache import Cache
from rlhf_jax.networks.config import TransformerConfig
from rlhf_jax.placement import constrain
from rlhf_jax.types import ModelInputs

Array = jax.Array


class Context(NamedTuple):
    """What global and local layers look at; `local` is None without any."""

    everywhere: LayerInputs
    local: LayerInputs | None

    def choose(self, local: bool) -> LayerInputs:
        """The inputs of a layer of the kind asked for."""
        return self.local if local and self.local is not None else self.everywhere


def layer_context(
    config: TransformerConfig,
    inputs: ModelInputs,
    cache: Cache | None,
    attention: str = "plain",
) -> Context:
    """Masks and angles, computed once per call and shared by the layers.

    Args:
      config: the architecture.
      inputs: the chunk.
      cache: what is held already, or None.
      attention: key of `kernels.KERNELS`; a chunk that has to look at a cache is left
        to the plain path.
    """
    keys: Any = inputs
    columns = jnp.arange(inputs.tokens.shape[1], dtype=jnp.int32)
    turn: Any = functools.partial(angles, config, inputs.positions)
    if cache is not None and not isinstance(cache.index, int):
        keys, columns, attention = cache, columns + cache.index, "plain"
        turn = functools.partial(_looked_up, cache, inputs.positions)
    mask = places.attention_mask(
        query_columns=columns,
        query_segments=inputs.segment_ids,
        key_mask=keys.mask,
        key_segments=keys.segment_ids,
    )
    mask = constrain(mask, "batch", "length", None)
    kernel = functools.partial(kernels.choose, attention, config, inputs)
    everywhere = LayerInputs(mask, turn(local=False), kernel(local=False))
    if config.window is None or not any(config.local_layers):
        return Context(everywhere, None)
    windowed = places.window_mask(
        mask,
        query_positions=inputs.positions,
        key_positions=keys.positions,
        window=config.window,
    )
    local = LayerInputs(windowed, turn(local=True), kernel(local=True))
    return Context(everywhere, local)


def angles(
    config: TransformerConfig, positions: Array, *, local: bool
) -> tuple[Array, Array] | None:
    """Rotary angles, or None without rotary positions."""
    if config.positions != "rope":
        return None
    frequencies = places.inverse_frequencies(config, local=local)
    # Held as arrays: fused into its readers, every head would compute them again.
    return jax.lax.optimization_barrier(places.rotary_angles(positions, frequencies))


def _looked_up(
    cache: Cache, positions: Array, *, local: bool
) -> tuple[Array, Array] | None:
    """As `angles`, of positions that the cache has columns for."""
    return cache.angles[local].at(positions) if cache.angles else None
