"""PPO-ptx: PPO, and the likelihood of pretraining text beside it.

Paper: Ouyang et al. 2022 (arXiv:2203.02155), eq. 2; gamma 27.8 there, on sums over
  batches; here it weights token means.
Command: rlhf-jax train --config=experiments/relatives/ppo_ptx.py[:arith|:e64]
Hardware, time: 2 CPU cores; e64 under a minute, arith some minutes.
Result: e64 stays nearer to the reference than the tilt, which its text was drawn from.
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
        pretraining=dict(coef=0.1, batch_size=64),
    )
    if variant == "arith":
        return exact_worlds.arith(kl_coef=0.01, **parts)
    return exact_worlds.e64(target="tilt", beta=0.3, kl_coef=0.3, **parts)
