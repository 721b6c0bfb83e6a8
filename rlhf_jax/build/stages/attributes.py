"""The stage of a reward model that rates several attributes (SteerLM, HelpSteer)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from rlhf_jax import data, hosts, networks
from rlhf_jax.algorithms import forward, several_heads
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.objective import parts
from rlhf_jax.build.plans import planned
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.build.stages import normalization, rm
from rlhf_jax.data.feedback import views
from rlhf_jax.errors import UserError
from rlhf_jax.losses.attributes import AttributeBatch
from rlhf_jax.optimizers import final_params
from rlhf_jax.training import loop
from rlhf_jax.types import ComparisonBatch, Params, TrainState

MEASURES = ("error", "explained")
"""Of each attribute on held-out ratings."""


def attributes(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `attributes`; later stages find its scorer by its name.

    One head for each of `attributes`, regressed on the ratings (0 .. 1) of the task's
    feedback; the score that later stages see is their sum with `weights`.

    Raises:
      UserError: the task has no feedback, no response is rated on all the attributes,
        or the weights are not one for each.
    """
    names, steps = section.names("attributes"), section.int("steps", 1)
    weights = _weights(section, names)
    microbatches = section.int("microbatches", 1)
    heads = rm.HeadsOf(len(names), _Fold(weights))
    network = context.model.scalar(adapters=True)
    made = several_heads.attribute_model(
        network,
        initial=heads.initial(network, context),
        optimizer=parts.optimizer(section.section("optimizer"), steps),
        microbatches=microbatches,
    )
    model = rm.RewardModel(
        name=name,
        source=section.str("init"),
        data="task",
        half="all",
        steps=steps,
        eval_every=section.int("eval_every", 0),
        batch_size=parts.batch_size(section, microbatches),
        normalize=normalization.way(section, context),
        context=context,
        network=network,
        learner=context.learner("attributes", section, made),
        heads=heads,
    )
    ratings = _Ratings(model, names, weights)
    return rm.registered(model)._replace(
        run=ratings.run, plan=ratings.plan, measures=ratings.measures
    )


def _weights(section: Section, names: Sequence[str]) -> tuple[float, ...]:
    given = section.value("weights")
    fits = isinstance(given, tuple | list) and len(given) == len(names) > 0
    if not fits or not all(isinstance(x, int | float) for x in given):
        raise UserError(
            f"{section.path}.weights={given!r} must be a number for each of"
            f" {section.path}.attributes={tuple(names)}"
        )
    return tuple(float(x) for x in given)


class _Fold(NamedTuple):
    """The weighted sum of the heads as the ordinary one."""

    weights: tuple[float, ...]

    def __call__(self, variables: Params) -> Params:
        return several_heads.single(variables, self.weights)


