"""The fine-tuning stage: demonstrations to a policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from rlhf_jax import algorithms, data, losses, metrics
from rlhf_jax.algorithms import forward
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.objective import parts
from rlhf_jax.build.plans import planned
from rlhf_jax.build.runs import models, weights
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.errors import UserError
from rlhf_jax.optimizers import final_params
from rlhf_jax.training import loop
from rlhf_jax.types import Learner, Network, Params, SequenceBatch, TrainState

MEASURES = ("loss", "perplexity")
"""Of held-out demonstrations."""


def sft(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `sft`; later stages find its policy under its name."""
    task = context.task
    if task.demonstrations is None:
        raise UserError(
            f"stage {name} needs demonstrations; name a file in"
            " config.task.demonstrations"
        )
    return _stage(
        name, section, context, task.demonstrations, task.heldout_demonstrations
    )


def pretraining(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `pretraining`: as `sft`, on the task's documents."""
    if context.task.pretraining is None:
        raise UserError(
            f"stage {name} needs documents; name a file in config.task.pretraining"
        )
    return _stage(name, section, context, context.task.pretraining, None)


def _stage(
    name: str,
    section: Section,
    context: Context,
    dataset: data.Dataset,
    heldout: data.Dataset | None,
) -> Stage:
    steps, microbatches = section.int("steps", 1), section.int("microbatches", 1)
    network = context.model.language(adapters=True)
    made = algorithms.fine_tuning(
        network,
        initial=lambda key: models.trainable(network.init(key), context.model.lora)[1],
        loss=parts.loss(section),
        optimizer=parts.optimizer(section.section("optimizer"), steps),
        microbatches=microbatches,
    )
    learner = context.learner("sft", section, made)
    stage = _FineTuning(
        name=name,
        source=section.str("init"),
        steps=steps,
        eval_every=section.int("eval_every", 0),
        batch_size=parts.batch_size(section, microbatches),
        packed=section.bool("packed"),
        dataset=dataset,
        heldout=heldout,
        context=context,
        network=network,
        learner=learner,
    )
    context.policies[name] = stage.load
    measures = () if heldout is None else MEASURES
    return Stage(name, stage.run, stage.describe, stage.plan, lambda: measures)


class _FineTuning(NamedTuple):
    """What the section says, and what was built from it."""

    name: str
    source: str
    steps: int
    eval_every: int
    batch_size: int
    packed: bool
    dataset: data.Dataset
    heldout: data.Dataset | None
    context: Context
    network: Network
    learner: Learner

    def run(self) -> dict[str, Any]:
        """Trains; the result holds the held-out loss."""
        base, trainable = self.start()
        evaluate = self.evaluation(base)
        state = self.context.train(
            self.name,
            self.learner,
            frozen=base,
            batches=self.stream(self.dataset),
            steps=self.steps,
            init_from=lambda: {"policy": trainable},
            evaluate=evaluate,
            eval_every=self.eval_every,
        )
        if evaluate is None:
            return {}
        return {"heldout": dict(evaluate(state, self.steps).metrics)}

    def start(self) -> tuple[Params, Params]:
        """Frozen and trainable variables before the first step."""
        return weights.start(self.context, self.name, "init", self.source, self.network)

    def load(self) -> Params:
        """The tuned policy as plain variables."""
        base = {} if self.context.model.lora is None else self.start()[0]
        return weights.trained(self.context, self.name, "policy", self.network, base)

    def stream(self, dataset: data.Dataset, **settings: Any) -> Any:
        """Batches of whole sequences."""
        return data.sequence_stream(
            dataset,
            self.context.task.encoder,
            batch_size=self.batch_size,
            seed=self.context.seeds.data,
            lengths=self.context.task.lengths,
            packed=self.packed,
            **settings,
        )

    def evaluation(self, frozen: Params) -> loop.Evaluate | None:
        """Held-out loss, where there are held-out demonstrations."""
        if self.heldout is None:
            return None
        batches = self.stream(self.heldout, shuffle=False, remainder="pad")
        measure = self.context.compiled(
            "heldout_loss", (), lambda: loss_program(self.network)
        )
        return heldout_loss(measure, frozen, list(batches.epoch()))

    def describe(self) -> dict[str, Any]:
        """Shapes and arithmetic for `check`; no example is tokenized."""
        rows, records = self.steps * self.batch_size, len(self.dataset.records)
        unit = "rows, several records each," if self.packed else "rows"
        return {
            "state": jax.eval_shape(
                self.learner.init, self.context.init_key(self.name)
            ),
            "batch": f"{self.batch_size} x {self.context.task.length} tokens",
            "optimizer steps": self.steps,
            "data": f"{rows:,} {unit} of {records:,} records",
        }

    def plan(self) -> planned.Plan:
        """The step as shapes."""
        rows, length = self.batch_size, self.context.task.length
        forward_flops = planned.forward_flops(
            self.network.config, rows, length, columns=length - 1
        )
        return planned.learning(
            self.context,
            self.name,
            self.learner,
            frozen=planned.base(self.context, self.network),
            batch=planned.sequences(rows, length),
            tokens=rows * length,
            model_flops=3 * forward_flops,
        )


def loss_program(network: Network) -> Callable[[Params, SequenceBatch], metrics.Mean]:
    """Compiled mean negative log-likelihood of the targets of a batch."""

    @jax.jit
    def measure(variables: Params, batch: SequenceBatch) -> metrics.Mean:
        outputs = forward.language_outputs(network, variables, batch)
        target = losses.targets(batch)
        return metrics.mean(-outputs.logprobs, target.mask, target.weight)

    return measure


def heldout_loss(
    measure: Callable[[Params, SequenceBatch], metrics.Mean],
    frozen: Params,
    batches: list[SequenceBatch],
) -> loop.Evaluate:
    """Mean negative log-likelihood and perplexity of held-out response tokens."""

    def evaluate(state: TrainState, step: int) -> loop.Evaluation:
        del step
        variables = forward.merged(frozen, final_params(state, "policy"))
        total = metrics.merge([{"loss": measure(variables, b)} for b in batches])
        loss = metrics.finish(total)["loss"]
        return loop.Evaluation({"loss": loss, "perplexity": math.exp(min(loss, 700.0))})

    return evaluate
