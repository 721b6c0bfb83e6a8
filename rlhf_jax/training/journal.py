"""Writing each step's row one step late: the host never waits for the device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence

from rlhf_jax.training import rows
from rlhf_jax.training.monitoring import Compiles
from rlhf_jax.training.progress import Progress
from rlhf_jax.training.writers import Writer


class Clock:
    """Seconds per step, evaluation and saving left out, and compilations so far."""

    def __init__(self) -> None:
        self._compiles = Compiles()
        self._mark = time.perf_counter()

    def lap(self) -> dict[str, float]:
        """`time/step` and `time/compiles`; starts a new lap."""
        now = time.perf_counter()
        seconds, self._mark = max(now - self._mark, 1e-9), now
        return {"time/step": seconds, "time/compiles": float(int(self._compiles))}

    def leave_out(self, seconds: float) -> None:
        """Do not count `seconds` of the present lap."""
        self._mark += seconds


class Journal:
    """The rows of one stage on their way to the writers.

    Args:
      stage: its name in the rows.
      writers: take the rows.
      bar: shows the progress; closed with the journal.
    """

    def __init__(self, stage: str, writers: Sequence[Writer], bar: Progress) -> None:
        self._stage, self._writers, self._bar = stage, writers, bar
        self._clock = Clock()
        self._pending: rows.Pending | None = None
        self._lap: dict[str, float] = {}

    def begin(self, step: int, evaluated: bool) -> None:
        """Have the writers forget what lies beyond the state that we start from."""
        for writer in self._writers:
            writer.begin(self._stage, step, evaluated)

    def pend(self, update: rows.Pending) -> None:
        """Remember an update that has been dispatched.

        Its lap ends here where the learner has waited for it, else with its row: the
        next update is dispatched before that.
        """
        self._pending = update
        self._lap = self._clock.lap() if update.ready() else {}

    def settle(self) -> None:
        """Write the update that is pending, if any.

        Raises:
          rows.NonFinite: its loss is not finite; the row is written all the same.
        """
        if self._pending is None:
            return
        self._end_lap()
        done, self._pending = self._pending.fetch(), None
        speed = done.tokens() / self._lap["time/step"]
        row = {**done.row(), **self._lap, "time/tokens_per_second": speed}
        self.write(done.step, row)
        done.require_finite()
        self._bar.step(done.step, done.tokens(), row)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Hand a row to all writers."""
        for writer in self._writers:
            writer.write(self._stage, step, row)

    def _end_lap(self) -> None:
        if self._pending is not None and not self._lap:
            self._pending.wait()
            self._lap = self._clock.lap()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Time spent inside is no update's: one that still runs is waited for first."""
        self._end_lap()
        began = time.perf_counter()
        yield
        self._clock.leave_out(time.perf_counter() - began)

    def close(self) -> None:
        """Take the progress bar away; a pending row is left to the next process."""
        self._bar.close()
