"""Losses of pairs without a reference policy: ORPO, SimPO, CPO, SLiC.

They read no reference log-probs. `log p` is a sequence log-prob of the policy, summed
over the response; w chosen, l rejected, `|y|` the number of response tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.losses.combine import LossTerm, Number
from rlhf_jax.losses.preference.batches import (
    Pairs,
    pair_term,
    positive,
    probability,
)
from rlhf_jax.losses.preference.pairwise import smoothed


def log_odds(mean_logprobs: Float[Array, "B"]) -> Float[Array, "B"]:
    """`log(p / (1 - p))` of `p = e^x`, x the mean log-prob of a token.

    Stable as p -> 1 (invariant 18): `1 - p = -expm1(x)`, and x is held at one rounding
    error below 0 while its gradient passes, so that even p = 1 gives finite numbers
    and is no place to be stuck at.
    """
    limit = -jnp.finfo(mean_logprobs.dtype).eps
    held = jnp.minimum(mean_logprobs, limit)
    x = mean_logprobs + jax.lax.stop_gradient(held - mean_logprobs)
    near = x > -0.6931
    one_minus_p = jnp.where(
        near,
        jnp.log(-jnp.expm1(jnp.where(near, x, -1.0))),
        jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))),
    )
    return x - one_minus_p


def orpo_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    lam: float = 0.1,
) -> Float[Array, "B"]:
    """ORPO (Hong et al. 2024, eq. 6): likelihood and the odds ratio.

    `-log p_w/|w| - lam log s(log odds_w - log odds_l)`, with odds of the mean
    per-token probability `p = exp(log p/|y|)`.
    """
    chosen = policy_chosen / chosen_lengths
    rejected = policy_rejected / rejected_lengths
    ratio = log_odds(chosen) - log_odds(rejected)
    return -chosen + lam * jax.nn.softplus(-ratio)


def simpo_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    beta: Number = 2.0,
    gamma: float = 1.0,
    label_smoothing: Number = 0.0,
) -> Float[Array, "B"]:
    """SimPO, `-log s(beta log p_w/|w| - beta log p_l/|l| - gamma)` (Meng et al. 2024).

    Args:
      beta: 2 to 2.5, up to 10.
      gamma: target margin; gamma/beta in 0.3 to 0.55.
      label_smoothing: as in `cdpo_loss`.
    """
    gap = policy_chosen / chosen_lengths - policy_rejected / rejected_lengths
    return smoothed(beta * gap - gamma, label_smoothing)


def cpo_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    *,
    beta: Number = 0.1,
    alpha: float = 1.0,
    label_smoothing: Number = 0.0,
) -> Float[Array, "B"]:
    """CPO, `-log s(beta (log p_w - log p_l)) - alpha log p_w/|w|` (Xu et al. 2024).

    DPO with a uniform reference. The paper writes the likelihood as a sum; its code
    averages over tokens, which is what alpha = 1 refers to. `alpha = 0` leaves the
    preference part (TRL's `cpo_loss`).
    """
    m = beta * (policy_chosen - policy_rejected)
    return smoothed(m, label_smoothing) - alpha * policy_chosen / chosen_lengths


def slic_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    *,
    delta: float = 1.0,
    lam: float = 0.0,
) -> Float[Array, "B"]:
    """SLiC-HF, `max(0, delta - log p_w + log p_l) - lam log p_w` (Zhao et al. 2023).

    The paper's regularizer is the likelihood of a supervised target; here it is the
    chosen response. For another target add `cross_entropy` on a stream of its own. The
    hinge on log-ratios is `hinge_loss`.
    """
    hinge = jax.nn.relu(delta - policy_chosen + policy_rejected)
    return hinge - lam * policy_chosen


def orpo(lam: float = 0.1) -> LossTerm:
    """ORPO, `orpo_loss`; rewards are `lam log p / |y|`.

    Also `preference/chosen_nll` and `preference/log_odds_ratio`.
    """

    def further(pairs: Pairs) -> dict[str, Array]:
        chosen, rejected = _per_token(1.0)(pairs)
        ratio = log_odds(chosen) - log_odds(rejected)
        return {**nll_per_token(pairs), "preference/log_odds_ratio": ratio}

    return pair_term(
        "orpo",
        lambda p: orpo_loss(*p.policy, *p.lengths, lam=lam),
        _per_token(lam),
        further,
    )


def simpo(
    beta: Number = 2.0, gamma: float = 1.0, label_smoothing: Number = 0.0
) -> LossTerm:
    """SimPO, `simpo_loss`; rewards are `beta log p / |y|`."""
    positive("beta", beta)
    e = probability("label_smoothing", label_smoothing)
    return pair_term(
        "simpo",
        lambda p: simpo_loss(
            *p.policy, *p.lengths, beta=beta, gamma=gamma, label_smoothing=e
        ),
        _per_token(beta),
    )


def cpo(
    beta: Number = 0.1, alpha: float = 1.0, label_smoothing: Number = 0.0
) -> LossTerm:
    """CPO, `cpo_loss`; rewards are `beta log p`. Also
    `preference/chosen_nll`."""
    positive("beta", beta)
    e = probability("label_smoothing", label_smoothing)
    return pair_term(
        "cpo",
        lambda p: cpo_loss(
            *p.policy, p.chosen_lengths, beta=beta, alpha=alpha, label_smoothing=e
        ),
        _policy(beta),
        nll_per_token,
    )


def slic(delta: float = 1.0, lam: float = 0.0) -> LossTerm:
    """SLiC-HF, `slic_loss`; rewards are `log p`."""
    return pair_term(
        "slic",
        lambda p: slic_loss(*p.policy, delta=delta, lam=lam),
        _policy(1.0),
    )


def chosen_nll() -> LossTerm:
    """`-log p_w`, the summed negative log-likelihood of the chosen response.

    With `dpo` it makes RPO of Liu et al. 2024 (weight eta = 0.005). Rewards are
    `log p`. Also `preference/chosen_nll` (per token).
    """
    return pair_term(
        "chosen_nll", lambda p: -p.policy_chosen, _policy(1.0), nll_per_token
    )


def nll_per_token(pairs: Pairs) -> dict[str, Array]:
    """`preference/chosen_nll`, nats per token."""
    return {"preference/chosen_nll": -pairs.policy_chosen / pairs.chosen_lengths}


def _policy(beta: Number) -> Callable[[Pairs], tuple[Array, Array]]:
    """Implicit rewards `beta log p` of methods without reference."""
    return lambda pairs: (beta * pairs.policy_chosen, beta * pairs.policy_rejected)


def _per_token(scale: Number) -> Callable[[Pairs], tuple[Array, Array]]:
    """Implicit rewards `scale log p / |y|`."""

    def rewards(pairs: Pairs) -> tuple[Array, Array]:
        chosen = pairs.policy_chosen / pairs.chosen_lengths
        return scale * chosen, scale * pairs.policy_rejected / pairs.rejected_lengths

    return rewards
