"""The fine-tuning stage: demonstrations to a policy."""

from __future__ import annotations

import math
from typing import Any

import jax

from rlhf_jax import algorithms, data, losses, metrics, networks, rng
from rlhf_jax.algorithms import forward
from rlhf_jax.build import models, parts
from rlhf_jax.build.context import Context, Stage
from rlhf_jax.build.section import Section
from rlhf_jax.errors import UserError
from rlhf_jax.training import checkpoint, loop
from rlhf_jax.types import Array, Params, TrainState


def sft(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `sft`; later stages find its policy under its name."""
    task, model = context.task, context.model
    demonstrations = task.demonstrations
    if demonstrations is None:
        raise UserError(
            f"stage {name} needs demonstrations; name a file in"
            " config.task.demonstrations"
        )
    source, steps = section.str("init"), section.int("steps", 1)
    batch_size, microbatches = (
        section.int("batch_size", 1),
        section.int("microbatches", 1),
    )
    eval_every = section.int("eval_every", 0)
    length = task.prompt_length + task.response_length
    packed = section.bool("packed")
    network = model.language(adapters=True)
    loss = parts.loss(section)
    optimizer = parts.optimizer(section.section("optimizer"), steps)
    learner = algorithms.fine_tuning(
        network,
        initial=lambda key: models.trainable(network.init(key), model.lora)[1],
        loss=loss,
        optimizer=optimizer,
        microbatches=microbatches,
    )

    def stream(dataset: data.Dataset, **settings: Any) -> Any:
        return data.sequence_stream(
            dataset,
            task.encoder,
            batch_size=batch_size,
            seed=context.seeds.data,
            lengths=(length,),
            packed=packed,
            **settings,
        )

    def base() -> Params:
        return context.policy(source, f"{section.path}.init") if model.lora else {}

    def start() -> dict[str, Params]:
        variables = context.policy(source, f"{section.path}.init")
        key = rng_of(context, name)
        full = networks.initialize_from(network, variables, key=key)
        return {"policy": models.trainable(full, model.lora)[1]}

    def evaluation(frozen: Params) -> loop.Evaluate | None:
        if task.heldout_demonstrations is None:
            return None
        batches = list(
            stream(task.heldout_demonstrations, shuffle=False, remainder="pad").epoch()
        )
        return heldout_loss(network, frozen, batches)

    def run() -> dict[str, Any]:
        frozen = base()
        evaluate = evaluation(frozen)
        state = context.train(
            name,
            learner,
            frozen=frozen,
            batches=stream(demonstrations),
            steps=steps,
            init_from=start,
            evaluate=evaluate,
            eval_every=eval_every,
        )
        return {"heldout": dict(evaluate(state, steps).metrics)} if evaluate else {}

    def load() -> Params:
        tuned = checkpoint.load_params(context.folder(name), "policy")
        return networks.merge_lora(forward.merged(base(), tuned), network.config)

    context.policies[name] = load

    def describe() -> dict[str, Any]:
        batches = stream(demonstrations)
        return {
            "state": jax.eval_shape(learner.init, rng_of(context, name)),
            "batch": f"{batch_size} sequences of {length} tokens"
            f" in {microbatches} microbatches",
            "steps": steps,
            "optimizer steps": steps,
            "epochs": round(steps / batches.steps_per_epoch, 2),
        }

    return Stage(name, run, describe)


def rng_of(context: Context, stage: str) -> Array:
    """Key of a stage's initial weights."""
    return rng.named(rng.root(context.seeds.init), "init", stage)


def heldout_loss(network: Any, frozen: Params, batches: list[Any]) -> loop.Evaluate:
    """Mean negative log-likelihood and perplexity of held-out response tokens."""

    @jax.jit
    def measure(variables: Params, batch: Any) -> metrics.Mean:
        outputs = forward.language_outputs(network, variables, batch)
        target = losses.targets(batch)
        return metrics.mean(-outputs.logprobs, target.mask, target.weight)

    def evaluate(state: TrainState, step: int) -> loop.Evaluation:
        del step
        variables = forward.merged(frozen, state.params["policy"])
        total = metrics.merge([{"loss": measure(variables, b)} for b in batches])
        loss = metrics.finish(total)["loss"]
        return loop.Evaluation({"loss": loss, "perplexity": math.exp(min(loss, 700.0))})

    return evaluate
