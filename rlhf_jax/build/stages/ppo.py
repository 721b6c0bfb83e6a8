"""The PPO stage: a policy against a scorer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlhf_jax import algorithms, losses, networks, rng, rollout
from rlhf_jax.build.configs import combinations
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.objective import parts, ppo_settings
from rlhf_jax.build.plans import planned_rollouts
from rlhf_jax.build.runs import models, programs, weights
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.build.stages import evaluating, ppo_evaluation, sampling, tracing
from rlhf_jax.errors import UserError
from rlhf_jax.types import (
    AdvantageEstimator,
    Array,
    Network,
    Params,
    RewardTransformation,
    Scorer,
)


def ppo(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `ppo`; later stages find its policy under its name."""
    numbers = ppo_settings.settings(section)
    value = ppo_settings.value(section)
    critic = None
    optimizers = {
        "policy": parts.optimizer(section.section("optimizer"), numbers.updates)
    }
    value_optimizer = parts.optimizer(
        section.section("value_optimizer"), numbers.updates
    )
    if section.section("value_optimizer").value("ema_decay") is not None:
        raise UserError(
            f"{section.path}.value_optimizer.ema_decay: nothing reads an average of the"
            f" critic; set it to None (that of the policy is {section.path}.optimizer)"
        )
    if value is not None and value.separate:
        head = "zero" if value.head == "copy" else value.head
        critic = context.model.scalar(head=head)
        optimizers["value"] = value_optimizer
    stage = _PPO(
        name=name,
        numbers=numbers,
        context=context,
        policy=context.model.language(
            adapters=True, value_head=value is not None and not value.separate
        ),
        value=value,
        critic=critic,
        shaping=parts.shaping(section, section.float("kl_coef", 0.0)),
        estimator=parts.estimator(section, numbers.samples_per_prompt),
        loss=parts.loss(section),
        terms=parts.single_terms(section),
        exact_kl=parts.needs_exact_kl(section),
        optimizers=optimizers,
        mix=ppo_settings.pretraining(section, context),
        made_of=programs.of_ppo(section.values()),
    )
    combinations.check(section.path, section.values())
    context.policies[name] = stage.load
    return Stage(
        name,
        stage.run,
        stage.describe,
        lambda: planned_rollouts.ppo(stage, context),
        lambda: evaluating.names(context, numbers.reward_model),
    )


