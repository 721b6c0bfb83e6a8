"""The online preference stage: the policy's own samples, compared as they come."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import algorithms, data, losses, rng, rollout
from rlhf_jax.algorithms import forward, preference_scoring
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.objective import parts, preference_terms
from rlhf_jax.build.plans import planned_rollouts
from rlhf_jax.build.runs import models, weights
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.build.stages import evaluating, sampling
from rlhf_jax.errors import UserError
from rlhf_jax.optimizers import final_params
from rlhf_jax.rollout import judges
from rlhf_jax.training import loop
from rlhf_jax.types import Learner, Network, Params, Scorer, TrainState


def online_preference(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `online_preference`.

    `reward_model` orders the samples of a prompt, or `judge`, `FILE.py:FUNCTION`, asked
    in both orders. With `exploration` above 0 the second sample is the reference's and
    the loss has XPO's bonus of that weight; with `mixture` above 0 it is drawn from the
    geometric mixture of the policy and so much of the reference, as Nash-MD does.
    """
    steps, microbatches = section.int("steps", 1), section.int("microbatches", 1)
    names = preference_terms.names_of(section)
    needs = preference_scoring.needs(names)
    explore = section.float("exploration", 0.0)
    mixture = section.float("mixture", 0.0, 1.0)
    temperature = section.float("temperature", 0.0)
    group = section.int("samples_per_prompt", 2)
    judge = section.optional("judge", section.str)
    _check(section.path, names, needs)
    _check_two(section.path, names, needs, section.values())
    terms = {term: preference_terms.term_of(section, term) for term in names}
    if explore:
        terms["exploration"] = algorithms.exploration(explore)
    network = context.model.language(adapters=True)
    learner = algorithms.preference(
        network,
        initial=lambda key: models.trainable(network.init(key), context.model.lora)[1],
        loss=losses.combine(reduction=losses.sequence_mean, **terms),
        optimizer=parts.optimizer(section.section("optimizer"), steps),
        needs=needs,
        reference=context.model.language() if needs.reference else None,
        microbatches=microbatches,
    )
    stage = _Online(
        name=name,
        policy=section.str("policy"),
        reference=section.str("reference"),
        reward_model=section.str("reward_model"),
        judge=judge,
        mixture=1.0 if explore else mixture,
        group=group,
        ranking=needs.batch == "rankings",
        temperature=temperature,
        steps=steps,
        batch_size=parts.batch_size(section, microbatches),
        eval_every=section.int("eval_every", 0),
        eval_prompts=section.int("eval_prompts", 1),
        eval_temperature=section.float("eval_temperature", 0.0),
        shown_samples=section.int("shown_samples", 0),
        context=context,
        network=network,
        learner=context.learner("online_preference", section, learner),
    )
    context.policies[name] = stage.load
    return Stage(
        name,
        stage.run,
        stage.describe,
        lambda: planned_rollouts.online_preference(stage, context),
        lambda: evaluating.names(context, None if judge else stage.reward_model),
    )


def _check(path: str, names: tuple[str, ...], needs: preference_scoring.Needs) -> None:
    if needs.batch == "labels" or needs.mismatched:
        raise UserError(
            f"{path}: {', '.join(names)} needs labels or responses of other prompts,"
            " which online comparisons do not have; choose a method of pairs or"
            " rankings"
        )


def _check_two(
    path: str,
    names: tuple[str, ...],
    needs: preference_scoring.Needs,
    given: dict[str, Any],
) -> None:
    """What plays against another one has two samples, and only one opponent."""
    asked = {
        "judge": given["judge"] is not None,
        "exploration": given["exploration"] > 0,
        "mixture": given["mixture"] > 0,
        f"loss={', '.join(names)}": bool(needs.samples),
    }
    for what, present in asked.items():
        if present and given["samples_per_prompt"] != 2:
            raise UserError(
                f"{path}.{what} compares two responses; set"
                f" {path}.samples_per_prompt=2, not {given['samples_per_prompt']}"
            )
    if given["exploration"] > 0 and (given["mixture"] > 0 or needs.samples):
        raise UserError(
            f"{path}.exploration={given['exploration']} samples from the reference,"
            f" and {path} also asks for another opponent (mixture={given['mixture']},"
            f" {', '.join(names)}); leave one of them out"
        )
    if needs.samples and given["temperature"] != 1.0:
        raise UserError(
            f"{path}.temperature={given['temperature']}: {', '.join(needs.samples)}"
            " follows the gradient of the distribution that it samples; set it to 1.0"
        )


