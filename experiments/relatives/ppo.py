"""PPO with a critic of its own and the KL in the reward.

Paper: Schulman et al. 2017 (arXiv:1707.06347), Ziegler et al. 2019
  (arXiv:1909.08593).
Command: rlhf-jax train --config=experiments/relatives/ppo.py[:arith|:e64]
Hardware, time: 2 CPU cores; e64 under a minute, arith some minutes.
Result: e64 comes near the tilt; lambda < 1 leans on a critic that is still learning.
"""

from rlhf_jax.build.configs import exact_worlds

VARIANTS = ("e64", "arith")
SHAPING = ("score_at_last_token", "kl_penalty")


def get_config(variant: str = "e64"):
    """Variants: `e64` (enumerable) or `arith` (sums)."""
    parts = dict(
        rewards=SHAPING,
        terms=("clipped_surrogate", "clipped_value"),
        clipped_value=dict(weight=0.5, clip_eps=1.0),
        estimator=("gae", "whitened"),
        value=exact_worlds.critic(),
        epochs=2,
    )
    if variant == "arith":
        return exact_worlds.arith(kl_coef=0.01, **parts)
    return exact_worlds.e64(target="tilt", beta=0.3, kl_coef=0.3, **parts)
