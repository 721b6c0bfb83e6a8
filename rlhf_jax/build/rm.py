"""The reward-model stage: rankings to a scorer."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np

from rlhf_jax import algorithms, data, metrics, networks, rewards, rollout, stats
from rlhf_jax.algorithms import forward
from rlhf_jax.build import label, models, parts
from rlhf_jax.build.context import Context, Stage
from rlhf_jax.build.section import Section
from rlhf_jax.build.sft import rng_of
from rlhf_jax.training import checkpoint, loop
from rlhf_jax.types import Network, Params, RankingBatch, Scorer, TrainState

HALVES = {"all": slice(None), "first": slice(0, None, 2), "second": slice(1, None, 2)}


def reward_model(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `rm`; later stages find its scorer under its name."""
    task, model = context.task, context.model
    source, start_from = section.str("data"), section.str("init")
    half = HALVES[section.choice("half", HALVES)]
    steps, batch_size = section.int("steps", 1), section.int("batch_size", 1)
    microbatches = section.int("microbatches", 1)
    eval_every, normalize = section.int("eval_every", 0), section.bool("normalize")
    network = model.scalar(head=section.choice("head", models.HEADS), adapters=True)
    learner = algorithms.reward_model(
        network,
        initial=lambda key: models.trainable(network.init(key), model.lora)[1],
        loss=parts.loss(section),
        optimizer=parts.optimizer(section.section("optimizer"), steps),
        microbatches=microbatches,
    )

    def dataset(split: str) -> data.Dataset:
        found = label.rankings(context, source, split)
        if split == "train":
            rows = list(range(len(found.records)))[half]
            found = found.subset(rows, found.name)
        return found

    def stream(found: data.Dataset, **settings: Any) -> Any:
        return data.ranking_stream(
            found,
            task.encoder,
            batch_size=batch_size,
            seed=context.seeds.data,
            lengths=(task.prompt_length + task.response_length,),
            **settings,
        )

    def fresh() -> Params:
        variables = context.policy(start_from, f"{section.path}.init")
        return networks.initialize_from(network, variables, key=rng_of(context, name))

    def base() -> Params:
        return models.trainable(fresh(), model.lora)[0]

    def full(trained: Params) -> Params:
        merged = forward.merged(base(), trained)
        return networks.merge_lora(merged, network.config)

    def run() -> dict[str, Any]:
        training, heldout = dataset("train"), dataset("heldout")
        frozen = base()
        batches = list(stream(heldout, shuffle=False, remainder="pad").epoch())
        evaluate = accuracy(network, frozen, batches)
        state = context.train(
            name,
            learner,
            frozen=frozen,
            batches=stream(training),
            steps=steps,
            init_from=lambda: {"reward": models.trainable(fresh(), model.lora)[1]},
            evaluate=evaluate,
            eval_every=eval_every,
        )
        variables = forward.merged(frozen, state.params["reward"])
        scores = heldout_scores(network, variables, batches)
        result = judged(scores[: len(heldout.records)], heldout, noise())
        gain, bias = 1.0, 0.0
        if normalize:
            reference = heldout_scores(
                network, variables, list(stream(training).epoch())
            )
            gain, bias = rewards.measure_gain_and_bias(reference.ravel())
        return {**result, "gain": float(gain), "bias": float(bias)}

    def noise() -> float | None:
        path = context.folder(source) / "done.json"
        if not path.is_file():
            return None
        return json.loads(path.read_text())["result"]["noise"]

    def scorer() -> Scorer:
        result = json.loads((context.folder(name) / "done.json").read_text())["result"]
        trained = checkpoint.load_params(context.folder(name), "reward")
        plain = model.scalar()
        return rollout.reward_model_scorer(
            plain, full(trained), gain=result["gain"], bias=result["bias"]
        )

    context.rewards[name] = scorer
    context.policies[name] = lambda: full(
        checkpoint.load_params(context.folder(name), "reward")
    )

    def describe() -> dict[str, Any]:
        return {
            "state": jax.eval_shape(learner.init, rng_of(context, name)),
            "batch": f"{batch_size} rankings in {microbatches} microbatches",
            "steps": steps,
            "optimizer steps": steps,
        }

    return Stage(name, run, describe)


def accuracy(
    network: Network, frozen: Params, batches: list[RankingBatch]
) -> loop.Evaluate:
    """Accuracy and margin on held-out pairs, ties left out."""

    @jax.jit
    def measure(variables: Params, batch: RankingBatch) -> Any:
        scores = forward.ranking_scores(network, variables, batch)
        return algorithms.pair_accuracy(scores, batch)

    def evaluate(state: TrainState, step: int) -> loop.Evaluation:
        del step
        variables = forward.merged(frozen, state.params["reward"])
        found = metrics.finish(metrics.merge([measure(variables, b) for b in batches]))
        return loop.Evaluation(
            {key.removeprefix("reward_model/"): value for key, value in found.items()}
        )

    return evaluate


def heldout_scores(
    network: Network, variables: Params, batches: list[RankingBatch]
) -> np.ndarray:
    """Raw scores float[N K] of all rows of some batches."""
    score = jax.jit(lambda v, b: forward.ranking_scores(network, v, b))
    return np.concatenate([np.asarray(score(variables, batch)) for batch in batches])


def judged(
    scores: np.ndarray, heldout: data.Dataset, noise: float | None
) -> dict[str, Any]:
    """Accuracy on held-out pairs with the ceiling that label noise leaves.

    The ceiling is the mean of max(p, 1 - p) over the same pairs, p being the
    probability sigmoid((gold_i - gold_j) / noise) that the label says i over j. Where
    the labels carry no noise it is 1; where no gold is known it is left out.
    """
    right, best, clusters, tied = [], [], [], 0
    for row, record in enumerate(heldout.records):
        ranks, gold = record.ranks, record.extra.get("gold")
        for i in range(len(ranks)):
            for j in range(len(ranks)):
                if ranks[i] < ranks[j]:
                    difference = scores[row, i] - scores[row, j]
                    right.append(0.5 * (1 + np.sign(difference)))
                    clusters.append(record.extra.get("cluster", record.id))
                    if gold is not None and noise:
                        z = abs(gold[i] - gold[j]) / noise
                        best.append(1 / (1 + np.exp(-z)))
                tied += i < j and ranks[i] == ranks[j]
    found = stats.clustered_mean(np.asarray(right), clusters)
    result: dict[str, Any] = {
        "accuracy": found.mean,
        "accuracy_se": found.se,
        "accuracy_ci": [found.low, found.high],
        "pairs": len(right),
        "tied_pairs": int(tied),
    }
    if best:
        result["ceiling"] = float(np.mean(best))
    elif noise == 0.0:
        result["ceiling"] = 1.0
    return result
