"""Reading a vocabulary in chunks: what `logprobs` and `exact_kl` share.

Every chunk of the unembedding is read once per pass and its gradient is written once,
so the memory above inputs and gradients is one chunk of logits, `tokens * chunk_size`
numbers, whatever the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rlhf_jax import errors

_CHUNK_ELEMENTS = 2**22
"""Logits held at once (16 MiB of float32): enough to fill the matrix units."""
_ROW_MULTIPLE = 128


Number = float | Array
"""What a temperature may be: a Python number, which is checked, or an array float32[],
an argument of the program, which whoever made it has checked."""


class Head(NamedTuple):
    """Static description of one language head (hashable)."""

    softcap: float | None

    def logits(self, hidden: Array, rows: Array, temperature: Any) -> Array:
        """float32[N C] logits of hidden[N D] over the vocabulary rows [C D]."""
        return self.shape(product(hidden, rows), temperature)

    def shape(self, raw: Array, temperature: Any) -> Array:
        """The logits of a `product`: soft cap, then temperature (None is 1)."""
        if self.softcap is not None:
            raw = self.softcap * jnp.tanh(raw / self.softcap)
        return raw if temperature is None else tempered(raw, temperature)


def product(hidden: Array, rows: Array) -> Array:
    """float32[N C], hidden[N D] times the vocabulary rows [C D]."""
    return jnp.einsum("nd,vd->nv", hidden, rows, preferred_element_type=jnp.float32)


def tempered(logits: Array, temperature: Any) -> Array:
    """Logits over a temperature, number or array, as a product with its reciprocal.

    That is what the compiler makes of a division by a constant. Said so, an argument
    gives the bits of the constant.
    """
    return logits * (1.0 / jnp.asarray(temperature, jnp.float32))


def divisor(temperature: Number) -> Array | None:
    """A temperature as an array that divides logits, None for the number 1.

    No gradient flows to it.

    Raises:
      UserError: a number that is not above 0.
    """
    if isinstance(temperature, Array):
        return temperature
    if temperature <= 0:
        raise errors.UserError(
            f"temperature {temperature} has no log-probs: it must be above 0 "
            "(for greedy decoding take the argmax of the logits)"
        )
    return None if temperature == 1.0 else jnp.asarray(temperature, jnp.float32)


def head(softcap: float | None) -> Head:
    """A checked `Head`."""
    if softcap is not None and softcap <= 0:
        raise errors.UserError(f"softcap {softcap} must be above 0, or None for no cap")
    cap = None if softcap is None else float(softcap)
    return Head(cap)


def rows_per_chunk(tokens: int, vocab: int, chunk_size: int | None) -> int:
    """Vocabulary rows per chunk; `vocab` where everything fits into one chunk."""
    if chunk_size is not None:
        if chunk_size < 1:
            raise errors.UserError(f"chunk_size {chunk_size} must be at least 1")
        return min(chunk_size, vocab)
    if tokens * vocab <= _CHUNK_ELEMENTS:
        return vocab
    fitting = _CHUNK_ELEMENTS // tokens // _ROW_MULTIPLE * _ROW_MULTIPLE
    return min(max(fitting, _ROW_MULTIPLE), vocab)


def fold(
    body: Callable[[Any, int, Any], Any], carry: Any, vocab: int, size: int
) -> Any:
    """Fold `body(start, rows, carry)` over the vocabulary; the last chunk is short."""
    count, tail = divmod(vocab, size)
    if count == 1:
        carry = body(0, size, carry)
        return body(size, tail, carry) if tail else carry
    carry = jax.lax.fori_loop(0, count, lambda i, c: body(i * size, size, c), carry)
    return body(count * size, tail, carry) if tail else carry


def read(unembedding: Array, start: Any, rows: int) -> Array:
    """Rows `start ... start + rows` of the unembedding [V D].

    (On a CPU, where bfloat16 is not native, the compiler holds a float32 copy of a
    bfloat16 matrix beside the loop; accelerators do not.)
    """
    return jax.lax.dynamic_slice_in_dim(unembedding, start, rows, axis=0)


def write(gradient: Array, rows: Array, start: Any) -> Array:
    """The gradient [V D] with the rows from `start` on filled in."""
    return jax.lax.dynamic_update_slice_in_dim(gradient, rows, start, axis=0)


class SoftmaxSums(NamedTuple):
    """Running sums of a softmax over the logits `l` seen so far, float32[N] each:
    the largest, sum of exp(l - largest), and sum of exp(l - largest) * x, where x is
    one more quantity per logit."""

    largest: Array
    total: Array
    moment: Array

    @property
    def logsumexp(self) -> Array:
        return self.largest + jnp.log(self.total)

    @property
    def mean(self) -> Array:
        """Expectation of x under the softmax."""
        return self.moment / self.total


def empty_sums(tokens: int) -> SoftmaxSums:
    """The sums before any logit."""
    zeros = jnp.zeros((tokens,), jnp.float32)
    return SoftmaxSums(jnp.full((tokens,), -jnp.inf, jnp.float32), zeros, zeros)


def rescaled(sums: SoftmaxSums, largest: Array) -> SoftmaxSums:
    """The same sums counted from another logit, `largest` [N]; x stays as it is."""
    scale = jnp.exp(_drop(sums, largest))
    return SoftmaxSums(largest, sums.total * scale, sums.moment * scale)


def recentered(sums: SoftmaxSums, largest: Array) -> SoftmaxSums:
    """As `rescaled`, for an x that is itself counted from the largest logit."""
    moment = sums.moment + _drop(sums, largest) * sums.total
    return rescaled(sums._replace(moment=moment), largest)


def _drop(sums: SoftmaxSums, largest: Array) -> Array:
    return jnp.where(sums.total > 0, sums.largest - largest, 0.0)


def add_logits(sums: SoftmaxSums, logits: Array, extra: Array | None) -> SoftmaxSums:
    """The sums after one more chunk: logits [N C], x = `extra` [N C].

    With `extra` None, x is the logit itself counted from the largest so far, which
    keeps the digits of the entropy: where the largest moves, every summed x does.
    """
    largest = jnp.maximum(sums.largest, jnp.max(logits, axis=1))
    shifted = logits - largest[:, None]
    exps = jnp.exp(shifted)
    moved = (recentered if extra is None else rescaled)(sums, largest)
    extra = shifted if extra is None else extra
    return SoftmaxSums(
        largest,
        moved.total + jnp.sum(exps, axis=1),
        moved.moment + jnp.sum(exps * extra, axis=1),
    )
