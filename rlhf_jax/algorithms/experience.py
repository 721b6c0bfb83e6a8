"""From a scored rollout to experience: log-probs, values, rewards, advantages."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax import metrics
from rlhf_jax import rollout as rollouts
from rlhf_jax.algorithms import forward
from rlhf_jax.algorithms.parts import Parts
from rlhf_jax.ops import kl, masking
from rlhf_jax.types import (
    Array,
    Experience,
    Metrics,
    Params,
    PolicyOutputs,
    Rewards,
    Rollout,
    TrainState,
    Trajectory,
)


def collect(
    parts: Parts,
    state: TrainState,
    reference: Params,
    base: Params,
    rollout: Rollout,
    scores: Array,
) -> tuple[Experience, dict[str, Any], Metrics]:
    """Old and reference log-probs, values, shaped rewards and advantages."""
    old = outputs(parts, state.params, base, rollout, whole=True)
    inputs = rollouts.sequences(rollout)
    applied = parts.policy.apply(reference, inputs)
    ref = forward.policy_outputs(
        parts.policy, applied, reference, rollout, parts.temperature
    )
    trajectory = Trajectory(
        mask=rollout.mask,
        logprobs=rollout.logprobs,
        old_logprobs=jnp.where(rollout.mask, old.logprobs, 0.0),
        ref_logprobs=jnp.where(rollout.mask, ref.logprobs, 0.0),
        values=old.values,
        scores=scores,
        terminal=rollout.terminal,
        truncated=rollout.truncated,
        policy_version=jnp.full(scores.shape, state.step, jnp.int32),
        example_id=rollout.prompt.example_id,
        weight=rollout.prompt.weight,
    )
    trajectory = jax.lax.stop_gradient(trajectory)
    unshaped = Rewards(scores, jnp.zeros(rollout.mask.shape, jnp.float32))
    rewards, shaping, shaped = parts.shaping.update(
        unshaped, state.extra["shaping"], trajectory
    )
    advantages, estimator = parts.estimator.update(
        rewards, state.extra["estimator"], trajectory
    )
    experience = Experience(rollout, trajectory, rewards, advantages)
    extra = {"shaping": shaping, "estimator": estimator}
    return experience, extra, {**_measures(trajectory, old), **shaped}


def outputs(
    parts: Parts,
    params: dict[str, Params],
    base: Params,
    rollout: Rollout,
    whole: bool,
) -> PolicyOutputs:
    """Policy log-probs and values; values [B T+1] where `whole`, else [B T]."""
    inputs = rollouts.sequences(rollout)
    variables = forward.merged(base, params["policy"])
    applied = parts.policy.apply(variables, inputs)
    result = forward.policy_outputs(
        parts.policy, applied, variables, rollout, parts.temperature
    )
    scalars = applied.scalars
    if parts.value is not None:
        scalars = parts.value.apply(params["value"], inputs).scalars
    if scalars is None:
        return result
    values = forward.state_values(scalars, rollout)
    return result._replace(values=values if whole else values[:, :-1])


def _measures(trajectory: Trajectory, old: PolicyOutputs) -> Metrics:
    """What an iteration shows before it learns anything."""
    mask, weight = trajectory.mask, trajectory.weight
    old_logprobs, ref_logprobs = trajectory.old_logprobs, trajectory.ref_logprobs
    length = jnp.sum(mask.astype(jnp.float32), axis=1)
    gap = jnp.abs(trajectory.logprobs - old_logprobs)
    measured = {
        "objective/scores": metrics.moments(trajectory.scores),
        "objective/entropy": metrics.mean(old.entropy, mask, weight[:, None]),
        "rollout/length": metrics.moments(length),
        "rollout/truncated_fraction": metrics.mean(
            trajectory.truncated.astype(jnp.float32), weight=weight
        ),
        "rollout/logprob_difference": metrics.maximum(gap, mask),
    }
    for name, estimator in (("k1", kl.k1), ("k2", kl.k2), ("k3", kl.k3)):
        total = masking.masked_sum(estimator(old_logprobs, ref_logprobs), mask, axis=1)
        measured[f"objective/kl_{name}"] = metrics.mean(total, weight=weight)
    return {**measured, "objective/kl": measured["objective/kl_k1"]}
