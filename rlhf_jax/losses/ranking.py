"""Reward-model terms: scores float32[B K] and `types.RankingBatch` to values [B].

Conventions, the same for every term:

- `ranks`: 1 is best, equal numbers tie, 0 means *ignored*: the response is absent
  (padding to K) or its place is unknown, and its score has no influence at all. A
  response that was seen and left below the ranked ones is *not* 0: give all such
  responses one common last rank. "The best 2 of 5" is `[1, 2, 3, 3, 3]`. The order
  inside the last tie group is free, so it adds exactly nothing, which is the partial
  ranking's likelihood.
- `margin`: a response ranked below is handicapped by it, i.e. its score counts as
  `score + margin` against better ones (Llama 2, section 3.2.2); 0 for none.
- Rows without any order (fewer than two different ranks) are outside of the support
  of the batch and of every mean.

All differences are taken before any exponential, so scores of 1e4 cost no digits, and
with K = 2 the terms `plackett_luce`, `all_pairs` and `best_of_k` *are* Bradley-Terry.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax import metrics, types
from rlhf_jax.errors import UserError
from rlhf_jax.losses.combine import LossTerm
from rlhf_jax.losses.orderings import logsumexp_where, negative_log_likelihood
from rlhf_jax.losses.reduction import support


def bradley_terry(label_smoothing: float = 0.0) -> LossTerm:
    """Bradley and Terry's pair loss, `-log sigmoid(s_w - s_l - margin)`, for K = 2.

    With label smoothing e the label is taken to be flipped with probability e:
    `(1 - e) softplus(-(s_w - s_l - margin)) + e softplus(s_w - s_l + margin)` (with
    margin 0 that is cDPO's form for scores). At equal scores the loss is log 2.
    The same as `all_pairs`, but refuses K other than 2.

    Args:
      label_smoothing: in [0, 0.5).
    """
    pairs = all_pairs(label_smoothing)

    def values(scores: Array, batch: types.RankingBatch) -> tuple[Array, types.Metrics]:
        if scores.shape[1] != 2:
            raise ValueError(
                f"bradley_terry is for pairs, got K = {scores.shape[1]} responses; "
                "use all_pairs or plackett_luce"
            )
        return pairs(scores, batch)

    return values


def all_pairs(label_smoothing: float = 0.0) -> LossTerm:
    """InstructGPT's form: the mean of Bradley-Terry over a prompt's untied pairs.

    `-1/#pairs sum_{(w, l)} log sigmoid(s_w - s_l - margin)` (Ouyang et al. 2022, eq.
    1). All pairs of a prompt are one element of the batch, so a prompt counts once and
    its responses cannot be spread over steps (check B26). Tied pairs are left out.

    Args:
      label_smoothing: as in `bradley_terry`.
    """
    if not 0 <= label_smoothing < 0.5:
        raise UserError(f"label_smoothing={label_smoothing} must be in [0, 0.5)")

    def values(scores: Array, batch: types.RankingBatch) -> tuple[Array, types.Metrics]:
        scores = _ranked(scores, batch)
        below, margin = _below(batch.ranks), batch.margin[:, None, None]
        gap = _gaps(scores)
        loss = jax.nn.softplus(gap + margin)
        if label_smoothing:
            flipped = jax.nn.softplus(-gap + margin)
            loss = (1 - label_smoothing) * loss + label_smoothing * flipped
        pairs = jnp.maximum(jnp.sum(below, axis=(1, 2)), 1)
        total = jnp.sum(jnp.where(below, loss, 0.0), axis=(1, 2))
        return total / pairs, _report(scores, batch)

    return values


def plackett_luce() -> LossTerm:
    """The negative log-likelihood of a ranking with ties (Plackett 1975, Luce 1959).

    `-sum_i log( e^{s_i} / sum_{j at or below i} e^{s_j} )`. A tie group is an
    unresolved order: its probability is the sum over its linear extensions, exact up
    to 4 tied responses and by Efron's form (1977) beyond; the last group adds nothing.
    At K equal scores without ties the loss is log K!.
    """

    def values(scores: Array, batch: types.RankingBatch) -> tuple[Array, types.Metrics]:
        scores = _ranked(scores, batch)
        loss = negative_log_likelihood(scores, batch.ranks, batch.margin)
        return loss, _report(scores, batch)

    return values


def best_of_k() -> LossTerm:
    """Ziegler et al.'s choice loss, the first stage of Plackett-Luce.

    `-log( e^{s_b} / sum_j e^{s_j} )`, b the best of the K ranked responses (Ziegler et
    al. 2019, eq. 1); the order of the others is not used. Where several share the best
    rank, their probabilities are added. At K equal scores the loss is log K.
    """

    def values(scores: Array, batch: types.RankingBatch) -> tuple[Array, types.Metrics]:
        scores = _ranked(scores, batch)
        below = _below(batch.ranks)
        gap = _gaps(scores) + batch.margin[:, None, None]
        ranked = batch.ranks > 0
        best = jnp.min(jnp.where(ranked, batch.ranks, jnp.iinfo(jnp.int32).max), axis=1)
        top = ranked & (batch.ranks == best[:, None]) & jnp.any(below, axis=2)
        others = logsumexp_where(gap, below, axis=2)
        loss = jax.nn.softplus(-logsumexp_where(-others, top, axis=1))
        return jnp.where(jnp.any(top, axis=1), loss, 0.0), _report(scores, batch)

    return values


def score_centering() -> LossTerm:
    """`(s_w + s_l)^2`: removes the shift that preferences leave free.

    Eisenstein et al. 2023 (as in TRL, weight 0.01); for K responses the mean over all
    pairs of ranked responses of a prompt, tied ones too. It is the only ranking term
    that sees a shift of all the scores of a prompt.
    """

    def values(scores: Array, batch: types.RankingBatch) -> tuple[Array, types.Metrics]:
        ranked, scores = batch.ranks > 0, _ranked(scores, batch)
        pair = jnp.triu(ranked[:, :, None] & ranked[:, None, :], k=1)
        squares = jnp.square(scores[:, :, None] + scores[:, None, :])
        pairs = jnp.maximum(jnp.sum(pair, axis=(1, 2)), 1)
        loss = jnp.sum(jnp.where(pair, squares, 0.0), axis=(1, 2)) / pairs
        return loss, {"reward_model/scores": _score_moments(scores, batch)}

    return values


def _ranked(scores: Array, batch: types.RankingBatch) -> Array:
    """Scores with the ignored ones at 0, cut off from the gradient."""
    return jnp.where(batch.ranks > 0, scores, jnp.zeros((), scores.dtype))


def _below(ranks: Int[Array, "B K"]) -> Bool[Array, "B K K"]:
    """[b, i, j]: response j is ranked below response i, both are ranked."""
    better, worse = ranks[:, :, None], ranks[:, None, :]
    return (better > 0) & (worse > better)


def _gaps(scores: Float[Array, "B K"]) -> Float[Array, "B K K"]:
    """[b, i, j] = s_j - s_i."""
    return scores[:, None, :] - scores[:, :, None]


def _score_moments(scores: Array, batch: types.RankingBatch) -> metrics.Moments:
    where = support(batch)
    counted = (batch.ranks > 0) & where.mask[:, None]
    return metrics.moments(
        jax.lax.stop_gradient(scores), counted, where.weight[:, None]
    )


def _report(scores: Array, batch: types.RankingBatch) -> dict[str, Any]:
    """Accuracy and score difference over untied pairs, and the scores' moments.

    `reward_model/accuracy`: an equal score is half right. Pairs have the weight of
    their prompt; a prompt with more pairs counts more.
    """
    scores = jax.lax.stop_gradient(scores)
    where = support(batch)
    below = _below(batch.ranks) & where.mask[:, None, None]
    weight, gap = where.weight[:, None, None], -_gaps(scores)
    right = 0.5 * (1.0 + jnp.sign(gap))
    return {
        "reward_model/accuracy": metrics.mean(right, below, weight),
        "reward_model/margin": metrics.mean(gap, below, weight),
        "reward_model/scores": _score_moments(scores, batch),
    }
