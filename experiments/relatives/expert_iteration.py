"""Expert iteration: fine-tuning on the best of one's own samples.

Paper: RAFT, Dong et al. 2023 (arXiv:2304.06767); with `+threshold` ReST, Gulcehre et
  al. 2023 (arXiv:2308.08998): all samples that are good enough.
Command: rlhf-jax train --config=experiments/relatives/expert_iteration.py[:arith|:e64]
Hardware, time: 2 CPU cores; e64 under a minute, arith some minutes.
Result: e64: all mass goes to the best response that is still sampled.
"""

from rlhf_jax.build.configs import exact_worlds

VARIANTS = ("e64", "arith", "e64+threshold", "arith+threshold")


def get_config(variant: str = "e64"):
    """Variants: `e64` (enumerable) or `arith` (sums), each with `+threshold` or not."""
    world, _, threshold = variant.partition("+")
    parts = dict(
        terms=("policy_gradient",),
        policy_gradient=dict(weight=1.0),
        estimator=("best_of_group",),
    )
    if threshold:
        parts["estimator"] = ("above_threshold",)
        high = 0.5 if world == "arith" else 2.0  # the best response of e64 has 2.05
        parts["above_threshold"] = dict(threshold=high)
    if world == "arith":
        return exact_worlds.arith(epochs=2, **parts)
    return exact_worlds.e64(target="argmax", beta=0.0, **parts)
