"""Log-probs, entropy and logsumexp from hidden states, without holding all logits.

The logits `[B, T, V]` never exist: the vocabulary is read in chunks (`ops.chunks`),
each chunk's logits live for one iteration, and the backward pass computes them again
from hidden states and unembedding. What fits into one chunk takes no loop. On a mesh
tokens and vocabulary are both split (`ops.spreading`).

Logits are `softcap * tanh(hidden @ unembedding.T / softcap) / temperature`: the
temperature of sampling belongs into every log-prob (check B9). The softmax is taken in
float32 whatever the dtype of the states (check B29).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlhf_jax.ops import chunks
from rlhf_jax.ops.exact_kl import exact_kl as exact_kl
from rlhf_jax.ops.spreading import Spread, spread


class TokenLogprobs(NamedTuple):
    """Per token, float32[B T]: log-prob of the target, entropy (nats) of the whole
    distribution, logsumexp of its logits."""

    logprobs: Array
    entropy: Array
    logsumexp: Array


def from_logits(
    logits: Float[Array, "*N V"],
    targets: Int[Array, "*N"],
    temperature: chunks.Number = 1.0,
) -> Float[Array, "*N"]:
    """Log-probs of `targets` under softmax(logits / temperature).

    The sampler calls this on the logits of one step; `token_logprobs` gives the same
    numbers for whole sequences. A logit of minus infinity forbids its token.

    Args:
      logits: any float dtype; the softmax is taken in float32.
      targets: vocabulary ids in [0, V).
      temperature: divides the logits, above 0.

    Returns:
      float32 of the shape of `targets`.
    """
    return statistics(logits, targets, temperature).logprobs


def statistics(
    logits: Float[Array, "*N V"],
    targets: Int[Array, "*N"],
    temperature: chunks.Number = 1.0,
) -> TokenLogprobs:
    """`TokenLogprobs` the direct way, from logits that exist; as `from_logits`."""
    divisor = chunks.divisor(temperature)
    logits = logits.astype(jnp.float32)
    logits = logits if divisor is None else chunks.tempered(logits, divisor)
    lse = jax.nn.logsumexp(logits, axis=-1)
    logprobs = logits - lse[..., None]
    chosen = jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0]
    finite = jnp.where(jnp.isfinite(logprobs), logprobs, 0.0)
    entropy = -jnp.sum(jnp.exp(logprobs) * finite, axis=-1)
    return TokenLogprobs(chosen, entropy, lse)


def token_logprobs(
    hidden: Float[Array, "*N D"],
    unembedding: Float[Array, "V D"],
    targets: Int[Array, "*N"],
    *,
    temperature: chunks.Number = 1.0,
    softcap: float | None = None,
    chunk_size: int | None = None,
) -> TokenLogprobs:
    """Log-prob, entropy and logsumexp per token, without the logits of all tokens.

    Args:
      hidden: the state that predicts each target, e.g. [B T D], any float dtype; the
        products accumulate in float32.
      unembedding: the language head.
      targets: vocabulary ids in [0, V); on padding any valid id.
      temperature: divides the logits, above 0.
      softcap: soft cap of the logits before the temperature (Gemma 2), or None.
      chunk_size: vocabulary rows per chunk of a device; None chooses by size.

    Returns:
      `TokenLogprobs`, each float32 of the shape of `targets`, differentiable in
      `hidden` and `unembedding` (reverse mode).

    Raises:
      UserError: where temperature, softcap or chunk size is not positive.
    """
    head, divisor = chunks.head(softcap), chunks.divisor(temperature)
    shape = targets.shape
    over = spread(shape, unembedding)
    states, ids = over.arrange(hidden, shape), over.arrange(targets, shape)
    size = chunks.rows_per_chunk(*over.sizes(ids, unembedding), chunk_size)
    result: Any = _chunked(states, unembedding, ids, divisor, head, size, over)
    return TokenLogprobs(*(over.restore(x, shape) for x in result))


def _target_logit(logits: Array, targets: Array, start: Any) -> Array:
    """The target's logit [N] where it lies in this chunk, else 0."""
    local = targets - start
    inside = (local >= 0) & (local < logits.shape[1])
    safe = jnp.clip(local, 0, logits.shape[1] - 1)
    picked = jnp.take_along_axis(logits, safe[:, None], axis=1)[:, 0]
    return jnp.where(inside, picked, 0.0)


def _sums(logits: Array, targets: Array, start: Any, carry: Any) -> Any:
    """Running sums and target logits after one more chunk of logits."""
    sums, target = carry
    sums = chunks.add_logits(sums, logits, None)
    return sums, target + _target_logit(logits, targets, start)


def _empty(targets: Array) -> Any:
    return chunks.empty_sums(targets.shape[0]), jnp.zeros(targets.shape, jnp.float32)


def _result(carry: Any, over: Spread) -> TokenLogprobs:
    sums = over.merge(carry[0], chunks.recentered)
    target, lse = over.over_vocab(carry[1]), sums.logsumexp
    # H = logsumexp - E[l], both counted from the largest logit.
    return TokenLogprobs(target - lse, jnp.log(sums.total) - sums.mean, lse)


