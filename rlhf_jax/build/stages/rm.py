"""The reward-model stage: rankings to a scorer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from rlhf_jax import algorithms, data, networks, rng, rollout
from rlhf_jax.algorithms import forward, several_heads
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.objective import parts
from rlhf_jax.build.plans import planned
from rlhf_jax.build.runs import models, weights
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.build.stages import label, normalization, rm_measures
from rlhf_jax.optimizers import final_params
from rlhf_jax.types import Array, Learner, Network, Params, Scorer

HALVES = {"all": slice(None), "first": slice(0, None, 2), "second": slice(1, None, 2)}


def reward_model(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `rm`; later stages find its scorer under its name."""
    steps, microbatches = section.int("steps", 1), section.int("microbatches", 1)
    network = context.model.scalar(
        head=section.choice("head", models.HEADS), adapters=True
    )
    made = algorithms.reward_model(
        network,
        initial=lambda key: models.trainable(network.init(key), context.model.lora)[1],
        loss=parts.loss(section),
        optimizer=parts.optimizer(section.section("optimizer"), steps),
        microbatches=microbatches,
    )
    learner = context.learner("rm", section, made)
    stage = RewardModel(
        name=name,
        source=section.str("init"),
        data=section.str("data"),
        half=section.choice("half", HALVES),
        steps=steps,
        eval_every=section.int("eval_every", 0),
        batch_size=parts.batch_size(section, microbatches),
        normalize=normalization.way(section, context),
        context=context,
        network=network,
        learner=learner,
    )
    return registered(stage)


