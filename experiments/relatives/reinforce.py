"""REINFORCE with the mean reward of the batch as baseline.

Paper: Williams 1992; as a baseline of RLHF in Ahmadian et al. 2024
  (arXiv:2402.14740).
Command: rlhf-jax train --config=experiments/relatives/reinforce.py[:arith|:e64]
Hardware, time: 2 CPU cores; e64 under a minute, arith some minutes.
Result: e64 reaches the tilt; the gradient is 1 - 1/B of the true one.
"""

from rlhf_jax.build.configs import exact_worlds

VARIANTS = ("e64", "arith")
SHAPING = ("score_at_last_token", "kl_penalty")


def get_config(variant: str = "e64"):
    """Variants: `e64` (enumerable) or `arith` (sums)."""
    parts = dict(
        rewards=SHAPING,
        estimator=("batch_mean",),
        terms=("policy_gradient",),
        policy_gradient=dict(weight=1.0),
    )
    if variant == "arith":
        return exact_worlds.arith(kl_coef=0.01, **parts)
    return exact_worlds.e64(target="tilt", beta=0.3, kl_coef=0.3, **parts)
