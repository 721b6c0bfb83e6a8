"""The reward-model stage: rankings to a scorer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax import algorithms, data, metrics, networks, rollout, stats
from rlhf_jax.algorithms import forward
from rlhf_jax.build import label, models, normalization, parts, planned
from rlhf_jax.build.context import Context, Stage
from rlhf_jax.build.section import Section
from rlhf_jax.optimizers import final_params
from rlhf_jax.training import checkpoint, loop
from rlhf_jax.types import (
    Learner,
    Network,
    Params,
    RankingBatch,
    Scorer,
    TrainState,
)

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
    stage = _RewardModel(
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
    context.rewards[name] = stage.scorer
    context.policies[name] = stage.load
    return Stage(name, stage.run, stage.describe, stage.plan)


class _RewardModel(NamedTuple):
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

    def run(self) -> dict[str, Any]:
        """Trains, judges on held-out pairs and measures gain and bias."""
        training, heldout = self.dataset("train"), self.dataset("heldout")
        base, trainable = self.start()
        batches = list(self.stream(heldout, shuffle=False, remainder="pad").epoch())
        state = self.context.train(
            self.name,
            self.learner,
            frozen=base,
            batches=self.stream(training),
            steps=self.steps,
            init_from=lambda: {"reward": trainable},
            evaluate=accuracy(self.measures.accuracy, base, batches),
            eval_every=self.eval_every,
        )
        variables = forward.merged(base, final_params(state, "reward"))
        noise = label.noise(self.context, self.data)
        judged = judge(
            scores_of(self.measures.scores, variables, batches), heldout, noise
        )
        return judged | self.gain_and_bias(variables, training)

    def gain_and_bias(
        self, variables: Params, training: data.Dataset
    ) -> dict[str, Any]:
        """What brings the scores to a fixed place, see `normalization.WAYS`."""

        def responses() -> np.ndarray:
            batches = list(self.stream(training, shuffle=False).epoch())
            return ranked_scores(self.measures.scores, variables, batches)

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
    def measures(self) -> Programs:
        """Compiled measures on held-out rankings."""
        return self.context.compiled("rm_measures", (), lambda: programs(self.network))

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
        return models.trainable(full, self.context.model.lora)

    def load(self) -> Params:
        """The reward model as plain variables."""
        trained = checkpoint.load_weights(self.context.folder(self.name), "reward")
        base = {} if self.context.model.lora is None else self.start()[0]
        merged = forward.merged(base, trained)
        return networks.merge_lora(merged, self.network.config)

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
            self.load(),
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


class Programs(NamedTuple):
    """Compiled measures: pair accuracy of a batch, raw scores [B K] of a batch."""

    accuracy: Callable[[Params, RankingBatch], Any]
    scores: Callable[[Params, RankingBatch], Any]


def programs(network: Network) -> Programs:
    """The measures of a reward model."""

    def accuracy(variables: Params, batch: RankingBatch) -> Any:
        scores = forward.ranking_scores(network, variables, batch)
        return algorithms.pair_accuracy(scores, batch)

    def scores(variables: Params, batch: RankingBatch) -> Any:
        return forward.ranking_scores(network, variables, batch)

    return Programs(jax.jit(accuracy), jax.jit(scores))


def accuracy(
    measure: Callable[[Params, RankingBatch], Any],
    frozen: Params,
    batches: list[RankingBatch],
) -> loop.Evaluate:
    """Accuracy and margin on held-out pairs, ties left out."""

    def evaluate(state: TrainState, step: int) -> loop.Evaluation:
        del step
        variables = forward.merged(frozen, final_params(state, "reward"))
        found = metrics.finish(metrics.merge([measure(variables, b) for b in batches]))
        return loop.Evaluation(
            {key.removeprefix("reward_model/"): value for key, value in found.items()}
        )

    return evaluate


def scores_of(
    score: Callable[[Params, RankingBatch], Any],
    variables: Params,
    batches: list[RankingBatch],
) -> np.ndarray:
    """Raw scores float[N K] of all rows of some batches."""
    return np.concatenate([np.asarray(score(variables, batch)) for batch in batches])


def ranked_scores(
    score: Callable[[Params, RankingBatch], Any],
    variables: Params,
    batches: list[RankingBatch],
) -> np.ndarray:
    """Raw scores float[M] of the responses that have a rank: what fills up a ranking
    of fewer than K is left out."""
    ranks = np.concatenate([np.asarray(batch.ranks) for batch in batches])
    return scores_of(score, variables, batches)[ranks > 0]


def judge(
    scores: np.ndarray, heldout: data.Dataset, noise: float | None
) -> dict[str, Any]:
    """Accuracy on held-out pairs with the ceiling that label noise leaves.

    The ceiling is the mean of max(p, 1 - p) over the same pairs, p being the
    probability sigmoid((gold_i - gold_j) / noise) that the label says i over j. Where
    the labels carry no noise it is 1; where no gold is known it is left out. Where
    every ranking ties there is no accuracy.

    Args:
      scores: [N K], rows as in `heldout`; further rows are padding.
      heldout: rankings; `extra` may hold `gold` per response and a `cluster` that the
        interval is clustered by (the ranking itself otherwise).
      noise: scale of the Gumbel noise of the labels, None where unknown.
    """
    right: list[float] = []
    reachable: list[float] = []
    clusters: list[str] = []
    tied = 0
    for row, record in enumerate(heldout.records):
        ranks, gold = record.ranks, record.extra.get("gold")  # type: ignore[union-attr]
        for i, j in np.ndindex(len(ranks), len(ranks)):
            tied += i < j and ranks[i] == ranks[j]
            if ranks[i] >= ranks[j]:
                continue
            right.append(float(0.5 + 0.5 * np.sign(scores[row, i] - scores[row, j])))
            clusters.append(record.extra.get("cluster", record.id))
            if gold is not None and noise:
                z = abs(gold[i] - gold[j]) / noise
                reachable.append(float(1 / (1 + np.exp(-z))))
    result: dict[str, Any] = {"pairs": len(right), "tied_pairs": int(tied)}
    if right:
        found = stats.clustered_mean(np.asarray(right), np.asarray(clusters))
        result |= {
            "accuracy": found.mean,
            "accuracy_se": found.se,
            "accuracy_ci": [found.low, found.high],
        }
    if reachable:
        result["ceiling"] = float(np.mean(reachable))
    elif noise == 0.0:
        result["ceiling"] = 1.0
    return result
