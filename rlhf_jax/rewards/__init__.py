"""Reward shaping as a chain of links over `Rewards(scores[B], tokens[B T])`.

    shaping = rewards.chain(
        rewards.missing_eos_penalty(1.0),  # edits scores
        rewards.score_at_last_token(),  # scores -> tokens
        rewards.adaptive_kl_penalty(0.15, target=6.0, horizon=10_000),
        rewards.whiten(shift_mean=False),
    )
    state = shaping.init()
    start = rewards.initial(trajectory)
    shaped, state, metrics = shaping.update(start, state, trajectory)

Links that edit scores stand before `score_at_last_token`, links that edit tokens after
it. Each returns metrics of what it did. Statistics run over the whole array, hence over
the global batch under `jit`: shape first, split into minibatches later.
"""

from rlhf_jax.rewards.chaining import chain, initial
from rlhf_jax.rewards.penalties import (
    adaptive_kl_penalty,
    kl_penalty,
    lagrangian_kl_penalty,
)
from rlhf_jax.rewards.placement import score_after_last_token, score_at_last_token
from rlhf_jax.rewards.scaling import (
    GainAndBias,
    clip,
    gain_and_bias,
    measure_gain_and_bias,
    running_normalization,
    scale,
    whiten,
)
from rlhf_jax.rewards.termination import (
    length_penalty,
    missing_eos_penalty,
    missing_eos_replacement,
)

__all__ = [
    "GainAndBias",
    "adaptive_kl_penalty",
    "chain",
    "clip",
    "gain_and_bias",
    "initial",
    "kl_penalty",
    "lagrangian_kl_penalty",
    "length_penalty",
    "measure_gain_and_bias",
    "missing_eos_penalty",
    "missing_eos_replacement",
    "running_normalization",
    "scale",
    "score_after_last_token",
    "score_at_last_token",
    "whiten",
]
