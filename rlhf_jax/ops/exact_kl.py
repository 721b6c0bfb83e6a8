"""Exact KL divergence per token over the whole vocabulary, from hidden states."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.ops import chunks
from rlhf_jax.ops.spreading import Spread, spread


def exact_kl(
    hidden_p: Float[Array, "*N Dp"],
    unembedding_p: Float[Array, "V Dp"],
    hidden_q: Float[Array, "*N Dq"],
    unembedding_q: Float[Array, "V Dq"],
    *,
    temperature: chunks.Number = 1.0,
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
      chunk_size: vocabulary rows per chunk of a device; None chooses by size.

    Returns:
      float32 of the leading shape, differentiable in all four arrays (reverse mode).

    Raises:
      UserError: where temperature, softcap or chunk size is not positive.
    """
    heads = (chunks.head(softcap_p), chunks.head(softcap_q))
    shape = hidden_p.shape[:-1]
    over = spread(shape, unembedding_p, unembedding_q)
    states_p, states_q = over.arrange(hidden_p, shape), over.arrange(hidden_q, shape)
    sizes = over.sizes(states_p[..., 0], unembedding_p)
    size = chunks.rows_per_chunk(*sizes, chunk_size)
    divisor = chunks.divisor(temperature)
    arrays = (states_p, unembedding_p, states_q, unembedding_q, divisor)
    result: Any = _chunked(*arrays, heads, size, over)
    return over.restore(result, shape)


_STATES = ("states", "matrix", "states", "matrix")
_GIVEN = (*_STATES, "number")


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _chunked(
    hidden_p: Array,
    unembedding_p: Array,
    hidden_q: Array,
    unembedding_q: Array,
    divisor: Any,
    heads: tuple[chunks.Head, chunks.Head],
    size: int,
    over: Spread,
) -> Array:
    arrays = (hidden_p, unembedding_p, hidden_q, unembedding_q, divisor)
    return _forward(*arrays, heads, size, over)[0]


def _forward(
    hidden_p: Array,
    unembedding_p: Array,
    hidden_q: Array,
    unembedding_q: Array,
    divisor: Any,
    heads: tuple[chunks.Head, chunks.Head],
    size: int,
    over: Spread,
) -> Any:
    """KL = E_p[l_p - l_q] - logsumexp(l_p) + logsumexp(l_q)."""

    def local(
        hidden_p: Array,
        rows_p: Array,
        hidden_q: Array,
        rows_q: Array,
        divisor: Any,
    ) -> Any:
        flat_p, flat_q = _flat(hidden_p), _flat(hidden_q)

        def body(start: Any, rows: int, carry: Any) -> Any:
            sums_p, sums_q = carry
            part_p, part_q = (over.read(x, start, rows) for x in (rows_p, rows_q))
            logits_p = heads[0].logits(flat_p, part_p, divisor)
            logits_q = heads[1].logits(flat_q, part_q, divisor)
            sums_p = chunks.add_logits(sums_p, logits_p, logits_p - logits_q)
            return sums_p, chunks.add_logits(sums_q, logits_q, None)

        empty = chunks.empty_sums(flat_p.shape[0])
        sums_p, sums_q = chunks.fold(body, (empty, empty), rows_p.shape[0], size)
        sums_p = over.merge(sums_p, chunks.rescaled)
        lse_p = sums_p.logsumexp
        lse_q = over.merge(sums_q, chunks.recentered).logsumexp
        found = (sums_p.mean - (lse_p - lse_q), lse_p, lse_q)
        return tuple(x.reshape(hidden_p.shape[:-1]) for x in found)

    arrays = (hidden_p, unembedding_p, hidden_q, unembedding_q, divisor)
    found = over.run(local, _GIVEN, ("tokens",) * 3)(*arrays)
    return found[0], (*arrays, *found)


def _flat(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def _backward(
    heads: tuple[chunks.Head, chunks.Head],
    size: int,
    over: Spread,
    saved: Any,
    cotangent: Array,
) -> Any:
    """d KL / d l_p = p (log p - log q - KL); d KL / d l_q = q - p."""

    def local(
        hidden_p: Array,
        matrix_p: Array,
        hidden_q: Array,
        matrix_q: Array,
        divisor: Any,
        *more: Array,
    ) -> Any:
        flat_p, flat_q = _flat(hidden_p), _flat(hidden_q)
        kl, lse_p, lse_q, cotangent = (x.reshape(-1)[:, None] for x in more)

        def body(start: Any, rows: int, carry: Any) -> Any:
            part_p = over.read(matrix_p, start, rows)
            part_q = over.read(matrix_q, start, rows)
            logits_p, pull_p = jax.vjp(
                lambda *of: heads[0].logits(of[0], of[1], divisor), flat_p, part_p
            )
            logits_q, pull_q = jax.vjp(
                lambda *of: heads[1].logits(of[0], of[1], divisor), flat_q, part_q
            )
            log_p, log_q = logits_p - lse_p, logits_q - lse_q
            p = jnp.exp(log_p)
            from_p = pull_p(cotangent * (p * (log_p - log_q - kl)))
            from_q = pull_q(cotangent * (jnp.exp(log_q) - p))
            d_p, rows_p, d_q, rows_q = carry
            return (
                d_p + from_p[0].astype(jnp.float32),
                over.write(rows_p, from_p[1], start),
                d_q + from_q[0].astype(jnp.float32),
                over.write(rows_q, from_q[1], start),
            )

        start = (
            jnp.zeros(flat_p.shape, jnp.float32),
            jnp.zeros_like(matrix_p),
            jnp.zeros(flat_q.shape, jnp.float32),
            jnp.zeros_like(matrix_q),
        )
        found = chunks.fold(body, start, matrix_p.shape[0], size)
        d_p, d_q = (over.over_vocab(x) for x in found[::2])
        return (
            d_p.astype(hidden_p.dtype).reshape(hidden_p.shape),
            over.over_tokens(found[1]),
            d_q.astype(hidden_q.dtype).reshape(hidden_q.shape),
            over.over_tokens(found[3]),
        )

    kinds = (*_GIVEN, *("tokens",) * 4)
    return *over.run(local, kinds, _STATES)(*saved, cotangent), None


_chunked.defvjp(_forward, _backward)
