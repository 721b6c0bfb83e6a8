"""From `config.task` to data: prompts, demonstrations, rankings and the gold reward."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import logging

from rlhf_jax import data
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.configs.seeds import Seeds
from rlhf_jax.build.tasks import (
    arith_task,
    enumerable_task,
    feedback_task,
    shapes_task,
    text_tasks,
)
from rlhf_jax.build.tasks.task_type import Task
from rlhf_jax.data import tokenizer as tokenizers
from rlhf_jax.errors import UserError
from rlhf_jax.rollout import scorers
from rlhf_jax.worlds import key_lm

__all__ = ["KINDS", "Task", "task"]


def task(section: Section, seeds: Seeds, model_path: str | None) -> Task:
    """Reads `config.task`.

    Args:
      section: the section; its `kind` is one of `KINDS`.
      seeds: the data seed draws worlds and splits.
      model_path: `config.model.path`, whose tokenizer texts use.

    Raises:
      UserError: data that cannot be read, or of which all examples have weight 0.
    """
    found = KINDS[section.choice("kind", KINDS)](section, seeds.data, model_path)
    for part in found:
        if isinstance(part, data.Dataset):
            name = f"{section.path}, {part.name}"
            data.require_weight(name, (record.weight for record in part.records))
    return found


def _key_lm(section: Section, data_seed: int, model_path: str | None) -> Task:
    """Key-LM on bare token ids; any model with enough tokens can learn it."""
    contents, salient = section.int("contents", 2), section.int("salient", 1)
    length = section.int("response_length", 2)
    count, heldout = section.int("prompts", 1), section.int("heldout", 1)
    world = key_lm.World(contents=contents, salient=salient)
    vocab_size = world.vocab_size if model_path is None else _vocab_size(model_path)
    world = fitted(world, vocab_size)
    drawn = key_lm.prompts(world, data_seed, count + heldout)
    written = key_lm.demonstrations(world, data_seed + 1, drawn)
    encoder = data.Encoder(
        tokenizer=_symbols(world), prompt_limit=world.longest, response_limit=length
    )
    prompts, demonstrations = _datasets("train", drawn[:count], written[:count], length)
    heldout_prompts, heldout_demonstrations = _datasets(
        "heldout", drawn[count:], written[count:], length
    )
    return Task(
        encoder=encoder,
        prompts=prompts,
        heldout=heldout_prompts,
        demonstrations=demonstrations,
        heldout_demonstrations=heldout_demonstrations,
        rankings=None,
        heldout_rankings=None,
        pretraining=demonstrations,
        gold=scorers.world_scorer(lambda *arrays: key_lm.gold(world, *arrays)),
        gold_definition=key_lm.GOLD_DEFINITION,
        prompt_length=world.longest,
        response_length=length,
    )


def fitted(world: key_lm.World, vocab_size: int) -> key_lm.World:
    """The world with as many content tokens as a vocabulary has room for.

    Raises:
      UserError: not even the salient tokens and one more fit.
    """
    contents = min(world.contents, (vocab_size - key_lm.FIRST) // 2)
    if contents <= world.salient:
        raise UserError(
            f"a vocabulary of {vocab_size} tokens has room for {contents} content"
            f" tokens, too few for {world.salient} salient ones and one more; lower"
            " config.task.salient or use a larger vocabulary"
        )
    longest = min(world.longest, contents + 1)
    return world._replace(
        contents=contents, longest=longest, shortest=min(world.shortest, longest)
    )


def _symbols(world: key_lm.World) -> data.Tokenizer:
    return tokenizers.symbols(
        world.vocab_size,
        pad_token=key_lm.PAD,
        end_token=key_lm.EOS,
        names=key_lm.names(world),
    )


def _datasets(
    name: str, prompts: list[np.ndarray], responses: list[np.ndarray], length: int
) -> tuple[data.Dataset, data.Dataset]:
    """(prompts, demonstrations) of token ids; long demonstrations are cut."""
    rows = [
        (f"{name}-{i}", tuple(x.tolist()), tuple(y[:length].tolist()))
        for i, (x, y) in enumerate(zip(prompts, responses, strict=True))
    ]
    return (
        data.in_memory([data.Prompt(id=i, prompt=x) for i, x, _ in rows], name=name),
        data.in_memory(
            [data.Demonstration(id=i, prompt=x, response=y) for i, x, y in rows],
            name=f"{name}-demonstrations",
        ),
    )


def _vocab_size(model_path: str) -> int:
    path = Path(model_path) / "config.json"
    try:
        raw = json.loads(path.read_text())
        return int({**raw, **raw.get("text_config", {})}["vocab_size"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"config.model.path={model_path}: no usable {path}") from error


def _auto(section: Section, data_seed: int, model_path: str | None) -> Task:
    """Text where the model directory has a tokenizer, else Key-LM on bare token ids.

    The sub-sections `pydoc` and `key_lm` hold the keys of both; both are checked.
    """
    world, text = section.section("key_lm"), section.section("pydoc")
    world.choice("kind", ("key_lm",))
    text.choice("kind", ("pydoc",))
    if model_path is None:
        raise UserError(
            f"{section.path}.kind='auto' needs --config.model.path=DIR, a Hugging Face"
            " directory"
        )
    if has_tokenizer(model_path):
        _key_lm(world, data_seed, None)  # reads its keys; the world is small
        return text_tasks.pydoc(text, data_seed, model_path)
    logging.info(
        "%s has no tokenizer: the chain runs in the Key-LM world on bare token ids",
        model_path,
    )
    text_tasks.unused(text)
    return _key_lm(world, data_seed, model_path)


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
)


def has_tokenizer(directory: str) -> bool:
    """Whether a Hugging Face directory holds the files of a tokenizer."""
    return any((Path(directory) / name).is_file() for name in TOKENIZER_FILES)


KINDS: dict[str, Callable[[Section, int, str | None], Task]] = {
    "key_lm": _key_lm,
    "files": text_tasks.files,
    "feedback": feedback_task.feedback,
    "shapes": shapes_task.shapes,
    "pydoc": text_tasks.pydoc,
    "auto": _auto,
    "e64": enumerable_task.e64,
    "e32k": enumerable_task.e32k,
    "arith_lm": arith_task.arith_lm_task,
}
