"""`rlhf-jax ablate`: from `config.study` to runs that share what they can.

Stages that no cell of the study affects are trained once per seed in `shared/`; the
folders of the cells link to them. All runs live in one process and share compiled
programs, so a seed costs its updates and not its compilation.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from absl import logging

from rlhf_jax import errors
from rlhf_jax.build import claiming, defaults, experiment, sections
from rlhf_jax.build.programs import Programs
from rlhf_jax.build.section import Section, nearest
from rlhf_jax.errors import UserError
from rlhf_jax.studies import ablation, compare
from rlhf_jax.studies.ablation import plan as plans
from rlhf_jax.training.stopping import Stop

ConfigDict = ml_collections.ConfigDict

GRIDS = ("one_at_a_time", "product", "leave_one_out", "add_one_in")


GRADIENTS = ("optim/grad_norm", "optim/value/grad_norm")
"""Norms by which a dead factor is known: of the policy, and of a separate critic."""


class _Stopped(Exception):
    """SIGTERM arrived; what is done is kept."""


def ablate(config: ConfigDict, workdir: Path) -> int:
    """Runs the study of a config, or what is missing of it; returns the exit code.

    Raises:
      UserError: bad input, another plan in the folder, or a dead factor.
    """
    study = read(config)
    claiming.check_folder(workdir)
    logging.set_verbosity(logging.WARNING)
    for warning in plans.warnings(study.plan):
        print(f"note: {warning}")
    try:
        found = ablation.study(
            study.plan,
            _Runner(study, workdir, Programs()).run,
            workdir,
            progress=lambda done: print(done, flush=True),
        )
    except _Stopped:
        print("stopped; the same command runs what is missing")
        return experiment.PREEMPTED
    print(ablation.summary(found))
    print(f"report: {workdir / 'report.html'}")
    return 0


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
    base = ConfigDict(copy.deepcopy(config.to_dict()))
    if "study" not in base:
        raise UserError(
            "config.study is missing: it names the cells, seeds and metrics of an"
            " ablation; see experiments/ablations"
        )
    section = Section({"study": base.study.to_dict()}).section("study")
    del base["study"]
    stage = section.choice("stage", base.stages)
    plan = _plan(section, base.to_dict())
    section.finish()
    settings = []
    for cell in plan.cells:
        changed = configured(base, cell.changes, plan, plan.seeds[0])
        with Stop() as stop:
            try:
                context, _ = experiment.build(changed, Path("."), stop)
            except UserError as error:
                raise UserError(f"cell '{cell.name}': {error}") from None
        settings.append(context.settings)
    return Study(plan, base, stage, _unaffected(settings))


def _plan(section: Section, plain: Mapping[str, Any]) -> ablation.Plan:
    seeds = section.value("seeds")
    return ablation.make(
        section.str("name"),
        _cells(section, plain),
        range(seeds) if isinstance(seeds, int) else section.ints("seeds"),
        [_metric(values) for values in section.value("metrics")],
        question=section.str("question"),
        seed_kinds=_seed_kinds(section),
        config=plain,
        curves=section.names("curves"),
        gold=section.str("gold"),
        kl=section.str("kl"),
        confidence=section.float("confidence"),
        test=section.choice("test", ("sign_flip", "paired_t")),
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


def _metric(values: Mapping[str, Any]) -> ablation.Metric:
    unknown = sorted(set(values) - set(ablation.Metric._fields))
    if unknown:
        raise UserError(
            f"config.study.metrics: a metric has no '{unknown[0]}'"
            f"{nearest(unknown[0], list(ablation.Metric._fields))}"
        )
    return ablation.Metric(**values)


def _cells(section: Section, plain: Mapping[str, Any]) -> tuple[ablation.Cell, ...]:
    grid = section.choice("grid", GRIDS)
    if grid in ("leave_one_out", "add_one_in"):
        terms = [ablation.Term(name, dict(off)) for name, off in section.value("terms")]
        return getattr(ablation, grid)(terms)
    factors = [
        ablation.Factor(key, tuple(values)) for key, values in section.value("factors")
    ]
    return getattr(ablation, grid)(factors, plain)


def configured(
    base: ConfigDict, changes: Mapping[str, Any], plan: ablation.Plan, seed: int
) -> ConfigDict:
    """The config of a cell under a seed; logs of its own it keeps to the minimum.

    Raises:
      UserError: a change of a key that does not exist.
    """
    config = ConfigDict(copy.deepcopy(base.to_dict()))
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
    level = config
    for part in above:
        if part not in level:
            raise UserError(
                f"config.study changes '{key}', but there is no '{part}'"
                f"{nearest(part, list(level))}"
            )
        level = level[part]
    if last not in level and last not in sections.PARTS:
        raise UserError(
            f"config.study changes '{key}', but there is no '{last}'"
            f"{nearest(last, list(level))}"
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


class _Runner(NamedTuple):
    """Trains cells under seeds."""

    study: Study
    workdir: Path
    programs: Programs

    def run(self, cell: ablation.Cell, seed: int) -> ablation.Outcome:
        """Trains one cell under one seed."""
        began = time.monotonic()
        plan, study = self.study.plan, self.study
        folder = self.workdir / "runs" / plans.slug(cell.name) / f"seed-{seed}"
        config = configured(study.config, cell.changes, plan, seed)
        common = self.workdir / "shared" / f"seed-{seed}"
        if study.shared:
            baseline = configured(study.config, plan.baseline.changes, plan, seed)
            self._train(baseline, common, only=study.shared)
        self._train(config, folder, shared={n: common / n for n in study.shared})
        found = [
            ablation.from_workdir(
                folder,
                plan.metrics,
                curves=plan.curves,
                gradients=name,
                stage=study.stage,
                seconds=time.monotonic() - began,
            )
            for name in GRADIENTS
        ]
        gradients = [norm for outcome in found for norm in outcome.gradients]
        return found[0]._replace(gradients=gradients)

    def _train(self, config: ConfigDict, folder: Path, **options: Any) -> None:
        try:
            code = experiment.execute(config, folder, programs=self.programs, **options)
        except errors.NotFinite as ended:
            raise ablation.Diverged(ended.step, ended.reason) from None
        if code != 0:
            raise _Stopped
