"""The preference stage: a policy from comparisons or labels, without rollouts."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import jax
from absl import logging

from rlhf_jax import algorithms, data, losses
from rlhf_jax.algorithms import preference_scoring
from rlhf_jax.algorithms.preference_scoring import Needs
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.objective import parts, preference_terms
from rlhf_jax.build.plans import planned
from rlhf_jax.build.runs import models, programs, weights
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.build.stages import (
    preference_cache,
    preference_data,
    preference_evaluation,
)
from rlhf_jax.build.stages.preference_data import Loaded, Source
from rlhf_jax.errors import UserError
from rlhf_jax.losses import preference as methods
from rlhf_jax.training import loop
from rlhf_jax.types import Learner, Network, Params


def preference(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `preference`; later stages find its policy by its name.

    `loss` names one method; with `loss=None`, `terms` names several, each with a
    sub-section of its `weight` and hyper-parameters (left out: the method's own).
    """
    steps, microbatches = section.int("steps", 1), section.int("microbatches", 1)
    names = preference_terms.names_of(section)
    needs = preference_scoring.needs(names)
    if needs.samples:
        raise UserError(
            f"{section.path}: {', '.join(needs.samples)} learns from the policy's own"
            " samples; use a section of kind online_preference"
            " (experiments/online_dpo.py)"
        )
    loss = losses.combine(
        reduction=losses.sequence_mean,
        **{term: preference_terms.term_of(section, term) for term in names},
    )
    reference = section.optional("reference", section.str)
    if needs.reference and reference is None:
        raise UserError(
            f"{section.path}.reference is None, and {', '.join(names)} compares with a"
            " reference policy; name a stage, or `init`"
        )
    cache = section.bool("cache_reference")
    network = context.model.language(adapters=True)
    compared = context.model.language() if needs.reference and not cache else None
    made = algorithms.preference(
        network,
        initial=lambda key: models.trainable(network.init(key), context.model.lora)[1],
        loss=loss,
        optimizer=parts.optimizer(section.section("optimizer"), steps),
        needs=needs,
        reference=compared,
        microbatches=microbatches,
    )
    stage = _Preference(
        name=name,
        policy=section.str("policy"),
        reference=reference if needs.reference else None,
        cache=cache and needs.reference,
        source=_source(section, needs),
        steps=steps,
        eval_every=section.int("eval_every", 0),
        batch_size=parts.batch_size(section, microbatches),
        needs=needs,
        loss=loss,
        compared=compared,
        context=context,
        network=network,
        learner=context.learner("preference", section, made),
        measured=context.compiled(
            "preference_heldout",
            programs.of_learner(section.values()),
            lambda: preference_scoring.held_out(
                network, loss=loss, needs=needs, reference=compared
            ),
        ),
    )
    _check_data(section.path, stage)
    context.policies[name] = stage.load
    return Stage(
        name,
        stage.run,
        stage.describe,
        lambda: planned.preference(stage, context),
        stage.measures,
    )


def _source(section: Section, needs: Needs) -> Source:
    attribute = section.optional("attribute", section.str)
    compared = section.bool("from_comparisons")
    if attribute is not None and needs.batch == "labels" and not compared:
        raise UserError(
            f"{section.path}.attribute={attribute!r} orders nothing where labels are"
            " taken as they are; set from_comparisons=True, or attribute=None"
        )
    return Source(section.str("data"), needs.batch, attribute, compared)


def _check_data(path: str, stage: _Preference) -> None:
    """Data that are there already must hold a batch of what the method takes."""
    found = stage.source.name == "task" and preference_data.load(
        stage.context, stage.source, "train"
    )
    if found and len(found.dataset.records) < stage.batch_size:
        raise UserError(
            f"{path}.batch_size={stage.batch_size} asks for more than the"
            f" {len(found.dataset.records)} {stage.needs.batch} of the task; lower it"
        )


