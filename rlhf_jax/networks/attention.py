"""Grouped-query attention and the block around it."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.networks import kernels, softmax
from rlhf_jax.networks.config import Number, TransformerConfig
from rlhf_jax.networks.layers import MLP, Dtype, Norm, projection
from rlhf_jax.networks.positions import rotate
from rlhf_jax.placement import constrain


class LayerInputs(NamedTuple):
    """What a layer needs beside the stream.

    Attributes:
      mask: bool[B L S], what each query may attend.
      angles: cosine and sine, float32[B L R], or None without rotary positions.
      kernel: what attends in place of `attend`, or None.
    """

    mask: Array
    angles: tuple[Array, Array] | None
    kernel: kernels.Kernel | None = None


class LayerCache(NamedTuple):
    """Keys and values of one layer, [B K S E], and the column to write at.

    Attributes:
      keys: keys, after norm and rotation.
      values: values.
      index: int32 scalar, or the Python number 0: nothing is held yet, so that the
        chunk need not look at the rest of the cache.
    """

    keys: Array
    values: Array
    index: Any


def attend(
    queries: Float[Array, "B L H E"],
    keys: Float[Array, "B K S E"],
    values: Float[Array, "B K S E"],
    mask: Bool[Array, "B L S"],
    *,
    scale: Number,
    softcap: Number | None,
) -> Float[Array, "B L H E"]:
    """Attention with scores and softmax in float32.

    Query head `h` reads key-value head `h // (H / K)`.
    """
    batch, length, heads, size = queries.shape
    groups = heads // keys.shape[1]
    grouped = queries.reshape(batch, length, -1, groups, size)
    scores = jnp.einsum(
        "blkge,bkse->bkgls", grouped, keys, preferred_element_type=jnp.float32
    )
    scores = scores * scale
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    mixed = softmax.mix(scores, values, mask[:, None, None])
    return jnp.moveaxis(mixed, 3, 1).reshape(batch, length, heads, size)


class Attention(nn.Module):
    """Self-attention of one layer.

    Attributes:
      config: the architecture.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    config: TransformerConfig
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(
        self, x: Array, inputs: LayerInputs, cache: LayerCache | None
    ) -> tuple[Array, LayerCache | None]:
        """`x[B L D]` to `[B L D]`; with a cache, the chunk is appended to it."""
        config = self.config
        queries, keys, values = self._project(x)
        if inputs.angles is not None:
            queries = rotate(queries, inputs.angles)
            keys = rotate(keys, inputs.angles)
        # A device that has a part of the length has queries of it, and all keys.
        keys, values = (
            constrain(x.swapaxes(1, 2), "batch", "activation_kv_heads", None, None)
            for x in (keys, values)
        )
        if cache is not None:
            cache, keys, values = append(cache, keys, values)
        attend_by = attend
        if inputs.kernel is not None:
            attend_by = functools.partial(kernels.attend, inputs.kernel)
        mixed = attend_by(
            queries,
            keys,
            values,
            inputs.mask,
            scale=config.query_scale,
            softcap=config.attention_softcap,
        )
        mixed = constrain(mixed, "batch", "length", "activation_heads", None)
        flat = mixed.reshape(*x.shape[:2], -1)
        output = projection(
            self,
            "output",
            config.width,
            ("heads", "embed"),
            use_bias=config.output_bias,
        )
        return output(flat), cache

    def _project(self, x: Array) -> tuple[Array, Array, Array]:
        config = self.config
        queries = self._heads("query", "heads", config.num_heads, x)
        keys = self._heads("key", "kv_heads", config.kv_heads, x)
        values = self._heads("value", "kv_heads", config.kv_heads, x)
        if config.qk_norm:
            queries = self._head_norm("query_norm")(queries)
            keys = self._head_norm("key_norm")(keys)
        return queries, keys, values

    def _heads(self, name: str, axis: str, heads: int, x: Array) -> Array:
        size = self.config.head_width
        project = projection(
            self, name, heads * size, ("embed", axis), use_bias=self.config.qkv_bias
        )
        split = project(x).reshape(*x.shape[:2], heads, size)
        return constrain(split, "batch", "length", f"activation_{axis}", None)

    def _head_norm(self, name: str) -> Norm:
        return Norm(
            self.config, "rms", "head_dim", self.dtype, self.param_dtype, name=name
        )


def append(
    cache: LayerCache, keys: Float[Array, "B K L E"], values: Float[Array, "B K L E"]
) -> tuple[LayerCache, Array, Array]:
    """Write a chunk at `cache.index`; returns the cache and what to attend."""
    start = (0, 0, cache.index, 0)
    held = [
        jax.lax.dynamic_update_slice(old, new.astype(old.dtype), start)
        for old, new in ((cache.keys, keys), (cache.values, values))
    ]
    held = [
        constrain(x, "batch", "activation_kv_heads", "cache_length", None) for x in held
    ]
    written = LayerCache(held[0], held[1], cache.index)
    if isinstance(cache.index, int):
        return written, keys, values
    return written, held[0], held[1]


class Block(nn.Module):
    """One layer: attention and MLP around the residual stream.

    Attributes:
      config: the architecture.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    config: TransformerConfig
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(
        self, x: Array, inputs: LayerInputs, cache: LayerCache | None = None
    ) -> tuple[Array, LayerCache | None]:
        """`x[B L D]` to `[B L D]`, and the cache with this chunk."""
        config = self.config
        attention = Attention(config, self.dtype, self.param_dtype, name="attention")
        mlp = MLP(config, self.dtype, self.param_dtype, name="mlp")
        mixed, cache = attention(self._norm("attention_norm")(x), inputs, cache)
        if config.post_norms:
            mixed = self._norm("attention_post_norm")(mixed)
        middle = x + mixed
        source = x if config.parallel_residual else middle
        output = mlp(self._norm("mlp_norm")(source))
        if config.post_norms:
            output = self._norm("mlp_post_norm")(output)
        stream = constrain(middle + output, "batch", "length", "activation_embed")
        return stream, cache

    def _norm(self, name: str) -> Norm:
        config = self.config
        return Norm(
            config, config.norm, "embed", self.dtype, self.param_dtype, name=name
        )
