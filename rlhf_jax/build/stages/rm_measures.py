"""What is measured of reward models on held-out rankings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax import algorithms, data, hosts, metrics, stats
from rlhf_jax.algorithms import forward
from rlhf_jax.optimizers import final_params
from rlhf_jax.training import loop
from rlhf_jax.types import Network, Params, RankingBatch, TrainState


class Programs(NamedTuple):
    """Compiled measures: pair accuracy of a batch, raw scores [B K] of a batch."""

    accuracy: Callable[[Params, RankingBatch], Any]
    scores: Callable[[Params, RankingBatch], Any]


def programs(
    network: Network, fold: Callable[[Params], Params] = lambda variables: variables
) -> Programs:
    """The measures of a reward model, whose heads `fold` makes one."""

    def scores(variables: Params, batch: RankingBatch) -> Any:
        return forward.ranking_scores(network, fold(variables), batch)

    def accuracy(variables: Params, batch: RankingBatch) -> Any:
        return algorithms.pair_accuracy(scores(variables, batch), batch)

    return Programs(jax.jit(accuracy), jax.jit(scores))


HELD_OUT = ("accuracy", "margin")
"""Names of `accuracy`."""


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
    return np.concatenate([hosts.fetch(score(variables, batch)) for batch in batches])


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
