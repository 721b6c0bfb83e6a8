"""Loss terms of pairs, `(PreferenceOutputs, PreferenceBatch) -> (values [B], metrics)`.

Each one lifts the function of the same name with `_loss`; that is where the equation,
the paper and the hyper-parameters stand. What is reported: `batches.pair_term`. Use
them with `reduction=losses.sequence_mean`; weights combine them::

    losses.combine(
        dpo=losses.Term(preference.dpo(beta=0.1)),
        likelihood=losses.Term(preference.chosen_nll(), weight=0.005),
        reduction=losses.sequence_mean,
    )
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from rlhf_jax.losses.combine import LossTerm, Number
from rlhf_jax.losses.preference import (
    divergences,
    lengths,
    pairwise,
    separate,
)
from rlhf_jax.losses.preference.batches import (
    Pairs,
    pair_term,
    positive,
    probability,
)
from rlhf_jax.losses.preference.reference_free import nll_per_token

Array = jax.Array


def scaled(beta: Number) -> Callable[[Pairs], tuple[Array, Array]]:
    """Implicit rewards `beta h`."""

    def rewards(pairs: Pairs) -> tuple[Array, Array]:
        chosen, rejected = pairs.log_ratios
        return beta * chosen, beta * rejected

    return rewards


def dpo(beta: Number = 0.1) -> LossTerm:
    """Direct preference optimization, `pairwise.dpo_loss`."""
    positive("beta", beta)
    return pair_term(
        "dpo", lambda p: pairwise.dpo_loss(*p.logprobs, beta=beta), scaled(beta)
    )


def cdpo(beta: Number = 0.1, label_smoothing: Number = 0.1) -> LossTerm:
    """Conservative DPO, `pairwise.cdpo_loss`."""
    positive("beta", beta)
    e = probability("label_smoothing", label_smoothing)
    return pair_term(
        "cdpo",
        lambda p: pairwise.cdpo_loss(*p.logprobs, beta=beta, label_smoothing=e),
        scaled(beta),
    )


def robust(beta: Number = 0.1, label_smoothing: Number = 0.1) -> LossTerm:
    """Robust DPO, `pairwise.robust_loss`."""
    positive("beta", beta)
    e = probability("label_smoothing", label_smoothing)
    return pair_term(
        "robust",
        lambda p: pairwise.robust_loss(*p.logprobs, beta=beta, label_smoothing=e),
        scaled(beta),
    )


def ipo(tau: Number = 0.1) -> LossTerm:
    """Identity preference optimization, `pairwise.ipo_loss`; rewards are `tau h`."""
    positive("tau", tau)
    return pair_term(
        "ipo", lambda p: pairwise.ipo_loss(*p.logprobs, tau=tau), scaled(tau)
    )


def ipo_per_token(tau: Number = 0.1) -> LossTerm:
    """IPO on token averages, `pairwise.ipo_per_token_loss` (TRL's `ipo`); rewards are
    `tau h / |y|`."""
    positive("tau", tau)
    return pair_term(
        "ipo_per_token",
        lambda p: pairwise.ipo_per_token_loss(*p.logprobs, *p.lengths, tau=tau),
        _normalized(tau),
    )


def hinge(beta: Number = 0.1) -> LossTerm:
    """Margin loss on log-ratios, `pairwise.hinge_loss`."""
    positive("beta", beta)
    return pair_term(
        "hinge", lambda p: pairwise.hinge_loss(*p.logprobs, beta=beta), scaled(beta)
    )


def rso(gamma: float = 0.05) -> LossTerm:
    """RSO's hinge-norm, `pairwise.rso_loss`; rewards are `gamma h`."""
    positive("gamma", gamma)
    return pair_term(
        "rso", lambda p: pairwise.rso_loss(*p.logprobs, gamma=gamma), scaled(gamma)
    )


def exo(beta: Number = 0.1, label_smoothing: Number = 1e-3) -> LossTerm:
    """Pairwise EXO, `pairwise.exo_loss`."""
    positive("beta", beta)
    e = probability("label_smoothing", positive("label_smoothing", label_smoothing))
    return pair_term(
        "exo",
        lambda p: pairwise.exo_loss(*p.logprobs, beta=beta, label_smoothing=e),
        scaled(beta),
    )


def discopop(beta: Number = 0.05, tau: Number = 0.05) -> LossTerm:
    """DiscoPOP, `pairwise.discopop_loss`."""
    positive("beta", beta)
    probability("tau", positive("tau", tau), below=1 + 1e-9)
    return pair_term(
        "discopop",
        lambda p: pairwise.discopop_loss(*p.logprobs, beta=beta, tau=tau),
        scaled(beta),
    )


def normalized_dpo(beta: Number = 5.0) -> LossTerm:
    """DPO on token averages, `lengths.normalized_dpo_loss`; rewards `beta h / |y|`."""
    positive("beta", beta)
    return pair_term(
        "normalized_dpo",
        lambda p: lengths.normalized_dpo_loss(*p.logprobs, *p.lengths, beta=beta),
        _normalized(beta),
    )


def length_penalized_dpo(beta: Number = 0.1, alpha: float = 0.01) -> LossTerm:
    """R-DPO, `lengths.length_penalized_dpo_loss`."""
    positive("beta", beta)
    return pair_term(
        "length_penalized_dpo",
        lambda p: lengths.length_penalized_dpo_loss(
            *p.logprobs, *p.lengths, beta=beta, alpha=alpha
        ),
        scaled(beta),
    )


def rpo(beta: Number = 0.1, alpha: float = 1.0) -> LossTerm:
    """DPO with likelihood, `lengths.rpo_loss`; also `preference/chosen_nll`."""
    positive("beta", beta)
    return pair_term(
        "rpo",
        lambda p: lengths.rpo_loss(
            *p.logprobs, p.chosen_lengths, beta=beta, alpha=alpha
        ),
        scaled(beta),
        nll_per_token,
    )


def f_dpo(
    derivative: Callable[[Array], Array] = divergences.jensen_shannon,
    beta: Number = 0.1,
) -> LossTerm:
    """f-DPO, `divergences.f_dpo_loss`; rewards are `beta f'(u)`."""
    positive("beta", beta)

    def rewards(pairs: Pairs) -> tuple[Array, Array]:
        chosen, rejected = pairs.log_ratios
        return beta * derivative(chosen), beta * derivative(rejected)

    return pair_term(
        "f_dpo",
        lambda p: divergences.f_dpo_loss(*p.logprobs, derivative=derivative, beta=beta),
        rewards,
    )


def forward_kl_dpo(beta: Number = 0.1) -> LossTerm:
    """f-DPO with KL(reference || policy), `divergences.forward_kl`."""
    return f_dpo(divergences.forward_kl, beta)


def jensen_shannon_dpo(beta: Number = 0.1) -> LossTerm:
    """f-DPO with the Jensen-Shannon divergence, `divergences.jensen_shannon`."""
    return f_dpo(divergences.jensen_shannon, beta)


def alpha_dpo(alpha: float = 0.5, beta: Number = 0.1) -> LossTerm:
    """f-DPO with an alpha divergence, `divergences.alpha_divergence`."""
    return f_dpo(divergences.alpha_divergence(alpha), beta)


def nca(beta: Number = 0.1) -> LossTerm:
    """Pairwise NCA, `separate.nca_loss`."""
    positive("beta", beta)
    return pair_term(
        "nca", lambda p: separate.nca_loss(*p.logprobs, beta=beta), scaled(beta)
    )


def apo_zero(beta: Number = 0.1) -> LossTerm:
    """APO-zero, `separate.apo_zero_loss`."""
    positive("beta", beta)
    return pair_term(
        "apo_zero",
        lambda p: separate.apo_zero_loss(*p.logprobs, beta=beta),
        scaled(beta),
    )


def apo_down(beta: Number = 0.1) -> LossTerm:
    """APO-down, `separate.apo_down_loss`."""
    positive("beta", beta)
    return pair_term(
        "apo_down",
        lambda p: separate.apo_down_loss(*p.logprobs, beta=beta),
        scaled(beta),
    )


def sppo_hard(beta: Number = 1e-3) -> LossTerm:
    """SPPO that takes the chosen response to win always, the rejected one never."""
    positive("beta", beta)
    return pair_term(
        "sppo_hard",
        lambda p: separate.sppo_loss(*p.logprobs, beta=beta),
        scaled(beta),
    )


def _normalized(scale: Number) -> Callable[[Pairs], tuple[Array, Array]]:
    """Implicit rewards `scale h / |y|`."""

    def rewards(pairs: Pairs) -> tuple[Array, Array]:
        chosen, rejected = pairs.log_ratios
        return (
            scale * chosen / pairs.chosen_lengths,
            scale * rejected / pairs.rejected_lengths,
        )

    return rewards