def odin(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `odin`: a quality head beside one that knows the length.

    `length_weight` and `orthogonal_weight` weigh the decorrelation and the overlap of
    the heads (`losses.odin`). Later stages see the quality head alone.
    """
    steps, heads = section.int("steps", 1), HeadsOf(2, several_heads.quality)
    network = context.model.scalar(adapters=True)
    made = several_heads.odin_model(
        network,
        initial=heads.initial(network, context),
        optimizer=parts.optimizer(section.section("optimizer"), steps),
        length_weight=section.float("length_weight", 0.0),
        orthogonal_weight=section.float("orthogonal_weight", 0.0),
    )
    stage = RewardModel(
        name=name,
        source=section.str("init"),
        data=section.str("data"),
        half=section.choice("half", HALVES),
        steps=steps,
        eval_every=section.int("eval_every", 0),
        batch_size=section.int("batch_size", 2),  # correlations couple the rows
        normalize=normalization.way(section, context),
        context=context,
        network=network,
        learner=context.learner("odin", section, made),
        heads=heads,
    )
    return registered(stage)


def registered(stage: RewardModel) -> Stage:
    """The stage, whose model later ones find by its name."""
    stage.context.rewards[stage.name] = stage.scorer
    stage.context.policies[stage.name] = stage.load
    measures = rm_measures.HELD_OUT
    return Stage(stage.name, stage.run, stage.describe, stage.plan, lambda: measures)


class HeadsOf(NamedTuple):
    """How many heads are trained in the place of the ordinary one (0: that one), and
    how they become one (`several_heads.single`)."""

    count: int = 0
    fold: Callable[[Params], Params] = lambda variables: variables

    def added(self, full: Params, trainable: Params, key: Array) -> Params:
        """The trainable variables with fresh heads of the full ones."""
        if not self.count:
            return trainable
        heads = several_heads.with_heads(full, key, self.count)["heads"]
        return {**trainable, "heads": heads}

    def initial(self, network: Network, context: Context) -> Callable[[Array], Params]:
        """`key -> trainable variables`, for a learner."""

        def init(key: Array) -> Params:
            full = network.init(key)
            trainable = models.trainable(full, context.model.lora)[1]
            return self.added(full, trainable, key)

        return init


class RewardModel(NamedTuple):
    """What the section says, and what was built from it."""

    name: str
    source: str
    data: str
    half: str
    steps: int
    eval_every: int
    batch_size: int
    normalize: str
    context: Context
    network: Network
    learner: Learner
    heads: HeadsOf = HeadsOf()

    def run(self) -> dict[str, Any]:
        """Trains, judges on held-out pairs and measures gain and bias."""
        training, heldout = self.dataset("train"), self.dataset("heldout")
        stream = self.stream(training)
        base, trainable = self.start()
        batches = list(self.stream(heldout, shuffle=False, remainder="pad").epoch())
        state = self.context.train(
            self.name,
            self.learner,
            frozen=base,
            batches=stream,
            steps=self.steps,
            init_from=lambda: {"reward": trainable},
            evaluate=rm_measures.accuracy(self.measures.accuracy, base, batches),
            eval_every=self.eval_every,
        )
        variables = forward.merged(base, final_params(state, "reward"))
        noise = label.noise(self.context, self.data)
        scores = rm_measures.scores_of(self.measures.scores, variables, batches)
        judged = rm_measures.judge(scores, heldout, noise)
        return judged | self.gain_and_bias(variables, training) | self.left_out(stream)

    def left_out(self, stream: Any) -> dict[str, Any]:
        """Of human feedback: what was not learned from, and what contradicts itself."""
        collected = self.context.task.feedback
        if self.data != "task" or collected is None:
            return {}
        dropped = collected.left_out
        if stream.skipped:
            dropped["too long"] = len(stream.skipped)
        logging.info("%s: left out: %s", self.name, dropped or "nothing")
        return {"left_out": dropped, "contradictions": dict(collected.contradictions)}

    def gain_and_bias(
        self, variables: Params, training: data.Dataset
    ) -> dict[str, Any]:
        """What brings the scores to a fixed place, see `normalization.WAYS`."""

        def responses() -> np.ndarray:
            batches = list(self.stream(training, shuffle=False).epoch())
            return rm_measures.ranked_scores(self.measures.scores, variables, batches)

        return normalization.gain_and_bias(
            self.normalize,
            self.context,
            self.network,
            variables,
            self.batch_size,
            responses,
        )

    def dataset(self, split: str) -> data.Dataset:
        """Rankings of a split; training takes the half that the section names."""
        found = label.rankings(self.context, self.data, split)
        if split == "heldout" or self.half == "all":
            return found
        rows = list(range(len(found.records)))[HALVES[self.half]]
        return found.subset(rows, found.name)

    @property
    def measures(self) -> rm_measures.Programs:
        """Compiled measures on held-out rankings."""
        fold = self.heads.fold
        return self.context.compiled(
            "rm_measures", fold, lambda: rm_measures.programs(self.network, fold)
        )

    def stream(self, found: data.Dataset, **settings: Any) -> Any:
        """Batches of whole rankings."""
        return data.ranking_stream(
            found,
            self.context.task.encoder,
            batch_size=self.batch_size,
            seed=self.context.seeds.data,
            lengths=self.context.task.lengths,
            **settings,
        )

    def start(self) -> tuple[Params, Params]:
        """Frozen and trainable variables before the first step."""
        trunk = self.context.policy(self.source, f"config.{self.name}.init")
        full = networks.initialize_from(
            self.network, trunk, key=self.context.init_key(self.name)
        )
        base, trainable = models.trainable(full, self.context.model.lora)
        key = rng.named(self.context.init_key(self.name), "heads")
        return base, self.heads.added(full, trainable, key)

    def load(self) -> Params:
        """The reward model as plain variables, its heads made one."""
        base = {} if self.context.model.lora is None else self.start()[0]
        plain = weights.trained(self.context, self.name, "reward", self.network, base)
        return self.heads.fold(plain)

    def scorer(self) -> Scorer:
        """The trained model with its gain and bias."""
        done = self.context.folder(self.name) / "done.json"
        result = json.loads(done.read_text())["result"]
        network = self.context.model.scalar()
        program = self.context.compiled(
            "reward_model_scorer", (), lambda: rollout.reward_model_program(network)
        )
        return rollout.reward_model_scorer(
            network,
            self.context.held(self.load()),
            gain=result["gain"],
            bias=result["bias"],
            program=program,
        )

    def describe(self) -> dict[str, Any]:
        """Shapes and arithmetic for `check`."""
        return {
            "state": jax.eval_shape(
                self.learner.init, self.context.init_key(self.name)
            ),
            "batch": f"{self.batch_size} rankings",
            "optimizer steps": self.steps,
        }

    def plan(self) -> planned.Plan:
        """The step as shapes."""
        context, length = self.context, self.context.task.length
        responses = planned.responses(context, self.name, self.data)
        rows = self.batch_size * responses
        return planned.learning(
            context,
            self.name,
            self.learner,
            frozen=planned.base(context, self.network),
            batch=planned.rankings(self.batch_size, responses, length),
            tokens=rows * length,
            model_flops=3 * planned.forward_flops(self.network.config, rows, length),
        )
