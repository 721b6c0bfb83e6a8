"""AOT: the whole distribution of margins of one kind above that of another.

Melnyk et al. 2024. First-order stochastic dominance is violated by a cost of matched
quantiles, `mean over q of loss(Q_1(q) - Q_2(q))`: optimal transport on the line, which
sorting solves. The match couples the batch, so it is made in the preparation step::

    Term(aot(beta=0.1), prepare=aot_matching)
    Term(aot_unpaired(beta=0.1), prepare=aot_unpaired_matching)

A `Matching` holds both sides sorted, every row occupying its weight's share of the
quantiles; a row of a microbatch finds its place by its own value. Equal values share
their quantiles, so neither the order of the rows nor the split has an influence.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax import types
from rlhf_jax.errors import UserError
from rlhf_jax.losses.combine import LossTerm, Number
from rlhf_jax.losses.preference.batches import (
    Pairs,
    PreferenceBatch,
    PreferenceOutputs,
    ordered,
    pair_report,
    positive,
    probability,
    split_pairs,
)
from rlhf_jax.losses.preference.pairwise import smoothed
from rlhf_jax.losses.reduction import Support, support


def aot_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    *,
    beta: Number = 0.1,
    label_smoothing: Number = 0.0,
) -> Float[Array, "B"]:
    """Paired AOT: `log p_w - log p_l` of the policy against that of the reference.

    The k-th value belongs to the k-th smallest margins of both (TRL's `aot`).
    """
    policy = jnp.sort(policy_chosen - policy_rejected)
    reference = jnp.sort(ref_chosen - ref_rejected)
    return smoothed(beta * (policy - reference), label_smoothing)


def aot_unpaired_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    *,
    beta: Number = 0.1,
    label_smoothing: Number = 0.0,
) -> Float[Array, "B"]:
    """Unpaired AOT: `h` of the chosen responses against `h` of the rejected ones.

    The k-th value belongs to the k-th smallest of both (TRL's `aot_pair`); who was
    compared with whom does not matter.
    """
    chosen = jnp.sort(policy_chosen - ref_chosen)
    rejected = jnp.sort(policy_rejected - ref_rejected)
    return smoothed(beta * (chosen - rejected), label_smoothing)


class Level(NamedTuple):
    """One side, sorted.

    Attributes:
      keys: float[N], ascending; rows without weight are at infinity, at the end.
      values: float[N], the keys with 0 for infinity.
      starts: float[N], where the row's quantiles begin, in units of weight.
      ends: float[N], where they end.
    """

    keys: Array
    values: Array
    starts: Array
    ends: Array


class Matching(NamedTuple):
    """Both sides of a transport: `Level`s of the two distributions."""

    first: Level
    second: Level


def aot_matching(batch: PreferenceBatch) -> Matching:
    """The preparation of `aot`.

    Raises:
      UserError: the batch holds no policy or reference log-probs.
    """
    pairs, where = _before(batch), support(batch)
    policy, reference = _margins(pairs)
    return Matching(_level(policy, where), _level(reference, where))


def aot_unpaired_matching(batch: PreferenceBatch) -> Matching:
    """The preparation of `aot_unpaired`.

    Raises:
      UserError: the batch holds no policy or reference log-probs.
    """
    pairs, where = _before(batch), support(batch)
    chosen, rejected = pairs.log_ratios
    return Matching(_level(chosen, where), _level(rejected, where))


def aot(beta: Number = 0.1, label_smoothing: Number = 0.0) -> LossTerm:
    """`aot_loss` as a term, with `prepare=aot_matching`; metrics of `dpo`."""
    return _term("aot", beta, label_smoothing, _paired)


def aot_unpaired(beta: Number = 0.1, label_smoothing: Number = 0.0) -> LossTerm:
    """`aot_unpaired_loss` as a term, with `prepare=aot_unpaired_matching`."""
    return _term("aot_unpaired", beta, label_smoothing, _unpaired)


def _term(name: str, beta: Number, label_smoothing: Number, cost: Any) -> LossTerm:
    positive("beta", beta)
    probability("label_smoothing", label_smoothing)

    def values(
        outputs: PreferenceOutputs, batch: PreferenceBatch, prepared: Any = None
    ) -> tuple[Array, types.Metrics]:
        if prepared is None:
            raise UserError(
                f"{name} couples the batch; write Term({name}(...), "
                f"prepare={name}_matching)"
            )
        ordered(outputs.logprobs, batch.ranks, name)
        pairs = split_pairs(outputs.logprobs, batch)
        loss = cost(
            pairs,
            _before(batch),
            jax.lax.stop_gradient(prepared),
            lambda gap: _smoothed_table(beta * gap, label_smoothing),
        )
        chosen, rejected = pairs.log_ratios
        return loss, pair_report(pairs, (beta * chosen, beta * rejected), batch)

    return values


def _paired(pairs: Pairs, before: Pairs, matching: Matching, loss: Any) -> Array:
    share = _shares(_margins(before)[0], matching.first, matching.second)
    gaps = _margins(pairs)[0][:, None] - matching.second.values[None]
    return jnp.sum(share * loss(gaps), axis=1)


def _unpaired(pairs: Pairs, before: Pairs, matching: Matching, loss: Any) -> Array:
    """The value is the chosen response's; the rejected one adds its gradient only."""
    (chosen, rejected), (old_chosen, old_rejected) = pairs.log_ratios, before.log_ratios
    share = _shares(old_chosen, matching.first, matching.second)
    value = jnp.sum(
        share * loss(chosen[:, None] - matching.second.values[None]), axis=1
    )
    share = _shares(old_rejected, matching.second, matching.first)
    other = jnp.sum(
        share * loss(matching.first.values[None] - rejected[:, None]), axis=1
    )
    return value + other - jax.lax.stop_gradient(other)


def _smoothed_table(m: Array, e: Number) -> Array:
    return (1 - e) * jax.nn.softplus(-m) + e * jax.nn.softplus(m)


def _before(batch: PreferenceBatch) -> Pairs:
    """The pairs as the parameters before this update see them, without gradient."""
    if batch.policy_logprobs is None:
        raise UserError(
            "aot sorts the log-probs of the policy over the whole minibatch: the batch "
            "needs policy_logprobs, scored before the update"
        )
    return split_pairs(jax.lax.stop_gradient(batch.policy_logprobs), batch)


def _margins(pairs: Pairs) -> tuple[Array, Array]:
    """(policy, reference) log-prob of the chosen less that of the rejected response."""
    chosen, rejected, ref_chosen, ref_rejected = pairs.logprobs
    return chosen - rejected, ref_chosen - ref_rejected


def _level(values: Array, where: Support) -> Level:
    mass = jnp.where(where.mask, where.weight, 0.0)
    order = jnp.argsort(jnp.where(mass > 0, values, jnp.inf))
    mass = mass[order]
    ends = jnp.cumsum(mass)
    values = jnp.where(mass > 0, values[order], 0.0)
    keys = jnp.where(mass > 0, values, jnp.inf)
    return Level(keys, values, ends - mass, ends)


def _shares(values: Array, own: Level, other: Level) -> Array:
    """[b, n]: which part of row b's quantiles is matched with n of the other side."""
    last = own.keys.shape[0] - 1
    first = jnp.searchsorted(own.keys, values, side="left")
    final = jnp.searchsorted(own.keys, values, side="right") - 1
    start = own.starts[jnp.minimum(first, last)][:, None]
    end = own.ends[jnp.maximum(final, 0)][:, None]
    low = jnp.maximum(start, other.starts[None])
    overlap = jnp.maximum(jnp.minimum(end, other.ends[None]) - low, 0.0)
    total = jnp.sum(overlap, axis=1, keepdims=True)
    return overlap / jnp.where(total > 0, total, 1.0)