class _Online(NamedTuple):
    """What the section says, and what was built from it."""

    name: str
    policy: str
    reference: str
    reward_model: str
    judge: str | None
    mixture: float
    group: int
    ranking: bool
    temperature: float
    steps: int
    batch_size: int
    eval_every: int
    eval_prompts: int
    eval_temperature: float
    shown_samples: int
    context: Context
    network: Network
    learner: Learner

    def run(self) -> dict[str, Any]:
        """Trains; gold, proxy and KL are in the evaluations."""
        context = self.context
        base, trainable = self.start()
        reference = context.held(
            context.policy(self.reference, f"config.{self.name}.reference")
        )
        scorer = self.scorer()
        frozen = algorithms.OnlineFrozen(
            algorithms.PreferenceFrozen(base, reference), scorer.init()
        )
        prompts = data.prompt_stream(
            context.task.prompts,
            context.task.encoder,
            batch_size=self.batch_size,
            seed=context.seeds.data,
            lengths=(context.task.prompt_length,),
        )
        context.train(
            self.name,
            self.online(scorer),
            frozen=frozen,
            batches=prompts,
            steps=self.steps,
            init_from=lambda: {"policy": trainable},
            evaluate=self.evaluation(frozen.preference),
            eval_every=self.eval_every,
        )
        return {"episodes": self.steps * self.batch_size * self.group}

    def online(self, scorer: Scorer) -> Learner:
        """The learner, for a scorer."""
        own = 1 if self.mixture else self.group
        return algorithms.online_preference(
            self.learner,
            sampler=self.sampler(self.network, own),
            scorer=scorer,
            samples_per_prompt=self.group,
            extremes=not self.ranking,
            opponent=self.opponent() if self.mixture else None,
            wins=judges.judged_wins if self.judge else judges.bradley_terry_wins,
        )

    def opponent(self) -> algorithms.Opponent:
        """Draws the second response: from the reference, or from a mixture with it."""
        plain = self.context.model.language()
        if self.mixture == 1.0:
            alone = self.sampler(plain, 1)
            return lambda policy, reference, *rest: alone(reference, *rest)
        mixed = rollout.geometric_mixture(self.network, plain, self.mixture)
        draw = self.sampler(mixed, 1, self.mixture)
        return lambda policy, reference, *rest: draw(
            {"policy": policy, "reference": reference}, *rest
        )

    def sampler(
        self, network: Network, samples: int, mixture: float = 0.0
    ) -> rollout.Sampler:
        """Draws responses to the task's prompts."""
        return sampling.sampler(
            self.context,
            network,
            temperature=self.temperature,
            samples=samples,
            made_of=(mixture,) if mixture else (),
        )

    def scorer(self) -> Scorer:
        """What orders the samples: the judge, the user's function or a reward model."""
        if self.judge is None:
            return self.proxy()
        judge, task = rollout.load_function(self.judge), self.context.task
        name = f"config.{self.name}.judge={self.judge}"
        return judges.judge_scorer(judge, task.tokenizer.decode, name=name)

    def proxy(self) -> Scorer:
        """What evaluations call the proxy."""
        if self.context.user_scorer is not None:
            return self.context.user_scorer
        path = f"config.{self.name}.reward_model"
        return self.context.scorer(self.reward_model, path)

    def evaluation(self, frozen: algorithms.PreferenceFrozen) -> loop.Evaluate:
        """Scores, KL and alarms on the same held-out prompts and noise each time."""
        context = self.context
        measure = evaluating.measuring(
            context,
            self.network,
            self.watched(),
            temperature=self.eval_temperature,
            samples=1,
            chunk_size=self.eval_prompts,
        )
        prompts = context.prompts(context.task.heldout, self.eval_prompts)
        # What a judge trains on gives no score that a held-out model could confirm.
        held_out = () if self.judge else context.eval_scorers

        def evaluate(state: TrainState, step: int) -> loop.Evaluation:
            variables = forward.merged(frozen.base, final_params(state, "policy"))
            key = rng.named(rng.root(context.seeds.sampling), "held-out")
            return evaluating.evaluation(
                context,
                self.name,
                step,
                measure(variables, frozen.reference, prompts, key),
                held_out=held_out,
                shown=self.shown_samples,
            )

        return evaluate

    def watched(self) -> dict[str, Scorer]:
        """Columns of an evaluation; under a judge no ensemble is trained on."""
        if self.judge:
            return evaluating.scorers(self.context, self.proxy())
        return evaluating.watched(self.context, self.proxy(), self.reward_model)

    def start(self) -> tuple[Params, Params]:
        """Frozen and trainable variables before the first step."""
        return weights.start(
            self.context, self.name, "policy", self.policy, self.network
        )

    def load(self) -> Params:
        """The trained policy as plain variables."""
        base = {} if self.context.model.lora is None else self.start()[0]
        return weights.trained(self.context, self.name, "policy", self.network, base)

    def describe(self) -> dict[str, Any]:
        """Shapes and arithmetic for `check`."""
        nothing = rollout.world_scorer(lambda *a: jnp.zeros(a[2].shape[0]))
        learner = self.online(nothing)
        return {
            "state": jax.eval_shape(learner.init, self.context.init_key(self.name)),
            "batch": f"{self.batch_size} prompts x {self.group} samples",
            "optimizer steps": self.steps,
            "episodes": self.steps * self.batch_size * self.group,
        }
