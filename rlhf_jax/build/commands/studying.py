"""From `config.study` to a plan, and from a cell and a seed to a config."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from rlhf_jax.build import experiment
from rlhf_jax.build.commands import study_names
from rlhf_jax.build.configs import defaults, sections
from rlhf_jax.build.configs.section import Section, nearest
from rlhf_jax.errors import UserError
from rlhf_jax.studies import ablation, compare
from rlhf_jax.training.stopping import Stop

ConfigDict = ml_collections.ConfigDict

GRIDS = ("one_at_a_time", "product", "leave_one_out", "add_one_in")


UNTRAINED = ("label", "best_of_n", "average", "table", "exact")
"""Kinds of stage without gradients."""


class Study(NamedTuple):
    """What a config asks for.

    Attributes:
      plan: cells, seeds and metrics.
      config: of the baseline, without `study`.
      stage: whose curves and gradients are kept.
      shared: stages that no cell affects, in their order.
    """

    plan: ablation.Plan
    config: ConfigDict
    stage: str
    shared: tuple[str, ...]


def read(config: ConfigDict) -> Study:
    """Reads `config.study` and builds every cell once, so that errors come first.

    Raises:
      UserError: a key that is missing or unknown, or a cell that does not build.
    """
    base: Any = ConfigDict(copy.deepcopy(config.to_dict()))
    if "study" not in base:
        raise UserError(
            "config.study is missing: it names the cells, seeds and metrics of an"
            " ablation; see experiments/ablations"
        )
    section = Section({"study": base.study.to_dict()}).section("study")
    del base["study"]
    stage = section.choice("stage", base.stages)
    if base[stage].kind in UNTRAINED:
        raise UserError(
            f"config.study.stage={stage!r} trains nothing, so it has no gradients that"
            " say whether a factor does anything; name a stage that does"
        )
    plan = _plan(section, base.to_dict())
    section.finish()
    _check_changes(plan)
    settings, made = [], {}
    for cell in plan.cells:
        changed = configured(base, cell.changes, plan, plan.seeds[0])
        same = made.setdefault(changed.to_json(sort_keys=True), cell.name)
        if same != cell.name:
            raise UserError(f"cell '{cell.name}' has the config of cell '{same}'")
        with Stop() as stop:
            try:
                context, stages = experiment.build(changed, Path("."), stop)
                trained = next(one for one in stages if one.name == stage)
                study_names.check(plan, changed.to_dict(), context, trained)
            except UserError as error:
                raise UserError(f"cell '{cell.name}': {error}") from None
        settings.append(context.settings)
    return Study(plan, base, stage, _unaffected(settings))


def _plan(section: Section, plain: Mapping[str, Any]) -> ablation.Plan:
    counted = not isinstance(section.value("seeds"), tuple | list)
    return ablation.make(
        section.str("name"),
        _cells(section, plain),
        range(section.int("seeds", 1)) if counted else section.ints("seeds"),
        _metrics(section),
        question=section.str("question"),
        seed_kinds=_seed_kinds(section),
        config=plain,
        curves=section.names("curves"),
        gold=section.str("gold"),
        kl=section.str("kl"),
        confidence=section.float("confidence"),
        test=section.choice("test", ("sign_flip", "paired_t")),
    )


def _check_changes(plan: ablation.Plan) -> None:
    """Cells differ in what they do: not in their seeds, by which they are paired, and
    not in their stages, of which each is looked up in all of them."""
    for key in (key for cell in plan.cells for key in cell.changes):
        first = key.split(".")[0]
        if first in ("seed", "seeds"):
            raise UserError(
                f"config.study changes '{key}', but cells are paired by seed; say in"
                " config.study.seeds which seeds all of them run with, and in"
                " config.study.seed_kinds what these vary"
            )
        if first == "stages":
            raise UserError(
                f"config.study changes '{key}', but cells of other stages have other"
                " metrics and share no training; let all of them run the same stages"
                " and change what a later one reads, such as ppo.policy='init'"
            )


def _seed_kinds(section: Section) -> tuple[str, ...]:
    kinds = section.names("seed_kinds")
    for kind in kinds:
        if kind not in defaults.SEEDS:
            raise UserError(
                f"{section.path}.seed_kinds names '{kind}'"
                f"{nearest(kind, list(defaults.SEEDS))}"
            )
    return kinds


def _metrics(section: Section) -> list[ablation.Metric]:
    found = section.value("metrics")
    if not isinstance(found, tuple | list) or not all(
        isinstance(one, Mapping) for one in found
    ):
        raise UserError(
            f"{section.path}.metrics={found!r} must be a tuple of dicts of a name (and"
            " path, direction, unit, margin)"
        )
    return [_metric(one) for one in found]


def _metric(values: Mapping[str, Any]) -> ablation.Metric:
    unknown = sorted(set(values) - set(ablation.Metric._fields))
    if unknown:
        raise UserError(
            f"config.study.metrics: a metric has no '{unknown[0]}'"
            f"{nearest(unknown[0], list(ablation.Metric._fields))}"
        )
    if "name" not in values:
        raise UserError(f"config.study.metrics: {dict(values)} has no name")
    return ablation.Metric(**values)


def _cells(section: Section, plain: Mapping[str, Any]) -> tuple[ablation.Cell, ...]:
    grid = section.choice("grid", GRIDS)
    key = "terms" if grid in ("leave_one_out", "add_one_in") else "factors"
    _check_pairs(section, key)
    if grid in ("leave_one_out", "add_one_in"):
        terms = [ablation.Term(name, dict(off)) for name, off in section.value("terms")]
        return getattr(ablation, grid)(terms)
    factors = [
        ablation.Factor(key, tuple(values)) for key, values in section.value("factors")
    ]
    return getattr(ablation, grid)(factors, plain)


def _check_pairs(section: Section, key: str) -> None:
    """`factors` are (key, values), `terms` (name, changes), changes (key, value)."""
    found = section.value(key)
    inner = [pair[1] for pair in found] if _are_pairs(found) else [None]
    if not all(isinstance(x, tuple | list) for x in inner) or (
        key == "terms" and not all(map(_are_pairs, inner))
    ):
        form = (
            "(('name', (('a.key', value),)), ...)"
            if key == "terms"
            else "(('a.key', (value, value)), ...)"
        )
        raise UserError(f"{section.path}.{key}={found!r} is not of the form {form}")


def _are_pairs(found: Any) -> bool:
    return isinstance(found, tuple | list) and all(
        isinstance(x, tuple | list) and len(x) == 2 and isinstance(x[0], str)
        for x in found
    )


def configured(
    base: ConfigDict, changes: Mapping[str, Any], plan: ablation.Plan, seed: int
) -> ConfigDict:
    """The config of a cell under a seed; logs of its own it keeps to the minimum.

    Raises:
      UserError: a change of a key that does not exist.
    """
    config: Any = ConfigDict(copy.deepcopy(base.to_dict()))
    for key, value in changes.items():
        _change(config, key, value)
    for name in config.stages:
        config[name] = sections.listed(config[name])
    for kind in plan.seed_kinds:
        config.seeds[kind] = seed
    config.logging.update(
        dict(tensorboard=False, wandb=False, progress=False, report=False)
    )
    return config


def _change(config: ConfigDict, key: str, value: Any) -> None:
    *above, last = key.split(".")
    level: Any = config
    for part in above:
        if part not in level:
            raise UserError(
                f"config.study changes '{key}', but there is no '{part}'"
                f"{nearest(part, list(level))}"
            )
        level = level[part]
        if not isinstance(level, ConfigDict):
            raise UserError(
                f"config.study changes '{key}', but '{part}' is no section: it is"
                f" {level!r}"
            )
    if last not in level and last not in sections.PARTS:
        raise UserError(
            f"config.study changes '{key}', but there is no '{last}'"
            f"{nearest(last, list(level))}"
        )
    if isinstance(level.get(last), ConfigDict) and not isinstance(value, Mapping):
        raise UserError(
            f"config.study sets '{key}' to {value!r}, but that is a section"
        )
    with level.unlocked(), level.ignore_type():
        level[last] = ConfigDict(value) if isinstance(value, Mapping) else value


def _unaffected(settings: list[dict[str, Mapping[str, Any]]]) -> tuple[str, ...]:
    """Stages whose numbers depend on nothing that differs between the cells."""
    first = settings[0]
    return tuple(
        name
        for name in first
        if all(
            list(other) == list(first)
            and not compare.difference([first[name], other[name]])
            for other in settings
        )
    )
