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

from rlhf_jax.rewards.chaining import chain as chain
from rlhf_jax.rewards.chaining import initial as initial
from rlhf_jax.rewards.penalties import adaptive_kl_penalty as adaptive_kl_penalty
from rlhf_jax.rewards.penalties import kl_penalty as kl_penalty
from rlhf_jax.rewards.placement import score_after_last_token as score_after_last_token
from rlhf_jax.rewards.placement import score_at_last_token as score_at_last_token
from rlhf_jax.rewards.scaling import GainAndBias as GainAndBias
from rlhf_jax.rewards.scaling import clip as clip
from rlhf_jax.rewards.scaling import gain_and_bias as gain_and_bias
from rlhf_jax.rewards.scaling import measure_gain_and_bias as measure_gain_and_bias
from rlhf_jax.rewards.scaling import running_normalization as running_normalization
from rlhf_jax.rewards.scaling import scale as scale
from rlhf_jax.rewards.scaling import whiten as whiten
from rlhf_jax.rewards.termination import length_penalty as length_penalty
from rlhf_jax.rewards.termination import missing_eos_penalty as missing_eos_penalty
from rlhf_jax.rewards.termination import (
    missing_eos_replacement as missing_eos_replacement,
)
