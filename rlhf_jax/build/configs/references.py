"""What stages name of each other, checked before the first of them runs.

A wrong name in the last stage would otherwise show after the hours of the ones before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.build.configs.section import nearest
from rlhf_jax.build.objective import aggregates
from rlhf_jax.build.runs import elsewhere
from rlhf_jax.build.runs.context import Context
from rlhf_jax.build.tasks.task_type import Task
from rlhf_jax.data import Dataset
from rlhf_jax.data.encode import TooLong
from rlhf_jax.errors import UserError

POLICIES: Mapping[str, tuple[str, ...]] = {
    "pretraining": ("init",),
    "sft": ("init",),
    "label": ("policy",),
    "best_of_n": ("policy",),
    "rm": ("init",),
    "odin": ("init",),
    "attributes": ("init",),
    "ppo": ("policy", "reference"),
    "preference": ("policy", "reference"),
    "online_preference": ("policy", "reference"),
    "table": ("base", "policy"),
    "exact": ("policy", "reference"),
}
"""Keys of each kind of stage that name a policy of an earlier stage, or `init`."""

RANKED = ("rm", "odin")
"""Kinds of stage that make a reward model of rankings."""

WRITING = ("label", "best_of_n")
"""Kinds of stage that write rankings."""

SAMPLING = ("ppo", "online_preference", "table")
"""Kinds of stage that sample and score."""

TRAINING = ("ppo", "online_preference")
"""Kinds of stage that train a policy on the scores of `reward_model`."""


def check(name: str, plain: Mapping[str, Any], context: Context) -> None:
    """Checks what one stage names, given the stages before it.

    Args:
      name: the stage that was read last.
      plain: the whole config.
      context: knows the policies and reward models of the stages so far.

    Raises:
      UserError: a name of no earlier stage, or more prompts than the task has.
    """
    settings, kind = plain[name], plain[name]["kind"]
    path = f"config.{name}"
    rewards = [other for other in context.rewards if other != name]
    policies = [p for p in context.policies if p not in (name, *context.rewards)]
    for key in POLICIES.get(kind, ()):
        known = [*policies, *(rewards if kind in (*RANKED, "attributes") else ())]
        if settings[key] is not None or kind != "preference" or key != "reference":
            _model(f"{path}.{key}", settings[key], known, "policy")
    if kind in (*RANKED, "preference"):
        for source in settings["data"].split(","):
            _known(f"{path}.data", source, _labels(name, plain), "labels")
    if kind == "average":
        for source in settings["data"].split(","):
            _known(f"{path}.data", source, _labels(name, plain), "labels")
        for member in settings["members"]:
            _known(f"{path}.members", member, rewards, "reward model")
    if kind == "ppo":
        _check_ppo(path, settings, context)
    if kind == "best_of_n":
        _check_scorer(path, settings["reward_model"], context, rewards)
    if kind in ("table", "online_preference") and context.user_scorer is None:
        _check_scorer(path, settings["reward_model"], context, rewards)
    if kind in SAMPLING and context.gold_source != "task":
        _scorer("config.gold", context.gold_source, rewards)
    for scorer in context.eval_scorers if kind in SAMPLING else ():
        _scorer("config.eval_scorers", scorer, rewards)
    if kind in TRAINING and context.user_scorer is None:
        _check_judges(path, settings["reward_model"], plain, context)
    _check_counts(path, kind, settings, context)
    _check_task(path, kind, settings, context)
    if kind in RANKED and settings["data"] != "task":
        _check_labels(path, settings, plain, context)
    if kind == "ppo" and context.dump_step >= settings["steps"]:
        raise UserError(
            f"config.debug.dump_step={context.dump_step}: stage {name} has the steps 0"
            f" to {settings['steps'] - 1}"
        )


def critic_of_rewards(settings: Mapping[str, Any]) -> bool:
    """Whether a stage of kind `ppo` starts its critic from the reward model."""
    value = settings["value"]
    return value["enabled"] and value["separate"] and value["init"] == "reward_model"


def _check_ppo(path: str, settings: Mapping[str, Any], context: Context) -> None:
    source, critic = settings["reward_model"], critic_of_rewards(settings)
    if critic and aggregates.parse(source) is not None:
        raise UserError(
            f"{path}.reward_model={source!r} is several reward models, and"
            f" {path}.value.init='reward_model' starts the critic from one; set"
            f" {path}.value.init='policy' and {path}.value.head='zero'"
        )
    if critic:
        what = "reward model (which the critic starts from)"
        _model(f"{path}.reward_model", source, list(context.rewards), what)
    elif context.user_scorer is None:
        _check_scorer(path, source, context, list(context.rewards))


def _check_scorer(
    path: str, source: str, context: Context, rewards: Sequence[str]
) -> None:
    """`reward_model` of a stage: a reward model, or the task's gold reward."""
    _scorer(f"{path}.reward_model", source, [*rewards, "gold"])
    if source == "gold" and context.task.gold is None:
        raise UserError(
            f"{path}.reward_model='gold': this task has no gold reward; name a reward"
            " model stage, or give config.scorer=FILE.py:FUNCTION"
        )


