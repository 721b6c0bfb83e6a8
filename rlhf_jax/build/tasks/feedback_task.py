"""The task of learning from a file of human feedback."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from rlhf_jax import data
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.tasks.task_type import Task
from rlhf_jax.build.tasks.token_ids import token_ids
from rlhf_jax.data import encode
from rlhf_jax.data import tokenizer as tokenizers
from rlhf_jax.data.feedback import Feedback, FeedbackSet, plain, reports, views
from rlhf_jax.data.sources import hash_fraction
from rlhf_jax.errors import UserError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
)


class Collected(NamedTuple):
    """Feedback of a task.

    Attributes:
      train: records to learn from.
      heldout: records that are only measured on; other prompts than those of `train`.
      bad: number of records left out by kind of problem.
      contradictions: what records of one prompt say against each other; learned from
        all the same, for annotators differ.
      unranked: what of `train` no ranking could be made of, by reason.
    """

    train: tuple[Feedback, ...]
    heldout: tuple[Feedback, ...]
    bad: Mapping[str, int]
    contradictions: Mapping[str, int]
    unranked: Mapping[str, int] = {}

    @property
    def left_out(self) -> dict[str, int]:
        """What reward models do not learn from, by reason."""
        bad = {f"bad record: {kind}": count for kind, count in self.bad.items()}
        return bad | dict(self.unranked)


def _ranked(found: Iterable[Feedback], encoder: data.Encoder) -> views.View:
    """Rankings whose ranks speak of different tokens; truncation can end that."""
    view = views.rankings(found)
    kept = [record for record in view.records if not _same_tokens(record, encoder)]
    lost = len(view.records) - len(kept)
    counts = {"identical responses, once they are tokens": lost} if lost else {}
    return views.View(tuple(kept), {**view.dropped, **counts})


def _same_tokens(record: data.Ranking, encoder: data.Encoder) -> bool:
    try:
        tokens = [encoder.response(text, record.id) for text in record.responses]
    except encode.TooLong:
        return False  # refused or left out where batches are made
    return encode.torn(tokens, record.ranks)


def feedback(section: Section, data_seed: int, model_path: str | None) -> Task:
    """Reads a section of kind `feedback`: one JSONL file, perhaps another held out.

    `layout` says how its lines are understood (`auto` tells feedback records, pairs,
    rankings and labeled responses apart by their fields). `heldout_share` of the
    prompts is held out by a hash of the prompt, unless `heldout_path` is given.
    `prompt_length` and `response_length` may be None: as long as the longest. The
    tokenizer is that of `tokenizer`, else the model's; a model directory without one
    reads token ids.

    Raises:
      UserError: no file; a record that cannot be learned from (all are counted, the
        first is named); no tokenizer.
    """
    del data_seed
    tokenizer = _tokenizer(section, model_path)
    found = _of_tokenizer(section, _collected(section), tokenizer)
    everything = (*found.train, *found.heldout)
    encoder = _encoder(section, tokenizer, everything)
    ranked = tuple(_ranked(x, encoder) for x in (found.train, found.heldout))
    found = found._replace(unranked=ranked[0].dropped)
    rankings, heldout_rankings = (
        view.dataset(name) if view.records else None
        for view, name in zip(ranked, ("feedback", "feedback/heldout"), strict=True)
    )
    assert encoder.prompt_limit is not None and encoder.response_limit is not None
    return Task(
        encoder=encoder,
        prompts=_prompts(found.train, "feedback-prompts"),
        heldout=_prompts(found.heldout, "feedback-prompts/heldout"),
        demonstrations=None,
        heldout_demonstrations=None,
        rankings=rankings,
        heldout_rankings=heldout_rankings,
        pretraining=None,
        gold=None,
        gold_definition="none: no gold reward is known for these data",
        prompt_length=encoder.prompt_limit,
        response_length=encoder.response_limit,
        feedback=found,
    )


def _collected(section: Section) -> Collected:
    path = section.optional("path", section.str)
    other = section.optional("heldout_path", section.str)
    layout = section.choice("layout", plain.NAMES)
    rule = section.choice("on_bad_record", ("stop", "skip"))
    share = section.float("heldout_share", 0.0, 1.0)
    if path is None:
        raise UserError(
            f"{section.path}.path is None; name a JSONL file of feedback, pairs,"
            " rankings or labeled responses"
        )
    read = _read(path, layout, rule, section)
    held: tuple[Feedback, ...]
    if other is not None:
        second = _read(other, layout, rule, section)
        train, held = read.records, second.records
        bad = {k: read.counts.get(k, 0) + second.counts.get(k, 0)
               for k in {**read.counts, **second.counts}}  # fmt: skip
    else:
        held = tuple(x for x in read.records if _side(x) < share)
        train = tuple(x for x in read.records if not _side(x) < share)
        bad = dict(read.counts)
    if not train:
        raise UserError(
            f"{section.path}.heldout_share={share} holds out every prompt of {path};"
            " lower it"
        )
    return Collected(train, held, bad, _contradictions(path, train))


def _contradictions(path: str, train: Sequence[Feedback]) -> dict[str, int]:
    said = reports.against_each_other(train)
    found = {what: len(listed) for what, listed in said.items() if listed}
    if found:
        counts = ", ".join(f"{count} {what}" for what, count in found.items())
        logging.warning("%s: records contradict each other: %s", path, counts)
    return found


def _side(item: Feedback) -> float:
    return hash_fraction(f"heldout/{item.prompt}")


def _read(path: str, layout: str, rule: str, section: Section) -> FeedbackSet:
    """All records; what is wrong with the others is counted before it is refused."""
    found = plain.read(path, layout, on_bad_record="skip")
    if not found.skipped:
        return found
    message = found.complaint(path)
    if rule == "stop":
        raise UserError(
            f"{message}; correct them, or leave them out with"
            f" --{section.path}.on_bad_record=skip"
        )
    logging.warning("%s; they are left out", message)
    return found


def _prompts(found: Iterable[Feedback], name: str) -> data.Dataset:
    """Each prompt once."""
    once = {item.prompt: data.Prompt(id=item.id, prompt=item.prompt) for item in found}
    return data.in_memory(once.values(), name=name)


def _tokenizer(section: Section, model_path: str | None) -> data.Tokenizer:
    path = section.optional("tokenizer", section.str)
    if path is not None:
        return tokenizers.load(path)
    if model_path is None:
        raise UserError(
            f"{section.path}.tokenizer is None and there is no config.model.path; name"
            " a directory that has a tokenizer"
        )
    if any((Path(model_path) / name).is_file() for name in TOKENIZER_FILES):
        return tokenizers.load(model_path)
    raw = _config_of(model_path)
    end = raw.get("eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    if not isinstance(end, int) or "vocab_size" not in raw:
        raise UserError(
            f"config.model.path={model_path} has no tokenizer, and its config.json"
            " names no eos_token_id to end responses with"
        )
    return token_ids(int(raw["vocab_size"]), end)


def _config_of(model_path: str) -> dict[str, Any]:
    path = Path(model_path) / "config.json"
    try:
        raw = json.loads(path.read_text())
        return {**raw, **raw.get("text_config", {})}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"config.model.path={model_path}: no usable {path}") from error


def _encoder(
    section: Section, tokenizer: data.Tokenizer, found: Iterable[Feedback]
) -> data.Encoder:
    """With the lengths of the section, or as long as the longest of the file."""
    plain_encoder = data.Encoder(
        tokenizer=tokenizer,
        overlong_prompt=section.choice("overlong_prompt", encode.OVERLONG_PROMPT),
        overlong_response=section.choice("overlong_response", encode.OVERLONG_RESPONSE),
        prompt_suffix=section.str("prompt_suffix"),
        response_prefix=section.str("response_prefix"),
    )
    prompt = section.optional("prompt_length", lambda k: section.int(k, 1))
    response = section.optional("response_length", lambda k: section.int(k, 1))
    longest_prompt = longest_response = 1
    for item in found:
        try:
            texts = [plain_encoder.response(x.text, item.id) for x in item.responses]
            start = len(plain_encoder.prompt(item.prompt, item.id))
        except UserError as error:
            raise UserError(f"'{item.id}': {error}") from error
        longest_prompt = max(longest_prompt, start)
        longest_response = max(longest_response, *map(len, texts))
    return dataclasses.replace(
        plain_encoder,
        prompt_limit=prompt or longest_prompt,
        response_limit=response or longest_response,
    )


FOREIGN = "token ids of another tokenizer"


def _of_tokenizer(
    section: Section, found: Collected, tokenizer: data.Tokenizer
) -> Collected:
    """Without records whose token ids are too large, which are counted and refused, or
    left out under `on_bad_record=skip`."""
    size = tokenizer.vocab_size
    records = (*found.train, *found.heldout)
    foreign = {item.id: top for item in records if (top := _largest(item)) >= size}
    if not foreign:
        return found
    name, top = next(iter(foreign.items()))
    message = (
        f"{len(foreign)} of {len(records)} records have {FOREIGN}: '{name}' has token"
        f" id {top}, and the tokenizer has {size} tokens"
    )
    if section.choice("on_bad_record", ("stop", "skip")) == "stop":
        raise UserError(
            f"{message}; correct them, or leave them out with"
            f" --{section.path}.on_bad_record=skip"
        )
    logging.warning("%s; left out", message)
    train, heldout = (
        tuple(item for item in part if item.id not in foreign)
        for part in (found.train, found.heldout)
    )
    if not train:
        raise UserError(f"{message}; none is left to learn from")
    bad = {**found.bad, FOREIGN: len(foreign)}
    return found._replace(train=train, heldout=heldout, bad=bad)


def _largest(item: Feedback) -> int:
    """The largest token id of a record's prompt and responses; -1 for text."""
    texts = [item.prompt, *(response.text for response in item.responses)]
    ids = [x for text in texts if isinstance(text, tuple) for x in text]
    return max((x for x in ids if isinstance(x, int)), default=-1)
