"""The best-of-n stage: of n samples the best and the worst, as labels to learn from."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rlhf_jax import hosts, rng, rollout, stats
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.plans import planned_rollouts
from rlhf_jax.build.plans.planned import Plan
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.build.stages import label, sampling
from rlhf_jax.types import Rollout, Scorer


def best_of_n(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `best_of_n`; preference stages learn from its name.

    For each prompt `best_of` responses of `policy` are scored by `reward_model`; the
    best and the worst become a ranking of two. With the loss `chosen_nll` that is
    best-of-n distillation, with `chosen_nll` and `ipo` BoNBoN (Gui et al. 2024,
    arXiv:2406.00832). One more sample is the opponent of the win rate. `prompts` and
    `heldout` are how many prompts are sampled, 0 for all of them.
    """
    task = context.task
    datasets = {"train": task.prompts, "heldout": task.heldout}
    stage = _BestOf(
        name=name,
        policy=section.str("policy"),
        reward_model=section.str("reward_model"),
        best_of=section.int("best_of", 2),
        counts={
            split: section.int(key, 0) or len(datasets[split].records)
            for split, key in (("train", "prompts"), ("heldout", "heldout"))
        },
        temperature=section.float("temperature", 1e-6),
        batch_size=section.int("batch_size", 1),
        context=context,
    )
    return Stage(name, stage.run, stage.describe, stage.plan)


class Drawn(NamedTuple):
    """Of B prompts the scores [B n + 1], sequence log-probs likewise, gold or None."""

    scores: np.ndarray
    logprobs: np.ndarray
    gold: np.ndarray | None


class _BestOf(NamedTuple):
    """What the section says."""

    name: str
    policy: str
    reward_model: str
    best_of: int
    counts: dict[str, int]
    temperature: float
    batch_size: int
    context: Context

    def run(self) -> dict[str, Any]:
        """Samples both splits; the result has the win rate and both forms of the KL."""
        context, path = self.context, f"config.{self.name}"
        variables = context.policy(self.policy, f"{path}.policy")
        scorer = context.scorer(self.reward_model, f"{path}.reward_model")
        task, result = context.task, {}
        for split, dataset in (("train", task.prompts), ("heldout", task.heldout)):
            prompts = context.prompts(dataset, self.counts[split])
            key = rng.named(rng.root(context.seeds.sampling), self.name, split)
            rows, drawn = [], []
            for index, part in enumerate(label.chunks(prompts, self.batch_size)):
                found = self.sample(variables, part, rng.named(key, index))
                drawn.append(self.scored(found, scorer))
                rows += self.rows(found, drawn[-1], split, index)
            kept = rows[: self.counts[split]]
            path_of = context.folder(self.name) / label.FILES[split]
            label.write_lines(path_of, [label.with_cluster(r, task) for r in kept])
            result[split] = measured(drawn, self.best_of, len(kept))
        return {**result, "noise": None}

    @property
    def sample(self) -> rollout.Sampler:
        """Draws n + 1 responses of each prompt."""
        return sampling.sampler(
            self.context,
            self.context.model.language(),
            temperature=self.temperature,
            samples=self.best_of + 1,
        )

    def scored(self, found: Rollout, scorer: Scorer) -> Drawn:
        """What the reward model and gold say, and how likely the responses were."""

        def of(one: Scorer) -> np.ndarray:
            values = one.apply(one.init(), None, found).sequence
            host = np.asarray(hosts.fetch(values), np.float64)
            return host.reshape(-1, self.best_of + 1)

        gold = self.context.gold()
        logprobs = np.asarray(hosts.fetch(found.logprobs), np.float64).sum(axis=1)
        scores = of(scorer)
        return Drawn(
            scores, logprobs.reshape(scores.shape), None if gold is None else of(gold)
        )

    def rows(
        self, found: Rollout, drawn: Drawn, split: str, index: int
    ) -> list[dict[str, Any]]:
        """JSON rows of kind `ranking`: the best, then the worst of the first n."""
        host = hosts.fetch(found)
        result = []
        for row, scores in enumerate(drawn.scores[:, : self.best_of]):
            first = row * (self.best_of + 1)
            ends = [int(np.argmax(scores)), int(np.argmin(scores))]
            members = [first + end for end in ends]
            result.append(
                {
                    "id": f"{split}-{index}-{row}",
                    "prompt": host.prompt.tokens[first][
                        host.prompt.mask[first]
                    ].tolist(),
                    "responses": [
                        host.tokens[m][host.mask[m]].tolist() for m in members
                    ],
                    "ranks": label.dense_ranks(scores[ends]),
                    "prompt_row": int(host.prompt.example_id[first]),
                }
            )
        return result

    def plan(self) -> Plan:
        """Sampling and scoring of one batch of prompts."""
        rows = min(self.batch_size, max(self.counts.values()))
        return planned_rollouts.drawing(
            self.context, self.sample, rows, self.best_of + 1, self.reward_model
        )

    def describe(self) -> dict[str, Any]:
        """Arithmetic for `check`."""
        return {
            "responses": f"{self.counts['train']} + {self.counts['heldout']} held-out"
            f" prompts x {self.best_of + 1}"
        }


def measured(drawn: list[Drawn], n: int, prompts: int) -> dict[str, Any]:
    """What best-of-n wins against one more sample, and its KL.

    Args:
      drawn: chunks of scored samples, n + 1 of each prompt.
      n: of best-of-n; the last sample is the opponent.
      prompts: rows that count; further ones are filling.

    Returns:
      `win_rate` by the reward model (n / (n + 1) without ties) and `win_rate_gold`,
      `proxy` and `gold` of the best, each with its standard error; `kl_formula`
      (log n - (n - 1) / n, an upper bound) and `kl`, Beirami's estimate.
    """
    scores = np.concatenate([d.scores for d in drawn])[:prompts]
    best = np.argmax(scores[:, :n], axis=1)[:, None]

    def kept(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, best, axis=1)[:, 0]

    logprobs = np.concatenate([d.logprobs for d in drawn])[:prompts]
    estimate = rollout.best_of_n.kl_estimate
    columns = {
        "win_rate": _wins(kept(scores), scores[:, n]),
        "proxy": kept(scores),
        "kl": np.asarray(estimate(n, jnp.asarray(kept(logprobs), jnp.float32))),
    }
    if drawn[0].gold is not None:
        gold = np.concatenate([np.asarray(d.gold) for d in drawn])[:prompts]
        columns["gold"] = kept(gold)
        columns["win_rate_gold"] = _wins(kept(gold), gold[:, n])
    found = {name: stats.mean(values) for name, values in columns.items()}
    return {
        "prompts": prompts,
        **{name: {"mean": m.mean, "se": m.se} for name, m in found.items()},
        "kl_formula": rollout.best_of_n.kl_bound(n),
    }


def _wins(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.sign(one - other)
