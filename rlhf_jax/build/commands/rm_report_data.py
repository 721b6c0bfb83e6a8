"""What `rm-report` reads: rankings and samples as token ids, and edits of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax import data
from rlhf_jax.build.commands.opening import Opened
from rlhf_jax.build.stages.answering import Answer
from rlhf_jax.data import feedback, fields
from rlhf_jax.data.feedback import files, views
from rlhf_jax.errors import UserError
from rlhf_jax.studies.rm_report import Ranked

NO_FIELDS = {"gold", "cluster", "prompt_row"}
"""Extra fields of a record that are no slices."""


class Source(NamedTuple):
    """Rankings of a file, flattened.

    Attributes:
      rankings: one a record, `rows` pointing into `answers`.
      answers: prompt and response ids of every response.
      texts: what the file says of every response: text, or token ids.
      clusters: str[M], prompt of each response.
      counts: what was read and what was left out, by reason.
    """

    rankings: list[Ranked]
    answers: list[Answer]
    texts: list[Any]
    clusters: np.ndarray
    counts: dict[str, int]


def rankings(path: Path, opened: Opened, limit: int = 0) -> Source:
    """Reads pairs or rankings; those that do not fit the context are counted.

    Args:
      path: JSONL of kind `pair` (lines with `chosen`), of kind `ranking`, or of
        feedback, whose ranking view is taken.
      opened: the reward model that they are for.
      limit: so many records at most, 0 for all.

    Raises:
      UserError: a bad line (named), unusable gold, or nothing that fits.
    """
    everything, dropped = _records(path)
    records = everything[: limit or None]
    found = Source([], [], [], np.asarray([]), {"records": len(records), **dropped})
    clusters: list[str] = []
    too_long = same = 0
    for record in records:
        answers = _answers(opened, record, f"{path}: '{record.id}'")
        if any(len(a) + len(b) > opened.context_length for a, b in answers):
            too_long += 1
            continue
        ids = [answer[1].tolist() for answer in answers]
        same += any(one in ids[:i] for i, one in enumerate(ids))
        one = _ranked(record, answers, len(found.answers))
        found.rankings.append(one)
        found.answers.extend(answers)
        found.texts.extend(record.responses)
        clusters += [one.cluster] * len(answers)
    if not found.answers:
        raise UserError(
            f"{path}: none of {len(records)} records fits the context of"
            f" {opened.context_length} tokens of {opened.name}"
        )
    counts = found.counts | {
        "records too long for the context, left out": too_long,
        "records with the same response twice": same,
    }
    return found._replace(clusters=np.asarray(clusters), counts=counts)


def samples(path: Path, opened: Opened) -> tuple[list[Answer], np.ndarray]:
    """Sampled responses, lines with `prompt` and `response`, and their clusters."""
    records: Any = data.jsonl(path, "demonstration").records
    answers, clusters = [], []
    for record in records:
        answer = _answer(opened, record.prompt, record.response, f"{path}: {record.id}")
        if len(answer[0]) + len(answer[1]) <= opened.context_length:
            answers.append(answer)
            clusters.append(_cluster(record))
    if len(set(clusters)) < 4:
        raise UserError(
            f"{path} has usable samples of {len(set(clusters))} prompts; give samples"
            " of four or more"
        )
    return answers, np.asarray(clusters)


def noise(path: Path) -> float | None:
    """Scale of the label noise where a labelling stage wrote the file, else None."""
    done = path.parent / "done.json"
    if not done.is_file():
        return None
    try:
        result = json.loads(done.read_text())["result"]
        found = None if "length_bias" in result else result["noise"]
    except (ValueError, KeyError, TypeError):
        return None
    return float(found) if isinstance(found, int | float) else None


def edited(
    source: Source, opened: Opened, edit: Callable[[Any, Answer], Any]
) -> list[Answer] | None:
    """All responses after an edit; one that cannot be edited stays.

    Args:
      source: the responses.
      opened: whose tokenizer reads the edited texts.
      edit: `(text or ids as the file has them, answer) -> new text or ids, or None`.

    Returns:
      None where the edit fits no response.
    """
    result, done = [], 0
    for text, answer in zip(source.texts, source.answers, strict=True):
        new = edit(text, answer)
        fresh = None if new is None else _edit(opened, answer, new)
        done += fresh is not None
        result.append(fresh or answer)
    return result if done else None


def another_prompt(source: Source) -> list[Answer] | None:
    """Every response under the prompt of the next record that has another one."""
    answers, result = source.answers, []
    prompts = [answers[one.rows[0]][0] for one in source.rankings]
    for number, one in enumerate(source.rankings):
        others = (
            prompts[(number + shift) % len(prompts)] for shift in range(1, len(prompts))
        )
        own = prompts[number]
        other = next((p for p in others if not np.array_equal(p, own)), None)
        if other is None:
            return None
        result += [(other, answers[row][1]) for row in one.rows]
    return result


def spaces(text: Any, answer: Answer) -> Any:
    """Double spaces between words."""
    del answer
    return text.replace(" ", "  ") if isinstance(text, str) and " " in text else None


def period(text: Any, answer: Answer) -> Any:
    """A final period goes, or comes."""
    del answer
    if not isinstance(text, str):
        return None
    return text[:-1] if text.endswith(".") else text + "."


def neighbors(text: Any, answer: Answer) -> Any:
    """Of bare token ids, two in the middle trade places."""
    ids = answer[1].tolist()
    middle = (len(ids) - 1) // 2
    if isinstance(text, str) or len(ids) < 4:
        return None
    ids[middle - 1], ids[middle] = ids[middle], ids[middle - 1]
    return tuple(ids)


def twice(text: Any, answer: Answer) -> Any:
    """Everything is said twice; the last token, which may be the end, stays last."""
    if isinstance(text, str):
        return f"{text} {text}"
    ids = answer[1].tolist()
    return tuple(ids[:-1] + ids) if len(ids) > 1 else None


def _records(path: Path) -> tuple[Sequence[Any], dict[str, int]]:
    """Rankings, and what was left out of feedback; the first line says which it is."""
    lines = files.lines(path)
    try:
        first = fields.decode(lines[0][1]) if lines else {}
    except fields.FieldError:
        first = {}
    first = first if isinstance(first, Mapping) else {}
    responses = first.get("responses")
    if isinstance(responses, list) and any(isinstance(r, Mapping) for r in responses):
        view = views.rankings(feedback.read(path).records)
        if not view.records:
            raise UserError(f"{path}: no record orders its responses")
        return view.records, {f"left out: {k}": n for k, n in view.dropped.items()}
    return data.jsonl(path, "pair" if "chosen" in first else "ranking").records, {}


def _answers(opened: Opened, record: Any, place: str) -> list[Answer]:
    return [_answer(opened, record.prompt, one, place) for one in record.responses]


def _answer(opened: Opened, prompt: Any, response: Any, place: str) -> Answer:
    if isinstance(response, str) and not response.strip():
        raise UserError(f"{place}: a response is empty; it needs at least one word")
    try:
        answer = opened.encoder.prompt(prompt), opened.encoder.response(response)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    known = opened.network.config.vocab_size
    for what, ids in zip(("prompt", "response"), answer, strict=True):
        if not len(ids):
            raise UserError(f"{place}: the {what} has no token; it needs at least one")
        if ids.max() >= known:
            raise UserError(
                f"{place}: token {ids.max()} is unknown: {opened.name} has {known}"
            )
    return answer


def _edit(opened: Opened, answer: Answer, new: Any) -> Answer | None:
    """The answer with another response; None where there cannot be such a one."""
    try:
        response = opened.encoder.response(new)
    except UserError:
        return None
    fits = 0 < len(response) <= opened.context_length - len(answer[0])
    return (answer[0], response) if fits else None


def _ranked(record: Any, answers: Sequence[Answer], start: int) -> Ranked:
    return Ranked(
        rows=range(start, start + len(answers)),
        ranks=record.ranks,
        lengths=[len(answer[1]) for answer in answers],
        gold=_gold(record),
        margin=record.margin,
        cluster=_cluster(record),
        fields={
            name: str(value)
            for name, value in record.extra.items()
            if name not in NO_FIELDS and isinstance(value, str | bool | int)
        },
    )


def _gold(record: Any) -> list[float] | None:
    gold = record.extra.get("gold")
    if gold is None:
        return None
    good = isinstance(gold, list | tuple) and len(gold) == len(record.responses)
    if not good or not all(
        isinstance(g, int | float) and math.isfinite(g) for g in gold
    ):
        raise UserError(
            f"'{record.id}': field 'gold' is {gold!r}; give one number per response,"
            f" {len(record.responses)} here (of a pair: chosen, rejected)"
        )
    return [float(g) for g in gold]


def _cluster(record: Any) -> str:
    return str(record.extra.get("cluster", record.prompt))
