"""The labelling stage: samples of a policy, ranked by gold with known label noise."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax import data, hosts, rng
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.plans import planned_rollouts
from rlhf_jax.build.plans.planned import Plan
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.build.stages import sampling
from rlhf_jax.build.tasks.task_type import Task
from rlhf_jax.errors import UserError
from rlhf_jax.types import PromptBatch, Rollout, Scorer

FILES = {"train": "rankings.jsonl", "heldout": "heldout.jsonl"}


def label(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `label`.

    K responses per prompt are ranked by `gold + noise * g` with standard Gumbel g, so a
    pair is ordered as Bradley-Terry with scores gold / noise would order it, and the
    accuracy that any reward model can reach is known. `prompts` and `heldout` are how
    many prompts are labelled, 0 for all of them. `length_bias`, which may be left out,
    is what the annotator finds a token more to be worth, in units of gold.
    """
    source, responses = section.str("policy"), section.int("responses", 2)
    scale, temperature = section.float("noise", 0.0), section.float("temperature", 0.0)
    bias = section.float("length_bias") if section.has("length_bias") else 0.0
    task, network = context.task, context.model.language()
    datasets = {"train": task.prompts, "heldout": task.heldout}
    counts = {
        "train": section.int("prompts", 0) or len(task.prompts.records),
        "heldout": section.int("heldout", 0) or len(task.heldout.records),
    }
    chunk = section.int("batch_size", 1)
    sample = sampling.sampler(
        context, network, temperature=temperature, samples=responses
    )

    def run() -> dict[str, Any]:
        gold = task.gold
        if gold is None:
            raise UserError(
                f"stage {name} labels with the task's gold reward, but this task has"
                " none; give config.task.rankings and leave the stage out"
            )
        variables = context.policy(source, f"{section.path}.policy")
        result: dict[str, Any] = {}
        for split, dataset in datasets.items():
            prompts = context.prompts(dataset, counts[split])
            key = rng.named(rng.root(context.seeds.sampling), name, split)
            # 5 and 7: the two splits have noise of their own under one label seed.
            noise_of = np.random.default_rng(
                [context.seeds.label, len(split), *_round(name)]
            )
            rows = []
            for index, part in enumerate(chunks(prompts, chunk)):
                found = sample(variables, part, rng.named(key, index))
                felt = _felt(found, gold, scale, bias, noise_of, responses)
                rows += ranked(found, felt, responses, split, index)
            rows = [with_cluster(row, task) for row in rows[: counts[split]]]
            write_lines(context.folder(name) / FILES[split], rows)
            ties = sum(len(set(row["ranks"])) < responses for row in rows)
            result[split] = {"rankings": len(rows), "with_ties": ties}
        return {**result, "noise": scale, **({"length_bias": bias} if bias else {})}

    def describe() -> dict[str, Any]:
        return {
            "responses": f"{counts['train']} + {counts['heldout']} held-out prompts"
            f" x {responses}",
        }

    def plan() -> Plan:
        rows = min(chunk, max(counts.values()))
        return planned_rollouts.drawing(context, sample, rows, responses)

    return Stage(name, run, describe, plan)


def _round(name: str) -> tuple[int, ...]:
    """What sets the noise of `round-2/label` apart from that of `round-1/label`."""
    return (zlib.crc32(name.encode()),) if "/" in name else ()


def chunks(prompts: PromptBatch, size: int) -> Iterator[PromptBatch]:
    """Pieces of one shape; the last one is filled up with its final prompt."""
    total = prompts.tokens.shape[0]
    size = min(size, total)
    for start in range(0, total, size):
        rows = np.minimum(np.arange(start, start + size), total - 1)
        yield jax.tree.map(lambda x, r=rows: x[r], prompts)


class Felt(NamedTuple):
    """Responses as gold has them and as the annotator does, float64[N K] each."""

    gold: np.ndarray
    felt: np.ndarray


