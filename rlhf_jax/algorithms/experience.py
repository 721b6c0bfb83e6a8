"""From a scored rollout to experience: log-probs, values, rewards, advantages."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import metrics
from rlhf_jax.algorithms import forward
from rlhf_jax.algorithms.collecting import Scored
from rlhf_jax.algorithms.parts import Frozen, Parts
from rlhf_jax.ops import kl
from rlhf_jax.rollout import scoring
from rlhf_jax.types import (
    Experience,
    Metrics,
    Params,
    PolicyOutputs,
    Rewards,
    Rollout,
    TrainState,
    Trajectory,
)


class Collected(NamedTuple):
    """What a scored rollout comes to under the current parameters.

    Attributes:
      experience: what the epochs learn from.
      outputs: log-probs and entropy [B T] of the current parameters, values [B T+1].
      extra: the new states of shaping and estimator.
      metrics: of the iteration before it learns anything.
    """

    experience: Experience
    outputs: PolicyOutputs
    extra: dict[str, Any]
    metrics: Metrics


def collect(
    parts: Parts,
    state: TrainState,
    frozen: Frozen,
    scored: Scored,
) -> Collected:
    """Old and reference log-probs, values, shaped rewards and advantages."""
    rollout, scores = scored.rollout, scored.scores
    old = outputs(parts, state.params, frozen, rollout, whole=True)
    with jax.named_scope("reference"):
        ref = scoring.response_logprobs(
            parts.policy, frozen.reference, rollout, temperature=parts.temperature
        )
    trajectory = Trajectory(
        mask=rollout.mask,
        logprobs=rollout.logprobs,
        old_logprobs=old.logprobs,
        ref_logprobs=ref.logprobs,
        values=old.values,
        scores=scores,
        terminal=rollout.terminal,
        truncated=rollout.truncated,
        policy_version=scored.version,
        example_id=rollout.prompt.example_id,
        weight=rollout.prompt.weight,
        baseline=scored.baseline,
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
    measured = {**_measures(trajectory, old), **shaped}
    if parts.staleness is not None:
        late = (state.step - scored.version).astype(jnp.float32)
        measured["rollout/staleness"] = metrics.mean(late)
    return Collected(experience, old, extra, measured)


def outputs(
    parts: Parts,
    params: dict[str, Params],
    frozen: Frozen,
    rollout: Rollout,
    whole: bool,
) -> PolicyOutputs:
    """Log-probs and values of the current parameters on what was sampled.

    Args:
      parts: networks and temperature.
      params: trainable variables by group.
      frozen: variables under the policy's, and the reference where KL is exact.
      rollout: the responses.
      whole: values [B T+1], with the state after the last token; else [B T].
    """
    inputs = scoring.sequences(rollout)
    variables = forward.merged(frozen.policy_base, params["policy"])
    applied = parts.policy.apply(variables, inputs)
    prompt, length = rollout.prompt.tokens.shape[1], rollout.tokens.shape[1]
    hidden = scoring.response_columns(applied.hidden, prompt, length)
    scored = scoring.logprobs_from_hidden(
        parts.policy, variables, hidden, rollout, temperature=parts.temperature
    )
    result = PolicyOutputs(scored.logprobs, scored.entropy, scored.logsumexp)
    if parts.exact_kl:
        other = scoring.response_hidden(parts.policy, frozen.reference, rollout)
        divergence = scoring.exact_kl_from_hidden(
            parts.policy,
            (variables, hidden),
            (frozen.reference, other),
            rollout,
            temperature=parts.temperature,
        )
        result = result._replace(kl_exact=divergence)
    scalars = applied.scalars
    if parts.value is not None:
        with jax.named_scope("values"):
            scalars = parts.value.apply(params["value"], inputs).scalars
    if scalars is None:
        return result
    last = prompt + length if whole else prompt + length - 1
    return result._replace(values=scalars[:, prompt - 1 : last])


def _measures(trajectory: Trajectory, old: PolicyOutputs) -> Metrics:
    """What an iteration shows before it learns anything."""
    mask, weight = trajectory.mask, trajectory.weight
    old_logprobs, ref_logprobs = trajectory.old_logprobs, trajectory.ref_logprobs
    measured = {
        "objective/scores": metrics.moments(trajectory.scores),
        "objective/entropy": metrics.mean(old.entropy, mask, weight[:, None]),
        "rollout/length": metrics.moments(jnp.sum(mask.astype(jnp.float32), axis=1)),
        "rollout/truncated_fraction": metrics.mean(
            trajectory.truncated.astype(jnp.float32), weight=weight
        ),
        **scoring.logprob_difference(trajectory.logprobs, old_logprobs, mask),
    }
    for name, estimator in (("k1", kl.k1), ("k2", kl.k2), ("k3", kl.k3)):
        tokens = jnp.where(mask, estimator(old_logprobs, ref_logprobs), 0.0)
        measured[f"objective/kl_{name}"] = metrics.mean(
            jnp.sum(tokens, axis=1), weight=weight
        )
    return {**measured, "objective/kl": measured["objective/kl_k1"]}