def _check_judges(
    path: str, source: str, plain: Mapping[str, Any], context: Context
) -> None:
    """What stands for gold, or is only looked at, must not be what is trained on."""
    several = aggregates.parse(source)
    trained = list(several.members if several else (source,))
    stages = {name: plain[name] for name in plain["stages"]}
    averaged = [
        member
        for name in trained
        if name in stages and stages[name]["kind"] == "average"
        for member in stages[name]["members"]
    ]
    judges = [("config.eval_scorers", x, trained) for x in context.eval_scorers]
    if context.gold_source != "task":
        trained = [*trained, *averaged]  # the average has learned from their labels
        judges.append(("config.gold", context.gold_source, trained))
    for key, judge, among in judges:
        if judge in among:
            raise UserError(
                f"{key} names {judge!r}, and {path}.reward_model={source!r} trains on"
                " it; name a reward model that no policy is trained on"
            )
    stands, halves = context.gold_source, {"first", "second"}
    for name in trained:
        pair = [stages[x] for x in (stands, name) if x in stages]
        ranked = len(pair) == 2 and all(x["kind"] in RANKED for x in pair)
        if ranked and pair[0]["data"] == pair[1]["data"]:
            if {x["half"] for x in pair} != halves:
                raise UserError(
                    f"config.gold={stands!r} stands for gold, and learned from labels"
                    f" that {name!r} learned from too; give them {stands}.half and"
                    f" {name}.half, one 'first' and one 'second'"
                )


def _model(path: str, name: Any, known: Sequence[str], what: str) -> None:
    """A model: of an earlier stage, or of a folder (see `folders`)."""
    if not elsewhere.is_folder(str(name)):
        _known(path, name, known, what)


def _known(path: str, name: Any, known: Sequence[str], what: str) -> None:
    if name not in known:
        raise UserError(
            f"{path}={name!r} names no {what} of an earlier stage"
            f"{nearest(str(name), list(known))}"
        )


def _scorer(path: str, source: str, known: Sequence[str]) -> None:
    """A reward model, a directory of one, or several as `sum:a,b`."""
    several = aggregates.parse(source)
    known = [name for name in known if not (several and name == "gold")]
    for name in several.members if several else [source]:
        if not (Path(name) / "config.json").is_file():
            _model(path, name, known, "reward model")


def _labels(name: str, plain: Mapping[str, Any]) -> list[str]:
    """Stages before this one that write rankings, and the task's own labels."""
    stages = list(plain["stages"])
    before = stages[: stages.index(name)]
    return ["task", *(one for one in before if plain[one].get("kind") in WRITING)]


def _check_task(
    path: str, kind: str, settings: Mapping[str, Any], context: Context
) -> None:
    """The task must have what the stage asks of it."""
    task = context.task
    if kind == "label" and task.gold is None:
        raise UserError(
            f"{path}: labels come from the task's gold reward, and this task has none;"
            " give config.task.rankings and leave the stage out of config.stages"
        )
    given = task.rankings or (kind == "preference" and task.feedback)
    if kind in (*RANKED, "preference") and settings["data"] == "task" and not given:
        raise UserError(
            f"{path}.data='task': the task has no rankings; name a file in"
            " config.task.rankings, or a stage of kind label"
        )
    if "error" in (task.encoder.overlong_prompt, task.encoder.overlong_response):
        _check_lengths(kind, settings, context.task)


def _check_lengths(kind: str, settings: Mapping[str, Any], task: Task) -> None:
    """An example that is too long stops the run before its first stage."""
    read: list[tuple[Dataset | None, Callable[[Any], Any]]] = []
    if kind == "sft" or settings.get("normalize") == "demonstrations":
        read += [(task.demonstrations, task.encoder.sequence)]
        read += [(task.heldout_demonstrations, task.encoder.sequence)]
    if kind in RANKED and settings["data"] == "task":
        read += [(task.rankings, task.encoder.ranking)]
        read += [(task.heldout_rankings, task.encoder.ranking)]
    if kind in (*WRITING, *SAMPLING):

        def prompt(record: Any) -> Any:
            return task.encoder.prompt(record.prompt, record.id)

        read += [(task.prompts, prompt), (task.heldout, prompt)]
    for dataset, encode in read:
        for record in dataset.records if dataset is not None else ():
            with contextlib.suppress(TooLong):  # left out and counted
                encode(record)


def _check_labels(
    path: str, settings: Mapping[str, Any], plain: Mapping[str, Any], context: Context
) -> None:
    """A batch of rankings must not be larger than what will be labelled."""
    source, everything = settings["data"], len(context.task.prompts.records)
    stages = [name for name in source.split(",") if name != "task"]
    total = sum(plain[name]["prompts"] or everything for name in stages)
    total = total if settings["half"] == "all" else total // 2
    if settings["batch_size"] > total:
        raise UserError(
            f"{path}.batch_size={settings['batch_size']} asks for more than the {total}"
            f" rankings of stage {source}; lower it, or label more"
        )


def _check_counts(
    path: str, kind: str, settings: Mapping[str, Any], context: Context
) -> None:
    heldout, training = context.task.heldout, context.task.prompts
    rows = None if settings.get("packed", True) else context.task.demonstrations
    asked: dict[str, Any] = {
        "sft": {"batch_size": rows} if rows is not None else {},
        **dict.fromkeys(WRITING, {"prompts": training, "heldout": heldout}),
        "ppo": {"eval_prompts": heldout, "batch_size": training},
        "online_preference": {"eval_prompts": heldout, "batch_size": training},
        "table": {"prompts": heldout},
    }.get(kind, {})
    for key, dataset in asked.items():
        total = len(dataset.records)
        if settings[key] > total:
            raise UserError(
                f"{path}.{key}={settings[key]} asks for more than the {total} records"
                f" of '{dataset.name}'; lower it, or give the task more"
            )