def _felt(
    found: Rollout,
    gold: Scorer,
    scale: float,
    bias: float,
    noise_of: np.random.Generator,
    responses: int,
) -> Felt:
    """Gold, and gold with a taste for length and with noise."""
    judged = gold.apply(gold.init(), None, found).sequence
    scores, mask = hosts.fetch((judged, found.mask))
    scores = np.asarray(scores, np.float64).reshape(-1, responses)
    longer = bias * np.asarray(mask, np.float64).sum(axis=1).reshape(scores.shape)
    return Felt(scores, scores + longer + scale * noise_of.gumbel(size=scores.shape))


def ranked(
    found: Rollout, judged: Felt, responses: int, split: str, index: int
) -> list[dict[str, Any]]:
    """JSON rows of kind `ranking`, token ids as they were sampled."""
    scores, felt = judged
    host = hosts.fetch(found)
    rows = []
    for row in range(scores.shape[0]):
        first = row * responses
        members = range(first, first + responses)
        rows.append(
            {
                "id": f"{split}-{index}-{row}",
                "prompt": host.prompt.tokens[first][host.prompt.mask[first]].tolist(),
                "responses": [host.tokens[m][host.mask[m]].tolist() for m in members],
                "ranks": dense_ranks(felt[row]),
                "gold": [round(float(score), 6) for score in scores[row]],
                "prompt_row": int(host.prompt.example_id[first]),
            }
        )
    return rows


def with_cluster(row: dict[str, Any], task: Task) -> dict[str, Any]:
    """The row with the cluster that its prompt belongs to, by default the prompt."""
    first = len(task.prompts.records)
    index = row["prompt_row"]
    held = index >= first
    record = (
        task.heldout.records[index - first] if held else task.prompts.records[index]
    )
    return {**row, "cluster": record.extra.get("cluster", record.id)}


def dense_ranks(felt: np.ndarray) -> list[int]:
    """1 for the largest, equal numbers tie: [.5, .9, .5] -> [2, 1, 2]."""
    levels = np.unique(-felt)
    return [int(np.searchsorted(levels, -value)) + 1 for value in felt]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes JSON lines in one piece; of several processes the first one does."""
    hosts.done(lambda: _write_lines(path, rows))


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows))
    part.replace(path)


def rankings(context: Context, source: str, split: str) -> data.Dataset:
    """The rankings of a labelling stage, of several, or the task's own (`task`).

    The union of several stages is written `round-1/label,round-2/label`; ids of its
    records begin with the stage.
    """
    if "," in source:
        return _union(context, source.split(","), split)
    if source == "task":
        if context.task.rankings is None:
            raise UserError("config.task has no rankings; name a file of rankings")
        if split == "train":
            return context.task.rankings
        if context.task.heldout_rankings is None:
            raise UserError(
                "config.task holds out no rankings; name a file in"
                " config.task.heldout_rankings or raise config.task.heldout_share"
            )
        return context.task.heldout_rankings
    path = context.folder(source) / FILES[split]
    return data.jsonl(path, "ranking", name=f"{source}-{split}")


def _union(context: Context, sources: list[str], split: str) -> data.Dataset:
    records = [
        dataclasses.replace(record, id=f"{source}:{record.id}")
        for source in sources
        for record in rankings(context, source, split).records
    ]
    return data.in_memory(records, name=f"{'+'.join(sources)}-{split}")


def noise(context: Context, source: str) -> float | None:
    """Scale of the label noise of a labelling stage; None for labels of people, of
    annotators who follow more than gold, and for a union of stages that differ in it.
    """
    found = {_noise(context, name) for name in source.split(",")}
    return found.pop() if len(found) == 1 else None


def _noise(context: Context, source: str) -> float | None:
    path = context.folder(source) / "done.json"
    if not path.is_file():
        return None
    result = json.loads(path.read_text())["result"]
    return None if "length_bias" in result else result["noise"]
