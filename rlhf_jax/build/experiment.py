"""From a config to a run: named stages in their order, each done once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging

from rlhf_jax import __version__, algorithms, hosts, rng, rollout
from rlhf_jax.build import kinds
from rlhf_jax.build.commands import summarizing
from rlhf_jax.build.configs import defaults, folders, keeping, references, shortcuts
from rlhf_jax.build.configs import seeds as seeding
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.runs import claiming, finishing, models, placing, timekeeping
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.build.runs.programs import Programs
from rlhf_jax.build.tasks import enumerable_task, tasks
from rlhf_jax.errors import UserError
from rlhf_jax.placement import Placement
from rlhf_jax.training import writers
from rlhf_jax.training.stopping import Preempted, Stop
from rlhf_jax.types import Learner

PREEMPTED = 143
"""Exit code after SIGTERM, 128 + 15."""


def build(
    config: Any,
    workdir: Path,
    stop: Stop,
    programs: Programs | None = None,
    seat: Callable[[algorithms.PPO], Learner] | None = None,
    devices: Sequence[Any] | None = None,
) -> tuple[Context, list[Stage]]:
    """`read`, and a look at all that a run is going to ask of its surroundings.

    Raises:
      UserError: as `read`, or a folder that a stage names holds no model that fits, or
        no evaluation measures what the best checkpoint is chosen by.
    """
    context, stages = read(config, workdir, stop, programs, seat, devices)
    folders.check(config.to_dict(), context)
    keeping.check(context.retention.best, stages)
    return context, stages


def read(
    config: Any,
    workdir: Path,
    stop: Stop,
    programs: Programs | None = None,
    seat: Callable[[algorithms.PPO], Learner] | None = None,
    devices: Sequence[Any] | None = None,
) -> tuple[Context, list[Stage]]:
    """Reads the whole config; nothing is trained and nothing written.

    Args:
      config: of the experiment.
      workdir: folder of the run.
      stop: set by SIGTERM.
      programs: of other runs of the same study, or None.
      seat: see `Context`, or None.
      devices: of the mesh, such as those of a topology; None = those that are here.

    Raises:
      UserError: any key that is unknown, unread, of the wrong type or out of range.
    """
    plain = config.to_dict()
    if "study" in plain:
        raise UserError(
            "config.study makes this a study of many runs: `rlhf-jax ablate` runs it"
        )
    root = Section(plain)
    names = root.names("stages")
    _check_names(names, root)
    seeds = seeding.seeds(root)
    devices = list(jax.devices() if devices is None else devices)
    task, model = _task_and_model(root, seeds, devices[0].platform)
    placement = placing.placement(root.section("mesh"), model, devices)
    context = _context(root, workdir, stop, task, model, seeds, plain, names, placement)
    context = context._replace(
        programs=programs or Programs(), seat=seat or (lambda built: built.learner)
    )
    stages = []
    for name in names:
        section = root.section(name)
        kind = kinds.KINDS[section.choice("kind", kinds.KINDS)]
        stages.append(kind(name, section, context))
        references.check(name, plain, context)
    placing.check_batches(context.placement, {name: plain[name] for name in names})
    root.leave([*_unlisted(plain, names), *shortcuts.check(plain, names)])
    root.finish()
    return context, stages


def _task_and_model(
    root: Section, seeds: seeding.Seeds, platform: str
) -> tuple[tasks.Task, Any]:
    """The task, and a `models.Model` or what stands for one in tables."""
    section, data = root.section("model"), root.section("task")
    if models.is_tabular(section):
        section.str("family")
        task = tasks.task(data, seeds, None)
        world = enumerable_task.world_of(data.values(), seeds.data)
        return task, enumerable_task.TabularModel(world)
    path = section.optional("path", section.str)
    task = tasks.task(data, seeds, path)
    length = task.prompt_length + task.response_length
    size = task.tokenizer.vocab_size
    return task, models.model(section, size, length, platform)


def _check_names(names: tuple[str, ...], root: Section) -> None:
    for name in names:
        root.section(name)
    twice = [name for name in names if names.count(name) > 1]
    if twice or not names:
        what = f"names '{twice[0]}' twice" if twice else "is empty"
        raise UserError(f"config.stages {what}; name each stage once, in their order")


def _unlisted(plain: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    """Sections of stages that `config.stages` leaves out on purpose."""
    sections = [key for key, value in plain.items() if isinstance(value, Mapping)]
    return [
        key
        for key in sections
        if key not in ("task", *names) and plain[key].get("kind") in kinds.KINDS
    ]


def _context(
    root: Section,
    workdir: Path,
    stop: Stop,
    task: tasks.Task,
    model: Any,
    seeds: seeding.Seeds,
    plain: Mapping[str, Any],
    names: tuple[str, ...],
    placement: Placement,
) -> Context:
    saving, logs = root.section("checkpoint"), root.section("logging")
    spec = root.optional("scorer", root.str)
    first = {"init": lambda: model.first_weights(_init_key(seeds), placement)}
    return Context(
        workdir=workdir,
        task=task,
        model=model,
        seeds=seeds,
        settings=_settings(plain, names),
        notes={k: plain[k] for k in defaults.NUMBERLESS} | {"version": __version__},
        save_every=saving.int("save_every", 0),
        retention=keeping.rules(saving),
        progress=_logging(logs),
        writers=[],
        stop=stop,
        dump_step=root.section("debug").int("dump_step", -1),
        policies=first,
        rewards={},
        eval_scorers=root.names("eval_scorers"),
        user_scorer=_user_scorer(spec, task),
        gold_source=root.str("gold"),
        programs=Programs(),
        seat=lambda built: built.learner,
        placement=placement,
    )


def _logging(section: Section) -> bool:
    """Reads the section; writers are opened by `run`."""
    for key in ("tensorboard", "report"):
        section.bool(key)
    if section.bool("wandb"):
        writers.require_wandb()
    return section.bool("progress")


def _init_key(seeds: seeding.Seeds) -> jax.Array:
    return rng.named(rng.root(seeds.init), "model")


def _user_scorer(spec: str | None, task: tasks.Task) -> Any:
    if spec is None:
        return None
    records = (*task.prompts.records, *task.heldout.records)
    function = rollout.load_function(spec)
    return rollout.function_scorer(
        function, task.tokenizer.decode, records, name=f"config.scorer={spec}"
    )


def _open_writers(config: Any, workdir: Path) -> list[writers.Writer]:
    result: list[writers.Writer] = [writers.JsonlWriter(workdir)]
    if config.logging.tensorboard:
        result.append(writers.TensorBoardWriter(workdir / "tensorboard"))
    if config.logging.wandb:
        result.append(writers.WandbWriter("rlhf_jax", str(workdir)))
    return result


def _settings(
    plain: Mapping[str, Any], names: tuple[str, ...]
) -> dict[str, Mapping[str, Any]]:
    """For each stage the config that changes its numbers: shared, earlier, own."""
    outside = {*defaults.NUMBERLESS, "stages", *names}
    shared = {key: value for key, value in plain.items() if key not in outside}
    result: dict[str, Mapping[str, Any]] = {}
    for index, name in enumerate(names):
        result[name] = shared | {key: plain[key] for key in names[: index + 1]}
    return result


def run(config: Any, workdir: Path) -> int:
    """`execute`, then the report and a closing word; returns the exit code.

    Raises:
      UserError: bad input, or a workdir that holds another experiment.
    """
    code = execute(config, workdir)
    if code != 0 or not hosts.first():
        return code
    print(summarizing.closing(workdir))
    if config.logging.report:
        from rlhf_jax.studies import report

        print(f"report: {report.write([workdir], workdir / 'report.html')}")
    return 0


def execute(
    config: Any,
    workdir: Path,
    *,
    programs: Programs | None = None,
    only: tuple[str, ...] | None = None,
    shared: Mapping[str, Path] | None = None,
    seat: Callable[[algorithms.PPO], Learner] | None = None,
) -> int:
    """Runs the stages, or what is missing of them; returns the exit code.

    Args:
      config: of the experiment.
      workdir: folder of the run.
      programs: compiled programs of other runs of the process, or None.
      only: names of the stages to run, or None for all.
      shared: stage -> its folder in another run that has done it, to point there.
      seat: makes the learners of PPO stages; None for ordinary ones.

    Raises:
      UserError: bad input, or a workdir that holds another experiment.
    """
    with Stop() as stop:
        context, stages = build(config, workdir, stop, programs, seat)
        claiming.claim(workdir, config.to_dict(), context.settings, _settings)
        for name, source in (shared or {}).items():
            claiming.link(source, workdir / name)
        if hosts.first():
            context.writers.extend(_open_writers(config, workdir))
        try:
            for stage in stages:
                if only is not None and stage.name not in only:
                    continue
                if finishing.result_of(context, stage.name) is None:
                    logging.info("stage %s", stage.name)
                    _run_stage(context, stage)
                hosts.done(lambda: summarizing.summarize(context, stages, config))
        except Preempted as stopped:
            logging.info("%s; the same command continues", stopped)
            return PREEMPTED
        finally:
            for writer in context.writers:
                writer.close()
    return 0


def _run_stage(context: Context, stage: Stage) -> None:
    """Runs a stage and marks it as done, with the seconds of all processes so far."""
    keeper = timekeeping.Timekeeper(context.folder(stage.name))
    keepers = [keeper] if hosts.first() else []
    context.writers.extend(keepers)
    try:
        with context.placement.active():
            result = stage.run()
    except Preempted:
        for one in keepers:
            one.flush()
        raise
    finishing.finish(context, stage.name, result, keeper.seconds())
    for one in keepers:
        context.writers.remove(one)
        one.close()
