"""ReMax: the score of the greedy response as baseline.

Paper: Li et al. 2023 (arXiv:2310.10505).
Command: rlhf-jax train --config=experiments/relatives/remax.py[:arith|:e64]
Hardware, time: 2 CPU cores; e64 under a minute, arith some minutes.
Result: e64 reaches the tilt: the baseline depends on the prompt alone.
"""

from rlhf_jax.build.configs import exact_worlds

VARIANTS = ("e64", "arith")
SHAPING = ("score_at_last_token", "kl_penalty")


def get_config(variant: str = "e64"):
    """Variants: `e64` (enumerable) or `arith` (sums)."""
    parts = dict(rewards=SHAPING, estimator=("greedy_baseline",), greedy_responses=True)
    if variant == "arith":
        return exact_worlds.arith(kl_coef=0.01, samples_per_prompt=1, **parts)
    return exact_worlds.e64(target="tilt", beta=0.3, kl_coef=0.3, **parts)
