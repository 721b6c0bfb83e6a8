"""Losses of pairs that see only how much more the policy prefers the chosen response.

All are functions of `h_w - h_l`, with `h = log policy(y|x) - log reference(y|x)` summed
over the response, w chosen and l rejected; `m = beta (h_w - h_l)`. Inputs are sequence
log-probs float[B], the result float[B].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.losses.combine import Number
from rlhf_jax.losses.preference.batches import positive, probability


def margins(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
) -> Float[Array, "B"]:
    """`h_w - h_l`."""
    return (policy_chosen - policy_rejected) - (ref_chosen - ref_rejected)


def dpo_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    *,
    beta: Number = 0.1,
) -> Float[Array, "B"]:
    """`-log sigmoid(m)` (Rafailov et al. 2023, eq. 7); log 2 at the reference."""
    m = beta * margins(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    return jax.nn.softplus(-m)


def cdpo_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    *,
    beta: Number = 0.1,
    label_smoothing: Number = 0.1,
) -> Float[Array, "B"]:
    """Conservative DPO: `-(1 - e) log sigmoid(m) - e log sigmoid(-m)` (Mitchell 2023).

    Finite optimum `m = logit(1 - e)`. It is careful, not unbiased: see `robust_loss`.
    """
    m = beta * margins(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    return smoothed(m, label_smoothing)


def smoothed(m: Float[Array, "B"], label_smoothing: Number) -> Float[Array, "B"]:
    """`(1 - e) softplus(-m) + e softplus(m)`."""
    e = probability("label_smoothing", label_smoothing)
    return (1 - e) * jax.nn.softplus(-m) + e * jax.nn.softplus(m)


def robust_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    *,
    beta: Number = 0.1,
    label_smoothing: Number = 0.1,
) -> Float[Array, "B"]:
    """Robust DPO: `(-(1 - e) log sigmoid(m) + e log sigmoid(-m)) / (1 - 2 e)`.

    Where labels are flipped with probability e its expectation is DPO's loss on clean
    labels (Chowdhury et al. 2024, eq. 12). It can be negative and has no lower bound.
    """
    e = probability("label_smoothing", label_smoothing)
    m = beta * margins(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    return ((1 - e) * jax.nn.softplus(-m) - e * jax.nn.softplus(m)) / (1 - 2 * e)


def ipo_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    *,
    tau: Number = 0.1,
) -> Float[Array, "B"]:
    """`(h_w - h_l - 1/(2 tau))^2` (Azar et al. 2023, eq. 17); sums over tokens.

    `1/(4 tau^2)` at the reference. What TRL calls `ipo` is `ipo_per_token_loss`.
    """
    gap = margins(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    return jnp.square(gap - 1 / (2 * positive("tau", tau)))


def ipo_per_token_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    tau: Number = 0.1,
) -> Float[Array, "B"]:
    """IPO with every log-prob averaged over its tokens, as TRL computes `ipo`."""
    return ipo_loss(
        policy_chosen / chosen_lengths,
        policy_rejected / rejected_lengths,
        ref_chosen / chosen_lengths,
        ref_rejected / rejected_lengths,
        tau=tau,
    )


def hinge_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    *,
    beta: Number = 0.1,
) -> Float[Array, "B"]:
    """`max(0, 1 - m)`: SLiC's margin loss on log-ratios, as TRL's `hinge`."""
    m = beta * margins(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    return jax.nn.relu(1 - m)


def rso_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    *,
    gamma: float = 0.05,
) -> Float[Array, "B"]:
    """RSO's `hinge-norm`, `max(0, 1 - gamma (h_w - h_l))` (Liu et al. 2023, eq. 8).

    Meant for pairs of responses that rejection sampling drew from an estimate of the
    optimal policy. Its `sigmoid-norm` form is `dpo_loss` with `beta = gamma`.
    """
    return hinge_loss(
        policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=gamma
    )


def exo_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    *,
    beta: Number = 0.1,
    label_smoothing: Number = 1e-3,
) -> Float[Array, "B"]:
    """Pairwise EXO, the reverse KL of the two-way choice (Ji et al. 2024, eq. 16).

    `s(m) (log s(m) - log(1 - e)) + s(-m) (log s(-m) - log e)`, s the logistic; 0 at
    `m = logit(1 - e)`. The smoothing must be above 0.
    """
    e = probability("label_smoothing", positive("label_smoothing", label_smoothing))
    m = beta * margins(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    kept = jax.nn.sigmoid(m) * (jax.nn.log_sigmoid(m) - jnp.log1p(-e))
    flipped = jax.nn.sigmoid(-m) * (jax.nn.log_sigmoid(-m) - jnp.log(e))
    return kept + flipped


def discopop_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    *,
    beta: Number = 0.05,
    tau: Number = 0.05,
) -> Float[Array, "B"]:
    """DiscoPOP's log-ratio modulated loss (Lu et al. 2024, eq. 5).

    `(1 - s(m/tau)) softplus(-m) + s(m/tau) exp(-m)`, s the logistic, found by a search
    with a language model. The second product is taken in the exponent, so it is finite
    for any m.

    Args:
      tau: in (0, 1], width of the blend.
    """
    probability("tau", positive("tau", tau), below=1 + 1e-9)
    m = beta * margins(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    exponential = jnp.exp(-m - jax.nn.softplus(-m / tau))
    return jax.nn.sigmoid(-m / tau) * jax.nn.softplus(-m) + exponential
