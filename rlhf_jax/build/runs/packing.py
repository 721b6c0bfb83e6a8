"""`--pack=vmap`: the runs of several seeds side by side, their steps as one program.

Each run keeps its own thread, loop, checkpoints and rows. Where its learner would take
a step, it hands the step to the pack and waits; once every run that is still going has
done so, one program takes all steps. A run that ends, early or not, leaves the pack.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import jax

from rlhf_jax import algorithms
from rlhf_jax.algorithms import packing
from rlhf_jax.types import Learner


class Pack:
    """Where the runs of a cell meet.

    Args:
      seats: number of runs.
    """

    def __init__(self, seats: int) -> None:
        self._seats = seats
        self._going = set(range(seats))
        self._waiting: dict[int, Any] = {}
        self._taken: dict[int, Any] = {}
        self._program: Callable[..., Any] | None = None
        self._meeting = threading.Condition()

    def learner(self, seat: int, built: algorithms.PPO) -> Learner:
        """The learner of one run, whose updates the pack takes."""
        packing.check(built.parts)
        with self._meeting:
            if self._program is None:
                take = packing.step(built.parts, built.programs.learn)
                self._program = packing.packed(take)

        def update(state: Any, frozen: Any, batch: Any) -> Any:
            return self._take(seat, (state, frozen, batch))

        return built.learner._replace(update=update)

    def leave(self, seat: int) -> None:
        """Says that a run takes no further step."""
        with self._meeting:
            self._going.discard(seat)
            self._meet()

    def _take(self, seat: int, step: Any) -> Any:
        with self._meeting:
            self._waiting[seat] = step
            self._meet()
            self._meeting.wait_for(lambda: seat in self._taken)
            found = self._taken.pop(seat)
        if isinstance(found, BaseException):
            raise found
        return found

    def _meet(self) -> None:
        """Takes all steps if every run that is still going waits for its own."""
        if not self._waiting or self._going - self._waiting.keys():
            return
        some = next(iter(self._waiting.values()))  # fills the seats of those who left
        steps = tuple(self._waiting.get(seat, some) for seat in range(self._seats))
        assert self._program is not None
        try:
            found: Any = self._program(_placed(steps))
        except BaseException as error:
            found = [error] * self._seats
        self._taken |= {seat: found[seat] for seat in self._waiting}
        self._waiting.clear()
        self._meeting.notify_all()


def _placed(steps: Any) -> Any:
    """Host batches as arrays: one program sees one kind of leaf."""
    return jax.tree.map(jax.numpy.asarray, steps)