class _Preference(NamedTuple):
    """What the section says, and what was built from it."""

    name: str
    policy: str
    reference: str | None
    cache: bool
    source: Source
    steps: int
    eval_every: int
    batch_size: int
    needs: Needs
    loss: losses.Loss
    compared: Network | None
    context: Context
    network: Network
    learner: Learner
    measured: Any

    def run(self) -> dict[str, Any]:
        """Trains; the result holds the held-out accuracy, margin and losses."""
        training = preference_data.load(self.context, self.source, "train")
        heldout = preference_data.load(self.context, self.source, "heldout")
        assert training is not None
        stream, dropped = self.stream(training.dataset), training.dropped
        if stream.skipped:
            dropped["too long or identical as tokens"] = len(stream.skipped)
            logging.info("left out: %s", "; ".join(stream.skipped[:3]))
        count = len(training.dataset.records) - len(stream.skipped)
        logging.info("%d examples; left out: %s", count, dropped)
        batches, reference = self.with_fields(stream, training, "train")
        base, trainable = self.start()
        frozen = algorithms.PreferenceFrozen(base, reference)
        evaluate = self.evaluation(frozen, heldout)
        state = self.context.train(
            self.name,
            self.learner,
            frozen=frozen,
            batches=batches,
            steps=self.steps,
            init_from=lambda: {"policy": trainable},
            evaluate=evaluate,
            eval_every=self.eval_every,
        )
        found = {"examples": count, "left_out": dropped}
        found |= {
            "contradictions": preference_data.contradictions(self.context, self.source)
        }
        if evaluate is None:
            return found
        return {**found, "heldout": dict(evaluate(state, self.steps).metrics)}

    def stream(self, dataset: data.Dataset, **settings: Any) -> Any:
        """Batches of comparisons."""
        return data.comparison_stream(
            dataset,
            self.context.task.encoder,
            mismatch=methods.mismatched if self.needs.mismatched else None,
            batch_size=self.batch_size,
            seed=self.context.seeds.data,
            lengths=self.context.task.lengths,
            **settings,
        )

    def start(self) -> tuple[Params, Params]:
        """Frozen and trainable variables before the first step."""
        return weights.start(
            self.context, self.name, "policy", self.policy, self.network
        )

    def with_fields(
        self, stream: Any, loaded: Loaded, split: str
    ) -> tuple[Any, Params | None]:
        """(batches, reference variables): cached log-probs need no variables."""
        if self.needs.wins:
            assert loaded.wins is not None
            key = {"wins": hashlib.sha256(loaded.wins.tobytes()).hexdigest()}
            table = {"win_probability": loaded.wins}
            stream = preference_cache.WithFields(stream, table, key)
        return self.with_reference(stream, loaded.dataset, split)

    def with_reference(
        self, stream: Any, dataset: data.Dataset, split: str
    ) -> tuple[Any, Params | None]:
        """As `with_fields`, for the reference alone."""
        if self.reference is None:
            return stream, None
        context = self.context
        variables = context.held(
            context.policy(self.reference, f"config.{self.name}.reference")
        )
        if not self.cache:
            return stream, variables
        network = context.model.language()
        rows = self.stream(dataset, shuffle=False, remainder="pad")
        key = {
            "reference model": preference_cache.fingerprint(variables),
            "architecture": repr((network.config, context.model.options)),
            "data": rows.fingerprint,
        }
        score = context.compiled(
            "reference_logprobs",
            (self.needs,),
            lambda: preference_scoring.reference_scores(network, self.needs),
        )
        table = preference_cache.cached(
            context.folder(self.name) / f"reference_{split}.npz",
            key,
            lambda: preference_cache.collect(
                lambda batch: score(variables, batch),
                rows.epoch(),
                len(dataset.records),
            ),
        )
        return preference_cache.WithFields(stream, table, {"reference": key}), None

    def evaluation(
        self, frozen: algorithms.PreferenceFrozen, heldout: Loaded | None
    ) -> loop.Evaluate | None:
        """Held-out accuracy, margin and losses, where something is held out."""
        if heldout is None:
            return None
        rows = self.stream(heldout.dataset, shuffle=False, remainder="pad")
        batches = list(self.with_fields(rows, heldout, "heldout")[0].epoch())
        return preference_evaluation.evaluation(
            self.measured, frozen, batches, labels=self.needs.batch == "labels"
        )

    def measures(self) -> set[str]:
        """What is measured of held-out rows, where there are any."""
        task, context = self.source.name == "task", self.context
        if task and preference_data.load(context, self.source, "heldout") is None:
            return set()
        (update,) = planned.preference(self, context).programs
        state, frozen, batch = update.arguments
        return preference_evaluation.names(self.measured, state, frozen, batch)

    def load(self) -> Params:
        """The trained policy as plain variables."""
        base = {} if self.context.model.lora is None else self.start()[0]
        return weights.trained(self.context, self.name, "policy", self.network, base)

    def describe(self) -> dict[str, Any]:
        """Shapes and arithmetic for `check`."""
        unit = {"pairs": "pairs", "rankings": "rankings", "labels": "responses"}
        return {
            "state": jax.eval_shape(
                self.learner.init, self.context.init_key(self.name)
            ),
            "batch": f"{self.batch_size} {unit[self.needs.batch]} x"
            f" {self.context.task.length} tokens",
            "optimizer steps": self.steps,
            "reference": "none"
            if self.reference is None
            else f"{self.reference}, {'cached' if self.cache else 'scored each step'}",
        }
