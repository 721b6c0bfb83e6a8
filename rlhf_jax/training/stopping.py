"""Ending a run early but cleanly: SIGTERM asks, the loop answers between steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from absl import logging

from rlhf_jax import hosts


class Preempted(Exception):
    """The run was asked to end and has saved its state.

    The command line exits with code 143 (128 + SIGTERM). The same command goes on.
    """


class Stop:
    """Whether the run has been asked to end.

    As a context manager it listens to SIGTERM (in the main thread; elsewhere only
    `request` works) and restores the previous handler on leaving. Where the run has
    several processes jax listens, and a signal to one of them is a request to all.
    """

    def __init__(self) -> None:
        self.requested = False
        self._asked = 0
        self._previous: Any = None
        self._listening = False

    def request(self) -> None:
        """Ask the run to save and end."""
        self.requested = True

    def now(self) -> bool:
        """Whether to save and end here; all processes get the same answer.

        Every process asks between any two steps; after a signal they agree on the next
        step that none has begun.
        """
        if not self.requested and hosts.count() > 1:
            self._asked += 1
            self.requested = hosts.agreed_to_end(self._asked)
        return self.requested

    def __enter__(self) -> Stop:
        if hosts.count() > 1:
            return self
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._handle)
            self._listening = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._listening:
            signal.signal(signal.SIGTERM, self._previous)
            self._listening = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        logging.info("signal %d: saving, then leaving", number)
        self.request()
