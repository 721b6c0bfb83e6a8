"""Exact KL divergence per token over the whole vocabulary, from hidden states."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.ops import chunks


def exact_kl(
    hidden_p: Float[Array, "*N Dp"],
    unembedding_p: Float[Array, "V Dp"],
    hidden_q: Float[Array, "*N Dq"],
    unembedding_q: Float[Array, "V Dq"],
    *,
    temperature: float = 1.0,
    softcap_p: float | None = None,
    softcap_q: float | None = None,
    chunk_size: int | None = None,
) -> Float[Array, "*N"]:
    """KL(p || q) = sum_v p_v (log p_v - log q_v) per token, in nats.

    Policy first, reference second: KL(policy || reference) is what the penalty means
    (check B4). Summed along a sampled sequence its expectation is the KL of the
    sequences (check C12). Two models that agree give exactly 0.

    Args:
      hidden_p: states of p, e.g. [B T Dp].
      unembedding_p: language head of p.
      hidden_q: states of q; the width may differ, the vocabulary may not.
      unembedding_q: language head of q.
      temperature: divides the logits of both, above 0.
      softcap_p: soft cap of the logits of p, or None.
      softcap_q: soft cap of the logits of q, or None.
      chunk_size: vocabulary rows per chunk; None chooses by size.

    Returns:
      float32 of the leading shape, differentiable in all four arrays (reverse mode).

    Raises:
      UserError: where temperature, softcap or chunk size is not positive.
    """
    heads = (chunks.head(temperature, softcap_p), chunks.head(temperature, softcap_q))
    flat_p = hidden_p.reshape(-1, hidden_p.shape[-1])
    flat_q = hidden_q.reshape(-1, hidden_q.shape[-1])
    size = chunks.rows_per_chunk(flat_p.shape[0], unembedding_p.shape[0], chunk_size)
    arrays = (flat_p, unembedding_p, flat_q, unembedding_q)
    result: Any = _chunked(*arrays, heads, size)
    return result.reshape(hidden_p.shape[:-1])


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _chunked(
    hidden_p: Array,
    unembedding_p: Array,
    hidden_q: Array,
    unembedding_q: Array,
    heads: tuple[chunks.Head, chunks.Head],
    size: int,
) -> Array:
    arrays = (hidden_p, unembedding_p, hidden_q, unembedding_q)
    return _forward(*arrays, heads, size)[0]


def _forward(
    hidden_p: Array,
    unembedding_p: Array,
    hidden_q: Array,
    unembedding_q: Array,
    heads: tuple[chunks.Head, chunks.Head],
    size: int,
) -> Any:
    """KL = E_p[l_p - l_q] - logsumexp(l_p) + logsumexp(l_q)."""

    def body(start: Any, rows: int, carry: Any) -> Any:
        sums_p, sums_q = carry
        logits_p = heads[0].logits(hidden_p, chunks.read(unembedding_p, start, rows))
        logits_q = heads[1].logits(hidden_q, chunks.read(unembedding_q, start, rows))
        sums_p = chunks.add_logits(sums_p, logits_p, logits_p - logits_q)
        return sums_p, chunks.add_logits(sums_q, logits_q, None)

    empty = chunks.empty_sums(hidden_p.shape[0])
    sums_p, sums_q = chunks.fold(body, (empty, empty), unembedding_p.shape[0], size)
    lse_p, lse_q = sums_p.logsumexp, sums_q.logsumexp
    kl = sums_p.mean - (lse_p - lse_q)
    saved = (hidden_p, unembedding_p, hidden_q, unembedding_q, lse_p, lse_q, kl)
    return kl, saved


def _backward(
    heads: tuple[chunks.Head, chunks.Head], size: int, saved: Any, cotangent: Array
) -> Any:
    """d KL / d l_p = p (log p - log q - KL); d KL / d l_q = q - p."""
    hidden_p, unembedding_p, hidden_q, unembedding_q, lse_p, lse_q, kl = saved

    def body(start: Any, rows: int, carry: Any) -> Any:
        part_p = chunks.read(unembedding_p, start, rows)
        part_q = chunks.read(unembedding_q, start, rows)
        logits_p, pull_p = jax.vjp(heads[0].logits, hidden_p, part_p)
        logits_q, pull_q = jax.vjp(heads[1].logits, hidden_q, part_q)
        log_p, log_q = logits_p - lse_p[:, None], logits_q - lse_q[:, None]
        p = jnp.exp(log_p)
        slope_p = p * (log_p - log_q - kl[:, None])
        from_p = pull_p(cotangent[:, None] * slope_p)
        from_q = pull_q(cotangent[:, None] * (jnp.exp(log_q) - p))
        d_p, rows_p, d_q, rows_q = carry
        return (
            d_p + from_p[0].astype(jnp.float32),
            chunks.write(rows_p, from_p[1], start),
            d_q + from_q[0].astype(jnp.float32),
            chunks.write(rows_q, from_q[1], start),
        )

    start = tuple(
        jnp.zeros(x.shape, dtype)
        for x, dtype in (
            (hidden_p, jnp.float32),
            (unembedding_p, unembedding_p.dtype),
            (hidden_q, jnp.float32),
            (unembedding_q, unembedding_q.dtype),
        )
    )
    d_p, rows_p, d_q, rows_q = chunks.fold(body, start, unembedding_p.shape[0], size)
    return d_p.astype(hidden_p.dtype), rows_p, d_q.astype(hidden_q.dtype), rows_q


_chunked.defvjp(_forward, _backward)
