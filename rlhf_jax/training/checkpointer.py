"""The checkpoints of one stage: saving, finding, restoring, thinning out."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from absl import logging

from rlhf_jax import hosts
from rlhf_jax.errors import UserError
from rlhf_jax.training import checkpoint
from rlhf_jax.training import retention as retention_rules
from rlhf_jax.types import TrainState

_DOOMED, _FRESH = ".deleted", ".fresh"


class Checkpointer:
    """Saves, restores and thins out the checkpoints of one stage.

    Of several processes all write arrays, and all ask; the first one looks into the
    folder, renames and deletes, and tells the others.

    Args:
      directory: `<workdir>/<stage>/checkpoints`; created on the first save.
      retention: what to keep, applied after each save; None = the latest only.

    Raises:
      UserError: the retention rules are refused.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        retention: retention_rules.Retention | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()
        self._retention = retention or retention_rules.Retention()
        self._known: dict[int, retention_rules.Saved] = {}
        retention_rules.validate(self._retention)

    def steps(self) -> list[int]:
        """Committed steps, ascending."""
        return hosts.told(self._steps)

    def _steps(self) -> list[int]:
        return checkpoint.committed_steps(self.directory)

    def latest(self) -> int | None:
        """The latest committed step."""
        steps = self.steps()
        return steps[-1] if steps else None

    def best(self, name: str, mode: str = "max") -> int | None:
        """The committed step with the best held-out metric `name`."""
        return hosts.told(lambda: retention_rules.best_step(self._saved(), name, mode))

    def record(self, step: int) -> checkpoint.Record:
        """The JSON record of a committed step."""
        return checkpoint.Record(**hosts.told(lambda: self._record(step)._asdict()))

    def _record(self, step: int) -> checkpoint.Record:
        return checkpoint.read_record(self.directory / str(step))

    def save(self, state: TrainState, record: checkpoint.Record) -> Path:
        """Write a checkpoint; it exists when this returns, or not at all.

        Args:
          state: the state to save.
          record: everything that is not an array; its step names the directory.

        Returns:
          The step directory.

        Raises:
          UserError: the learner's step counter disagrees with the loop's.
        """
        if int(state.step) != record.step:
            raise UserError(
                f"the state says step {int(state.step)} after {record.step} updates; "
                "a learner must add exactly 1 to state.step in each update"
            )
        path = self.directory / str(record.step)
        exists, scheduled = hosts.told(lambda: self._prepare(path, record.step))
        if not exists:
            checkpoint.write(path, state, record)
        elif record.scheduled and not scheduled:
            self._replace(path, state, record)
        self.thin_out()
        return path

    def _prepare(self, path: Path, step: int) -> tuple[bool, bool]:
        """Makes the folder; whether the step is there, and as an undisturbed run's."""
        self.directory.mkdir(parents=True, exist_ok=True)
        return path.exists(), path.exists() and self._scheduled(step)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Read a state back.

        Args:
          step: a committed step.
          like: abstract state (`jax.eval_shape` of the learner's `init`), with
            shardings on the leaves where the state is spread over devices.

        Raises:
          UserError: naming the first array that is missing, new or of another shape.
        """
        return checkpoint.read(self.directory / str(step), like)

    def thin_out(self) -> None:
        """Delete what no rule keeps.

        A directory is renamed before it is emptied: one that carries a step's name is
        always whole.
        """
        hosts.done(self._thin_out)

    def _thin_out(self) -> None:
        saved = self._saved()
        keep = retention_rules.kept(saved, self._retention)
        for step in (s.step for s in saved if s.step not in keep):
            self._discard(step)

    def clean(self) -> None:
        """Remove what a killed save or deletion left behind; call before a run."""
        hosts.done(self._clean)

    def _clean(self) -> None:
        if not self.directory.is_dir():
            return
        for path in self.directory.iterdir():
            if not re.fullmatch(r"\d+", path.name):
                logging.info("removing the remains of an interrupted save: %s", path)
                shutil.rmtree(path, ignore_errors=True)
        self._thin_out()

    def _replace(
        self, path: Path, state: TrainState, record: checkpoint.Record
    ) -> None:
        """Put a scheduled checkpoint where one made on a signal stands."""
        fresh = path.with_name(path.name + _FRESH)
        checkpoint.write(fresh, state, record)

        def exchange() -> None:
            self._discard(record.step)
            os.rename(fresh, path)

        hosts.done(exchange)

    def _discard(self, step: int) -> None:
        doomed = self.directory / f"{step}{_DOOMED}"
        os.rename(self.directory / str(step), doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        self._known.pop(step, None)

    def _scheduled(self, step: int) -> bool:
        return (self._known.get(step) or self._learn(step)).scheduled

    def _saved(self) -> list[retention_rules.Saved]:
        return [self._known.get(step) or self._learn(step) for step in self._steps()]

    def _learn(self, step: int) -> retention_rules.Saved:
        record = self._record(step)
        self._known[step] = retention_rules.Saved(
            record.step,
            record.scheduled,
            record.pending if record.evaluated else {},
        )
        return self._known[step]