class _PPO(NamedTuple):
    """What the section says, and what was built from it."""

    name: str
    numbers: ppo_settings.Settings
    context: Context
    policy: Network
    value: ppo_settings.Value | None
    critic: Network | None
    shaping: RewardTransformation
    estimator: AdvantageEstimator
    loss: losses.Loss
    terms: dict[str, losses.Loss]
    exact_kl: bool
    optimizers: dict[str, optax.GradientTransformation]
    mix: ppo_settings.Pretraining | None
    made_of: Mapping[str, Any]

    def run(self) -> dict[str, Any]:
        """Trains; gold, proxy and KL are in the evaluations."""
        numbers, context = self.numbers, self.context
        base, trainable = self.start()
        scorer = self.training_scorer()
        reference = context.held(
            context.policy(numbers.reference, f"config.{self.name}.reference")
        )
        frozen = algorithms.Frozen(reference, scorer.init(), base)
        built = self.build(scorer)
        batches = ppo_settings.batches(context, numbers, self.mix)
        context.train(
            self.name,
            tracing.dumping(
                built._replace(learner=context.seat(built)),
                self.terms,
                context.dump_step,
                context.folder(self.name),
            ),
            frozen=frozen,
            batches=batches,
            steps=numbers.steps,
            init_from=lambda: trainable,
            evaluate=ppo_evaluation.evaluator(
                self.name, built, frozen, context, numbers, batches
            ),
            eval_every=numbers.eval_every,
        )
        return {"episodes": numbers.steps * numbers.rollouts}

    def build(self, scorer: Scorer) -> algorithms.PPO:
        """The learner, for a scorer."""
        numbers, greedy = self.numbers, None
        if numbers.greedy_responses:
            greedy = self.sampler(0.0, 1)
        built = algorithms.ppo(
            policy=self.policy,
            value=self.critic,
            initial=self.shapes,
            sampler=self.sampler(numbers.temperature, numbers.samples_per_prompt),
            scorer=scorer,
            shaping=self.shaping,
            estimator=self.estimator,
            loss=self.loss,
            optimizers=self.optimizers,
            temperature=numbers.temperature,
            epochs=numbers.epochs,
            minibatches=numbers.minibatches,
            microbatches=numbers.microbatches,
            target_kl=numbers.target_kl,
            value_warmup=numbers.value_warmup,
            pretraining_loss=self.mix.loss if self.mix else None,
            exact_kl=self.exact_kl,
            baseline_sampler=greedy,
            selection=self.selection(),
            staleness=self.staleness(),
            term_gradients=numbers.term_gradients,
            term_cosines=numbers.term_cosines,
        )
        shared = self.context.compiled("ppo", self.made_of, lambda: built.programs)
        return algorithms.sharing(built, shared)

    def sampler(self, temperature: float, samples: int) -> rollout.Sampler:
        """Draws responses to the task's prompts."""
        return sampling.sampler(
            self.context,
            self.policy,
            temperature=temperature,
            samples=samples,
            made_of=("scalar head",) if self.shared_trunk else (),
        )

    @property
    def shared_trunk(self) -> bool:
        """Whether the value function is a head on the policy."""
        return self.value is not None and self.critic is None

    def selection(self) -> algorithms.Selection | None:
        """Dynamic sampling, where the section asks for it."""
        numbers = self.numbers
        if not numbers.dynamic_sampling:
            return None
        return algorithms.informative_groups(
            numbers.samples_per_prompt, numbers.dynamic_sampling
        )

    def staleness(self) -> algorithms.Staleness | None:
        """The rollout buffer, where the section asks for one."""
        numbers, task = self.numbers, self.context.task
        if not numbers.staleness:
            return None
        like = algorithms.scored_like(
            numbers.batch_size,
            numbers.samples_per_prompt,
            task.prompt_length,
            task.response_length,
            numbers.greedy_responses,
        )
        return algorithms.Staleness(numbers.staleness, like)

    def shapes(self, key: Array) -> dict[str, Params]:
        """Random trainable variables; the weights come by warm start."""
        lora = self.context.model.lora
        groups = {"policy": models.trainable(self.policy.init(key), lora)[1]}
        if self.critic is not None:
            groups["value"] = self.critic.init(rng.named(key, "value"))
        return groups

    def start(self) -> tuple[Params, dict[str, Params]]:
        """Frozen variables of the policy, and all trainable groups."""
        context, numbers = self.context, self.numbers
        key = context.init_key(self.name)
        variables = context.policy(numbers.policy, f"config.{self.name}.policy")
        full = networks.initialize_from(self.policy, variables, key=key)
        base, tuned = models.trainable(full, context.model.lora)
        groups = {"policy": tuned}
        if self.critic is not None and self.value is not None:
            if self.value.init == "scratch":
                return base, {
                    **groups,
                    "value": self.critic.init(rng.named(key, "value")),
                }
            from_policy = self.value.init == "policy"
            source = numbers.policy if from_policy else numbers.reward_model
            trunk = context.policy(source, f"config.{self.name}.value.init")
            groups["value"] = networks.initialize_from(
                self.critic,
                trunk,
                key=rng.named(key, "value"),
                keep_head=self.value.head == "copy",
            )
        return base, groups

    def training_scorer(self) -> Scorer:
        """The user's function if one is given, else what `reward_model` names."""
        if self.context.user_scorer is not None:
            return self.context.user_scorer
        path = f"config.{self.name}.reward_model"
        return self.context.scorer(self.numbers.reward_model, path)

    def load(self) -> Params:
        """The trained policy as plain variables, without a scalar head."""
        base = {} if self.context.model.lora is None else self.start()[0]
        plain = weights.trained(self.context, self.name, "policy", self.policy, base)
        params = {k: v for k, v in plain["params"].items() if k != "head"}
        return {**plain, "params": params}

    def describe(self) -> dict[str, Any]:
        """Shapes and arithmetic for `check`."""
        numbers = self.numbers
        nothing = rollout.world_scorer(lambda *a: jnp.zeros(a[2].shape[0]))
        learner = self.build(nothing).learner
        per_minibatch = numbers.rollouts // numbers.minibatches
        return {
            "state": jax.eval_shape(learner.init, self.context.init_key(self.name)),
            "batch": f"{numbers.batch_size} prompts x {numbers.samples_per_prompt}"
            f" samples = {numbers.rollouts} rollouts -> {numbers.minibatches}"
            f" minibatches of {per_minibatch} in {numbers.microbatches} microbatches",
            "iterations": numbers.steps,
            "optimizer steps": numbers.updates,
            "episodes": numbers.steps * numbers.rollouts,
        }
