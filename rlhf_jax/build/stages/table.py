"""The last stage: base policy, best-of-n and aligned policy side by side."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rlhf_jax import rng, rollout, stats
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.build.stages import evaluating, label
from rlhf_jax.studies import summary
from rlhf_jax.types import Scorer

COLUMNS = ("gold", "proxy", "kl", "length", "k1", "k2", "k3", "entropy", "truncated")


def table(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `table`: rows `<base>`, `best_of_<n>`, `<policy>`.

    All rows share held-out prompts that nothing was trained on, and one evaluation
    setting that is not the training's. KL is the exact per-token KL to the base summed
    along sampled prefixes; for best-of-n it is Beirami's estimate. `prompts` may be 0
    for all of them. The responses of a row are kept in `<row>.jsonl`.
    """
    stage = _Table(
        name=name,
        base=section.str("base"),
        policy=section.str("policy"),
        reward_model=section.str("reward_model"),
        best_of=section.int("best_of", 1),
        prompts=section.int("prompts", 0) or len(context.task.heldout.records),
        samples=section.int("samples", 1),
        temperature=section.float("temperature", 0.0),
        batch_size=section.int("batch_size", 1),
        context=context,
    )
    return Stage(name, stage.run, stage.describe)


class _Table(NamedTuple):
    """What the section says."""

    name: str
    base: str
    policy: str
    reward_model: str
    best_of: int
    prompts: int
    samples: int
    temperature: float
    batch_size: int
    context: Context

    def run(self) -> dict[str, Any]:
        """Evaluates all rows."""
        context, path = self.context, f"config.{self.name}"
        scorer = context.user_scorer or context.scorer(
            self.reward_model, f"{path}.reward_model"
        )
        scorers = evaluating.scorers(context, scorer)
        reference = context.policy(self.base, f"{path}.base")
        drawn = self.measured(self.best_of, scorers, reference, reference)
        tuned = context.policy(self.policy, f"{path}.policy")
        aligned = self.measured(self.samples, scorers, tuned, reference)
        best = rollout.evaluate.best_of(drawn, self.best_of, "proxy")
        rows = {self.base: drawn, f"best_of_{self.best_of}": best, self.policy: aligned}
        for row, found in rows.items():
            file = context.folder(self.name) / f"{row}.jsonl"
            label.write_lines(file, found.records)
        table = {row: _columns(found.table, scorers) for row, found in rows.items()}
        result = {
            "table": table,
            "win_rate": wins_over(drawn, aligned, "proxy"),
            "gold_definition": self.gold_definition(),
            "evaluation": {
                "prompts": self.prompts,
                "temperature": self.temperature,
                "kl_bound_best_of_n": rollout.best_of_n.kl_bound(self.best_of),
            },
        }
        if "gold" in drawn.columns:
            result |= _judged(drawn, aligned, self.base, self.policy, table)
            result["win_rate_gold"] = wins_over(drawn, aligned, "gold")
        else:
            result["verdict"] = summary.verdict(
                table, policy=self.policy, baseline=self.base
            )
        return result

    def measured(
        self, samples: int, scorers: dict[str, Scorer], variables: Any, reference: Any
    ) -> rollout.Evaluation:
        """One policy on the held-out prompts."""
        task = self.context.task
        evaluate = evaluating.measuring(
            self.context,
            self.context.model.language(),
            scorers,
            temperature=self.temperature,
            samples=samples,
            chunk_size=self.batch_size,
        )
        key = rng.named(rng.root(self.context.seeds.sampling), self.name, samples)
        prompts = self.context.prompts(task.heldout, self.prompts)
        return evaluate(variables, reference, prompts, key)

    def gold_definition(self) -> str:
        """What stands in the column gold, in words."""
        if self.context.gold_source == "task":
            return self.context.task.gold_definition
        return (
            f"reward model of stage {self.context.gold_source}, trained on a disjoint"
            " half of the labels; it stands in for a gold reward that is not known"
        )

    def describe(self) -> dict[str, Any]:
        """Arithmetic for `check`."""
        drawn = self.best_of + self.samples
        return {"responses": f"{self.prompts} prompts x {drawn} samples"}


def _columns(found: Any, scorers: Any) -> dict[str, Any]:
    wanted = dict.fromkeys((*COLUMNS, *scorers))
    return {name: found[name] for name in wanted if name in found}


def wins_over(
    base: rollout.Evaluation, policy: rollout.Evaluation, column: str
) -> dict[str, Any]:
    """How often a sample of the policy scores above one of the base, ties one half.

    The mean over all pairs of samples of a prompt, with the error over prompts.
    """
    one, other = (
        x.columns[column].reshape(-1, x.samples_per_prompt) for x in (policy, base)
    )
    won = 0.5 + 0.5 * np.sign(one[:, :, None] - other[:, None, :])
    found = stats.mean(won.mean(axis=(1, 2)), policy.weight)
    return {"mean": found.mean, "se": found.se, "ci": [found.low, found.high]}


def _judged(
    drawn: rollout.Evaluation,
    aligned: rollout.Evaluation,
    base: str,
    policy: str,
    table: dict[str, Any],
) -> dict[str, Any]:
    """Spread of gold under the base, paired difference over prompts, verdict."""
    spread = float(np.std(drawn.columns["gold"]))
    difference = summary.paired_difference(
        drawn.columns["gold"],
        aligned.columns["gold"],
        [record["id"] for record in drawn.records],
        [record["id"] for record in aligned.records],
    )
    verdict = summary.verdict(
        table, policy=policy, baseline=base, gold_sd=spread, difference=difference
    )
    return {"gold_sd_sft": spread, "gold_gain": difference, "verdict": verdict}
