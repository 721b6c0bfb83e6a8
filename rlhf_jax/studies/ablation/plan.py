"""What an ablation will run: cells, seeds, metrics, fixed before the first number.

A plan is written to `plan.json` when a study begins. Whoever comes back with another
plan is told what differs: a study whose cells or metrics change after the first result
has been seen is no study.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rlhf_jax import stats
from rlhf_jax.errors import UserError
from rlhf_jax.studies import compare, files

EXPLORATORY_UP_TO = 5
"""With this many seeds or fewer a result is labeled exploratory."""

VERSION = 1

Test = Literal["sign_flip", "paired_t"]


class Metric(NamedTuple):
    """A number that every run ends with.

    Attributes:
      name: what tables and plots call it.
      path: where a run keeps it: dotted keys into its summary (`table.ppo.gold.mean`)
        or the name of a metric of its last row (`eval/gold`). Empty: as `name`.
      direction: whether `up` or `down` is better.
      unit: of the number, such as `score` or `nats`.
      margin: difference to the baseline that does not matter; given, each cell is also
        tested for equivalence. None: not tested.
    """

    name: str
    path: str = ""
    direction: Literal["up", "down"] = "up"
    unit: str = ""
    margin: float | None = None

    @property
    def source(self) -> str:
        """The path, or the name where no path is given."""
        return self.path or self.name


class Cell(NamedTuple):
    """One configuration of the study.

    Attributes:
      name: unique in the plan.
      changes: dotted config key -> value, against the config of the study.
      baseline: whether the others are compared to it.
      leaves_out: name of the term that it leaves out ("" for other cells). If its
        gradients equal the baseline's, the term does nothing and the study stops.
    """

    name: str
    changes: Mapping[str, Any]
    baseline: bool = False
    leaves_out: str = ""


class Plan(NamedTuple):
    """A study, complete (see `make`, which checks it).

    Attributes:
      name: of the study.
      cells: in the order of work; the baseline is first.
      seeds: each cell runs with each; comparisons are paired by seed.
      metrics: what is compared.
      question: what the study asks, in a sentence or two, for the report.
      seed_kinds: which kinds of seed vary with the seed (`init`, `data`, ...). For the
        reader and for whoever runs the cells.
      config: the config of the study, nested, to show what a change replaces.
      curves: names of metrics to keep by step, for plots.
      gold: name of the curve or metric that is the true reward; "" for none.
      kl: name of the curve or metric that is the distance from the reference.
      confidence: of intervals, and 1 - alpha of verdicts.
      test: whose p values decide: exact sign flips, or the paired t test (more power
        at few seeds, at the price of normality).
    """

    name: str
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    metrics: tuple[Metric, ...]
    question: str = ""
    seed_kinds: tuple[str, ...] = ()
    config: Mapping[str, Any] = {}
    curves: tuple[str, ...] = ()
    gold: str = ""
    kl: str = ""
    confidence: float = 0.95
    test: Test = "sign_flip"

    @property
    def baseline(self) -> Cell:
        """The cell that the others are compared to."""
        return next(cell for cell in self.cells if cell.baseline)

    @property
    def others(self) -> tuple[Cell, ...]:
        """The cells that are compared to the baseline."""
        return tuple(cell for cell in self.cells if not cell.baseline)

    @property
    def exploratory(self) -> bool:
        """Whether there are too few seeds for more than a hint."""
        return len(self.seeds) <= EXPLORATORY_UP_TO


def make(
    name: str,
    cells: tuple[Cell, ...] | list[Cell],
    seeds: tuple[int, ...] | list[int] | range,
    metrics: tuple[Metric, ...] | list[Metric],
    **options: Any,
) -> Plan:
    """A checked plan, baseline first.

    Args:
      name: of the study.
      cells: from one of the `grids`, or one's own.
      seeds: at least one, no two alike.
      metrics: at least one, names unique.
      **options: further fields of `Plan`.

    Raises:
      UserError: no or two baselines, names that repeat, nothing to compare, an option
        that does not exist.
    """
    unknown = sorted(set(options) - set(Plan._fields))
    if unknown:
        raise UserError(
            f"a plan has no {unknown[0]!r}; it has {', '.join(Plan._fields)}"
        )
    for kind in ("seed_kinds", "curves"):
        options[kind] = tuple(options.get(kind, ()))
    ordered = sorted(cells, key=lambda cell: not cell.baseline)
    plan = Plan(name, tuple(ordered), tuple(seeds), tuple(metrics), **options)
    _check(plan)
    return plan


def _check(plan: Plan) -> None:
    baselines = [cell.name for cell in plan.cells if cell.baseline]
    if len(baselines) != 1:
        raise UserError(
            f"study {plan.name!r} needs one baseline cell, it has {len(baselines)}"
            f"{': ' + ', '.join(baselines) if baselines else ''}"
        )
    if not plan.others:
        raise UserError(f"study {plan.name!r} has no cell beside its baseline")
    named: dict[str, list[Any]] = {
        "cell": [cell.name for cell in plan.cells],
        "seed": list(plan.seeds),
        "metric": [metric.name for metric in plan.metrics],
    }
    for what, found in named.items():
        if not found:
            raise UserError(f"study {plan.name!r} has no {what}: name at least one")
        repeated = sorted({str(one) for one in found if found.count(one) > 1})
        if repeated:
            raise UserError(f"study {plan.name!r} has the {what} {repeated[0]!r} twice")
    for metric in plan.metrics:
        _check_metric(metric)
    if plan.test not in ("sign_flip", "paired_t"):
        raise UserError(f"test={plan.test!r} must be 'sign_flip' or 'paired_t'")
    if not 0.5 < plan.confidence < 1:
        raise UserError(f"confidence={plan.confidence} must lie between 0.5 and 1")


def _check_metric(metric: Metric) -> None:
    if metric.direction not in ("up", "down"):
        raise UserError(
            f"metric {metric.name!r}: direction={metric.direction!r} must be 'up' or "
            "'down', whichever is better"
        )
    if metric.margin is not None and not metric.margin > 0:
        raise UserError(f"metric {metric.name!r}: margin={metric.margin} must be > 0")


def warnings(plan: Plan) -> list[str]:
    """What the plan cannot find out, known before it runs; empty where all is well."""
    found = []
    count = len(plan.seeds)
    alpha = 1 - plan.confidence
    if plan.exploratory:
        found.append(
            f"{count} seed{'s' if count > 1 else ''}: exploratory. More than "
            f"{EXPLORATORY_UP_TO} seeds are needed for more than a hint."
        )
    least = stats.smallest_sign_flip(count) * len(plan.others)
    if plan.test == "sign_flip" and least > alpha:
        found.append(
            f"With {count} seeds the smallest possible sign-flip p, adjusted for "
            f"{len(plan.others)} comparisons, is {min(least, 1.0):.2g}: no verdict can "
            f"be reached at {alpha:.2g}. Use more seeds, fewer cells, or "
            "test='paired_t'."
        )
    return found


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON values."""
    value = plan._asdict() | {
        "cells": [cell._asdict() for cell in plan.cells],
        "metrics": [metric._asdict() for metric in plan.metrics],
    }
    return files.finite({"version": VERSION} | value)


