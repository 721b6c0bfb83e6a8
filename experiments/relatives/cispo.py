"""CISPO: the clip bounds a weight, and no token loses its gradient.

Paper: MiniMax-M1 2025 (arXiv:2506.13585).
Command: rlhf-jax train --config=experiments/relatives/cispo.py[:arith|:e64]
Hardware, time: 2 CPU cores; e64 under a minute, arith some minutes.
Result: e64: all mass goes to the best response.
"""

from rlhf_jax.build.configs import exact_worlds

VARIANTS = ("e64", "arith")


def get_config(variant: str = "e64"):
    """Variants: `e64` (enumerable) or `arith` (sums)."""
    parts = dict(
        estimator=("group_relative",),
        terms=("clipped_weight",),
        clipped_weight=dict(weight=1.0, clip_eps=(1.0, 4.0)),
        minibatches=4,
    )
    if variant == "arith":
        return exact_worlds.arith(reduction="token_mean", **parts)
    return exact_worlds.e64(target="argmax", beta=0.0, **parts)
