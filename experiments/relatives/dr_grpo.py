"""Dr. GRPO: no division by the deviation, nor by the length.

Paper: Liu et al. 2025 (arXiv:2503.20783): rewards centered in the group, the sum over
  tokens divided by a constant, no KL.
Command: rlhf-jax train --config=experiments/relatives/dr_grpo.py[:arith|:e64]
Hardware, time: 2 CPU cores; e64 under a minute, arith some minutes.
Result: e64 has no KL to hold it: all mass goes to the best response.
"""

from rlhf_jax.build.configs import exact_worlds

VARIANTS = ("e64", "arith")


def get_config(variant: str = "e64"):
    """Variants: `e64` (enumerable) or `arith` (sums)."""
    parts = dict(estimator=("group_relative",), group_relative=dict(scale_by_std=False))
    if variant == "arith":
        constant = str(64 * 4 * 5.0)  # rollouts times the longest response
        return exact_worlds.arith(reduction=constant, **parts)
    return exact_worlds.e64(target="argmax", beta=0.0, **parts)
