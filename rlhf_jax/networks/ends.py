"""The two ends of the decoder: tokens to stream, hidden to logits or scalars."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlhf_jax.networks.config import TransformerConfig
from rlhf_jax.networks.initial import start
from rlhf_jax.networks.layers import Dtype, flattened, kernel_std, lora_variable
from rlhf_jax.placement import constrain


class Embedding(nn.Module):
    """Token embedding and, where the family has them, learned positions.

    Positions beyond the table read its last row.

    Attributes:
      config: sizes and scale.
      dtype: dtype of the result.
      param_dtype: dtype of the parameters.
    """

    config: TransformerConfig
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B L"], positions: Int[Array, "B L"]
    ) -> Float[Array, "B L D"]:
        """Rows of the table, scaled, plus positions."""
        config = self.config
        rows = table(self, "tokens", "vocab", config.vocab_size)
        # Whole rows before the lookup: of rows split by width each part would be moved.
        rows = constrain(rows, "vocab", "activation_embed")
        x = rows[tokens].astype(self.dtype)
        if config.embedding_scale:
            x = x * jnp.asarray(math.sqrt(config.width), self.dtype)
        if config.positions == "learned":
            learned = table(self, "positions", "positions", config.max_length)
            places = jnp.clip(positions, 0, config.max_length - 1)
            x = x + learned[places].astype(self.dtype)
        return constrain(x, "batch", "length", "activation_embed")


class Unembedding(nn.Module):
    """The matrix of the language head, [V, D].

    Attributes:
      config: sizes.
      dtype: dtype of the result.
      param_dtype: dtype of the parameters.
    """

    config: TransformerConfig
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self) -> Array:
        """The matrix, in the dtype of the computation."""
        matrix = table(self, "kernel", "vocab", self.config.vocab_size)
        return matrix.astype(self.dtype)


def table(module: Any, name: str, axis: str, rows: int) -> Array:
    """A parameter [rows, D] of `module`, initialized like an embedding."""
    config: TransformerConfig = module.config
    std = kernel_std(config, config.width, into_stream=False)
    init = start((axis, "embed"), std=std)
    return module.param(name, init, (rows, config.width), module.param_dtype)


class ScalarHead(nn.Module):
    """`hidden . kernel`, without a bias, in float32.

    Attributes:
      config: sizes and adapters.
      init_kernel: `init(key, shape, dtype)` of the kernel.
      param_dtype: dtype of the parameters.
    """

    config: TransformerConfig
    init_kernel: Any
    param_dtype: Dtype

    @nn.compact
    def __call__(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L"]:
        """One scalar per token."""
        size = (self.config.width,)
        init = nn.with_logical_partitioning(self.init_kernel, ("embed",))
        kernel: Any = self.param("kernel", init, size, self.param_dtype)
        kernel = kernel.astype(jnp.float32)
        if self.config.lora is not None and (
            self.is_initializing() or self.has_variable("lora", "kernel")
        ):
            correction = lora_variable(self, "kernel", start(("embed",)), size)
            kernel = kernel + correction.astype(jnp.float32)
        flat = flattened(hidden).astype(jnp.float32)
        # Highest precision: accelerators would multiply float32 with fewer bits.
        product = jnp.matmul(flat, kernel, precision="highest")
        return product.reshape(hidden.shape[:-1])
