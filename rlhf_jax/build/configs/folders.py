"""Folders of models that a config names, looked into before the first stage runs.

Their weights are read when the stage begins that names them, which may be hours later.
What can be told from names and shapes on disk is told here: that they are there, of the
right kind, and of the architecture that the run computes with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rlhf_jax import networks, rng
from rlhf_jax.build.configs import references
from rlhf_jax.build.objective import aggregates
from rlhf_jax.build.runs import elsewhere, models
from rlhf_jax.build.runs.context import Context
from rlhf_jax.data import tokenizer as tokenizers
from rlhf_jax.errors import UserError


class Asked(NamedTuple):
    """What a key names.

    Attributes:
      path: the key.
      source: its value, a stage of the run perhaps.
      scored: whether it is asked for scores, with an architecture of its own.
      policy: whether it must be a language model.
    """

    path: str
    source: str
    scored: bool
    policy: bool


def check(plain: Mapping[str, Any], context: Context) -> None:
    """Looks into every folder that the stages of a run name.

    Args:
      plain: the whole config.
      context: knows the stages of the run and its architecture.

    Raises:
      UserError: naming the key, its value and what is wrong with the folder.
    """
    if context.model.path is not None:
        elsewhere.look(str(context.model.path), "config.model.path")
    for asked in dict.fromkeys(_asked(plain, context)):
        source = asked.source
        own = {*context.policies, *context.rewards, "gold", "task"}
        if source in own or not Path(source).is_dir():
            continue  # an unknown name is refused by `references`
        seen = elsewhere.look(source, asked.path)
        if asked.scored:
            _check_scorer(asked, seen)
        else:
            _check_policy(asked, seen, context.model)


def _asked(plain: Mapping[str, Any], context: Context) -> Iterator[Asked]:
    stages = {name: plain[name] for name in plain["stages"]}
    kinds = {settings["kind"] for settings in stages.values()}
    for name, settings in stages.items():
        kind, path = settings["kind"], f"config.{name}"
        trunk = kind in (*references.RANKED, "attributes")
        for key in references.POLICIES.get(kind, ()):
            if settings[key] is not None:
                yield Asked(f"{path}.{key}", settings[key], False, not trunk)
        scored = kind in references.SAMPLING and context.user_scorer is None
        if kind == "best_of_n" or scored:
            yield from _members(f"{path}.reward_model", settings["reward_model"])
        if kind == "ppo" and references.critic_of_rewards(settings):
            yield Asked(f"{path}.reward_model", settings["reward_model"], False, False)
    if kinds & {*references.SAMPLING}:
        yield from _members("config.gold", context.gold_source)
        for source in context.eval_scorers:
            yield from _members("config.eval_scorers", source)


def _members(path: str, source: str) -> Iterator[Asked]:
    several = aggregates.parse(source)
    for name in several.members if several else (source,):
        yield Asked(path, name, True, False)


def _check_scorer(asked: Asked, seen: Any) -> None:
    if not seen.scalar:
        raise UserError(
            f"{asked.path}='{asked.source}' is no reward model: it has no scalar head"
        )
    if not seen.shapes:  # a directory is scored on text, by its own tokenizer
        try:
            tokenizers.load(asked.source)
        except UserError as error:
            raise UserError(f"{asked.path}='{asked.source}': {error}") from None


def _check_policy(asked: Asked, seen: Any, model: models.Model) -> None:
    where = f"{asked.path}='{asked.source}'"
    if asked.policy and seen.scalar:
        raise UserError(f"{where} is a reward model; name a policy")
    if not isinstance(model.config, networks.TransformerConfig) or seen.config is None:
        return  # tables, whose shapes the world decides
    differing = networks.differing(seen.config, model.config)
    if seen.shapes:
        differing.pop("vocab_size", None)
    for name, what in differing.items():
        raise UserError(
            f"{where} is of another architecture than config.model: {name} is {what};"
            " give config.model the sizes of the folder"
        )
    if not any(name.startswith("params/") for name in seen.shapes):
        return  # adapters alone; what they stand on has the config's architecture
    shapes = jax.eval_shape(model.language().init, rng.root(0))
    for name, shape, _ in models.parameter_table(shapes):
        found = seen.shapes.get(name)
        if found != shape:
            raise UserError(
                f"{where} does not fit config.model: {name} is"
                f" {'absent' if found is None else found} there and {shape} here"
            )
