"""Methods that learn from chances of winning: Nash-MD and SPPO.

The preference is not taken to come from a reward, so it may go round in circles. With
P(y > y') the chance that y is preferred to y', the game that is regularized towards the
reference mu pays `P(pi > pi') - tau KL(pi || mu) + tau KL(pi' || mu)`, and its one Nash
equilibrium is `pi = mu exp(P(. > pi) / tau) / Z` (Munos et al. 2024, arXiv:2312.00886).

Nash-MD's policy gradient draws y from the policy and y' from an opponent, the geometric
mixture `pi^(1 - c) mu^c` of policy and reference, and follows

    E grad log pi(y) (P(y > y') - 1/2 - tau log(pi(y) / mu(y))),

whose fixed point is `pi = mu exp(P(. > opponent) / tau) / Z`: the equilibrium at c = 0
and near it for small c (`worlds.games`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax import types
from rlhf_jax.errors import UserError
from rlhf_jax.losses.combine import LossTerm, Number
from rlhf_jax.losses.preference import separate, terms
from rlhf_jax.losses.preference.batches import (
    PreferenceBatch,
    PreferenceOutputs,
    by_role,
    ordered,
    pair_report,
    positive,
    row_means,
    split_pairs,
)
from rlhf_jax.losses.reduction import Support


def nash_md_loss(
    policy: Float[Array, "B"],
    reference: Float[Array, "B"],
    win_probability: Float[Array, "B"],
    *,
    beta: Number = 0.1,
) -> Float[Array, "B"]:
    """`(beta (log pi - log mu) - (P - 1/2)) log pi`, the bracket without gradient.

    One sample's part of the gradient above (Munos et al. 2024, section 7); the value
    means nothing. 1/2 is a baseline that leaves the expected gradient as it is.

    Args:
      policy: sequence log-probs of the policy's own samples.
      reference: the same of the reference policy.
      win_probability: P(the sample is preferred to the opponent's).
      beta: tau, weight of the KL.
    """
    pull = beta * (policy - reference) - (win_probability - 0.5)
    return jax.lax.stop_gradient(pull) * policy


def nash_md_per_token_loss(
    policy: Float[Array, "B T"],
    reference: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    win_probability: Float[Array, "B"],
    *,
    beta: Number = 0.1,
) -> Float[Array, "B"]:
    """TRL's form: `beta sum_t (log pi_t - log mu_t) log pi_t - (P - 1/2) log pi`.

    The log-ratio of a token weighs that token alone, so what a token does to the KL of
    later ones has no gradient, and the fixed point of responses longer than one token
    is another one.

    Args:
      policy: log-probs of the tokens of the policy's own samples.
      reference: the same of the reference policy.
      mask: True on the tokens of the response.
      win_probability: P(the sample is preferred to the opponent's).
      beta: tau.
    """
    policy, reference = (jnp.where(mask, x, 0.0) for x in (policy, reference))
    ratio = jax.lax.stop_gradient(policy - reference)
    score = (win_probability - 0.5) * jnp.sum(policy, axis=1)
    return beta * jnp.sum(ratio * policy, axis=1) - score


def everyone(batch: PreferenceBatch) -> Support:
    """Support of terms to which a tie says something: rows without gaps."""
    return Support(jnp.all(batch.ranks > 0, axis=1), batch.weight)


def win_probabilities(batch: PreferenceBatch, name: str) -> Array:
    """Chances float32[B K] that the responses are preferred.

    Raises:
      UserError: the batch has none.
    """
    if batch.win_probability is None:
        raise UserError(
            f"{name} learns from win probabilities, and the batch has none; sample and"
            " judge online, give `win_probability` in the data, or choose a method of"
            " plain comparisons (sppo_hard, dpo)"
        )
    return batch.win_probability


def sppo(beta: Number = 1e-3) -> LossTerm:
    """SPPO, `separate.sppo_loss` with the win probabilities of the batch.

    A tie with its one half counts too: the term goes with `support=everyone`.
    """
    positive("beta", beta)

    def values(
        outputs: PreferenceOutputs, batch: PreferenceBatch
    ) -> tuple[Array, types.Metrics]:
        ordered(outputs.logprobs, batch.ranks, "sppo")
        pairs = split_pairs(outputs.logprobs, batch)
        wins = by_role(win_probabilities(batch, "sppo"), batch.ranks)
        loss = separate.sppo_loss(
            *pairs.logprobs, chosen_wins=wins[0], rejected_wins=wins[1], beta=beta
        )
        return loss, pair_report(pairs, terms.scaled(beta)(pairs), batch)

    return values


def nash_md(beta: Number = 0.1) -> LossTerm:
    """`nash_md_loss` of the first response, which must be a sample of the policy.

    The second one is the opponent's; a response that ties with it counts too, so the
    term goes with `support=everyone`. Reports `preference/win_probability` and
    `preference/sample_kl`, the mean of log pi - log mu.
    """
    positive("beta", beta)

    def values(
        outputs: PreferenceOutputs, batch: PreferenceBatch
    ) -> tuple[Array, types.Metrics]:
        ordered(outputs.logprobs, batch.ranks, "nash_md")
        if batch.ref_logprobs is None:
            raise UserError(
                "nash_md compares with a reference policy, and the batch has"
                " ref_logprobs = None; score the batch with the reference"
            )
        own, reference = outputs.logprobs[:, 0], batch.ref_logprobs[:, 0]
        wins = win_probabilities(batch, "nash_md")[:, 0]
        shown = {
            "preference/win_probability": wins,
            "preference/sample_kl": own - reference,
        }
        loss = nash_md_loss(own, reference, wins, beta=beta)
        return loss, row_means(shown, everyone(batch))

    return values