def from_json(value: Mapping[str, Any]) -> Plan:
    """The plan that `to_json` wrote.

    Raises:
      UserError: written by another version.
    """
    if value.get("version") != VERSION:
        raise UserError(
            f"plan.json is of version {value.get('version')}, this code reads "
            f"{VERSION}: use another folder"
        )
    fields = {key: item for key, item in value.items() if key != "version"}
    cells = tuple(Cell(**cell) for cell in fields.pop("cells"))
    metrics = tuple(Metric(**metric) for metric in fields.pop("metrics"))
    name, seeds = fields.pop("name"), fields.pop("seeds")
    return make(name, cells, seeds, metrics, **fields)


def freeze(plan: Plan, folder: Path) -> Path:
    """Write `plan.json`, or check that the one there is this plan.

    Raises:
      UserError: another plan is there; the message names what differs.
    """
    path = folder / "plan.json"
    wanted = to_json(plan)
    if not path.exists():
        return files.write_json(path, wanted)
    there = files.read_json(path)
    if there != wanted:
        raise UserError(
            f"{path} holds another plan, and a study keeps the plan that it began "
            f"with: {_first_differences(there, wanted)}. Give a new folder, or the "
            "old settings"
        )
    return path


def read(folder: Path) -> Plan:
    """The plan that a folder was frozen with."""
    return from_json(files.read_json(folder / "plan.json"))


def _first_differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    texts = []
    old, new = dict(there), dict(wanted)
    for key, what in (("cells", "cell"), ("metrics", "metric")):
        before, after = ({one["name"]: one for one in of[key]} for of in (old, new))
        texts += [f"{what} {name!r} is gone" for name in before if name not in after]
        texts += [f"{what} {name!r} is new" for name in after if name not in before]
        shared = [name for name in before if name in after]
        if not texts and shared != list(after):
            texts.append(f"the order of the {key} changed")
        old[key], new[key] = ({n: of[n] for n in shared} for of in (before, after))
    found = compare.difference([old, new])
    texts += [f"{key} was {a} and is {b}" for key, (a, b) in found.items()]
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return "; ".join(texts[:3]) + more


def slug(name: str) -> str:
    """A name as part of a file name: letters, digits, dots and hyphens."""
    return re.sub(r"[^A-Za-z0-9.=_]+", "-", name).strip("-.")[:60] or "cell"
