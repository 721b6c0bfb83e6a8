"""The PPO stage: a policy against a scorer, with gold, proxy and KL side by side."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import algorithms, data, networks, rng, rollout
from rlhf_jax.algorithms import forward
from rlhf_jax.build import models, parts, tracing
from rlhf_jax.build.context import Context, Stage
from rlhf_jax.build.section import Section
from rlhf_jax.build.sft import rng_of
from rlhf_jax.errors import UserError
from rlhf_jax.studies import schema
from rlhf_jax.training import checkpoint, loop
from rlhf_jax.types import Array, Network, Params, Scorer, TrainState

VALUE_INITS = ("reward_model", "policy")


class Settings(NamedTuple):
    """Numbers of a PPO section; see `algorithms.ppo` for what they mean."""

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


class ValueSettings(NamedTuple):
    """The critic: `separate` network or head on the trunk, `init` and `head`."""

    separate: bool
    init: str
    head: str


def settings(section: Section) -> Settings:
    """Reads the plain numbers.

    Raises:
      UserError: minibatches or microbatches that do not divide the rollouts.
    """
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
        target_kl=section.optional("target_kl", section.float),
        eval_every=section.int("eval_every", 0),
        eval_prompts=section.int("eval_prompts", 1),
        eval_temperature=section.float("eval_temperature", 0.0),
        shown_samples=section.int("shown_samples", 0),
    )
    rollout.check_trainable(
        sampling_temperature=result.temperature,
        k=section.optional("top_k", section.int),
        p=section.optional("top_p", section.float),
    )
    rows = result.batch_size * result.samples_per_prompt
    if rows % (result.minibatches * result.microbatches):
        raise UserError(
            f"{section.path}: {result.batch_size} prompts x"
            f" {result.samples_per_prompt} samples = {rows} rollouts do not divide into"
            f" {result.minibatches} minibatches of {result.microbatches} microbatches"
        )
    return result


def ppo(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `ppo`; later stages find its policy under its name."""
    numbers = settings(section)
    value = _value_settings(section)
    policy = context.model.language(
        adapters=True, value_head=value is not None and not value.separate
    )
    critic = None
    if value is not None and value.separate:
        critic = context.model.scalar(head=value.head, adapters=False)
    updates = numbers.steps * numbers.epochs * numbers.minibatches
    optimizers = {"policy": parts.optimizer(section.section("optimizer"), updates)}
    if critic is not None:
        optimizers["value"] = parts.optimizer(
            section.section("value_optimizer"), updates
        )
    pretraining = _pretraining(section, context)

    def build(scorer: Scorer) -> algorithms.PPO:
        return algorithms.ppo(
            policy=policy,
            value=critic,
            initial=lambda key: _initial(policy, critic, context, key),
            sampler=_sampler(policy, context, numbers),
            scorer=scorer,
            shaping=shaping,
            estimator=estimator,
            loss=loss,
            optimizers=optimizers,
            temperature=numbers.temperature,
            epochs=numbers.epochs,
            minibatches=numbers.minibatches,
            microbatches=numbers.microbatches,
            target_kl=numbers.target_kl,
            value_warmup=numbers.value_warmup,
            pretraining_loss=pretraining.loss if pretraining else None,
        )

    shaping = parts.shaping(section, section.float("kl_coef", 0.0))
    estimator, loss = parts.estimator(section), parts.loss(section)
    terms = parts.single_terms(section)

    def sources() -> tuple[Params, Params]:
        return (
            context.policy(numbers.policy, f"{section.path}.policy"),
            context.policy(numbers.reference, f"{section.path}.reference"),
        )

    def start(variables: Params) -> dict[str, Params]:
        key = rng_of(context, name)
        tuned = networks.initialize_from(policy, variables, key=key)
        groups = {"policy": models.trainable(tuned, context.model.lora)[1]}
        if critic is not None:
            assert value is not None
            groups["value"] = _critic_start(critic, value, numbers, context, key)
        return groups

    def base(variables: Params) -> Params:
        if context.model.lora is None:
            return {}
        key = rng_of(context, name)
        full = networks.initialize_from(policy, variables, key=key)
        return models.trainable(full, context.model.lora)[0]

    def run() -> dict[str, Any]:
        variables, reference = sources()
        scorer = _training_scorer(context, numbers, section)
        built = build(scorer)
        frozen = algorithms.Frozen(reference, scorer.init(), base(variables))
        batches = _batches(context, numbers, pretraining)
        evaluate = evaluation(name, built, frozen, context, numbers, batches)
        learner = tracing.dumping(built, terms, context.dump_step, context.folder(name))
        state = context.train(
            name,
            learner,
            frozen=frozen,
            batches=batches,
            steps=numbers.steps,
            init_from=lambda: start(variables),
            evaluate=evaluate,
            eval_every=numbers.eval_every,
        )
        del state
        return {"episodes": numbers.steps * _episodes(numbers)}

    def load() -> Params:
        tuned = checkpoint.load_params(context.folder(name), "policy")
        variables = context.policy(numbers.policy, f"{section.path}.policy")
        merged = networks.merge_lora(
            forward.merged(base(variables), tuned), policy.config
        )
        return _without_head(merged)

    context.policies[name] = load
    return Stage(name, run, lambda: _described(build, context, name, numbers))


