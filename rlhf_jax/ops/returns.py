"""Discounted returns and generalized advantage estimation.

Written for one sequence and vmapped. A `terminal` token ends the episode: nothing
follows it. A `truncated` row was cut by length: the value of the state after its last
token stands for what would have followed (check B14).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.ops import masking


def _step(carry: Array, item: tuple[Array, Array]) -> tuple[Array, Array]:
    carry = item[0] + item[1] * carry
    return carry, carry


def _reverse_sum(steps: Array, decay: Array) -> Array:
    """`y[t] = steps[t] + decay[t] * y[t+1]`, with y[T] = 0, for one sequence."""
    start = jnp.zeros((), steps.dtype)
    return jax.lax.scan(_step, start, (steps, decay), reverse=True)[1]


def _gae_one(
    rewards: Array,
    values: Array,
    mask: Array,
    terminal: Array,
    truncated: Array,
    discount: float | Array,
    lam: Array,
) -> tuple[Array, Array]:
    """`gae` of one sequence: [T], [T+1], [T], [T], []."""
    last = jnp.arange(mask.shape[0]) == masking.last_real_index(mask)
    follows = mask & ~terminal & (~last | truncated)
    current = jnp.where(mask, values[:-1], 0.0)
    bootstrap = jnp.where(follows, values[1:], 0.0)
    deltas = jnp.where(mask, rewards, 0.0) + discount * bootstrap - current
    advantages = _reverse_sum(deltas, jnp.where(follows, discount * lam, 0.0))
    advantages = jnp.where(mask, advantages, 0.0)
    return advantages, advantages + current


def gae(
    rewards: Float[Array, "B T"],
    values: Float[Array, "B T+1"],
    mask: Bool[Array, "B T"],
    terminal: Bool[Array, "B T"],
    truncated: Bool[Array, " B"],
    discount: float | Float[Array, ""],
    lam: float | Float[Array, ""] | Float[Array, " B"],
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Generalized advantage estimation (Schulman et al. 2015, 1506.02438, eq. 16).

    `delta_t = r_t + discount * V_{t+1} - V_t`; `A_t = delta_t + discount * lam *
    A_{t+1}`; the return is `A_t + V_t`. `V_{t+1}` is 0 after a terminal token and
    after the last token of a row that is not truncated, and `values[:, length]` after
    the last token of a truncated row.

    Args:
      rewards: per token; what stands on padding is ignored, as everywhere here.
      values: `values[:, t]` belongs to the state before token `t`.
      mask: right-padded rows.
      terminal: True at the token that ends the episode.
      truncated: True where the row was cut by length.
      discount: per token.
      lam: 1 gives returns minus values, 0 the one-step error; one number, or one per
        row.

    Returns:
      (advantages, returns), float32, 0 on padding.
    """
    per_row = jax.vmap(_gae_one, in_axes=(0, 0, 0, 0, 0, None, 0))
    return per_row(
        rewards.astype(jnp.float32),
        values.astype(jnp.float32),
        mask,
        terminal,
        truncated,
        discount,
        jnp.broadcast_to(jnp.asarray(lam, jnp.float32), truncated.shape),
    )


def _discounted_one(
    rewards: Array, mask: Array, discount: float | Array, bootstrap: Array
) -> Array:
    """`discounted_returns` of one sequence: [T], [T], number, []."""
    last = jnp.arange(mask.shape[0]) == masking.last_real_index(mask)
    steps = jnp.where(mask, rewards, 0.0) + jnp.where(last, discount * bootstrap, 0.0)
    return _reverse_sum(steps, jnp.where(mask & ~last, discount, 0.0))


def discounted_returns(
    rewards: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    discount: float | Float[Array, ""],
    bootstrap: Float[Array, " B"] | None = None,
) -> Float[Array, "B T"]:
    """Monte-Carlo returns `G_t = r_t + discount * G_{t+1}`.

    Args:
      rewards: per token.
      mask: right-padded rows.
      discount: per token.
      bootstrap: what follows the last real token (0 if None): the value there for
        truncated rows, 0 for the others.

    Returns:
      float32, 0 on padding.
    """
    if bootstrap is None:
        bootstrap = jnp.zeros(rewards.shape[:1], jnp.float32)
    per_row = jax.vmap(_discounted_one, in_axes=(0, 0, None, 0))
    return per_row(
        rewards.astype(jnp.float32), mask, discount, bootstrap.astype(jnp.float32)
    )
