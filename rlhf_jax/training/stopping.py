"""Ending a run early but cleanly: SIGTERM asks, the loop answers between steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from absl import logging


class Preempted(Exception):
    """The run was asked to end and has saved its state.

    The command line exits with code 143 (128 + SIGTERM). The same command goes on.
    """


class Stop:
    """Whether the run has been asked to end.

    As a context manager it listens to SIGTERM (in the main thread; elsewhere only
    `request` works) and restores the previous handler on leaving.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None
        self._listening = False

    def request(self) -> None:
        """Ask the run to save and end."""
        self.requested = True

    def __enter__(self) -> Stop:
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
