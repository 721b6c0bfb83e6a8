"""From `config.task` to data: prompts, demonstrations, rankings and the gold reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax import data
from rlhf_jax.build.section import Section
from rlhf_jax.build.seeds import Seeds
from rlhf_jax.data import tokenizer as tokenizers
from rlhf_jax.errors import UserError
from rlhf_jax.rollout import scorers, text_scorers
from rlhf_jax.types import Scorer
from rlhf_jax.worlds import key_lm


class Task(NamedTuple):
    """What a run learns from.

    Attributes:
      encoder: text or token ids to ids; one for all stages.
      prompts: to sample from in training.
      heldout: prompts that are never trained on.
      demonstrations: to fine-tune on, or None.
      heldout_demonstrations: to measure fine-tuning on, or None.
      rankings: given preference labels, or None where a stage collects them.
      pretraining: documents of the pretraining mix, or None.
      gold: the reward that the run is really about, or None where none is known.
      gold_definition: what gold is, in words.
      prompt_length: P, tokens.
      response_length: T, tokens.
    """

    encoder: data.Encoder
    prompts: data.Dataset
    heldout: data.Dataset
    demonstrations: data.Dataset | None
    heldout_demonstrations: data.Dataset | None
    rankings: data.Dataset | None
    pretraining: data.Dataset | None
    gold: Scorer | None
    gold_definition: str
    prompt_length: int
    response_length: int

    @property
    def length(self) -> int:
        """Tokens of the longest prompt with the longest response, L."""
        return self.prompt_length + self.response_length

    @property
    def tokenizer(self) -> data.Tokenizer:
        """The tokenizer of every stage."""
        return self.encoder.tokenizer

    def text(self, tokens: Any, mask: Any) -> str:
        """The real tokens of a row as text."""
        return self.tokenizer.decode(np.asarray(tokens)[np.asarray(mask)].tolist())


def task(section: Section, seeds: Seeds, model_path: str | None) -> Task:
    """Reads `config.task`.

    Args:
      section: the section; its `kind` is one of `KINDS`.
      seeds: the data seed draws worlds and splits.
      model_path: `config.model.path`, whose tokenizer texts use.
    """
    return KINDS[section.choice("kind", KINDS)](section, seeds, model_path)


def _key_lm(section: Section, seeds: Seeds, model_path: str | None) -> Task:
    """Key-LM on bare token ids; any model with enough tokens can learn it."""
    world = key_lm.World(
        contents=section.int("contents", 8), salient=section.int("salient", 1)
    )
    length = section.int("response_length", 2)
    count, heldout = section.int("prompts", 1), section.int("heldout", 1)
    drawn = key_lm.prompts(world, seeds.data, count + heldout)
    written = key_lm.demonstrations(world, seeds.data + 1, drawn)
    tokenizer = tokenizers.symbols(
        world.vocab_size,
        pad_token=key_lm.PAD,
        end_token=key_lm.EOS,
        names=key_lm.names(world),
    )
    encoder = data.Encoder(
        tokenizer=tokenizer, prompt_limit=world.longest, response_limit=length
    )

    def dataset(name: str, rows: slice) -> tuple[data.Dataset, data.Dataset]:
        prompts = [tuple(int(t) for t in x) for x in drawn[rows]]
        responses = [tuple(int(t) for t in x[:length]) for x in written[rows]]
        return (
            data.in_memory(
                [
                    data.Prompt(id=f"{name}-{i}", prompt=x)
                    for i, x in enumerate(prompts)
                ],
                name=name,
            ),
            data.in_memory(
                [
                    data.Demonstration(id=f"{name}-{i}", prompt=x, response=y)
                    for i, (x, y) in enumerate(zip(prompts, responses, strict=True))
                ],
                name=f"{name}-demonstrations",
            ),
        )

    prompts, demonstrations = dataset("train", slice(0, count))
    heldout_prompts, heldout_demonstrations = dataset("heldout", slice(count, None))
    return Task(
        encoder=encoder,
        prompts=prompts,
        heldout=heldout_prompts,
        demonstrations=demonstrations,
        heldout_demonstrations=heldout_demonstrations,
        rankings=None,
        pretraining=demonstrations,
        gold=scorers.world_scorer(lambda *arrays: key_lm.gold(world, *arrays)),
        gold_definition=key_lm.GOLD_DEFINITION,
        prompt_length=world.longest,
        response_length=length,
    )


def _text_encoder(section: Section, tokenizer: data.Tokenizer) -> data.Encoder:
    return data.Encoder(
        tokenizer=tokenizer,
        prompt_limit=section.int("prompt_length", 1),
        response_limit=section.int("response_length", 2),
        overlong_prompt=section.choice(  # type: ignore[arg-type]
            "overlong_prompt", ("error", "skip", "left", "newline")
        ),
        overlong_response=section.choice(  # type: ignore[arg-type]
            "overlong_response", ("error", "skip", "cut")
        ),
        prompt_suffix=section.str("prompt_suffix"),
        response_prefix=section.str("response_prefix"),
    )


def _tokenizer(section: Section, model_path: str | None) -> data.Tokenizer:
    path = section.optional("tokenizer", section.str) or model_path
    if path is None:
        raise UserError(
            f"{section.path}.tokenizer is None and there is no config.model.path;"
            " name a directory that has a tokenizer"
        )
    return tokenizers.load(path)


def _files(section: Section, seeds: Seeds, model_path: str | None) -> Task:
    """JSONL files or tfds builders named in the config; gold only by a scorer."""
    encoder = _text_encoder(section, _tokenizer(section, model_path))
    bad = section.choice("on_bad_line", ("stop", "skip"))

    def read(key: str, kind: str) -> data.Dataset | None:
        path = section.optional(key, section.str)
        if path is None:
            return None
        return data.read(path, kind, on_bad_line=bad)  # type: ignore[arg-type]

    prompts = read("prompts", "prompt")
    if prompts is None:
        raise UserError(f"{section.path}.prompts is None: name a file of prompts")
    heldout = read("heldout", "prompt")
    demonstrations = read("demonstrations", "demonstration")
    if heldout is None:
        share = section.int("heldout_share_percent", 1)
        prompts, heldout = data.split(prompts, share / 100)
        if demonstrations is not None:
            demonstrations, held = data.split(demonstrations, share / 100)
        else:
            held = None
    else:
        held = read("heldout_demonstrations", "demonstration")
    return Task(
        encoder=encoder,
        prompts=prompts,
        heldout=heldout,
        demonstrations=demonstrations,
        heldout_demonstrations=held,
        rankings=read("rankings", "ranking"),
        pretraining=read("pretraining", "document"),
        gold=None,
        gold_definition="none: no gold reward is known for these data",
        prompt_length=encoder.prompt_limit or 0,
        response_length=encoder.response_limit or 0,
    )


def _pydoc(section: Section, seeds: Seeds, model_path: str | None) -> Task:
    """Docstrings of the standard library: body -> summary line, gold by ROUGE-L."""
    from rlhf_jax.data import pydoc, text_metrics

    corpus = pydoc.corpus()
    path = section.optional("tokenizer", section.str) or model_path
    tokenizer = (
        tokenizers.load(path)
        if path
        else tokenizers.train_bpe(
            pydoc.texts(corpus), vocab_size=section.int("vocab_size", 300)
        )
    )
    encoder = _text_encoder(section, tokenizer)
    train, heldout = pydoc.demonstrations(corpus, encoder)

    def rouge(prompts: Any, responses: Any, records: Any) -> list[float]:
        del prompts
        return [
            text_metrics.rouge_l(response, record.response)
            for response, record in zip(responses, records, strict=True)
        ]

    return Task(
        encoder=encoder,
        prompts=train,
        heldout=heldout,
        demonstrations=train,
        heldout_demonstrations=heldout,
        rankings=None,
        pretraining=pydoc.documents(corpus),
        gold=text_scorers.function_scorer(
            rouge, tokenizer.decode, (*train.records, *heldout.records)
        ),
        gold_definition="ROUGE-L F1 against the summary line that the authors wrote",
        prompt_length=encoder.prompt_limit or 0,
        response_length=encoder.response_limit or 0,
    )


KINDS: dict[str, Callable[[Section, Seeds, str | None], Task]] = {
    "key_lm": _key_lm,
    "files": _files,
    "pydoc": _pydoc,
}
