"""Davidson's model: Bradley-Terry with ties (Davidson 1970).

For a score difference `m = s_i - s_j` and a tie parameter `nu >= 0`

    P(i wins) : P(tie) : P(j wins) = e^(m/2) : nu : e^(-m/2)

so equal responses tie with probability `nu / (2 + nu)`, and `nu = 0` is Bradley-Terry.
Ties carry information here: they pull the scores together, where the other ranking
terms leave tied pairs out.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax import metrics, types
from rlhf_jax.errors import UserError
from rlhf_jax.losses.combine import Term
from rlhf_jax.losses.reduction import Support


def log_probabilities(
    difference: Float[Array, "*shape"], nu: float | int
) -> Float[Array, "*shape 3"]:
    """log P(first wins), log P(tie), log P(second wins) of score differences.

    Args:
      difference: score of the first minus score of the second.
      nu: tie parameter, 0 or more; at 0 the tie has probability 0 (log: -inf).
    """
    half = 0.5 * difference
    tie = jnp.full_like(half, math.log(nu) if nu > 0 else -jnp.inf)
    return jax.nn.log_softmax(jnp.stack([half, tie, -half], axis=-1), axis=-1)


def tie_parameter(share_of_ties: float) -> float:
    """The nu under which equal responses tie this often: `2 p / (1 - p)`.

    Args:
      share_of_ties: in [0, 1).
    """
    if not 0 <= share_of_ties < 1:
        raise UserError(f"share_of_ties must be in [0, 1), got {share_of_ties}")
    return 2 * share_of_ties / (1 - share_of_ties)


def davidson(nu: float | int) -> Term:
    """Negative log-likelihood of a prompt's pairs, tied ones included.

    The mean over all pairs of ranked responses: `-log P(i wins)` for an ordered pair,
    `-log P(tie)` for a tied one. `margin` handicaps the better of an ordered pair, as
    in `all_pairs`. With `nu = 0` a tied pair is impossible and left out, and what
    remains is `all_pairs`. Rows of two or more ranked responses count, also where all
    of them tie.

    Args:
      nu: tie parameter; see `tie_parameter`.
    """
    if not 0 <= nu < math.inf:
        raise UserError(f"davidson: nu must be 0 or more, got {nu}")

    def values(scores: Array, batch: types.RankingBatch) -> tuple[Array, types.Metrics]:
        scores = jnp.where(batch.ranks > 0, scores, jnp.zeros((), scores.dtype))
        wins, ties = _wins(batch), _ties(batch) & (nu > 0)
        gap = scores[:, :, None] - scores[:, None, :]
        logs = log_probabilities(gap - batch.margin[:, None, None], nu)[..., 0]
        tied = _tie_loss(gap, nu)
        loss = jnp.where(wins, -logs, 0.0) + jnp.where(ties, tied, 0.0)
        count = jnp.sum(wins | ties, axis=(1, 2), dtype=loss.dtype)
        total = jnp.sum(loss, axis=(1, 2))
        return total / jnp.maximum(count, 1.0), _report(gap, wins, batch)

    return Term(values, support=lambda batch: _support(batch, nu))


def _tie_loss(gap: Array, nu: float | int) -> Array:
    """-log P(tie), finite for nu = 0 too, where nothing uses it."""
    safe = nu if nu > 0 else 1.0
    return -log_probabilities(gap, safe)[..., 1]


def _wins(batch: types.RankingBatch) -> Array:
    """[b, i, j]: i is ranked above j."""
    first, second = batch.ranks[:, :, None], batch.ranks[:, None, :]
    return (first > 0) & (second > first)


def _ties(batch: types.RankingBatch) -> Array:
    """[b, i, j], i < j: both are ranked, neither above the other."""
    first, second = batch.ranks[:, :, None], batch.ranks[:, None, :]
    return jnp.triu((first > 0) & (first == second), k=1)


def _support(batch: types.RankingBatch, nu: float | int) -> Support:
    pair = _wins(batch) | (_ties(batch) & (nu > 0))
    return Support(jnp.any(pair, axis=(1, 2)), batch.weight)


def _report(gap: Array, wins: Array, batch: types.RankingBatch) -> types.Metrics:
    gap = jax.lax.stop_gradient(gap)
    weight = batch.weight[:, None, None]
    right = 0.5 * (1.0 + jnp.sign(gap))
    return {
        "reward_model/accuracy": metrics.mean(right, wins, weight),
        "reward_model/margin": metrics.mean(gap, wins, weight),
    }
