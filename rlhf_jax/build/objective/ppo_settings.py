"""The numbers of a PPO section, and the pretraining mix."""

from __future__ import annotations

from typing import Any, NamedTuple

from rlhf_jax import algorithms, data, losses, rollout
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.runs import models
from rlhf_jax.build.runs.context import Context
from rlhf_jax.errors import UserError

VALUE_INITS = ("reward_model", "policy", "scratch")
VALUE_HEADS = (*models.HEADS, "copy")


class Settings(NamedTuple):
    """Numbers of a PPO section; see `algorithms.ppo` for what they mean.

    `dynamic_sampling` is the largest number of rounds (0: learn from every group).
    """

    policy: str
    reference: str
    reward_model: str
    steps: int
    batch_size: int
    samples_per_prompt: int
    epochs: int
    minibatches: int
    microbatches: int
    temperature: float
    value_warmup: int
    target_kl: float | None
    eval_every: int
    eval_prompts: int
    eval_temperature: float
    shown_samples: int
    greedy_responses: bool
    dynamic_sampling: int
    staleness: int
    term_gradients: int
    term_cosines: bool

    @property
    def rollouts(self) -> int:
        """Rollouts of an iteration."""
        return self.batch_size * self.samples_per_prompt

    @property
    def updates(self) -> int:
        """Optimizer steps of the whole stage."""
        return self.steps * self.epochs * self.minibatches


def settings(section: Section) -> Settings:
    """Reads the plain numbers.

    Raises:
      UserError: minibatches or microbatches that do not divide the rollouts, a way of
        sampling that a policy gradient cannot use, or a policy that never learns.
    """
    traced = section.section("term_gradients")
    result = Settings(
        policy=section.str("policy"),
        reference=section.str("reference"),
        reward_model=section.str("reward_model"),
        steps=section.int("steps", 1),
        batch_size=section.int("batch_size", 1),
        samples_per_prompt=section.int("samples_per_prompt", 1),
        epochs=section.int("epochs", 1),
        minibatches=section.int("minibatches", 1),
        microbatches=section.int("microbatches", 1),
        temperature=section.float("temperature", 0.0),
        value_warmup=section.int("value_warmup", 0),
        target_kl=section.optional("target_kl", lambda key: section.float(key, 0.0)),
        eval_every=section.int("eval_every", 0),
        eval_prompts=section.int("eval_prompts", 1),
        eval_temperature=section.float("eval_temperature", 0.0),
        shown_samples=section.int("shown_samples", 0),
        greedy_responses=section.bool("greedy_responses"),
        dynamic_sampling=section.int("dynamic_sampling", 0),
        staleness=section.int("staleness", 0),
        term_gradients=traced.int("every", 0),
        term_cosines=traced.bool("cosines"),
    )
    rollout.check_trainable(
        sampling_temperature=result.temperature,
        k=section.optional("top_k", section.int),
        p=section.optional("top_p", section.float),
    )
    if result.rollouts % (result.minibatches * result.microbatches):
        raise UserError(
            f"{section.path}: {result.batch_size} prompts x"
            f" {result.samples_per_prompt} samples = {result.rollouts} rollouts do not"
            f" divide into {result.minibatches} minibatches of {result.microbatches}"
            " microbatches"
        )
    if result.value_warmup >= result.steps:
        raise UserError(
            f"{section.path}.value_warmup={result.value_warmup} leaves none of the"
            f" {result.steps} steps to the policy; lower it, or raise"
            f" {section.path}.steps"
        )
    return result


class Value(NamedTuple):
    """The critic.

    Attributes:
      separate: a network of its own; otherwise a scalar head on the policy's trunk.
      init: trunk of a separate critic, `reward_model`, `policy` or `scratch` (random).
      head: of a separate critic, `zero`, `normal` or `copy` (the reward model's).
    """

    separate: bool
    init: str
    head: str


def value(section: Section) -> Value | None:
    """Reads `value`; None where it is not enabled (critic-free estimators)."""
    own = section.section("value")
    result = Value(
        separate=own.bool("separate"),
        init=own.choice("init", VALUE_INITS),
        head=own.choice("head", VALUE_HEADS),
    )
    if result.head == "copy" and result.init != "reward_model":
        raise UserError(
            f"{own.path}.head='copy' copies the reward model's head; it needs"
            f" {own.path}.init='reward_model', not '{result.init}'"
        )
    return result if own.bool("enabled") else None


class Pretraining(NamedTuple):
    """The pretraining mix of PPO-ptx: its loss and its own stream."""

    loss: losses.Loss
    stream: Any


def pretraining(section: Section, context: Context) -> Pretraining | None:
    """Reads `pretraining`: coefficient gamma and rows per minibatch; None at 0."""
    own = section.section("pretraining")
    coef, batch_size = own.float("coef", 0.0), own.int("batch_size", 1)
    if coef == 0.0:
        return None
    if context.task.pretraining is None:
        raise UserError(f"{own.path}.coef={coef}: this task has no pretraining texts")
    loss = losses.combine(
        pretraining=losses.Term(losses.pretraining_mix(), weight=coef),
        reduction=losses.token_mean,
    )
    stream = data.sequence_stream(
        context.task.pretraining,
        context.task.encoder,
        batch_size=batch_size,
        seed=context.seeds.data,
        lengths=(context.task.length,),
    )
    return Pretraining(loss, stream)


class Batches(NamedTuple):
    """Prompts and pretraining sequences by step, as `training.Batches`."""

    prompts: Any
    pretraining: Any

    @property
    def fingerprint(self) -> Any:
        """Of both streams."""
        mixed = self.pretraining
        return [self.prompts.fingerprint, mixed.fingerprint if mixed else None]

    @property
    def rows(self) -> Any:
        """Rows of both parts of a batch, over all processes."""
        mixed = self.pretraining.rows if self.pretraining else None
        return algorithms.PPOBatch(self.prompts.rows, mixed)

    def shared(self, rows: data.Rows) -> Batches:
        """See `data.Stream.shared`."""
        mixed = self.pretraining.shared(rows) if self.pretraining else None
        return Batches(self.prompts.shared(rows), mixed)

    def batch(self, step: int) -> algorithms.PPOBatch:
        """Batch of an iteration."""
        mixed = self.pretraining.batch(step) if self.pretraining else None
        return algorithms.PPOBatch(self.prompts.batch(step), mixed)

    def position(self, step: int) -> dict[str, Any]:
        """Position of both streams."""
        mixed = self.pretraining.position(step) if self.pretraining else None
        return {"prompts": self.prompts.position(step), "pretraining": mixed}


def batches(context: Context, numbers: Settings, mix: Pretraining | None) -> Batches:
    """The streams of a PPO stage."""
    prompts = data.prompt_stream(
        context.task.prompts,
        context.task.encoder,
        batch_size=numbers.batch_size * max(1, numbers.dynamic_sampling),
        seed=context.seeds.data,
        lengths=(context.task.prompt_length,),
    )
    return Batches(prompts, mix.stream if mix else None)
