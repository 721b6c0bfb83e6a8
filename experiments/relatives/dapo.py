"""DAPO: clip-higher, token mean, dynamic sampling, overlong rules, no KL.

Paper: Yu et al. 2025 (arXiv:2503.14476): eps 0.2 / 0.28, groups of equal reward are
  drawn again, truncated responses are masked, long ones punished softly.
Command: rlhf-jax train --config=experiments/relatives/dapo.py[:arith|:e64]
Hardware, time: 2 CPU cores; e64 under a minute, arith some minutes.
Result: e64: all mass goes to the best response. arith: no group of equal reward.
"""

from rlhf_jax.build.configs import exact_worlds

VARIANTS = ("e64", "arith")


def get_config(variant: str = "e64"):
    """Variants: `e64` (enumerable) or `arith` (sums)."""
    surrogate = dict(weight=1.0, clip_eps=(0.2, 0.28))
    parts = dict(
        estimator=("group_relative",), dynamic_sampling=3, minibatches=2, epochs=1
    )
    if variant == "arith":
        return exact_worlds.arith(
            rewards=("length_penalty", "score_at_last_token"),
            length_penalty=dict(coef=0.5, start=3, limit=1.0),
            clipped_surrogate=dict(mask="complete", **surrogate),
            reduction="token_mean",
            **parts,
        )
    return exact_worlds.e64(
        target="argmax", beta=0.0, clipped_surrogate=surrogate, **parts
    )
