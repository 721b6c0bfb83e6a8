"""Sequences as numbers, and tables with a row of logits for every prefix.

Sequences of T tokens out of V are ordered as numbers of base V, first token first. A
*prefix* of k tokens is row `(V**k - 1) / (V - 1) + its number`, so the empty prefix is
row 0 and the prefix that row s becomes by token a is row `V s + a + 1`; the
R = (V**T - 1) / (V - 1) prefixes that a token follows come first.

On the host, in float64.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from rlhf_jax.errors import UserError

Vector = Float[np.ndarray, " N"]
"""One number for every sequence: a distribution, log-probs or a reward."""


def prefix_count(vocab: int, length: int) -> int:
    """Prefixes of fewer than `length` tokens: 1 + V + ... + V**(T-1)."""
    return sum(vocab**k for k in range(length))


def contents(vocab: int, length: int) -> np.ndarray:
    """All sequences in their order, int32[N T], tokens 0 .. V-1."""
    numbers = np.arange(vocab**length)[:, None]
    powers = vocab ** np.arange(length - 1, -1, -1)
    return (numbers // powers % vocab).astype(np.int32)


def rows(vocab: int, length: int) -> np.ndarray:
    """Row of the prefix before each token of each sequence, int64[N T]."""
    y = contents(vocab, length)
    row = np.zeros((len(y), length), np.int64)
    for t in range(1, length):
        row[:, t] = vocab * row[:, t - 1] + y[:, t - 1] + 1
    return row


def log_softmax(logits: Float[np.ndarray, "*R V"]) -> Float[np.ndarray, "*R V"]:
    """Log-probs from logits along the last axis, float64."""
    logits = np.asarray(logits, np.float64)
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


def shape_of(logits: np.ndarray) -> tuple[int, int]:
    """(V, T) of a table over prefixes [R V].

    Raises:
      UserError: no number of tokens has so many prefixes.
    """
    count, vocab = logits.shape
    length = 1
    while prefix_count(vocab, length) < count:
        length += 1
    if prefix_count(vocab, length) != count:
        raise UserError(
            f"a table of {count} rows of {vocab} logits is no table over prefixes;"
            f" {length} tokens have {prefix_count(vocab, length)}"
        )
    return vocab, length


def token_logprobs(logits: Float[np.ndarray, "R V"]) -> Float[np.ndarray, "N T"]:
    """Log-prob of every token of every sequence, from logits for every prefix."""
    vocab, length = shape_of(logits)
    table = log_softmax(logits)
    return table[rows(vocab, length), contents(vocab, length)]


def distribution(logits: Float[np.ndarray, "R V"]) -> Vector:
    """Probability of every sequence, from logits for every prefix."""
    return np.exp(token_logprobs(logits).sum(axis=1))


def conditionals(probabilities: Vector, vocab: int) -> Float[np.ndarray, "R V"]:
    """Log-probs of the next token after every prefix: the inverse of `distribution`.

    A prefix of mass 0 gets the uniform distribution, a token of mass 0 minus 1e4.
    """
    tables = []
    mass = np.asarray(probabilities, np.float64)
    while mass.size > 1:
        children = mass.reshape(-1, vocab)
        total = children.sum(axis=1, keepdims=True)
        share = np.divide(
            children, total, out=np.full_like(children, 1 / vocab), where=total > 0
        )
        tables.append(np.log(np.maximum(share, np.exp(-700.0))))
        tables[-1][share == 0] = -1e4
        mass = total[:, 0]
    return np.concatenate(tables[::-1])
