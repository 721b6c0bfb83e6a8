"""Batches of preference terms: sequence log-probs, and nothing of the modality.

A sequence log-prob is the SUM over the tokens of the response, the end token included
and no token of the prompt (check B20); methods that average divide by `lengths`
themselves. Pairs are rankings of K = 2, in either order of the columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax import metrics, types
from rlhf_jax.errors import UserError
from rlhf_jax.losses.combine import LossTerm, Number
from rlhf_jax.losses.reduction import Support, support


class PreferenceOutputs(NamedTuple):
    """What the current parameters say: `logprobs` float32[B K] of the responses of a
    `PreferenceBatch`, or float32[B] of those of a `LabelBatch`."""

    logprobs: Array


class PreferenceBatch(NamedTuple):
    """K responses to a prompt with an order; a pair is K = 2.

    Attributes:
      ranks: int32[B K], 1 = best, equal numbers tie, 0 = absent or not ranked.
      ref_logprobs: float32[B K] of the reference policy; None where no term reads it.
      lengths: int32 or float32[B K], number of response tokens.
      policy_logprobs: float32[B K], what the parameters before this update say, without
        gradient: what terms that couple the batch (AOT) prepare from. None where no
        term does.
      example_id: int32[B].
      weight: float32[B].
      mismatched_logprobs: float32[B K] or None, see `LabelBatch`: for `kto_pairs`.
      mismatched_ref_logprobs: float32[B K] or None, the same of the reference policy.
      win_probability: float32[B K] or None, see `ComparisonBatch`: for `games`.
    """

    ranks: Array
    ref_logprobs: Array | None
    lengths: Array
    policy_logprobs: Array | None
    example_id: Array
    weight: Array
    mismatched_logprobs: Array | None = None
    mismatched_ref_logprobs: Array | None = None
    win_probability: Array | None = None


class LabelBatch(NamedTuple):
    """Single responses, each called good or bad.

    Attributes:
      labels: bool[B], True = desirable.
      mask: bool[B], False on padding rows.
      ref_logprobs: float32[B] of the reference policy.
      lengths: int32 or float32[B], number of response tokens.
      policy_logprobs: float32[B] before this update, without gradient, or None (BCO's
        running mean reads it).
      mismatched_logprobs: float32[B], log-prob that the policy before this update gives
        to a response of ANOTHER prompt in the place of this one's, or None (KTO's
        reference point reads it; `unpaired.mismatched` chooses the rows).
      mismatched_ref_logprobs: float32[B], the same of the reference policy.
      example_id: int32[B].
      weight: float32[B].
    """

    labels: Array
    mask: Array
    ref_logprobs: Array | None
    lengths: Array
    policy_logprobs: Array | None
    mismatched_logprobs: Array | None
    mismatched_ref_logprobs: Array | None
    example_id: Array
    weight: Array


def sequence_logprobs(
    logprobs: Float[Array, "*N M"], response: Bool[Array, "*N L"]
) -> tuple[Float[Array, "*N"], Float[Array, "*N"]]:
    """Sequence log-probs and lengths from those of tokens.

    Args:
      logprobs: of tokens 1 .. L-1 of each row (M = L - 1): column t belongs to token
        t + 1, which it predicts. Garbage outside of the response has no influence.
      response: True on the tokens of the response, the end token included. Token 0 has
        no log-prob and must not be one.

    Returns:
      (sums, numbers of tokens), at least float32. The first response token counts: it
      is the one that the last prompt token predicts (invariant 19).
    """
    if logprobs.shape[-1] + 1 != response.shape[-1]:
        raise ValueError(
            f"log-probs of {logprobs.shape[-1]} tokens for a mask of "
            f"{response.shape[-1]}: expected one less (token 0 is never predicted)"
        )
    kept = response[..., 1:]
    wide = logprobs.astype(jnp.promote_types(logprobs.dtype, jnp.float32))
    sums = jnp.sum(jnp.where(kept, wide, 0.0), axis=-1)
    return sums, jnp.sum(kept.astype(wide.dtype), axis=-1)


@support.register
def _(batch: PreferenceBatch) -> Support:
    ranks = batch.ranks
    untied = (ranks[:, :, None] > 0) & (ranks[:, None, :] > ranks[:, :, None])
    return Support(jnp.any(untied, axis=(1, 2)), batch.weight)


@support.register
def _(batch: LabelBatch) -> Support:
    return Support(batch.mask, batch.weight)


class Pairs(NamedTuple):
    """A batch of pairs by role, each float[B]; the reference ones may be None."""

    policy_chosen: Array
    policy_rejected: Array
    ref_chosen: Array | None
    ref_rejected: Array | None
    chosen_lengths: Array
    rejected_lengths: Array

    @property
    def policy(self) -> tuple[Array, Array]:
        """(chosen, rejected) of the policy: what methods without reference read."""
        return self.policy_chosen, self.policy_rejected

    @property
    def logprobs(self) -> tuple[Array, Array, Array, Array]:
        """(policy chosen, policy rejected, reference chosen, reference rejected)."""
        if self.ref_chosen is None or self.ref_rejected is None:
            raise UserError(
                "this preference term compares with a reference policy, and the batch "
                "has ref_logprobs = None; score the batch with the reference, or choose"
                " a term without one (orpo, simpo, cpo, slic)"
            )
        return *self.policy, self.ref_chosen, self.ref_rejected

    @property
    def lengths(self) -> tuple[Array, Array]:
        """(chosen, rejected) lengths, at least 1."""
        return self.chosen_lengths, self.rejected_lengths

    @property
    def log_ratios(self) -> tuple[Array, Array]:
        """(chosen, rejected) log of policy over reference."""
        chosen, rejected, ref_chosen, ref_rejected = self.logprobs
        return chosen - ref_chosen, rejected - ref_rejected


def split_pairs(logprobs: Float[Array, "B 2"], batch: PreferenceBatch) -> Pairs:
    """The columns of pairs by role; rows without an order hold finite nonsense."""
    reference = (None, None)
    if batch.ref_logprobs is not None:
        reference = by_role(jax.lax.stop_gradient(batch.ref_logprobs), batch.ranks)
    lengths = by_role(jnp.maximum(batch.lengths, 1), batch.ranks)
    return Pairs(*by_role(logprobs, batch.ranks), *reference, *lengths)


def by_role(columns: Array, ranks: Array) -> tuple[Array, Array]:
    """(chosen, rejected) float[B] of columns [B 2], at least float32."""
    first = ranks[:, 0] < ranks[:, 1]
    columns = columns.astype(jnp.promote_types(columns.dtype, jnp.float32))
    one, two = columns[:, 0], columns[:, 1]
    return jnp.where(first, one, two), jnp.where(first, two, one)


def ordered(logprobs: Array, ranks: Array, name: str) -> None:
    """Refuse what is not a pair.

    Raises:
      UserError: K is not 2.
    """
    if logprobs.ndim != 2 or ranks.shape[1] != 2:
        raise UserError(
            f"{name} is for pairs, got log-probs of shape {logprobs.shape}; choose "
            "plackett_luce_dpo for K responses, or make pairs of the rankings"
        )


def pair_term(
    name: str,
    loss: Callable[[Pairs], Array],
    rewards: Callable[[Pairs], tuple[Array, Array]],
    further: Callable[[Pairs], dict[str, Array]] | None = None,
) -> LossTerm:
    """A loss term of a function of `Pairs`.

    Reports `preference/accuracy` (share of pairs whose chosen reward is the larger; an
    equal one is half right), `preference/margin` (chosen less rejected reward),
    `preference/chosen_reward`, `preference/rejected_reward`, and the sequence log-probs
    `preference/chosen_logprobs`, `preference/rejected_logprobs`.

    Args:
      name: for messages.
      loss: `loss(pairs) -> float[B]`.
      rewards: `rewards(pairs) -> (chosen, rejected)`, the implicit rewards that the
        metrics speak of.
      further: `further(pairs) -> {metric: float[B]}`.
    """

    def values(
        outputs: PreferenceOutputs, batch: PreferenceBatch
    ) -> tuple[Array, types.Metrics]:
        ordered(outputs.logprobs, batch.ranks, name)
        pairs = split_pairs(outputs.logprobs, batch)
        more = {} if further is None else further(pairs)
        return loss(pairs), pair_report(pairs, rewards(pairs), batch, more)

    return values


def pair_report(
    pairs: Pairs,
    rewards: tuple[Array, Array],
    batch: PreferenceBatch,
    further: dict[str, Array] | None = None,
) -> dict[str, Any]:
    """The metrics of `pair_term`."""
    chosen, rejected = rewards
    found = {
        "preference/accuracy": 0.5 * (1.0 + jnp.sign(chosen - rejected)),
        "preference/margin": chosen - rejected,
        "preference/chosen_reward": chosen,
        "preference/rejected_reward": rejected,
        "preference/chosen_logprobs": pairs.policy_chosen,
        "preference/rejected_logprobs": pairs.policy_rejected,
        **(further or {}),
    }
    return row_means(found, support(batch))


def row_means(found: dict[str, Array], where: Support) -> dict[str, Any]:
    """Weighted means over the rows of the support, without gradient."""
    return {
        name: metrics.mean(jax.lax.stop_gradient(value), where.mask, where.weight)
        for name, value in found.items()
    }


def positive(name: str, value: Number) -> Number:
    """A hyper-parameter that must be above 0.

    An array, the argument of a compiled step, is not looked into: it was checked as
    the number that it was made from.

    Raises:
      UserError: it is not.
    """
    if _known(value) and not value > 0:
        raise UserError(f"{name} must be above 0, got {value}")
    return value


def probability(name: str, value: Number, below: float = 0.5) -> Number:
    """A hyper-parameter in [0, below).

    Raises:
      UserError: it is not.
    """
    if _known(value) and not 0 <= value < below:
        raise UserError(f"{name} must be in [0, {below}), got {value}")
    return value


def _known(value: Number) -> bool:
    return not isinstance(value, jax.Array)


def log_ratios(
    policy: Float[Array, "B K"],
    reference: Float[Array, "B K"],
    ranks: Int[Array, "B K"],
) -> Float[Array, "B K"]:
    """log policy - log reference of the ranked responses, 0 for the others."""
    present: Bool[Array, "B K"] = ranks > 0
    policy, reference = (jnp.where(present, x, 0.0) for x in (policy, reference))
    return policy - jax.lax.stop_gradient(reference)
