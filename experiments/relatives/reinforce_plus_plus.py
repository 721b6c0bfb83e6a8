"""REINFORCE++: returns per token, normalized over the batch.

Paper: Hu 2025 (arXiv:2501.03262): KL in the reward, PPO's clip, no critic; with the
  mean of the group subtracted first it is REINFORCE++-baseline (`arith+group`).
Command: rlhf-jax train --config=experiments/relatives/reinforce_plus_plus.py[:VARIANT]
Hardware, time: 2 CPU cores; e64 under a minute, arith some minutes.
Result: e64 reaches the tilt.
"""

from rlhf_jax.build.configs import exact_worlds

VARIANTS = ("e64", "arith", "e64+group", "arith+group")
SHAPING = ("score_at_last_token", "kl_penalty")


def get_config(variant: str = "e64"):
    """Variants: `e64` (enumerable) or `arith` (sums), each with `+group` or without."""
    world, _, group = variant.partition("+")
    parts = dict(rewards=SHAPING, estimator=("monte_carlo", "whitened"))
    parts |= dict(monte_carlo=dict(discount=1.0))
    if group:
        parts["estimator"] = ("group_relative", "whitened")
        parts["group_relative"] = dict(scale_by_std=False)
    if world == "arith":
        return exact_worlds.arith(kl_coef=0.01, **parts)
    return exact_worlds.e64(target="tilt", beta=0.3, kl_coef=0.3, **parts)
