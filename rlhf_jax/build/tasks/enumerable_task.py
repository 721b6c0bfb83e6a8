"""`config.task.kind='e64'` and `'e32k'`: worlds whose optimum is known exactly.

All prompts are the one empty prompt (a single start token) and all responses have
exactly T content tokens. With `config.model.family='tabular'` the networks are tables
(`TabularModel`) that start as the world's reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rlhf_jax import data
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.tasks.task_type import Task
from rlhf_jax.data import tokenizer as tokenizers
from rlhf_jax.errors import UserError
from rlhf_jax.placement import Placement
from rlhf_jax.rollout import scorers
from rlhf_jax.types import Array, Network, Params
from rlhf_jax.worlds import enumerable, tabular

WORLDS: Mapping[str, Callable[[int], enumerable.World]] = {
    "e64": enumerable.e64,
    "e32k": enumerable.e32k,
}
"""Kinds of tasks that are enumerable, and what draws their world from a seed."""


def e64(section: Section, data_seed: int, model_path: str | None) -> Task:
    """Reads `world prompts heldout` of a task in E64."""
    return _task("e64", section, data_seed, model_path)


def e32k(section: Section, data_seed: int, model_path: str | None) -> Task:
    """Reads `world prompts heldout` of a task in E32k."""
    return _task("e32k", section, data_seed, model_path)


def world_of(task: Mapping[str, Any], data_seed: int) -> enumerable.World:
    """The world of a plain `config.task`.

    Args:
      task: with `kind`, and `world`: the seed of the world, None to follow the data
        seed (then runs with other seeds live in other worlds).
      data_seed: `seeds.data`.

    Raises:
      UserError: the task is not enumerable.
    """
    kind = str(task["kind"])
    if kind not in WORLDS:
        raise UserError(
            f"config.task.kind={kind!r} has no exact world; use one of"
            f" {', '.join(WORLDS)}"
        )
    seed = task.get("world")
    return WORLDS[kind](data_seed if seed is None else seed)


def _task(kind: str, section: Section, data_seed: int, model_path: str | None) -> Task:
    if model_path is not None:
        raise UserError(
            f"{section.path}.kind='{kind}' has tokens of its own and cannot use"
            f" config.model.path={model_path}; leave the path out"
        )
    seed = section.optional("world", lambda key: section.int(key, 0))
    world = world_of({"kind": kind, "world": seed}, data_seed)
    count, heldout = section.int("prompts", 1), section.int("heldout", 1)
    prompts, demonstrations = _datasets(world, "train", count, data_seed + 1)
    held, held_demonstrations = _datasets(world, "heldout", heldout, data_seed + 2)
    return Task(
        encoder=data.Encoder(
            tokenizer=_symbols(world), prompt_limit=1, response_limit=world.length
        ),
        prompts=prompts,
        heldout=held,
        demonstrations=demonstrations,
        heldout_demonstrations=held_demonstrations,
        rankings=None,
        heldout_rankings=None,
        pretraining=demonstrations,
        gold=scorers.world_scorer(functools.partial(enumerable.gold, world)),
        gold_definition=enumerable.GOLD_DEFINITION,
        prompt_length=1,
        response_length=world.length,
        ends_at_length=True,
    )


def _symbols(world: enumerable.World) -> data.Tokenizer:
    """No token stops a response: the end token is the one of padding, which has
    probability 0 (`worlds.ends_at` makes the last token terminal)."""
    return tokenizers.symbols(
        world.vocab_size,
        pad_token=enumerable.PAD,
        end_token=enumerable.PAD,
        names=enumerable.names(world),
    )


def _datasets(
    world: enumerable.World, name: str, count: int, seed: int
) -> tuple[data.Dataset, data.Dataset]:
    """(empty prompts, responses to them drawn from the reference)."""
    drawn = enumerable.draw(world, enumerable.reference(world), seed, count)
    prompt = (enumerable.BOS,)
    prompts = [data.Prompt(id=f"{name}-{i}", prompt=prompt) for i in range(count)]
    demonstrations = [
        data.Demonstration(id=f"{name}-{i}", prompt=prompt, response=tuple(y.tolist()))
        for i, y in enumerate(drawn)
    ]
    return (
        data.in_memory(prompts, name=name),
        data.in_memory(demonstrations, name=f"{name}-demonstrations"),
    )


class TabularModel(NamedTuple):
    """What `models.Model` is, for tables: the networks that a run shares.

    Attributes:
      world: what they are tables over.
      lora: None; a table has no adapters.
      options: none.
      path: None; there are no checkpoints to start from.
    """

    world: enumerable.World
    lora: None = None
    options: Mapping[str, Any] = {}
    path: None = None

    @property
    def config(self) -> tabular.TabularConfig:
        """Sizes of the tables."""
        return tabular.config(self.world)

    def language(self, *, adapters: bool = False, value_head: bool = False) -> Network:
        """A policy, starting as the reference of the world."""
        del adapters
        return tabular.policy(self.world, value_head=value_head)

    def scalar(self, *, head: str = "normal", adapters: bool = False) -> Network:
        """A reward model or value function; `head` is `zero` or `normal`."""
        del adapters
        return tabular.scalar(self.world, std=STARTS[head])

    def first_weights(self, key: Array, placement: Placement) -> Params:
        """The reference policy."""
        del placement
        return self.language().init(key)

    def held(self, variables: Params) -> Params:
        """Variables of a model that is not trained: as they are."""
        return variables


STARTS: Mapping[str, float] = {"zero": 0.0, "normal": 0.1}
"""Standard deviation of a scalar table at its start."""
