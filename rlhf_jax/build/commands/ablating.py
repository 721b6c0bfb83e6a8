"""`rlhf-jax ablate`: from `config.study` to runs that share what they can.

Stages that no cell of the study affects are trained once per seed in `shared/`; the
folders of the cells link to them. All runs live in one process and share compiled
programs, so a seed costs its updates and not its compilation.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from absl import logging

from rlhf_jax import errors
from rlhf_jax.build import experiment
from rlhf_jax.build.commands import studying
from rlhf_jax.build.runs import claiming, packing
from rlhf_jax.build.runs.programs import Programs
from rlhf_jax.errors import UserError
from rlhf_jax.studies import ablation
from rlhf_jax.studies.ablation import plan as plans
from rlhf_jax.studies.ablation import plots, records

ConfigDict = ml_collections.ConfigDict

GRADIENTS = ("optim/grad_norm", "optim/value/grad_norm")
"""Norms by which a dead factor is known: of the policy, and of a separate critic."""


class _Stopped(Exception):
    """SIGTERM arrived; what is done is kept."""


def ablate(config: ConfigDict, workdir: Path, packed: bool = False) -> int:
    """Runs the study of a config, or what is missing of it; returns the exit code.

    Args:
      config: with a section `study`.
      workdir: folder of the study.
      packed: take the steps of all seeds of a cell as one program.

    Raises:
      UserError: bad input, another plan in the folder, or a dead factor.
    """
    study = studying.read(config)
    claiming.check_folder(workdir)
    logging.set_verbosity(logging.WARNING)
    for warning in plans.warnings(study.plan):
        print(f"note: {warning}")
    try:
        runner = _Runner(study, workdir, Programs())
        found = ablation.study(
            study.plan,
            runner.run,
            workdir,
            progress=lambda done: print(done, flush=True),
            pack=runner.pack if packed else None,
        )
    except _Stopped:
        print("stopped; the same command runs what is missing")
        return experiment.PREEMPTED
    print(ablation.summary(found))
    for text in plots.missing(found, records.read_all(study.plan, workdir)):
        print(f"warning: {text}", file=sys.stderr)
    print(f"report: {workdir / 'report.html'}")
    return 0


class _Runner(NamedTuple):
    """Trains cells under seeds."""

    study: studying.Study
    workdir: Path
    programs: Programs

    def run(self, cell: ablation.Cell, seed: int) -> ablation.Outcome:
        """Trains one cell under one seed."""
        began = time.monotonic()
        self._prepare(seed)
        folder, config = self._place(cell, seed)
        self._train(config, folder, shared=self._shared(seed))
        return self._outcome(folder, time.monotonic() - began)

    def pack(
        self, cell: ablation.Cell, seeds: Sequence[int]
    ) -> dict[int, ablation.Outcome | ablation.Diverged]:
        """Trains one cell under several seeds, their PPO steps as one program."""
        if self.study.config.scorer is not None:
            raise UserError(
                "--pack=vmap takes scores inside of the program, which"
                f" config.scorer={self.study.config.scorer} cannot; leave --pack out"
            )
        for seed in seeds:
            self._prepare(seed)
        pack = packing.Pack(len(seeds))

        def one(seat: int) -> ablation.Outcome | ablation.Diverged:
            began = time.monotonic()
            folder, config = self._place(cell, seeds[seat])
            try:
                self._train(
                    config,
                    folder,
                    shared=self._shared(seeds[seat]),
                    seat=functools.partial(pack.learner, seat),
                )
            except ablation.Diverged as ended:
                return ended
            finally:
                pack.leave(seat)
            return self._outcome(folder, time.monotonic() - began)

        with futures.ThreadPoolExecutor(len(seeds)) as threads:
            found = list(threads.map(one, range(len(seeds))))
        return dict(zip(seeds, found, strict=True))

    def _prepare(self, seed: int) -> None:
        """Trains the stages that the cells share."""
        plan, study = self.study.plan, self.study
        if study.shared:
            config = studying.configured(
                study.config, plan.baseline.changes, plan, seed
            )
            folder = self.workdir / "shared" / f"seed-{seed}"
            self._train(config, folder, only=study.shared)

    def _shared(self, seed: int) -> dict[str, Path]:
        folder = self.workdir / "shared" / f"seed-{seed}"
        return {name: folder / name for name in self.study.shared}

    def _place(self, cell: ablation.Cell, seed: int) -> tuple[Path, ConfigDict]:
        """Folder and config of a cell under a seed."""
        folder = self.workdir / "runs" / plans.slug(cell.name) / f"seed-{seed}"
        plan, base = self.study.plan, self.study.config
        return folder, studying.configured(base, cell.changes, plan, seed)

    def _outcome(self, folder: Path, seconds: float) -> ablation.Outcome:
        plan = self.study.plan
        found = [
            ablation.from_workdir(
                folder,
                plan.metrics,
                curves=plan.curves,
                gradients=name,
                stage=self.study.stage,
                seconds=seconds,
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
