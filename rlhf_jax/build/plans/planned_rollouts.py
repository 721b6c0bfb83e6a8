"""The programs of stages that sample, as shapes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax import algorithms, planning, rollout
from rlhf_jax.algorithms import collecting
from rlhf_jax.build.plans import planned, planned_sampling
from rlhf_jax.build.plans.planned import Plan, Planned
from rlhf_jax.types import TrainState


def ppo(stage: Any, context: Any) -> Plan:
    """The plan of a `ppo` stage.

    Args:
      stage: what the section says, and what was built from it.
      context: of the run.
    """
    numbers, task = stage.numbers, context.task
    nothing = rollout.world_scorer(lambda *a: jnp.zeros(a[2].shape[0]))
    built = stage.build(nothing)
    state = planned.state(context, stage.name, built.learner)
    reference = planned.held(context, context.model.language())
    base = planned.base(context, stage.policy)
    scorers = planned_sampling.scoring(context, numbers.reward_model)
    watched = planned_sampling.watched(context, numbers.reward_model)
    policy, others = {**base, **state.params["policy"]}, _other_than_policy(state)
    mix = None
    if stage.mix is not None:
        mix = planned.rows(
            context, planned.sequences(stage.mix.stream.batch_size, task.length)
        )
    frozen = algorithms.Frozen(reference, (), base)
    length = task.prompt_length + task.response_length
    scored = planned.rows(context, like(stage))
    programs = [
        planned_sampling.sampling(
            context,
            stage.sampler(numbers.temperature, numbers.samples_per_prompt),
            policy,
            numbers.batch_size,
            numbers.samples_per_prompt,
            beside=(others, reference, scorers, watched),
        ),
        *planned_sampling.scores(
            context, scorers, scored.rollout, beside=(state, reference, base, watched)
        ),
        Planned(
            "learn",
            built.programs.learn,
            (state, frozen, mix, scored, planned_sampling.number(context)),
            beside=(scorers, watched, _now_and_then(numbers, built, state)),
            phases=planned.EXPERIENCE,
            model_flops=_learning_flops(stage, length),
        ),
        *planned_sampling.evaluation(
            context,
            stage.policy,
            numbers,
            policy,
            reference,
            scorers,
            scored.rollout,
            others=(others, watched),
        ),
    ]
    return Plan(programs, numbers.rollouts * length)


def _now_and_then(numbers: Any, built: algorithms.PPO, state: TrainState) -> Any:
    """What an update has to leave room for in the steps that are looked into.

    Telling a step keeps the state that it starts from (`PPO.explain`); the gradients of
    the terms are held until all are there, in a program like the update. A run never
    does both at once.
    """
    held = [
        state if numbers.shown_samples else (),
        [state.params] * len(built.parts.loss.init()) if numbers.term_gradients else (),
    ]
    return max(held, key=planning.per_device)


def online_preference(stage: Any, context: Any) -> Plan:
    """The plan of an `online_preference` stage."""
    task, group = context.task, stage.group
    length = task.prompt_length + task.response_length
    state = planned.state(context, stage.name, stage.learner)
    reference = planned.held(context, context.model.language())
    base = planned.base(context, stage.network)
    asked = "" if stage.judge else stage.reward_model
    scorers = planned_sampling.scoring(context, asked)
    watched = planned_sampling.watched(context, asked)
    policy, others = {**base, **state.params["policy"]}, _other_than_policy(state)
    drawn = planned.rows(
        context,
        collecting.scored_like(
            stage.batch_size, group, task.prompt_length, task.response_length, False
        ).rollout,
    )
    kept = group if stage.ranking else 2
    batch = planned.comparisons(
        stage.batch_size, kept, length, mismatched=False, scored=False, wins=True
    )
    once = planned.forward_flops(
        stage.network.config, stage.batch_size * kept, length, columns=length - 1
    )
    update = planned.learning(
        context,
        stage.name,
        stage.learner,
        frozen=algorithms.PreferenceFrozen(base, reference),
        batch=batch,
        tokens=stage.batch_size * kept * length,
        model_flops=4 * once,
    )
    sampler = stage.sampler(stage.network, 1 if stage.mixture else group)
    programs = [
        planned_sampling.sampling(
            context,
            sampler,
            policy,
            stage.batch_size,
            1 if stage.mixture else group,
            beside=(others, reference, scorers, watched),
        ),
        *planned_sampling.scores(
            context, scorers, drawn, beside=(state, reference, base, watched)
        ),
        *(one._replace(beside=(scorers, watched)) for one in update.programs),
        *planned_sampling.evaluation(
            context,
            stage.network,
            stage,
            policy,
            reference,
            scorers,
            drawn,
            others=(others, watched),
        ),
    ]
    return update._replace(programs=programs)


def drawing(
    context: Any, sampler: Any, prompts: int, samples: int, reward_model: str = ""
) -> Plan:
    """The plan of a stage that draws responses and learns nothing; a step is a batch.

    Args:
      context: of the run.
      sampler: of the stage.
      prompts: of a batch.
      samples: of each prompt.
      reward_model: what scores them, as the config names it; by default none.
    """
    task = context.task
    variables = planned.variables(context, context.model.language())
    scorers = planned_sampling.scoring(context, reward_model)
    drawn = collecting.scored_like(
        prompts, samples, task.prompt_length, task.response_length, False
    ).rollout
    programs = [
        planned_sampling.sampling(
            context, sampler, variables, prompts, samples, beside=scorers
        ),
        *planned_sampling.scores(
            context, scorers, planned.rows(context, drawn), beside=variables
        ),
    ]
    length = task.prompt_length + task.response_length
    return Plan(programs, prompts * samples * length)


def like(stage: Any) -> algorithms.Scored:
    """What one iteration of a PPO stage learns from, as shapes."""
    numbers, task = stage.numbers, stage.context.task
    return jax.eval_shape(
        lambda: collecting.scored_like(
            numbers.batch_size,
            numbers.samples_per_prompt,
            task.prompt_length,
            task.response_length,
            numbers.greedy_responses,
        )
    )


def _other_than_policy(state: TrainState) -> Any:
    """What of a train state a sampler is not given."""
    others = {k: v for k, v in state.params.items() if k != "policy"}
    return others, state.opt_state, state.extra


def _learning_flops(stage: Any, length: int) -> float:
    """Old and reference log-probs and values once, then epochs of 3 forward passes."""
    numbers, config = stage.numbers, stage.policy.config
    columns = stage.context.task.response_length
    policy = planned.forward_flops(config, numbers.rollouts, length, columns=columns)
    value = 0.0
    if stage.critic is not None:
        value = planned.forward_flops(stage.critic.config, numbers.rollouts, length)
    passes = 1 + 3 * numbers.epochs
    exact = policy * numbers.epochs if stage.exact_kl else 0.0
    return policy * (passes + 1) + value * passes + exact
