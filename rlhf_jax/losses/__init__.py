"""Loss terms, and how weighted sums of them are reduced.

A loss term is a plain function `(outputs, batch) -> (unreduced values, metrics)`;
`combine` adds weights, schedules, masks and a reduction. See `combine.py` for how a
loss is the same however its minibatch is divided. What is here by name can be a term of
a config; models with several heads have theirs in `attributes` and `odin`.
"""

from rlhf_jax.losses.combine import (
    Loss,
    LossTerm,
    Preparation,
    Prepared,
    Term,
    TermState,
    combine,
    streams,
)
from rlhf_jax.losses.language import cross_entropy, pretraining_mix
from rlhf_jax.losses.microbatch import accumulated_gradients, split
from rlhf_jax.losses.policy import (
    clipped_surrogate,
    clipped_weight,
    complete,
    policy_gradient,
    positive_examples,
    truncated_importance,
)
from rlhf_jax.losses.ranking import (
    all_pairs,
    best_of_k,
    bradley_terry,
    plackett_luce,
    score_centering,
)
from rlhf_jax.losses.reduction import (
    Reduction,
    Support,
    Targets,
    one_more_token,
    sequence_mean,
    sum_over,
    support,
    targets,
    token_mean,
)
from rlhf_jax.losses.regularizers import (
    adaptive_kl_to_reference,
    entropy_bonus,
    kl_to_reference,
    lagrangian_kl_to_reference,
    z_loss,
)
from rlhf_jax.losses.ties import davidson
from rlhf_jax.losses.value import ExplainedVariance, clipped_value, squared_value

__all__ = [
    "ExplainedVariance",
    "Loss",
    "LossTerm",
    "Preparation",
    "Prepared",
    "Reduction",
    "Support",
    "Targets",
    "Term",
    "TermState",
    "accumulated_gradients",
    "adaptive_kl_to_reference",
    "all_pairs",
    "best_of_k",
    "bradley_terry",
    "clipped_surrogate",
    "clipped_value",
    "clipped_weight",
    "combine",
    "complete",
    "cross_entropy",
    "davidson",
    "entropy_bonus",
    "kl_to_reference",
    "lagrangian_kl_to_reference",
    "one_more_token",
    "plackett_luce",
    "policy_gradient",
    "positive_examples",
    "pretraining_mix",
    "score_centering",
    "sequence_mean",
    "split",
    "squared_value",
    "streams",
    "sum_over",
    "support",
    "targets",
    "token_mean",
    "truncated_importance",
    "z_loss",
]