def _episodes(numbers: Settings) -> int:
    return numbers.batch_size * numbers.samples_per_prompt


def _described(
    build: Any, context: Context, name: str, numbers: Settings
) -> dict[str, Any]:
    rows = _episodes(numbers)
    nothing = rollout.world_scorer(lambda *a: jnp.zeros(a[2].shape[0]))
    learner = build(nothing).learner
    return {
        "state": jax.eval_shape(learner.init, rng_of(context, name)),
        "batch": f"{numbers.batch_size} prompts x {numbers.samples_per_prompt} samples"
        f" = {rows} rollouts -> {numbers.minibatches} minibatches of"
        f" {rows // numbers.minibatches} in {numbers.microbatches} microbatches",
        "steps": numbers.steps,
        "optimizer steps": numbers.steps * numbers.epochs * numbers.minibatches,
        "episodes": numbers.steps * rows,
    }


def _value_settings(section: Section) -> ValueSettings | None:
    own = section.section("value")
    if not own.bool("enabled"):
        own.bool("separate"), own.str("init"), own.str("head")
        return None
    return ValueSettings(
        separate=own.bool("separate"),
        init=own.choice("init", VALUE_INITS),
        head=own.choice("head", (*models.HEADS, "copy")),
    )


def _initial(
    policy: Network, critic: Network | None, context: Context, key: Array
) -> dict[str, Params]:
    """Random variables of the shapes that train; weights come by warm start."""
    groups = {"policy": models.trainable(policy.init(key), context.model.lora)[1]}
    if critic is not None:
        groups["value"] = critic.init(rng.named(key, "value"))
    return groups


def _critic_start(
    critic: Network, value: ValueSettings, numbers: Settings, context: Context, key: Any
) -> Params:
    source = numbers.policy if value.init == "policy" else numbers.reward_model
    trunk = context.policy(source, "config.*.value.init")
    return networks.initialize_from(
        critic, trunk, key=rng.named(key, "value"), keep_head=value.head == "copy"
    )


def _sampler(policy: Network, context: Context, numbers: Settings) -> Any:
    return rollout.sampler(
        policy,
        max_length=context.task.response_length,
        stop_tokens=(context.task.tokenizer.end_token,),
        pad_token=context.task.tokenizer.pad_token,
        temperature=numbers.temperature,
        samples_per_prompt=numbers.samples_per_prompt,
    )


def _training_scorer(context: Context, numbers: Settings, section: Section) -> Scorer:
    """The user's function if one is given, else the reward model, else gold itself."""
    if context.user_scorer is not None:
        return context.user_scorer
    if numbers.reward_model == "gold":
        if context.task.gold is None:
            raise UserError(
                f"{section.path}.reward_model='gold': this task has no gold"
            )
        return context.task.gold
    return context.scorer(numbers.reward_model, f"{section.path}.reward_model")


class Pretraining(NamedTuple):
    """The pretraining mix of PPO-ptx: its loss and its own stream."""

    loss: Any
    stream: Any


def _pretraining(section: Section, context: Context) -> Pretraining | None:
    own = section.section("pretraining")
    coef, batch_size = own.float("coef", 0.0), own.int("batch_size", 1)
    if coef == 0.0:
        return None
    from rlhf_jax import losses

    if context.task.pretraining is None:
        raise UserError(f"{own.path}.coef={coef}: this task has no pretraining texts")
    loss = losses.combine(
        pretraining=losses.Term(losses.cross_entropy(), weight=coef),
        reduction=losses.token_mean,
    )
    stream = data.sequence_stream(
        context.task.pretraining,
        context.task.encoder,
        batch_size=batch_size,
        seed=context.seeds.data,
        lengths=(context.task.prompt_length + context.task.response_length,),
    )
    return Pretraining(loss, stream)


