"""DPO for rankings of K responses: the Plackett-Luce likelihood of log-ratios."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlhf_jax import metrics, types
from rlhf_jax.errors import UserError
from rlhf_jax.losses import orderings
from rlhf_jax.losses.combine import LossTerm, Number
from rlhf_jax.losses.preference.batches import (
    PreferenceBatch,
    PreferenceOutputs,
    log_ratios,
    positive,
)
from rlhf_jax.losses.reduction import support


def plackett_luce_dpo_loss(
    policy: Float[Array, "B K"],
    reference: Float[Array, "B K"],
    ranks: Int[Array, "B K"],
    *,
    beta: Number = 0.1,
) -> Float[Array, "B"]:
    """`-sum_k log( e^{beta h_k} / sum_{j at or below k} e^{beta h_j} )`.

    Rafailov et al. 2023, appendix A.3. Ties and partial rankings are those of
    `losses.plackett_luce` (see `losses/ranking.py`): equal ranks are an unresolved
    order, summed over; 0 is ignored. With K = 2 it is `dpo_loss`.

    Args:
      policy: sequence log-probs.
      reference: the same of the reference policy.
      ranks: 1 = best.
      beta: strength of the KL penalty.
    """
    rewards = beta * log_ratios(policy, reference, ranks)
    margin = jnp.zeros(rewards.shape[0], rewards.dtype)
    return orderings.negative_log_likelihood(rewards, ranks, margin)


def plackett_luce_dpo(beta: Number = 0.1) -> LossTerm:
    """`plackett_luce_dpo_loss` as a term on a `PreferenceBatch` of any K.

    Reports `preference/accuracy` and `preference/margin` over all untied pairs of a
    ranking, `preference/chosen_reward` of the best responses and
    `preference/rejected_reward` of those below.
    """
    positive("beta", beta)

    def values(
        outputs: PreferenceOutputs, batch: PreferenceBatch
    ) -> tuple[Array, types.Metrics]:
        if batch.ref_logprobs is None:
            raise UserError(
                "plackett_luce_dpo compares with a reference policy, and the batch has"
                " ref_logprobs = None; score the batch with the reference"
            )
        loss = plackett_luce_dpo_loss(
            outputs.logprobs, batch.ref_logprobs, batch.ranks, beta=beta
        )
        ratios = log_ratios(outputs.logprobs, batch.ref_logprobs, batch.ranks)
        return loss, _report(beta * ratios, batch)

    return values


def _report(rewards: Array, batch: PreferenceBatch) -> dict[str, Any]:
    rewards, ranks = jax.lax.stop_gradient(rewards), batch.ranks
    where = support(batch)
    ranked = (ranks > 0) & where.mask[:, None]
    below = ranked[:, :, None] & (ranks[:, None, :] > ranks[:, :, None])
    gap = rewards[:, :, None] - rewards[:, None, :]
    best = ranked & ~jnp.any(below, axis=1)
    weight = where.weight[:, None]
    return {
        "preference/accuracy": metrics.mean(
            0.5 * (1.0 + jnp.sign(gap)), below, weight[:, None]
        ),
        "preference/margin": metrics.mean(gap, below, weight[:, None]),
        "preference/chosen_reward": metrics.mean(rewards, best, weight),
        "preference/rejected_reward": metrics.mean(rewards, ranked & ~best, weight),
    }
