"""Masked statistics, positions from masks, and joining prompts to responses.

Masks are boolean, True = real. What stands at a masked position (garbage, infinity,
NaN) can change no result. Counts are float32 sums, never sums in a low precision
(checks B12, B29). Sums run over the whole array, which under `jit` on a mesh is the
global batch (invariant 22).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from rlhf_jax import types


def masked_sum(x: Num[Array, "*_"], mask: Bool[Array, "*_"]) -> Float[Array, ""]:
    """Sum of `x` where `mask`, in float32; `x` and `mask` have one shape."""
    return jnp.sum(jnp.where(mask, x.astype(jnp.float32), 0.0))


def weights_of(
    mask: Bool[Array, "*shape"], weight: Num[Array, "*_"] | None = None
) -> Float[Array, "*shape"]:
    """float32 weights: `weight` where `mask`, else 0.

    A `weight` with fewer axes than the mask (one number per sequence, `[B]` against
    `[B T]`) is repeated along the last axes.
    """
    if weight is None:
        return mask.astype(jnp.float32)
    weight = weight.astype(jnp.float32)
    weight = weight.reshape(weight.shape + (1,) * (mask.ndim - weight.ndim))
    return jnp.where(mask, weight, 0.0)


def _weighted_mean(x: Array, weights: Array) -> Array:
    """Mean of `x` under non-negative float32 weights; 0 where they sum to 0."""
    total = jnp.sum(jnp.where(weights > 0, x, 0.0) * weights)
    count = jnp.sum(weights)
    return total / jnp.where(count > 0, count, 1.0)


def masked_mean(
    x: Num[Array, "*shape"],
    mask: Bool[Array, "*shape"],
    weight: Num[Array, "*_"] | None = None,
) -> Float[Array, ""]:
    """Mean of `x` where `mask`, each element weighted; 0 where nothing is real.

    Args:
      x: any shape.
      mask: the same shape.
      weight: non-negative, per element or per leading axis (`[B]`).

    Returns:
      float32 scalar.
    """
    return _weighted_mean(x.astype(jnp.float32), weights_of(mask, weight))


def masked_whiten(
    x: Num[Array, "*shape"],
    mask: Bool[Array, "*shape"],
    shift_mean: bool = True,
    eps: float = 1e-8,
    weight: Num[Array, "*_"] | None = None,
) -> Float[Array, "*shape"]:
    """Scale to unit variance; mean 0, or the old mean if `shift_mean` is False.

    `(x - mean) / sqrt(var + eps)`, population variance as `tf.moments` in Ziegler et
    al. 2019 (detail 18 of Huang et al. 2023; `torch.var` divides by n - 1). The mean is
    taken twice, so that a constant array of any size whitens to 0 and not to amplified
    round-off.

    Returns:
      float32, 0 where masked.
    """
    x, weights = x.astype(jnp.float32), weights_of(mask, weight)
    mean = _weighted_mean(x, weights)
    centered = x - mean
    centered = centered - _weighted_mean(centered, weights)
    variance = _weighted_mean(centered**2, weights)
    white = centered * jax.lax.rsqrt(variance + eps)
    return jnp.where(mask, white if shift_mean else white + mean, 0.0)


def positions_from_mask(mask: Bool[Array, "*B L"]) -> Int[Array, "*B L"]:
    """int32 positions: the number of real tokens before each (exclusive cumsum).

    Left padding moves no position (check B7); on padding the number has no meaning.
    """
    counts = mask.astype(jnp.int32)
    return jnp.cumsum(counts, axis=-1) - counts


def last_real_index(mask: Bool[Array, "*B L"]) -> Int[Array, "*B"]:
    """int32 column of the last True of each row, -1 in a row without any."""
    columns = jax.lax.broadcasted_iota(jnp.int32, mask.shape, mask.ndim - 1)
    return jnp.max(jnp.where(mask, columns, -1), axis=-1)


def extend_by_one(mask: Bool[Array, "*B L"]) -> Bool[Array, "*B L"]:
    """The mask of right-padded rows with one more True column, where there is room."""
    return mask | jnp.concatenate(
        [jnp.zeros_like(mask[..., :1]), mask[..., :-1]], axis=-1
    )


def join(
    prompt_tokens: Int[Array, "*B P"],
    prompt_mask: Bool[Array, "*B P"],
    tokens: Int[Array, "*B T"],
    mask: Bool[Array, "*B T"],
) -> types.ModelInputs:
    """Prompt (left-padded) and response (right-padded) as one row of `P + T` columns.

    Returns:
      `ModelInputs` [B P+T] with positions counted over real tokens and one document
      (segment 0) per row; column `P + t` holds response token `t`, which column
      `P + t - 1` predicts.
    """
    joined = jnp.concatenate([prompt_mask, mask], axis=-1)
    ids = jnp.concatenate(
        [prompt_tokens.astype(jnp.int32), tokens.astype(jnp.int32)], axis=-1
    )
    return types.ModelInputs(
        tokens=ids,
        mask=joined,
        positions=positions_from_mask(joined),
        segment_ids=jnp.zeros_like(ids),
    )
