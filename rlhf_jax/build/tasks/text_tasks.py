"""Tasks on text: files that the config names, and the docstrings of Python itself."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from absl import logging

from rlhf_jax import data
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.tasks.task_type import Task
from rlhf_jax.data import encode, records, text_metrics
from rlhf_jax.data import pydoc as documentation
from rlhf_jax.data import tokenizer as tokenizers
from rlhf_jax.errors import UserError
from rlhf_jax.rollout import text_scorers
from rlhf_jax.types import Scorer


def text_encoder(
    section: Section, tokenizer: data.Tokenizer, response_limit: int
) -> data.Encoder:
    """Reads how texts are cut and joined.

    Args:
      section: `prompt_length`, `overlong_prompt`, `overlong_response`,
        `prompt_suffix`, `response_prefix`; see `data.Encoder`.
      tokenizer: of all stages.
      response_limit: most tokens of a response in the data.
    """
    return data.Encoder(
        tokenizer=tokenizer,
        prompt_limit=section.int("prompt_length", 1),
        response_limit=response_limit,
        overlong_prompt=section.choice("overlong_prompt", encode.OVERLONG_PROMPT),
        overlong_response=section.choice("overlong_response", encode.OVERLONG_RESPONSE),
        prompt_suffix=section.str("prompt_suffix"),
        response_prefix=section.str("response_prefix"),
    )


def files(section: Section, data_seed: int, model_path: str | None) -> Task:
    """JSONL files or tfds datasets; gold only by a scorer or by a reward model.

    Each of `demonstrations` (or conversations, see `demonstration_kind`), `rankings`
    (or pairs, see `ranking_kind`), `prompts` and `pretraining` is a path,
    `tfds:NAME[#SPLIT]` or None. Prompts default to those of the demonstrations, then
    of the rankings; conversations, trained on as a whole, have none. Where
    `heldout_*` is None, `heldout_share` of the prompts is held out by a hash of the
    prompt, which puts the same prompt of all files on the same side.

    Raises:
      UserError: no file at all, or a file that cannot be read.
    """
    del data_seed
    sampled = section.int("response_length", 2)
    longest = section.optional("response_limit", section.int) or sampled
    tokenizer = tokenizers.load(_tokenizer_path(section, model_path, needed=True) or "")
    encoder = text_encoder(section, tokenizer, longest)
    bad, share = section.str("on_bad_line"), section.float("heldout_share", 0.0)
    ranking = section.choice("ranking_kind", ("ranking", "pair"))
    shown = section.choice("demonstration_kind", ("demonstration", "conversation"))

    def sides(key: str, kind: str) -> tuple[data.Dataset | None, data.Dataset | None]:
        given = section.optional(key, section.str)
        other = section.optional(f"heldout_{key}", section.str)
        if given is None:
            return None, _read(other, kind, bad)
        if other is None:
            whole = _read(given, kind, bad)
            return data.split(whole, share, by=_prompt_text) if whole else (None, None)
        return _read(given, kind, bad), _read(other, kind, bad)

    demonstrations, heldout_demonstrations = sides("demonstrations", shown)
    rankings, heldout_rankings = sides("rankings", ranking)
    _refuse_ties(rankings, section)
    prompts, heldout = sides("prompts", "prompt")
    if shown == "demonstration":
        prompts, heldout = prompts or demonstrations, heldout or heldout_demonstrations
    prompts = prompts or rankings or demonstrations
    heldout = heldout or heldout_rankings or heldout_demonstrations
    if prompts is None or heldout is None:
        raise UserError(
            f"{section.path} names no file: give the path of a JSONL file in"
            f" --{section.path}.demonstrations, .rankings or .prompts"
        )
    return Task(
        encoder=encoder,
        prompts=prompts,
        heldout=heldout,
        demonstrations=demonstrations,
        heldout_demonstrations=_filled(heldout_demonstrations),
        rankings=rankings,
        heldout_rankings=_filled(heldout_rankings),
        pretraining=_read(
            section.optional("pretraining", section.str), "document", bad
        ),
        gold=None,
        gold_definition="none: no gold reward is known for these data",
        prompt_length=section.int("prompt_length", 1),
        response_length=sampled,
    )


def _read(path: str | None, kind: str, on_bad_line: str) -> data.Dataset | None:
    if path is None:
        return None
    split = "train"
    if path.startswith("tfds:"):
        path, _, named = path.partition("#")
        split = named or split
    return data.read(path, kind, split=split, on_bad_line=on_bad_line)


def _refuse_ties(rankings: data.Dataset | None, section: Section) -> None:
    """Refuse a file none of whose rankings tells two different responses apart."""
    if rankings is None or not rankings.records:
        return
    tied = sum(
        isinstance(record, records.Ranking) and not _ordered(record)
        for record in rankings.records
    )
    if tied == len(rankings.records):
        raise UserError(
            f"{section.path}.rankings: each of the {tied} rankings of {rankings.name}"
            " ties all its responses or has one text for all, so there is no preference"
            " to learn; is the field of the ranks (1 = best) filled in?"
        )
    if tied:
        logging.warning(
            "%s: %d of %d rankings tie all their responses, or have one text for all,"
            " and teach nothing",
            rankings.name,
            tied,
            len(rankings.records),
        )


def _ordered(record: records.Ranking) -> bool:
    pairs = zip(record.ranks, record.responses, strict=True)
    ranked = [(rank, text) for rank, text in pairs if rank]
    return all(len(set(column)) > 1 for column in zip(*ranked, strict=True))


def _filled(dataset: data.Dataset | None) -> data.Dataset | None:
    return dataset if dataset is not None and dataset.records else None


def _prompt_text(record: data.Record) -> str:
    if isinstance(record, records.Prompt | records.Demonstration | records.Ranking):
        return str(record.prompt)
    return record.id


def _tokenizer_path(
    section: Section, model_path: str | None, *, needed: bool
) -> str | None:
    path = section.optional("tokenizer", section.str) or model_path
    if path is None and needed:
        raise UserError(
            f"{section.path}.tokenizer is None and there is no config.model.path;"
            " name a directory that has a tokenizer"
        )
    return path


def pydoc(section: Section, data_seed: int, model_path: str | None) -> Task:
    """Docstrings of the standard library: body -> summary line, gold by ROUGE-L.

    The tokenizer is that of `tokenizer`, else of the model directory, else a BPE of
    `vocab_size` ids trained on the training documents. Records carry their module as
    `cluster`, by which held-out statistics are clustered.
    """
    del data_seed
    length, size = section.int("response_length", 2), section.int("vocab_size", 258)
    path = _tokenizer_path(section, model_path, needed=False)
    corpus = _corpus()
    tokenizer = tokenizers.load(path) if path else _trained(size)
    encoder = text_encoder(section, tokenizer, length)
    train, heldout = clustered(corpus.demonstrations), clustered(corpus.heldout)
    return Task(
        encoder=encoder,
        prompts=train,
        heldout=heldout,
        demonstrations=train,
        heldout_demonstrations=heldout,
        rankings=None,
        heldout_rankings=None,
        pretraining=corpus.documents,
        gold=rouge_scorer(tokenizer, (*train.records, *heldout.records)),
        gold_definition="ROUGE-L F1 against the summary line that the authors wrote",
        prompt_length=section.int("prompt_length", 1),
        response_length=length,
    )


_corpus = functools.cache(documentation.corpus)
"""Reading and parsing takes seconds and gives the same each time."""


def unused(section: Section) -> None:
    """Reads the keys of a `pydoc` section that this run does not use."""
    section.int("vocab_size", 258)
    section.optional("tokenizer", section.str)
    nothing = tokenizers.symbols(2, pad_token=0, end_token=1)
    text_encoder(section, nothing, section.int("response_length", 2))


@functools.cache
def _trained(vocab_size: int) -> data.Tokenizer:
    documents = [x for x in _corpus().documents.records if isinstance(x, data.Document)]
    return tokenizers.train_bpe(
        [str(document.text) for document in documents], vocab_size=vocab_size
    )


def clustered(dataset: data.Dataset) -> data.Dataset:
    """The same records with `extra["cluster"]`, their module."""
    return dataset._replace(
        records=tuple(
            dataclasses.replace(
                record, extra={**record.extra, "cluster": record.extra["module"]}
            )
            for record in dataset.records
        )
    )


def rouge_scorer(tokenizer: data.Tokenizer, table: Sequence[Any]) -> Scorer:
    """ROUGE-L F1 of each response against the response of its record."""

    def rouge(prompts: Any, responses: Any, found: Any) -> list[float]:
        del prompts
        return [
            text_metrics.rouge_l(response, record.response)
            for response, record in zip(responses, found, strict=True)
        ]

    return text_scorers.function_scorer(
        rouge, tokenizer.decode, table, name="the ROUGE-L of task pydoc"
    )
