"""The likelihood of a Plackett-Luce ranking with ties, vectorised over rows.

A ranking is drawn by choosing the best response with probability proportional to
`exp(score)`, then the best of the remaining ones, and so on. A tie group D above the
rest R is the event that the members of D are chosen before all of R, in any order:

    P(D) = sum over orders of D of prod_i  e^{s_i} / (what is not chosen yet)

Up to four members the sum is exact: with F(S) the log-probability that the first
choices are the set S in any order, `F(S) = logsumexp_{i in S} F(S - i) + log p(i | D -
S + i, R)`, 16 subsets instead of 24 orders, every step a sum of positive numbers and
so without cancellation. Beyond four, Efron's form (1977; Cox regression's
approximation for ties) replaces the chosen weight by the average of the group:

    P(D) ~ m! prod_{l < m} e^{s_l} / (W_R + (1 - l/m) W_D),   W = sum of e^s

The m! makes it the sum over orders that it stands for: it is exact at equal scores.
The last group (R empty) has probability one, whatever its size.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

EXACT = 4
"""Largest tie group whose linear extensions are summed exactly."""


def logsumexp_where(
    x: Float[Array, "..."], where: Bool[Array, "..."], axis: int
) -> Float[Array, "..."]:
    """`log sum exp(x)` over the True entries; 0, without gradient, where none is.

    One entry comes back bit for bit. No NaN, in value or gradient, for any finite x.
    """
    some = jnp.any(where, axis=axis, keepdims=True)
    largest = jnp.max(jnp.where(where, x, -jnp.inf), axis=axis, keepdims=True)
    largest = jax.lax.stop_gradient(jnp.where(some, largest, 0.0))
    terms = jnp.where(where, jnp.exp(jnp.where(where, x - largest, 0.0)), 0.0)
    total = jnp.where(some, jnp.sum(terms, axis=axis, keepdims=True), 1.0)
    return jnp.squeeze(jnp.log(total) + largest, axis=axis)


def negative_log_likelihood(
    scores: Float[Array, "B K"], ranks: Int[Array, "B K"], margin: Float[Array, "B"]
) -> Float[Array, "B"]:
    """`-log P(ranking)`; 0 for a row without order.

    Args:
      scores: float[B K].
      ranks: 1 = best, equal numbers tie, 0 = ignored; gaps between numbers are free.
      margin: handicap of every response against those ranked above it.
    """
    last = jnp.iinfo(jnp.int32).max
    order = jnp.argsort(jnp.where(ranks > 0, ranks, last), axis=1, stable=True)
    scores = jnp.take_along_axis(scores, order, axis=1)
    ranks = jnp.take_along_axis(ranks, order, axis=1)
    below = (ranks[:, :, None] > 0) & (ranks[:, None, :] > ranks[:, :, None])
    tied = (ranks[:, :, None] > 0) & (ranks[:, None, :] == ranks[:, :, None])
    rest = logsumexp_where(
        scores[:, None, :] - scores[:, :, None] + margin[:, None, None], below, axis=2
    )
    size = jnp.sum(tied, axis=2)
    leader = jnp.tril(tied, k=-1)
    leads = jnp.any(below, axis=2) & ~jnp.any(leader, axis=2)
    exact = jnp.where(leads & (size <= EXACT), _exact(scores, rest, size), 0.0)
    efron = jnp.where(
        jnp.any(below, axis=2) & (size > EXACT), _efron(scores, rest, tied), 0.0
    )
    return jnp.sum(exact + efron, axis=1)


def _exact(
    scores: Float[Array, "B K"], rest: Float[Array, "B K"], size: Int[Array, "B K"]
) -> Float[Array, "B K"]:
    """`-log P` of the group that starts at each column of the sorted responses.

    `rest[b, k]` is the log-weight of everything below k's group, relative to k's own
    score (so that only differences enter).
    """
    slots = min(EXACT, scores.shape[1])
    member = jnp.arange(slots)[None, None] < size[..., None]
    around = jnp.stack([jnp.roll(scores, -o, axis=1) for o in range(slots)], axis=-1)
    rests = jnp.stack([jnp.roll(rest, -o, axis=1) for o in range(slots)], axis=-1)
    step = _first_choice(around, rests, member)
    # without[S, i] is the set S less its member i, sets as bit masks.
    sets, bit = np.arange(2**slots)[:, None], 1 << np.arange(slots)[None]
    holds, without = (sets & bit) > 0, sets & ~bit
    last = step[:, :, np.arange(slots)[None], without]
    holds = jnp.broadcast_to(holds[None, None], last.shape)
    found = jnp.zeros((*scores.shape, 2**slots), scores.dtype)
    for _ in range(slots):  # after n rounds right for the sets of n members
        found = logsumexp_where(found[:, :, without] + last, holds, axis=-1)
    whole = jnp.clip(2**size - 1, 0, 2**slots - 1)
    return -jnp.take_along_axis(found, whole[..., None], axis=-1)[..., 0]


def _first_choice(
    scores: Float[Array, "B K M"],
    rests: Float[Array, "B K M"],
    member: Bool[Array, "B K M"],
) -> Float[Array, "B K M S"]:
    """log-probability that member i is the next choice when the set S is gone."""
    slots = scores.shape[-1]
    gone = (np.arange(2**slots)[:, None] >> np.arange(slots)[None]) & 1 > 0
    rivals = ~gone[None, :, :] & ~np.eye(slots, dtype=bool)[:, None, :]
    gaps = scores[:, :, None, :] - scores[:, :, :, None]
    shape = (*scores.shape, 2**slots)
    inside = jnp.broadcast_to(gaps[:, :, :, None, :], (*shape, slots))
    outside = jnp.broadcast_to(rests[..., None, None], (*shape, 1))
    where = jnp.broadcast_to(
        jnp.asarray(rivals)[None, None] & member[:, :, None, None, :], (*shape, slots)
    )
    rivals_and_rest = logsumexp_where(
        jnp.concatenate([inside, outside], axis=-1),
        jnp.pad(where, [(0, 0)] * 4 + [(0, 1)], constant_values=True),
        axis=-1,
    )
    return -jax.nn.softplus(rivals_and_rest)


def _efron(
    scores: Float[Array, "B K"], rest: Float[Array, "B K"], tied: Bool[Array, "B K K"]
) -> Float[Array, "B K"]:
    """Each member's part of Efron's `-log P`, member number l = 0 .. m-1 of its group.

    `log( W_R + (1 - l/m) W_D ) - s_l - log(l + 1)`, weights relative to its own score.
    """
    number = jnp.sum(jnp.tril(tied, k=-1), axis=2)
    size = jnp.maximum(jnp.sum(tied, axis=2), 1)
    group = logsumexp_where(scores[:, None, :] - scores[:, :, None], tied, axis=2)
    left = jnp.log((size - number).astype(scores.dtype) / size.astype(scores.dtype))
    return jnp.logaddexp(rest, group + left) - jnp.log1p(number.astype(scores.dtype))
