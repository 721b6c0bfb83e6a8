"""What a run on the pydoc corpus has shown: perplexity, accuracy, ROUGE-L, verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax import data, stats
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.build.tasks.task_type import Task
from rlhf_jax.data import ngram
from rlhf_jax.data.encode import Encoded
from rlhf_jax.data.records import Demonstration, Document
from rlhf_jax.errors import UserError

PERPLEXITY_AIM = 0.8
"""Share of the bigram's perplexity that the fine-tuned model should stay below."""
ACCURACY_AIM = 0.6
"""What the interval of the reward model's accuracy should lie above."""


def pydoc_summary(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `pydoc_summary`: names of the stages it reads.

    The result goes to the top level of `summary.json`: `perplexity` of the fine-tuned
    model and `bigram_perplexity` of an interpolated Kneser-Ney bigram on the same
    held-out response tokens, the bigram counted on all training text; `rm_accuracy` on
    held-out pairs, ties left out and counted; `rouge_l` of the table's base and policy,
    paired by prompt. Intervals are 95 % and clustered by module.
    """
    tuned, judged = section.str("sft"), section.str("rm")
    table, base = section.str("table"), section.str("base")
    policy = section.str("policy")
    if context.task.heldout_demonstrations is None or context.task.pretraining is None:
        raise UserError(f"stage {name} needs the task pydoc, in {section.path}")

    def run() -> dict[str, Any]:
        model = _result(context, tuned)["heldout"]["perplexity"]
        bigram = bigram_perplexity(context)
        accuracy = _accuracy(_result(context, judged))
        folder = context.folder(table)
        rouge = rouge_difference(
            _rows(folder / f"{base}.jsonl"),
            _rows(folder / f"{policy}.jsonl"),
            context.task,
        )
        return {
            "perplexity": model,
            "bigram_perplexity": bigram.perplexity,
            "perplexity_ratio": model / bigram.perplexity,
            "perplexity_tokens": bigram.tokens,
            "rm_accuracy": accuracy,
            "rouge_l": rouge,
            "verdict": verdict(model / bigram.perplexity, accuracy, rouge),
        }

    return Stage(name, run, lambda: {"reads": f"{tuned}, {judged}, {table}"})


def bigram_perplexity(context: Context) -> ngram.Perplexity:
    """Of the bigram on the held-out responses, counted on documents and responses."""
    task = context.task
    parts = (task.pretraining, task.demonstrations)
    return ngram.bigram_perplexity(
        (x for part in parts if part for x in _sequences(part, task.encoder)),
        _sequences(task.heldout_demonstrations or task.heldout, task.encoder),
        vocab_size=task.tokenizer.vocab_size,
    )


def _sequences(dataset: data.Dataset, encoder: data.Encoder) -> Iterator[Encoded]:
    for record in dataset.records:
        if isinstance(record, Demonstration | Document):
            yield encoder.sequence(record)


def rouge_difference(
    base: list[dict[str, Any]], policy: list[dict[str, Any]], task: Task
) -> dict[str, Any]:
    """Mean gold (ROUGE-L) of two table rows, and their difference paired by prompt."""
    first, second = by_prompt(base), by_prompt(policy)
    ids = sorted(first)
    offset, records = len(task.prompts.records), task.heldout.records
    clusters = [records[i - offset].extra.get("cluster", str(i)) for i in ids]
    change = stats.clustered_mean(
        np.asarray([second[i] - first[i] for i in ids]), np.asarray(clusters)
    )
    return {
        "sft": float(np.mean([first[i] for i in ids])),
        "ppo": float(np.mean([second[i] for i in ids])),
        "diff": change.mean,
        "diff_ci": [change.low, change.high],
        "prompts": len(ids),
        "clusters": change.n,
    }


def by_prompt(rows: list[dict[str, Any]]) -> dict[int, float]:
    """Mean gold over the samples of each prompt."""
    found: dict[int, list[float]] = {}
    for row in rows:
        found.setdefault(int(row["id"]), []).append(float(row["scores"]["gold"]))
    return {prompt: float(np.mean(values)) for prompt, values in found.items()}


def _accuracy(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "value": result.get("accuracy"),
        "ci": result.get("accuracy_ci"),
        "pairs": result["pairs"],
        "tied_pairs": result["tied_pairs"],
    }


def verdict(ratio: float, accuracy: dict[str, Any], rouge: dict[str, Any]) -> str:
    """Which aims are met and which are missed, in words, whatever came out."""
    met = "met" if ratio <= PERPLEXITY_AIM else "missed"
    down, up = rouge["diff_ci"]
    moved = (
        "raised" if down > 0 else "lowered" if up < 0 else "did not measurably change"
    )
    return (
        f"Fine-tuning reaches {ratio:.2f} of the bigram's perplexity (aim"
        f" {PERPLEXITY_AIM}: {met}). {_ordered(accuracy)} PPO {moved} ROUGE-L:"
        f" {rouge['sft']:.3f} -> {rouge['ppo']:.3f}, difference {rouge['diff']:+.3f},"
        f" interval {down:+.3f} to {up:+.3f}."
    )


def _ordered(accuracy: dict[str, Any]) -> str:
    if accuracy["value"] is None:
        return "All held-out rankings tie: the reward model's accuracy is unknown."
    low, high = accuracy["ci"]
    above = "above" if low > ACCURACY_AIM else "not above"
    return (
        f"The reward model orders {accuracy['value']:.3f} of held-out pairs as ROUGE-L"
        f" does, interval {low:.3f} to {high:.3f}, {above} {ACCURACY_AIM}."
    )


def _result(context: Context, stage: str) -> dict[str, Any]:
    path = context.folder(stage) / "done.json"
    return json.loads(path.read_text())["result"]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
