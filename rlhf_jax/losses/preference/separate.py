"""Losses of pairs that judge each response by itself, not only their difference.

Notation of `pairwise`; `s` is the logistic function.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.losses.combine import Number


def nca_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    *,
    beta: Number = 0.1,
) -> Float[Array, "B"]:
    """Pairwise NCA (Chen et al. 2024, eq. 14 for K = 2).

    `-log s(beta h_w) - 1/2 log s(-beta h_w) - 1/2 log s(-beta h_l)`: it holds the
    likelihood of the chosen response up, which DPO does not.
    """
    chosen = beta * (policy_chosen - ref_chosen)
    rejected = beta * (policy_rejected - ref_rejected)
    negatives = 0.5 * (jax.nn.softplus(chosen) + jax.nn.softplus(rejected))
    return jax.nn.softplus(-chosen) + negatives


def apo_zero_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    *,
    beta: Number = 0.1,
) -> Float[Array, "B"]:
    """APO-zero, `s(-beta h_w) + s(beta h_l)` (D'Oosterlinck et al. 2024, eq. 7).

    For data whose chosen responses are better than the model's own.
    """
    chosen = beta * (policy_chosen - ref_chosen)
    rejected = beta * (policy_rejected - ref_rejected)
    return jax.nn.sigmoid(-chosen) + jax.nn.sigmoid(rejected)


def apo_down_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    *,
    beta: Number = 0.1,
) -> Float[Array, "B"]:
    """APO-down, `s(beta h_w) + s(-beta (h_w - h_l))` (the same paper, eq. 8).

    For data whose chosen responses are worse than the model's own: both go down, the
    rejected one more.
    """
    chosen = beta * (policy_chosen - ref_chosen)
    rejected = beta * (policy_rejected - ref_rejected)
    return jax.nn.sigmoid(chosen) + jax.nn.sigmoid(rejected - chosen)


def sppo_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    *,
    chosen_wins: float | Float[Array, "B"] = 1.0,
    rejected_wins: float | Float[Array, "B"] = 0.0,
    beta: Number = 1e-3,
) -> Float[Array, "B"]:
    """SPPO, `(h_w - (P_w - 1/2) / beta)^2 + (h_l - (P_l - 1/2) / beta)^2`.

    Wu et al. 2024 (arXiv:2405.00675, eq. 4.7), eta = 1/beta; the reference is the
    policy of the last round, the constant-sum game's own opponent. `P_w = 1, P_l = 0`
    is the hard form (TRL's `sppo_hard`).

    Args:
      policy_chosen: as in `pairwise`, like the next three.
      chosen_wins: P_w, chance that the chosen response is preferred to a response of
        the reference: a judge's or a reward model's estimate, or a share of labels.
      rejected_wins: P_l, the same of the rejected one.
      beta: 1/eta; large eta learns slowly.
    """
    chosen = policy_chosen - ref_chosen - (chosen_wins - 0.5) / beta
    rejected = policy_rejected - ref_rejected - (rejected_wins - 0.5) / beta
    return jnp.square(chosen) + jnp.square(rejected)