class Batches(NamedTuple):
    """Prompts and pretraining sequences by step, as `loop.Batches`."""

    prompts: Any
    pretraining: Any

    @property
    def fingerprint(self) -> Any:
        """Of both streams."""
        mixed = self.pretraining
        return [self.prompts.fingerprint, mixed.fingerprint if mixed else None]

    def batch(self, step: int) -> algorithms.PPOBatch:
        """Batch of an iteration."""
        mixed = self.pretraining.batch(step) if self.pretraining else None
        return algorithms.PPOBatch(self.prompts.batch(step), mixed)

    def position(self, step: int) -> dict[str, Any]:
        """Position of both streams."""
        mixed = self.pretraining.position(step) if self.pretraining else None
        return {"prompts": self.prompts.position(step), "pretraining": mixed}


def _batches(
    context: Context, numbers: Settings, pretraining: Pretraining | None
) -> Batches:
    prompts = data.prompt_stream(
        context.task.prompts,
        context.task.encoder,
        batch_size=numbers.batch_size,
        seed=context.seeds.data,
        lengths=(context.task.prompt_length,),
    )
    return Batches(prompts, pretraining.stream if pretraining else None)


def evaluation(
    name: str,
    built: algorithms.PPO,
    frozen: algorithms.Frozen,
    context: Context,
    numbers: Settings,
    batches: Batches,
) -> loop.Evaluate:
    """Held-out gold, proxy, KL and samples, by the same prompts and noise each time.

    The last evaluation also shows its samples token by token, from a step that is
    computed on the held-out prompts and thrown away.
    """
    task = context.task
    measure = rollout.evaluator(
        built.parts.policy,
        scorers_of(context, built.parts.scorer),
        temperature=numbers.eval_temperature,
        max_length=task.response_length,
        stop_tokens=(task.tokenizer.end_token,),
        pad_token=task.tokenizer.pad_token,
        chunk_size=numbers.eval_prompts,
        decode=task.tokenizer.decode,
    )
    prompts = context.prompts(task.heldout, numbers.eval_prompts)
    key = rng.named(rng.root(context.seeds.sampling), "held-out")

    def evaluate(state: TrainState, step: int) -> loop.Evaluation:
        variables = forward.merged(frozen.policy_base, state.params["policy"])
        found = measure(variables, frozen.reference, prompts, key)
        held_out = {column: entry["mean"] for column, entry in found.table.items()}
        held_out |= {f"{column}_se": e["se"] for column, e in found.table.items()}
        rows = [
            schema.sample_row(
                name,
                step,
                record["id"],
                record["prompt"],
                record["response"],
                scores=record["scores"],
                length=int(record["length"]),
                kl=record["kl"],
            )
            for record in found.records[: numbers.shown_samples]
        ]
        if step == numbers.steps and numbers.shown_samples:
            rows += _traced(
                name,
                step,
                built,
                frozen,
                context,
                numbers,
                state,
                batches.batch(0).pretraining,
            )
        return loop.Evaluation(held_out, rows)

    return evaluate


def _traced(
    name: str,
    step: int,
    built: algorithms.PPO,
    frozen: algorithms.Frozen,
    context: Context,
    numbers: Settings,
    state: TrainState,
    mixed: Any,
) -> list[Any]:
    """Token-by-token rows of a few held-out prompts."""
    task = context.task
    count = min(numbers.batch_size, len(task.heldout.records))
    prompts = context.prompts(task.heldout, count)
    rows = jnp.arange(numbers.batch_size) % count
    prompts = jax.tree.map(lambda x: x[rows], prompts)
    found = built.explain(state, frozen, algorithms.PPOBatch(prompts, mixed))
    texts = rollout.decode_rollout(found.experience.rollout, task.tokenizer.decode)
    scores = jax.device_get(found.experience.trajectory.scores)
    shown = range(min(numbers.shown_samples, count))
    return [
        schema.sample_row(
            name,
            step,
            texts.ids[row],
            texts.prompts[row],
            texts.responses[row],
            scores={"proxy": scores[row]},
            length=int(found.experience.rollout.mask[row].sum()),
            tokens=tracing.token_rows(found, row, task.tokenizer.decode),
        )
        for row in (i * numbers.samples_per_prompt for i in shown)
    ]


def scorers_of(context: Context, proxy: Scorer) -> dict[str, Scorer]:
    """Columns of every evaluation: gold where known, proxy, and `eval_scorers`."""
    gold = context.gold()
    found = {"gold": gold} if gold is not None else {}
    found["proxy"] = proxy
    for name in context.eval_scorers:
        found[name] = context.scorer(name, "config.eval_scorers")
    return found


def _without_head(variables: Params) -> Params:
    """A policy's variables without the scalar head that trained beside it."""
    params = {k: v for k, v in variables["params"].items() if k != "head"}
    return {**variables, "params": params}
