"""Expected policy-gradient updates of a table of logits, summed over all responses.

A method that multiplies the score of every sampled token with a constant w_t(y) moves
the logits, on-policy and in expectation, by

    F(s, a) = E_{y ~ pi} sum_t w_t(y) d log pi(y_t | s_t) / d logits(s, a)
            = P(s) pi(a | s) (E[w_t | s, a] - E[w_t | s])

On the host, in float64; tables and sequences as in `prefixes`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from rlhf_jax.worlds import prefixes


def advantages(
    logits: Float[np.ndarray, "R V"], coefficients: Float[np.ndarray, "N T"]
) -> Float[np.ndarray, "R V"]:
    """E[w_t | s, a] - E[w_t | s]: mean coefficient after a token, minus after its
    prefix."""
    pi = np.exp(prefixes.log_softmax(logits))
    after = after_token(logits, coefficients)
    return after - np.sum(pi * after, axis=1, keepdims=True)


def expected_gradient(
    logits: Float[np.ndarray, "R V"], coefficients: Float[np.ndarray, "N T"]
) -> Float[np.ndarray, "R V"]:
    """E_{y ~ pi} sum_t w_t(y) grad log pi(y_t | s_t), as [R V].

    Args:
      logits: the policy.
      coefficients: w_t(y) of every token of every sequence; constants.
    """
    return (
        reached(logits)[:, None]
        * np.exp(prefixes.log_softmax(logits))
        * advantages(logits, coefficients)
    )


def reached(logits: Float[np.ndarray, "R V"]) -> Float[np.ndarray, " R"]:
    """Probability that a response passes through each prefix."""
    vocab, length = prefixes.shape_of(logits)
    pi, levels = np.exp(prefixes.log_softmax(logits)), [np.ones(1)]
    for t in range(length - 1):
        first = prefixes.prefix_count(vocab, t)
        level = pi[first : first + vocab**t]
        levels.append((levels[-1][:, None] * level).ravel())
    return np.concatenate(levels)


def after_token(
    logits: Float[np.ndarray, "R V"], coefficients: Float[np.ndarray, "N T"]
) -> Float[np.ndarray, "R V"]:
    """E[w_t | prefix, token] as [R V]."""
    vocab, length = prefixes.shape_of(logits)
    logprobs = prefixes.token_logprobs(logits)
    later = np.cumsum(logprobs[:, ::-1], axis=1)[:, ::-1] - logprobs
    at = prefixes.rows(vocab, length) * vocab + prefixes.contents(vocab, length)
    weights = np.exp(later) * coefficients
    total = np.bincount(at.ravel(), weights.ravel(), minlength=logits.size)
    return total.reshape(logits.shape)
