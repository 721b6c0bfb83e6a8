"""Best-of-n: draw n responses, keep the one that scores best.

For atoms with probability p and distinct scores, with F the distribution function of
the score under the policy and F- the mass strictly below, the kept response has

    p_n(y) = F(y)^n - F-(y)^n

(Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment policy").
`log n - (n-1)/n` is an upper bound of KL(p_n || p), reached as the atoms vanish; where
one response holds much of the mass the true KL is far smaller, so curves drawn with the
bound overstate it.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rlhf_jax.errors import UserError
from rlhf_jax.types import Rollout


def best_index(scores: Float[Array, " B"], n: int) -> Int[Array, " N"]:
    """Row of the best of every n neighboring rows; the first of equals.

    Args:
      scores: of `B = N * n` rows, those of one prompt being neighbors.
      n: responses per prompt.

    Raises:
      UserError: the rows do not divide into groups of n.
    """
    if n < 1 or scores.shape[0] % n:
        raise UserError(
            f"best-of-{n} needs a multiple of {n} responses, got {scores.shape[0]}; "
            "sample that many per prompt"
        )
    best = jnp.argmax(scores.reshape(-1, n), axis=1)
    return jnp.arange(best.shape[0]) * n + best


def select(rollout: Rollout, scores: Float[Array, " B"], n: int) -> Rollout:
    """The best-scoring response of each prompt: `B` rows become `B / n`."""
    index = best_index(scores, n)
    return jax.tree.map(lambda x: x[index], rollout)


def kl_bound(n: int) -> float:
    """Upper bound of KL(best-of-n || policy) in nats: log n - (n - 1) / n."""
    return math.log(n) - (n - 1) / n


def kl_estimate(n: int, logprobs: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Beirami's estimate of KL(best-of-n || policy) from the kept response, in nats.

    With e = policy(kept response | prompt) and q = (1 - e)^n,

        q (log n + (n - 1) log(1 - e) - (n - 1)/n) + (1 - q) log((1 - q) / e),

    whose mean over samples of best-of-n estimates the KL. It tends to the bound as
    e -> 0 and to log(1 / e) where the response is all but certain to be drawn.

    Args:
      n: responses per prompt.
      logprobs: log e of whole responses under the distribution sampled from.

    Returns:
      nats, float32.
    """
    log_e = jnp.minimum(logprobs.astype(jnp.float32), 0.0)
    e = jnp.exp(log_e)
    log_rest = jnp.log1p(-jnp.minimum(e, 1.0 - 1e-7))
    log_miss = n * log_rest
    miss = jnp.exp(log_miss)
    hit = -jnp.expm1(log_miss)
    rare = math.log(n) + (n - 1) * log_rest - (n - 1) / n
    # hit / e -> n as e -> 0: below float32's reach the limit is taken.
    tiny = e < 1e-12
    log_gain = jnp.where(tiny, math.log(n), jnp.log(jnp.where(tiny, 1.0, hit)) - log_e)
    return miss * rare + hit * log_gain


def pmf(probabilities: np.ndarray, scores: np.ndarray, n: int) -> np.ndarray:
    """Exact distribution of the best of n draws over enumerable responses.

    Equal scores are tied at random, so each keeps its share of their common mass.

    Args:
      probabilities: float[Y] of one draw, summing to 1.
      scores: float[Y] that the best is chosen by.
      n: number of draws.

    Returns:
      float64[Y].
    """
    mass = np.asarray(probabilities, np.float64)
    _, level = np.unique(np.asarray(scores), return_inverse=True)
    per_level = np.bincount(level, weights=mass)
    upper = np.minimum(np.cumsum(per_level), 1.0)
    upper[-1] = 1.0
    lower = np.concatenate([[0.0], upper[:-1]])
    chosen = upper**n - lower**n
    return mass / np.where(per_level > 0, per_level, 1.0)[level] * chosen[level]


def _log_binomial(n: np.ndarray, k: int) -> np.ndarray:
    """log C(n, k), minus infinity for n < k."""
    return np.array(
        [
            math.lgamma(m + 1) - math.lgamma(k + 1) - math.lgamma(m - k + 1)
            if m >= k
            else -math.inf
            for m in n
        ]
    )


def expected(scores: np.ndarray, n: int, gold: np.ndarray | None = None) -> float:
    """Expected (gold) score of the best of n, unbiased, from N >= n samples.

    The mean over all subsets of n of the N samples: the i-th lowest is the best of
    C(i-1, n-1) of the C(N, n) subsets (the U-statistic of Nakano et al. 2021, WebGPT,
    and Gao et al. 2023). Tied scores share their weights.

    Args:
      scores: float[N], what the best is chosen by.
      n: draws per choice.
      gold: float[N], what is averaged; None: the scores themselves.

    Raises:
      UserError: n is not in 1..N.
    """
    scores = np.asarray(scores, np.float64)
    total = scores.shape[0]
    if not 1 <= n <= total:
        raise UserError(
            f"the expected best-of-{n} of {total} samples is not defined; n must lie "
            f"in 1..{total}, or draw more samples"
        )
    below = np.arange(total)
    weights = np.exp(_log_binomial(below, n - 1) - _log_binomial(np.array([total]), n))
    order = np.argsort(scores, kind="stable")
    _, level = np.unique(scores[order], return_inverse=True)
    shared = np.bincount(level, weights=weights) / np.bincount(level)
    values = scores if gold is None else np.asarray(gold, np.float64)
    return float(np.sum(shared[level] * values[order]))