_GIVEN = ("states", "matrix", "tokens", "number")
_FOUND = TokenLogprobs("tokens", "tokens", "tokens")  # type: ignore[arg-type]


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _chunked(
    hidden: Array,
    unembedding: Array,
    targets: Array,
    divisor: Any,
    head: chunks.Head,
    size: int,
    over: Spread,
) -> TokenLogprobs:
    """Online softmax over chunks; hidden [... D], targets [...], divisor []."""

    def local(
        hidden: Array, unembedding: Array, targets: Array, divisor: Any
    ) -> TokenLogprobs:
        flat, ids = _flat(hidden, unembedding, targets, over)

        def body(start: Any, rows: int, carry: Any) -> Any:
            part = over.read(unembedding, start, rows)
            return _sums(head.logits(flat, part, divisor), ids, start, carry)

        carry = chunks.fold(body, _empty(ids), unembedding.shape[0], size)
        return _shaped(_result(carry, over), targets)

    return over.run(local, _GIVEN, _FOUND)(hidden, unembedding, targets, divisor)


def _flat(
    hidden: Array, unembedding: Array, targets: Array, over: Spread
) -> tuple[Array, Array]:
    """States [N D] of a device, and targets [N] counted from its first row."""
    ids = targets.reshape(-1) - over.first(unembedding)
    return hidden.reshape(-1, hidden.shape[-1]), ids


def _shaped(values: Any, like: Array) -> Any:
    return jax.tree.map(lambda x: x.reshape(like.shape), values)


def _forward(
    hidden: Array,
    unembedding: Array,
    targets: Array,
    divisor: Any,
    head: chunks.Head,
    size: int,
    over: Spread,
) -> Any:
    """Where one chunk holds everything, its product is kept for the backward pass."""

    def local(hidden: Array, unembedding: Array, targets: Array, divisor: Any) -> Any:
        flat, ids = _flat(hidden, unembedding, targets, over)
        raw = chunks.product(flat, over.read(unembedding, 0, unembedding.shape[0]))
        logits = head.shape(raw, divisor)
        result = _result(_sums(logits, ids, 0, _empty(ids)), over)
        return _shaped(result, targets), raw

    given, raw = (hidden, unembedding, targets, divisor), None
    if size == over.sizes(targets, unembedding)[1]:
        result, raw = over.run(local, _GIVEN, (_FOUND, "logits"))(*given)
    else:
        result: Any = _chunked(*given, head, size, over)
    return result, (*given, result.entropy, result.logsumexp, raw)


def _backward(
    head: chunks.Head, size: int, over: Spread, saved: Any, cotangents: TokenLogprobs
) -> Any:
    """Chunks again. With p the softmax, y the target, H the entropy:
    d logprob / d l_v = 1[v = y] - p_v; d H / d l_v = -p_v (log p_v + H);
    d logsumexp / d l_v = p_v."""
    *given, entropy, lse, kept = saved
    to_logprob, to_entropy, to_lse = cotangents
    constant = to_lse - to_logprob - to_entropy * entropy
    columns = (lse, constant, to_logprob, to_entropy)

    def local(*arrays: Any) -> tuple[Array, Array]:
        hidden, unembedding, targets, divisor = arrays[:4]
        kept = arrays[8] if len(arrays) > 8 else None
        flat, ids = _flat(hidden, unembedding, targets, over)
        lse, constant, to_logprob, to_entropy = (
            x.reshape(-1)[:, None] for x in arrays[4:8]
        )

        def body(start: Any, rows: int, carry: Any) -> Any:
            d_hidden, d_unembedding = carry
            part = over.read(unembedding, start, rows)
            raw = chunks.product(flat, part) if kept is None else kept
            logits, pull = jax.vjp(lambda raw: head.shape(raw, divisor), raw)
            logprobs = logits - lse
            slope = constant - to_entropy * logprobs
            chosen = jnp.arange(rows)[None, :] == (ids - start)[:, None]
            push = jnp.exp(logprobs) * slope + jnp.where(chosen, to_logprob, 0.0)
            _, to_factors = jax.vjp(chunks.product, flat, part)
            from_hidden, from_rows = to_factors(*pull(push))
            d_hidden = d_hidden + from_hidden.astype(jnp.float32)
            return d_hidden, over.write(d_unembedding, from_rows, start)

        start = (jnp.zeros(flat.shape, jnp.float32), jnp.zeros_like(unembedding))
        d_hidden, d_matrix = chunks.fold(body, start, unembedding.shape[0], size)
        d_hidden = over.over_vocab(d_hidden).astype(hidden.dtype)
        return d_hidden.reshape(hidden.shape), over.over_tokens(d_matrix)

    kinds = (*_GIVEN, *("tokens",) * 4, *(() if kept is None else ("logits",)))
    run = over.run(local, kinds, ("states", "matrix"))
    return *run(*given, *columns, *(() if kept is None else (kept,))), None, None


_chunked.defvjp(_forward, _backward)
