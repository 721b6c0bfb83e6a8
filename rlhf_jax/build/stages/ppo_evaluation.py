"""Held-out evaluation of a PPO stage: gold, proxy and KL, samples over time."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import algorithms, hosts, rng, rollout
from rlhf_jax.algorithms import forward
from rlhf_jax.build.objective.ppo_settings import Batches, Settings
from rlhf_jax.build.runs.context import Context
from rlhf_jax.build.stages import evaluating, tracing
from rlhf_jax.optimizers import final_params
from rlhf_jax.studies import schema
from rlhf_jax.training import loop
from rlhf_jax.types import TrainState

TRACES = 4
"""Parts of the training after each of which samples are shown token by token."""


def traced(step: int, steps: int, eval_every: int) -> bool:
    """Whether the evaluation at a step shows samples token by token: the first one, the
    first after each of `TRACES` equal parts of the training, and the last."""
    if step == steps:
        return True
    return TRACES * step // steps > TRACES * (step - eval_every) // steps


class Evaluator(NamedTuple):
    """`loop.Evaluate` on the same held-out prompts and noise each time.

    Beside what it measures it gives the levels of the alarms (`studies.alarms`).

    Some evaluations (`traced`) also show samples token by token, from a step that is
    computed on the held-out prompts and thrown away.
    """

    stage: str
    built: algorithms.PPO
    frozen: algorithms.Frozen
    context: Context
    numbers: Settings
    batches: Batches
    measure: Any
    prompts: Any

    def __call__(self, state: TrainState, step: int) -> loop.Evaluation:
        """Metrics under their plain names and `<name>_se`, and sample rows."""
        variables = forward.merged(
            self.frozen.policy_base, final_params(state, "policy")
        )
        key = rng.named(rng.root(self.context.seeds.sampling), "held-out")
        found = self.measure(variables, self.frozen.reference, self.prompts, key)
        told = evaluating.evaluation(
            self.context,
            self.stage,
            step,
            found,
            held_out=self.context.eval_scorers,
            shown=self.numbers.shown_samples,
        )
        numbers = self.numbers
        if numbers.shown_samples and traced(step, numbers.steps, numbers.eval_every):
            return told._replace(samples=[*told.samples, *self._traced(step, state)])
        return told

    def _traced(self, step: int, state: TrainState) -> list[Any]:
        """Token-by-token rows of a few held-out prompts."""
        task, numbers = self.context.task, self.numbers
        size = numbers.batch_size * max(1, numbers.dynamic_sampling)
        count = min(size, len(task.heldout.records))
        rows = jnp.arange(size) % count
        prompts = self.context.prompts(task.heldout, count)
        prompts = jax.tree.map(lambda x: x[rows], prompts)
        mixed = self.batches.batch(0).pretraining
        batch = algorithms.PPOBatch(prompts, mixed)
        found = hosts.fetch(self.built.explain(state, self.frozen, batch))
        sampled = found.experience.rollout
        texts = rollout.decode_rollout(sampled, task.tokenizer.decode)
        scores = found.experience.trajectory.scores
        shown = range(min(numbers.shown_samples, count))
        return [
            schema.sample_row(
                self.stage,
                step,
                texts.ids[row],
                texts.prompts[row],
                texts.responses[row],
                scores={"proxy": scores[row]},
                length=int(sampled.mask[row].sum()),
                tokens=tracing.token_rows(found, row, task.tokenizer.decode),
            )
            for row in (i * numbers.samples_per_prompt for i in shown)
        ]


def evaluator(
    stage: str,
    built: algorithms.PPO,
    frozen: algorithms.Frozen,
    context: Context,
    numbers: Settings,
    batches: Batches,
) -> Evaluator:
    """The evaluation of a PPO stage; its settings are never the training's."""
    task = context.task
    measure = evaluating.measuring(
        context,
        built.parts.policy,
        evaluating.watched(context, built.parts.scorer, numbers.reward_model),
        temperature=numbers.eval_temperature,
        samples=1,
        chunk_size=numbers.eval_prompts,
    )
    prompts = context.prompts(task.heldout, numbers.eval_prompts)
    return Evaluator(stage, built, frozen, context, numbers, batches, measure, prompts)