class _Ratings(NamedTuple):
    """A reward model of several heads, and what they are called."""

    model: rm.RewardModel
    names: tuple[str, ...]
    weights: tuple[float, ...]

    def run(self) -> dict[str, Any]:
        """Trains; the result says how well each attribute is told on held-out rows."""
        model = self.model
        training, dropped = self.stream("train")
        if training is None:
            why = ", ".join(f"{n} {reason}" for reason, n in dropped.items())
            raise UserError(
                f"config.{model.name}.attributes={self.names}: no response is rated on"
                f" all of them ({why or 'the task has no feedback'})"
            )
        logging.info("left out: %s", dropped)
        heldout, _ = self.stream("heldout", shuffle=False, remainder="pad")
        held = [] if heldout is None else list(heldout.epoch())
        base, trainable = model.start()
        evaluate = self.evaluation(base, held) if held else None
        state = model.context.train(
            model.name,
            model.learner,
            frozen=base,
            batches=training,
            steps=model.steps,
            init_from=lambda: {"reward": trainable},
            evaluate=evaluate,
            eval_every=model.eval_every,
        )
        found = {} if evaluate is None else dict(evaluate(state, model.steps).metrics)
        trained = forward.merged(base, final_params(state, "reward"))
        plain = networks.merge_lora(trained, model.network.config)

        def responses() -> np.ndarray:
            rows, _ = self.stream("train", shuffle=False)
            assert rows is not None
            rated, _ = self.outputs(trained, list(rows.epoch()))
            return rated @ np.asarray(self.weights)

        return {"left_out": dropped, "heldout": found} | normalization.gain_and_bias(
            model.normalize,
            model.context,
            model.context.model.scalar(),
            model.heads.fold(plain),
            model.batch_size,
            responses,
        )

    def measures(self) -> list[str]:
        """What is measured of held-out ratings."""
        return [f"{name}/{what}" for name in self.names for what in MEASURES]

    def plan(self) -> planned.Plan:
        """The update as shapes."""
        model = self.model
        length, rows = model.context.task.length, model.batch_size
        shape = (rows, len(self.names))
        batch: Any = AttributeBatch(
            inputs=planned.inputs(rows, length),
            ratings=planned.array(np.float32, *shape),
            rated=planned.array(bool, *shape),
            example_id=planned.array(np.int32, rows),
            weight=planned.array(np.float32, rows),
        )
        return planned.learning(
            model.context,
            model.name,
            model.learner,
            frozen=planned.base(model.context, model.network),
            batch=batch,
            tokens=rows * length,
            model_flops=3 * planned.forward_flops(model.network.config, rows, length),
        )

    def stream(
        self, split: str, **settings: Any
    ) -> tuple[Rated | None, dict[str, int]]:
        """Rated responses of a split, None where there are none; what was left out."""
        collected = self.model.context.task.feedback
        found = () if collected is None else getattr(collected, split)
        view = views.ratings(found, self.names)
        if not view.records:
            return None, dict(view.dropped)
        table = [
            [record.ratings[name] for name in self.names] for record in view.records
        ]
        stream = data.comparison_stream(
            view.dataset(f"{self.model.name}-{split}"),
            self.model.context.task.encoder,
            batch_size=self.model.batch_size,
            seed=self.model.context.seeds.data,
            lengths=self.model.context.task.lengths,
            **settings,
        )
        return Rated(stream, np.asarray(table, np.float32)), dict(view.dropped)

    def outputs(
        self, variables: Params, batches: Iterable[AttributeBatch]
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the heads say of all real rows and what was rated, [N A] each."""
        network = self.model.network
        measure = self.model.context.compiled(
            "attribute_outputs",
            len(self.names),
            lambda: jax.jit(
                lambda variables, inputs: several_heads.outputs(
                    network, variables, inputs
                )
            ),
        )
        said, rated = [], []
        for batch in batches:
            real = np.asarray(batch.example_id) >= 0
            said.append(hosts.fetch(measure(variables, batch.inputs))[real])
            rated.append(np.asarray(batch.ratings)[real])
        return np.concatenate(said), np.concatenate(rated)

    def evaluation(self, base: Params, batches: list[AttributeBatch]) -> loop.Evaluate:
        """Of each attribute the mean squared error and the share of the variance that
        it explains, 1 - error / variance of the held-out ratings."""

        def evaluate(state: TrainState, step: int) -> loop.Evaluation:
            del step
            variables = forward.merged(base, final_params(state, "reward"))
            said, rated = self.outputs(variables, batches)
            error, spread = np.mean((said - rated) ** 2, axis=0), np.var(rated, axis=0)
            shown: dict[str, float] = {}
            for name, e, v in zip(self.names, error, spread, strict=True):
                shown[f"{name}/error"] = float(e)
                if v > 0:
                    shown[f"{name}/explained"] = float(1.0 - e / v)
            return loop.Evaluation(shown)

        return evaluate


class Rated(NamedTuple):
    """A stream of single responses with the ratings float32[N A] of its rows."""

    stream: Any
    table: np.ndarray

    @property
    def fingerprint(self) -> Any:
        """Of the responses and of their ratings."""
        return {"stream": self.stream.fingerprint, "ratings": self.table.tolist()}

    @property
    def rows(self) -> int:
        """Rows in a batch, over all processes."""
        return self.stream.rows

    def shared(self, rows: data.Rows) -> Rated:
        """See `data.Stream.shared`."""
        return self._replace(stream=self.stream.shared(rows))

    def batch(self, step: int) -> AttributeBatch:
        """The batch of a step."""
        return self._rated(self.stream.batch(step))

    def epoch(self) -> Iterable[AttributeBatch]:
        """The batches of one epoch."""
        return map(self._rated, self.stream.epoch())

    def position(self, step: int) -> Mapping[str, Any]:
        """Where the data stands before a step."""
        return self.stream.position(step)

    def _rated(self, batch: ComparisonBatch) -> AttributeBatch:
        rows = np.asarray(batch.example_id)
        real = (rows >= 0)[:, None]
        return AttributeBatch(
            inputs=jax.tree.map(lambda x: x[:, 0], batch.inputs),
            ratings=np.where(real, self.table[rows], 0.0).astype(np.float32),  # type: ignore
            rated=np.broadcast_to(real, self.table[rows].shape),  # type: ignore
            example_id=batch.example_id,
            weight=batch.weight,
        )
