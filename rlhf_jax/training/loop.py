"""The one loop that drives every learner.

The order is a contract: evaluate and save the *old* state, draw the batch, update,
write the *previous* step's metrics. So a checkpoint of step `t` is what the state was
before update `t`, all rows before `t` are on disk by then, and the host never waits
for the step that it has just dispatched.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from rlhf_jax.errors import NotFinite
from rlhf_jax.training import checkpoint, rows
from rlhf_jax.training import start as starting
from rlhf_jax.training.checkpointer import Checkpointer
from rlhf_jax.training.fingerprint import environment, flatten
from rlhf_jax.training.journal import Journal
from rlhf_jax.training.progress import Progress
from rlhf_jax.training.retention import Retention
from rlhf_jax.training.stopping import Preempted, Stop
from rlhf_jax.training.writers import Writer
from rlhf_jax.types import Learner, TrainState

Array = jax.Array


@runtime_checkable
class Batches(Protocol):
    """Data with random access: batch `step` is the same whenever it is asked for."""

    @property
    def fingerprint(self) -> Any:
        """JSON that changes whenever the batches do."""
        ...

    def batch(self, step: int) -> Any:
        """The batch of update `step`, arrays on the host."""
        ...

    def position(self, step: int) -> Mapping[str, Any]:
        """Where the data stands before update `step` (epoch, offset ...), as JSON."""
        ...


class Evaluation(NamedTuple):
    """Held-out metrics (logged under `eval/`) and sampled responses with scores."""

    metrics: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]] = ()


Evaluate = Callable[[TrainState, int], Evaluation]
"""`evaluate(state, step)`: a pure function of the state."""


def train(
    learner: Learner,
    *,
    stage: str,
    workdir: str | os.PathLike[str],
    key: Array,
    frozen: Any,
    batches: Batches,
    steps: int,
    fingerprint: Mapping[str, Any],
    notes: Mapping[str, Any] | None = None,
    save_every: int = 0,
    retention: Retention | None = None,
    evaluate: Evaluate | None = None,
    eval_every: int = 0,
    writers: Iterable[Writer] = (),
    stop: Stop | None = None,
    init_from: starting.InitFrom | None = None,
    shardings: Callable[[TrainState], Any] | None = None,
    place_batch: Callable[[Any], Any] = jax.device_put,
    guard_transfers: bool = False,
    progress: bool = True,
) -> TrainState:
    """Train one stage, going on from its latest checkpoint if there is one.

    Args:
      learner: what to train; `update` adds 1 to `state.step`.
      stage: its name, also its folder in `workdir`.
      workdir: folder of the run.
      key: given to `learner.init`.
      frozen: weights that no step changes, handed to each update.
      batches: the data, with random access by step.
      steps: updates in all, those of earlier processes included.
      fingerprint: settings that change numbers; a checkpoint made under another value
        is refused. `batches.fingerprint` is added under `data`.
      notes: settings that do not; a change is logged.
      save_every: checkpoint whenever the step is divisible by this; 0 = at the end.
      retention: which checkpoints stay; None = the latest.
      evaluate: held-out evaluation, also run on the final state.
      eval_every: evaluate whenever the step is divisible by this (0 included);
        0 = only at the end.
      writers: where metrics and samples go; flushed before a checkpoint is committed.
      stop: listens for SIGTERM; None = one for the time of this call.
      init_from: parameters for a warm start, see `start.begin`.
      shardings: abstract state -> its shardings; None = one device.
      place_batch: brings a host batch to the devices.
      guard_transfers: forbid implicit transfers in updates; for learners that are one
        jitted function and batches that are arrays.
      progress: show progress on stderr.

    Returns:
      The state after `steps` updates.

    Raises:
      UserError: the checkpoint does not belong to these settings.
      NotFinite: a loss is not finite (step and term named; the state before that
        update is saved).
      Preempted: SIGTERM arrived; the state is saved.
    """
    run = _Run(
        learner=learner,
        stage=stage,
        checkpointer=Checkpointer(Path(workdir) / stage / "checkpoints", retention),
        frozen=frozen,
        batches=batches,
        settings=starting.Settings(
            {**flatten(fingerprint), **flatten({"data": batches.fingerprint})},
            {**flatten(notes or {}), **environment()},
        ),
        schedule=_Schedule(steps, save_every, eval_every),
        writers=tuple(writers),
        evaluate=evaluate,
        place_batch=place_batch,
        guard=guard_transfers,
    )
    begin = functools.partial(
        starting.begin,
        learner,
        run.checkpointer,
        stage=stage,
        key=key,
        settings=run.settings,
        init_from=init_from,
        shardings=shardings,
    )
    run.checkpointer.clean()
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(Stop()) if stop is None else stop
        try:
            state = _train(run, begin(), signals, progress)
        except rows.NonFinite as bad:
            bad.__traceback__ = None  # frees the state that the update has spoiled
            path = _save_before(run, begin(), bad.step)
            raise NotFinite(
                f"stage {stage}, step {bad.step}: {bad.name} is {bad.value}; the state "
                f"before this update is saved in {path}. Lower the learning rate, or "
                "look at the step with --config.debug.dump_step",
                bad.step,
                f"{bad.name} is {bad.value}",
            ) from None
        if stop is None and signals.requested:
            raise Preempted(f"stage {stage} is done; stopped before what follows")
    return state


class _Schedule(NamedTuple):
    steps: int
    save_every: int
    eval_every: int

    def save(self, step: int) -> bool:
        periodic = self.save_every > 0 and step % self.save_every == 0
        return step == self.steps or (step > 0 and periodic)

    def evaluate(self, step: int) -> bool:
        periodic = self.eval_every > 0 and step % self.eval_every == 0
        return step == self.steps or periodic


class _Run(NamedTuple):
    """The parts that stay the same while a stage trains."""

    learner: Learner
    stage: str
    checkpointer: Checkpointer
    frozen: Any
    batches: Batches
    settings: starting.Settings
    schedule: _Schedule
    writers: tuple[Writer, ...]
    evaluate: Evaluate | None
    place_batch: Callable[[Any], Any]
    guard: bool

    def update(self, state: TrainState, step: int) -> tuple[TrainState, Any, Any]:
        """Draw batch `step` and dispatch update `step`."""
        batch = self.batches.batch(step)
        placed = self.place_batch(batch)
        with jax.transfer_guard("disallow") if self.guard else contextlib.nullcontext():
            state, metrics = self.learner.update(state, self.frozen, placed)
        state = starting.strengthen(state)
        share = _rows(batch) / _rows(placed)
        return state, rows.with_optimizer(metrics, state), (batch, share)

    def held_out(self, state: TrainState, step: int) -> dict[str, float]:
        """Evaluate the state; samples go to the writers, metrics come back."""
        if self.evaluate is None:
            return {}
        began = time.perf_counter()
        result = self.evaluate(state, step)
        for writer in self.writers:
            writer.write_samples(self.stage, step, result.samples)
        row = rows.prefixed(rows.finish(result.metrics), "eval/")
        return {**row, "time/eval": time.perf_counter() - began}

    def save(
        self, state: TrainState, step: int, held_out: dict[str, float], reason: str
    ) -> Path:
        """Bring all rows to disk, then commit a checkpoint."""
        for writer in self.writers:
            writer.flush()
        record = checkpoint.Record(
            step=step,
            position=dict(self.batches.position(step)),
            fingerprint=self.settings.fingerprint,
            notes=self.settings.notes,
            evaluated=bool(held_out),
            pending=rows.to_json(held_out),
            reason=reason,
        )
        return self.checkpointer.save(state, record)


def _train(run: _Run, start: starting.Start, stop: Stop, progress: bool) -> TrainState:
    """The loop itself; its order is told at the top of this module."""
    state, step = start.state, start.step
    held_out = rows.from_json(start.record.pending) if start.record else {}
    finished = step == run.schedule.steps and start.scheduled
    bar = Progress(run.stage, step, run.schedule.steps, progress)
    with contextlib.closing(Journal(run.stage, run.writers, bar)) as journal:
        journal.begin(step + finished, evaluated=bool(held_out) and not finished)
        while not finished:
            if stop.now():
                journal.settle()
                path = run.save(state, step, held_out, "preempted")
                raise Preempted(f"stage {run.stage}, step {step}: saved in {path}")
            finished = step == run.schedule.steps
            if run.schedule.evaluate(step) and not held_out:
                with journal.aside():
                    held_out = run.held_out(state, step)
            if run.schedule.save(step):
                journal.settle()
                with journal.aside():
                    if finished and held_out:
                        journal.write(step, held_out)
                    run.save(state, step, held_out, "scheduled")
            if not finished:
                state, metrics, read = run.update(state, step)
                journal.settle()
                journal.pend(rows.Pending(step, metrics, held_out, *read))
                held_out, step = {}, step + 1
    return state


def _rows(batch: Any) -> int:
    """Of a batch, or of the share of it that this process has read."""
    return jax.tree.leaves(batch)[0].shape[0]


def _save_before(run: _Run, start: starting.Start, step: int) -> Path:
    """Save the state before update `step` by repeating the updates that led to it.

    The updates that follow a checkpoint are the same each time, so no copy of an
    earlier state has to be held in memory for this.
    """
    state = start.state
    for earlier in range(start.step, step):
        state, _, _ = run.update(state, earlier)
    return run.save(state, step, {}, "nonfinite")
