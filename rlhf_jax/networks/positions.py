"""Who may look at whom, and how far apart they are: masks and rotary angles."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.networks.config import Number, RopeScaling, TransformerConfig


def attention_mask(
    *,
    query_columns: Int[Array, " Q"],
    query_segments: Int[Array, "B Q"],
    key_mask: Bool[Array, "B S"],
    key_segments: Int[Array, "B S"],
) -> Bool[Array, "B Q S"]:
    """What each query may attend: real keys of its own document, not after it.

    Order is that of the columns, so that a row of packed documents and a row with
    padding anywhere mean the same. A query of padding sees what a token there would.
    """
    causal = jnp.arange(key_mask.shape[1])[None, :] <= query_columns[:, None]
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return causal[None] & same & key_mask[:, None, :]


def window_mask(
    mask: Bool[Array, "B Q S"],
    *,
    query_positions: Int[Array, "B Q"],
    key_positions: Int[Array, "B S"],
    window: int,
) -> Bool[Array, "B Q S"]:
    """`mask` restricted to the last `window` tokens, the present one included.

    The distance is that of positions: padding between two tokens takes no room.
    """
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    return mask & (distance < window)


def inverse_frequencies(config: TransformerConfig, *, local: bool) -> tuple[float, ...]:
    """Rotary frequencies, radians per token: `theta ** (-2 i / rotary_dim)`, scaled.

    Layers with a window of a model that gives them a base of their own are not scaled.
    """
    own_base = local and config.rope_local_theta is not None
    theta = config.rope_theta
    if own_base and config.rope_local_theta is not None:
        theta = config.rope_local_theta
    size = config.rotary_dim
    plain = [theta ** (-2 * i / size) for i in range(size // 2)]
    scaling = config.rope_scaling
    if scaling is None or own_base:
        return tuple(plain)
    if scaling.kind == "linear":
        return tuple(frequency / scaling.factor for frequency in plain)
    return tuple(_llama3(frequency, scaling) for frequency in plain)


def _llama3(frequency: Number, scaling: RopeScaling) -> float:
    """Llama 3.1: long waves are stretched, short ones kept, the rest interpolated."""
    turns = scaling.original_max_length * frequency / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    if turns > high:
        return frequency
    if turns < low:
        return frequency / scaling.factor
    share = (turns - low) / (high - low)
    return (1 - share) * frequency / scaling.factor + share * frequency


def rotary_angles(
    positions: Int[Array, "B L"], frequencies: tuple[float, ...]
) -> tuple[Float[Array, "B L R"], Float[Array, "B L R"]]:
    """Cosine and sine of `position * frequency`, float32."""
    rates = jnp.asarray(frequencies, jnp.float32)[None, None]
    angles = positions[..., None].astype(jnp.float32) * rates
    return jnp.cos(angles), jnp.sin(angles)


@jax.custom_vjp
def rotate(
    x: Float[Array, "B L H E"],
    angles: tuple[Float[Array, "B L R"], Float[Array, "B L R"]],
) -> Float[Array, "B L H E"]:
    """Rotate pairs `(i, i + R)` of the first `2 R` dimensions of every head.

    Su et al. 2021 (arXiv:2104.09864) in the half-split layout of Llama and GPT-NeoX.
    Computed in float32, returned in the dtype of `x`. Differentiable in `x` (reverse
    mode): the transpose of a rotation turns back.
    """
    cos, sin = (angle[:, :, None, :] for angle in angles)
    half = cos.shape[-1]
    wide = x.astype(jnp.float32)
    first, second, rest = (
        wide[..., :half],
        wide[..., half : 2 * half],
        x[..., 2 * half :],
    )
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate([part.astype(x.dtype) for part in turned] + [rest], axis=-1)


def _turn_back(angles: Any, cotangent: Array) -> tuple[Array, None]:
    cos, sin = angles
    return rotate(cotangent, (cos, -sin)), None


rotate.defvjp(lambda x, angles: (rotate(x, angles), angles), _turn_back)
