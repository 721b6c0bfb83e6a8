"""RLOO: REINFORCE with the mean of the other samples as baseline.

Paper: Ahmadian et al. 2024 (arXiv:2402.14740): KL in the reward, one action per
  response, leave-one-out over the samples of a prompt.
Command: rlhf-jax train --config=experiments/relatives/rloo.py[:arith|:e64]
Hardware, time: 2 CPU cores; e64 under a minute, arith some minutes.
Result: e64 reaches the tilt reference * exp(gold / beta) / Z.
"""

from rlhf_jax.build.configs import exact_worlds

VARIANTS = ("e64", "arith")
SHAPING = ("score_at_last_token", "kl_penalty")


def get_config(variant: str = "e64"):
    """Variants: `e64` (enumerable) or `arith` (sums)."""
    parts = dict(rewards=SHAPING, estimator=("leave_one_out",))
    if variant == "arith":
        return exact_worlds.arith(kl_coef=0.01, **parts)
    return exact_worlds.e64(target="tilt", beta=0.3, kl_coef=0.3, **parts)
