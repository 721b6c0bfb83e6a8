"""GRPO: rewards normalized in the group, the k3 KL in the loss.

Paper: Shao et al. 2024 (arXiv:2402.03300): mean over the tokens of each response.
Command: rlhf-jax train --config=experiments/relatives/grpo.py[:arith|:e64]
Hardware, time: 2 CPU cores; e64 under a minute, arith some minutes.
Result: e64 ends at the fixed point of its own KL term, which is not the tilt.
"""

from rlhf_jax.build.configs import exact_worlds

VARIANTS = ("e64", "arith")


def get_config(variant: str = "e64"):
    """Variants: `e64` (enumerable) or `arith` (sums)."""
    beta = 0.04 if variant == "arith" else 0.3
    parts = dict(
        estimator=("group_relative",),
        terms=("clipped_surrogate", "kl_to_reference"),
        kl_to_reference=dict(weight=beta, estimator="k3"),
    )
    if variant == "arith":
        return exact_worlds.arith(reduction="sequence_mean", **parts)
    return exact_worlds.e64(target="loss/token/k3", beta=beta, group=8, **parts)
