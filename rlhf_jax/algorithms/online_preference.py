"""Online preference learning: sample, compare, and learn from the comparison at once.

Online DPO (Guo et al. 2024, arXiv:2402.04792): the policy answers each prompt twice, a
scorer or a judge orders the answers, and one step of a preference loss follows. With an
opponent for the second answer it is the sampling of XPO (Xie et al. 2024,
arXiv:2405.21046; the opponent is the reference, `exploration` the bonus) and of Nash-MD
(Munos et al. 2024, arXiv:2312.00886; a mixture of policy and reference).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax import losses, metrics, rng
from rlhf_jax.algorithms import forward
from rlhf_jax.algorithms.preference import PreferenceFrozen
from rlhf_jax.losses.preference import PreferenceBatch, PreferenceOutputs, everyone
from rlhf_jax.rollout import judges, scoring
from rlhf_jax.types import (
    ComparisonBatch,
    Learner,
    Metrics,
    Params,
    PromptBatch,
    Rollout,
    Scorer,
    TrainState,
)

Sample = Callable[[Params, PromptBatch, Array], Rollout]
Opponent = Callable[[Params, Params | None, PromptBatch, Array], Rollout]
"""`(policy variables, reference variables, prompts, key) -> Rollout`."""
Wins = Callable[[Array], Array]
"""Scores [B G] -> chances [B G] that a response is preferred to another one's."""


class OnlineFrozen(NamedTuple):
    """What online learning reads and never changes.

    Attributes:
      preference: base and reference variables; the reference is there even where no
        term reads it, if it samples.
      scorer: the scorer's frozen state.
    """

    preference: PreferenceFrozen
    scorer: Any


def online_preference(
    learner: Learner,
    *,
    sampler: Sample,
    scorer: Scorer,
    samples_per_prompt: int = 2,
    extremes: bool = True,
    opponent: Opponent | None = None,
    wins: Wins = judges.bradley_terry_wins,
) -> Learner:
    """A learner on prompts that makes its own comparisons.

    Args:
      learner: `preference(...)`, one step on a `ComparisonBatch`.
      sampler: draws `samples_per_prompt` responses of a prompt from the policy; one
        where the opponent draws the other.
      scorer: orders the responses of a prompt, such as a reward model or
        `rollout.judges.judge_scorer`. Runs outside of jit.
      samples_per_prompt: G, responses of a prompt in all.
      extremes: learn from the best and the worst of G; False from all G as a ranking.
      opponent: draws the second of two responses, or None.
      wins: from scores to chances of winning, for the methods that learn from these.

    Returns:
      A learner on `PromptBatch`es whose `frozen` is an `OnlineFrozen`. Two responses of
      equal score, or of equal tokens, are a tie and move nothing.
    """
    joined = jax.jit(_neighbors)
    choose = extremes and samples_per_prompt > 2  # two responses keep their places
    compared = jax.jit(
        lambda sampled, scores: comparisons(sampled, scores, extremes=choose, wins=wins)
    )

    def update(
        state: TrainState, frozen: OnlineFrozen, prompts: PromptBatch
    ) -> tuple[TrainState, Metrics]:
        base, reference = frozen.preference
        variables = forward.merged(base, state.params["policy"])
        key = rng.named(state.key, state.step, "sample")
        sampled = sampler(variables, prompts, key)
        if opponent is not None:
            other = rng.named(state.key, state.step, "sample reference")
            sampled = joined(sampled, opponent(variables, reference, prompts, other))
        found = scorer.apply(frozen.scorer, variables, sampled).sequence
        scores = found.reshape(-1, samples_per_prompt)
        batch, measured = compared(sampled, scores)
        state, shown = learner.update(state, frozen.preference, batch)
        return state, {**measured, **shown}

    return Learner(learner.init, update)


def comparisons(
    sampled: Rollout,
    scores: Float[Array, "B G"],
    *,
    extremes: bool,
    wins: Wins = judges.bradley_terry_wins,
) -> tuple[ComparisonBatch, Metrics]:
    """Comparisons of the G responses to each prompt, and what was sampled.

    Args:
      sampled: responses of one prompt are neighbors.
      scores: of them, larger is better.
      extremes: keep the best and the worst of each prompt; False keeps all.
      wins: chances of winning among all G.
    """
    count, group = scores.shape
    inputs = scoring.sequences(sampled)
    prompt = jnp.zeros_like(sampled.prompt.mask)
    response = jnp.concatenate([prompt, sampled.mask], axis=1)
    grouped: Any = jax.tree.map(
        lambda x: x.reshape(count, group, *x.shape[1:]), (inputs, response)
    )
    measured = _measures(sampled, scores)
    chances = wins(scores)
    if extremes:
        rows = jnp.arange(count)[:, None]
        best, worst = jnp.argmax(scores, 1), group - 1 - jnp.argmin(scores[:, ::-1], 1)
        chosen = jnp.stack([best, worst], axis=1)
        grouped = jax.tree.map(lambda x: x[rows, chosen], grouped)
        scores, chances = scores[rows, chosen], chances[rows, chosen]
    inputs, response = grouped
    ranks = 1 + jnp.sum(scores[:, None, :] > scores[:, :, None], axis=-1)
    said = jnp.where(response, inputs.tokens, -1)
    same = jnp.all(said[:, :, None] == said[:, None, :], axis=-1)
    best_copy = jnp.min(jnp.where(same, ranks[:, None, :], group + 1), axis=-1)
    ranks = best_copy.astype(jnp.int32)
    tied = jnp.all(ranks == ranks[:, :1], axis=1)
    measured["preference/tied_fraction"] = metrics.mean(tied.astype(jnp.float32))

    def of_prompt(x: Array) -> Array:
        return x.reshape(count, group)[:, 0]

    about = sampled.prompt
    batch = ComparisonBatch(
        inputs, response, ranks, of_prompt(about.example_id), of_prompt(about.weight)
    )._replace(win_probability=chances)
    return batch, measured


def exploration(weight: float) -> losses.Term:
    """XPO's optimism: `weight * log policy(second response)` is added to the loss.

    The second response is the reference's, so the policy is pushed away from what the
    reference would say anyway (Xie et al. 2024, algorithm 1). Rows that tie count too.

    Args:
      weight: alpha, at least 0.
    """

    def values(
        outputs: PreferenceOutputs, batch: PreferenceBatch
    ) -> tuple[Array, Metrics]:
        second = outputs.logprobs[:, 1]
        mean = metrics.mean(jax.lax.stop_gradient(second), None, batch.weight)
        return second, {"preference/reference_sample_logprobs": mean}

    return losses.Term(values, weight=weight, support=everyone)


def _neighbors(one: Rollout, two: Rollout) -> Rollout:
    """Rows of two rollouts of the same prompts, each beside the other."""

    def mixed(x: Array, y: Array) -> Array:
        return jnp.stack([x, y], axis=1).reshape(-1, *x.shape[1:])

    return jax.tree.map(mixed, one, two)


def _measures(sampled: Rollout, scores: Array) -> dict[str, Any]:
    lengths = jnp.sum(sampled.mask, axis=1).astype(jnp.float32)
    return {
        "objective/scores": metrics.moments(scores),
        "rollout/length": metrics.moments(lengths),
        "rollout/truncated_fraction": metrics.mean(
            sampled.truncated.astype(jnp.float32)
        ),
    }
