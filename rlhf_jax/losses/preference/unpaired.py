"""Losses of single responses with a good-or-bad label: KTO and BCO.

Both compare a response with a number that couples the batch, so the terms take it from
a preparation on the global minibatch, before microbatches are cut::

    Term(kto(beta=0.1), prepare=reference_point)
    Term(bco(beta=0.1), prepare=running_mean(beta=0.1))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rlhf_jax import metrics, types
from rlhf_jax.errors import UserError
from rlhf_jax.losses.combine import LossTerm, Number, Preparation
from rlhf_jax.losses.preference.batches import (
    LabelBatch,
    PreferenceOutputs,
    positive,
)
from rlhf_jax.losses.reduction import support


def kto_loss(
    policy: Float[Array, "B"],
    reference: Float[Array, "B"],
    labels: Bool[Array, "B"],
    reference_point: Float[Array, ""],
    *,
    beta: Number = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Float[Array, "B"]:
    """KTO, `lambda_y - v(x, y)` (Ethayarajh et al. 2024, eq. 7 and 8).

    `lambda_D s(-beta (h - z0))` for desirable responses, `lambda_U s(beta (h - z0))`
    for undesirable ones, s the logistic. At the reference (z0 = 0) half the weight.

    Args:
      policy: sequence log-probs.
      reference: the same of the reference policy.
      labels: True = desirable.
      reference_point: z0, nats; no gradient passes it (check B21).
      beta: how risk-averse.
      desirable_weight: lambda_D; `lambda_D n_D / (lambda_U n_U)` in [1, 4/3].
      undesirable_weight: lambda_U.
    """
    gap = policy - reference - jax.lax.stop_gradient(reference_point)
    good = desirable_weight * jax.nn.sigmoid(-beta * gap)
    return jnp.where(labels, good, undesirable_weight * jax.nn.sigmoid(beta * gap))


def reference_point(batch: LabelBatch) -> Float[Array, ""]:
    """KTO's z0: `max(0, mean of log policy - log reference of mismatched pairs)`.

    The responses of other prompts make it an estimate of the KL that the pair's own
    quality does not enter; taken over the whole global minibatch, without gradient.

    Raises:
      UserError: the batch holds no mismatched log-probs.
    """
    policy, reference = batch.mismatched_logprobs, batch.mismatched_ref_logprobs
    if policy is None or reference is None:
        raise UserError(
            "kto's reference point needs mismatched_logprobs and "
            "mismatched_ref_logprobs in the batch: score responses of other prompts "
            "(losses.preference.mismatched) before the update"
        )
    found = metrics.mean(policy - reference, batch.mask, batch.weight)
    return jax.lax.stop_gradient(jnp.maximum(_ratio(found), 0.0))


def mismatched(prompts: Sequence[Any]) -> np.ndarray:
    """For each row, the row whose response to borrow: of another prompt.

    Every row is borrowed once. Rows are grouped by prompt and shifted by the size of
    the largest group.

    Args:
      prompts: something hashable per row; equal means the same prompt.

    Returns:
      int64[B], a permutation.

    Raises:
      UserError: one prompt has more than half of the rows, so none can do.
    """
    groups: dict[Any, list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(row)
    order = np.asarray([row for rows in groups.values() for row in rows], np.int64)
    largest = max((len(rows) for rows in groups.values()), default=0)
    if 2 * largest > len(order):
        raise UserError(
            f"one prompt has {largest} of {len(order)} rows, so its responses cannot "
            "all be set against other prompts; use larger batches or shuffle them"
        )
    partner = np.empty_like(order)
    partner[order] = np.roll(order, -largest)
    return partner


def bco_loss(
    policy: Float[Array, "B"],
    reference: Float[Array, "B"],
    labels: Bool[Array, "B"],
    delta: Float[Array, ""],
    *,
    beta: Number = 0.1,
) -> Float[Array, "B"]:
    """BCO, binary classification of responses by reward (Jung et al. 2024, eq. 8).

    `-log s(beta h - delta)` for desirable responses, `-log s(delta - beta h)` for
    undesirable ones.

    Args:
      policy: sequence log-probs.
      reference: the same of the reference policy.
      labels: True = desirable.
      delta: running mean of `beta h` over both kinds; no gradient passes it.
      beta: scale of the reward.
    """
    gap = beta * (policy - reference) - jax.lax.stop_gradient(delta)
    return jax.nn.softplus(jnp.where(labels, -gap, gap))


class RunningMean(NamedTuple):
    """Mean float32[] of all rewards seen, and their count (sum of weights)."""

    mean: Array
    count: Array


def running_mean(beta: Number = 0.1) -> Preparation:
    """BCO's delta: the mean of `beta h` over all rows of all minibatches so far.

    The minibatch at hand is included, as in TRL. Its state is part of the loss's, and
    so of a checkpoint.

    Args:
      beta: that of the loss.

    Raises:
      UserError: (at use) the batch holds no policy or reference log-probs.
    """
    positive("beta", beta)

    def init() -> RunningMean:
        return RunningMean(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

    def update(batch: LabelBatch, state: RunningMean) -> tuple[Array, RunningMean]:
        if batch.policy_logprobs is None or batch.ref_logprobs is None:
            raise UserError(
                "bco's running mean needs policy_logprobs and ref_logprobs in the "
                "batch: score the responses before the update"
            )
        rewards = beta * (batch.policy_logprobs - batch.ref_logprobs)
        found = metrics.mean(rewards, batch.mask, batch.weight)
        count = state.count + found.count
        share = jnp.where(count > 0, found.count / jnp.where(count > 0, count, 1), 0.0)
        mean = state.mean + (_ratio(found) - state.mean) * share
        state = jax.lax.stop_gradient(RunningMean(mean, count))
        return state.mean, state

    return Preparation(init, update)


def kto(
    beta: Number = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> LossTerm:
    """`kto_loss` as a term on a `LabelBatch`, with `prepare=reference_point`.

    Reports what `bco` does, and `preference/reference_point` (z0, nats).
    """
    positive("beta", beta)

    def values(
        outputs: PreferenceOutputs, batch: LabelBatch, prepared: Any = None
    ) -> tuple[Array, types.Metrics]:
        z0 = _prepared("kto", "reference_point", prepared)
        reference = _reference("kto", batch)
        loss = kto_loss(
            outputs.logprobs,
            reference,
            batch.labels,
            z0.astype(outputs.logprobs.dtype),
            beta=beta,
            desirable_weight=desirable_weight,
            undesirable_weight=undesirable_weight,
        )
        found = _report(beta * (outputs.logprobs - reference), batch)
        return loss, {**found, "preference/reference_point": _rows(z0, batch)}

    return values


def bco(beta: Number = 0.1) -> LossTerm:
    """`bco_loss` as a term on a `LabelBatch`, with `prepare=running_mean(beta)`.

    Reports `preference/chosen_reward` and `preference/rejected_reward`, the means of
    `beta h` over desirable and undesirable responses, and `preference/reward_mean`, the
    running mean.
    """
    positive("beta", beta)

    def values(
        outputs: PreferenceOutputs, batch: LabelBatch, prepared: Any = None
    ) -> tuple[Array, types.Metrics]:
        delta = _prepared("bco", f"running_mean(beta={beta})", prepared)
        reference = _reference("bco", batch)
        loss = bco_loss(
            outputs.logprobs,
            reference,
            batch.labels,
            delta.astype(outputs.logprobs.dtype),
            beta=beta,
        )
        found = _report(beta * (outputs.logprobs - reference), batch)
        return loss, {**found, "preference/reward_mean": _rows(delta, batch)}

    return values


def _ratio(mean: metrics.Mean) -> Array:
    some = mean.count > 0
    return jnp.where(some, mean.total / jnp.where(some, mean.count, 1.0), 0.0)


def _prepared(name: str, preparation: str, prepared: Any) -> Array:
    if prepared is None:
        raise UserError(
            f"{name} couples the batch; write Term({name}(...), prepare={preparation})"
        )
    return jax.lax.stop_gradient(prepared)


def _reference(name: str, batch: LabelBatch) -> Array:
    if batch.ref_logprobs is None:
        raise UserError(
            f"{name} compares with a reference policy, and the batch has "
            "ref_logprobs = None; score the batch with the reference"
        )
    return jax.lax.stop_gradient(batch.ref_logprobs)


def _rows(value: Array, batch: LabelBatch) -> metrics.Mean:
    """A number of the whole batch as a mean over rows, so that parts merge to it."""
    where = support(batch)
    return metrics.mean(
        jnp.broadcast_to(value, where.mask.shape), where.mask, where.weight
    )


def _report(rewards: Array, batch: LabelBatch) -> dict[str, Any]:
    rewards, where = jax.lax.stop_gradient(rewards), support(batch)
    good, bad = where.mask & batch.labels, where.mask & ~batch.labels
    return {
        "preference/chosen_reward": metrics.mean(rewards, good, where.weight),
        "preference/rejected_reward": metrics.mean(rewards, bad, where.weight),
    }
