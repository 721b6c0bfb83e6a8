"""VAPO: a critic that is trained first and sees further, clip-higher, imitation.

Paper: Yue et al. 2025 (arXiv:2504.05118): value pretraining, lambda 1 for the critic
  and 1 - 1/(alpha length) for the policy, NLL of positive examples (weight 0.1).
Command: rlhf-jax train --config=experiments/relatives/vapo.py[:arith|:e64]
Hardware, time: 2 CPU cores; e64 under a minute, arith some minutes.
Result: e64: all mass goes to the best response.
"""

from rlhf_jax.build.configs import exact_worlds

VARIANTS = ("e64", "arith")


def get_config(variant: str = "e64"):
    """Variants: `e64` (enumerable) or `arith` (sums)."""
    parts = dict(
        terms=("clipped_surrogate", "squared_value", "positive_examples"),
        clipped_surrogate=dict(weight=1.0, clip_eps=(0.2, 0.28)),
        squared_value=dict(weight=0.5),
        positive_examples=dict(weight=0.1, threshold=0.5),
        estimator=("length_adaptive_gae",),
        length_adaptive_gae=dict(discount=1.0, alpha=0.5, value_lam=1.0),
        value=exact_worlds.critic(),
        value_warmup=10,
        epochs=2,
    )
    if variant == "arith":
        return exact_worlds.arith(reduction="token_mean", **parts)
    return exact_worlds.e64(target="argmax", beta=0.0, **parts)
