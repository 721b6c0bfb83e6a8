"""DPO and the length of responses: normalized, penalized, with likelihood.

Notation of `pairwise`; `|w|` and `|l|` are the numbers of response tokens.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from rlhf_jax.losses.combine import Number
from rlhf_jax.losses.preference.pairwise import dpo_loss, margins


def normalized_dpo_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    beta: Number = 5.0,
) -> Float[Array, "B"]:
    """`-log sigmoid(beta (h_w/|w| - h_l/|l|))` (Lambert et al. 2024, Tulu 3, eq. 6)."""
    return dpo_loss(
        policy_chosen / chosen_lengths,
        policy_rejected / rejected_lengths,
        ref_chosen / chosen_lengths,
        ref_rejected / rejected_lengths,
        beta=beta,
    )


def length_penalized_dpo_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    beta: Number = 0.1,
    alpha: float = 0.01,
) -> Float[Array, "B"]:
    """R-DPO: `-log sigmoid(m + alpha (|w| - |l|))` (Park et al. 2024, eq. 9).

    The policy that maximizes `r - alpha |y|` under the KL penalty has `r = beta h +
    alpha |y| + const`, hence the sign: where the chosen response is longer, its length
    explains a part of the preference and the policy must explain less.
    """
    m = beta * margins(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    return jax.nn.softplus(-(m + alpha * (chosen_lengths - rejected_lengths)))


def rpo_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    *,
    beta: Number = 0.1,
    alpha: float = 1.0,
) -> Float[Array, "B"]:
    """RPO: DPO with likelihood, `dpo - alpha log policy(w)/|w|` (Pang et al. 2024).

    The likelihood is averaged over the tokens of each response. For the summed form of
    Liu et al. 2024 (`eta log policy(w)`) add the terms `dpo` and `chosen_nll`.
    """
    pairs = (policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    return dpo_loss(*pairs, beta=beta) - alpha * policy_chosen / chosen_lengths
