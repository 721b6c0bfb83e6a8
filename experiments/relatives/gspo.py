"""GSPO: one ratio per response, clipped as a whole.

Paper: Zheng et al. 2025 (arXiv:2507.18071): eps 3e-4 / 4e-4, four minibatches; the
  clip is wider here, for responses of a few tokens.
Command: rlhf-jax train --config=experiments/relatives/gspo.py[:arith|:e64]
Hardware, time: 2 CPU cores; e64 under a minute, arith some minutes.
Result: e64: all mass goes to the best response.
"""

from rlhf_jax.build.configs import exact_worlds

VARIANTS = ("e64", "arith")


def get_config(variant: str = "e64"):
    """Variants: `e64` (enumerable) or `arith` (sums)."""
    surrogate = dict(weight=1.0, clip_eps=(0.03, 0.04), level="sequence")
    parts = dict(
        estimator=("group_relative",), clipped_surrogate=surrogate, minibatches=4
    )
    if variant == "arith":
        return exact_worlds.arith(reduction="sequence_mean", **parts)
    return exact_worlds.e64(target="argmax", beta=0.0, **parts)
