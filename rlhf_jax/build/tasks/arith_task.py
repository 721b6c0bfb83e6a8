"""`config.task.kind='arith_lm'`: sums with a verifiable reward."""

from __future__ import annotations

import functools

from rlhf_jax import data
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.tasks.task_type import Task
from rlhf_jax.data import tokenizer as tokenizers
from rlhf_jax.errors import UserError
from rlhf_jax.rollout import scorers
from rlhf_jax.worlds import arith_lm


def arith_lm_task(section: Section, data_seed: int, model_path: str | None) -> Task:
    """Reads `below wrong filler response_length prompts heldout`, and `layout`.

    Prompts are distinct sums; the held-out ones are trained on nowhere. `layout` may be
    left out: numbers are then aligned (`worlds.arith_lm`).

    Raises:
      UserError: more prompts than sums, a checkpoint is named, or too short responses.
    """
    if model_path is not None:
        raise UserError(
            f"{section.path}.kind='arith_lm' has tokens of its own and cannot use"
            f" config.model.path={model_path}; leave the path out"
        )
    world = arith_lm.World(
        below=section.int("below", 2, 1000),
        wrong=section.float("wrong", 0.0, 1.0),
        filler=section.float("filler", 0.0, 0.9),
    )
    if section.has("layout"):
        layout = section.choice("layout", arith_lm.LAYOUTS)
        world = world._replace(layout=layout)
    length = section.int("response_length", 2)
    if length < world.answer_length:
        raise UserError(
            f"{section.path}.response_length={length}: the sum of two numbers below"
            f" {world.below} and the stop token need {world.answer_length} tokens"
        )
    count, heldout = section.int("prompts", 1), section.int("heldout", 1)
    drawn = arith_lm.pairs(world, data_seed, count + heldout)
    training = _datasets(world, "train", drawn[:count], data_seed + 1, length)
    held = _datasets(world, "heldout", drawn[count:], data_seed + 2, length)
    return Task(
        encoder=data.Encoder(
            tokenizer=tokenizers.symbols(
                world.vocab_size,
                pad_token=arith_lm.PAD,
                end_token=arith_lm.EOS,
                names=arith_lm.names(world),
            ),
            prompt_limit=world.prompt_length,
            response_limit=length,
        ),
        prompts=training[0],
        heldout=held[0],
        demonstrations=training[1],
        heldout_demonstrations=held[1],
        rankings=None,
        heldout_rankings=None,
        pretraining=training[1],
        gold=scorers.world_scorer(functools.partial(arith_lm.gold, world)),
        gold_definition=arith_lm.GOLD_DEFINITION,
        prompt_length=world.prompt_length,
        response_length=length,
    )


def _datasets(
    world: arith_lm.World,
    name: str,
    drawn: list[tuple[int, int]],
    seed: int,
    length: int,
) -> tuple[data.Dataset, data.Dataset]:
    """(prompts, demonstrations) of sums; long demonstrations are cut."""
    written = arith_lm.demonstrations(world, seed, drawn)
    prompts, demonstrations = [], []
    for index, ((a, b), response) in enumerate(zip(drawn, written, strict=True)):
        tokens = tuple(arith_lm.prompt(world, a, b).tolist())
        id = f"{name}-{index}"
        prompts.append(data.Prompt(id=id, prompt=tokens))
        given = tuple(response[:length].tolist())
        demonstrations.append(data.Demonstration(id=id, prompt=tokens, response=given))
    return (
        data.in_memory(prompts, name=name),
        data.in_memory(demonstrations, name=f"{name}-demonstrations"),
    )
