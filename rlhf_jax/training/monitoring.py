"""Watching what should not happen in the hot loop: compilations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from jax import monitoring

_EVENT = "/jax/core/compile/backend_compile_duration"


class _Counter:
    def __init__(self) -> None:
        self.total = 0
        self.listening = False

    def listen(self) -> None:
        """Register once per process: jax offers no public way to take it back."""
        if not self.listening:
            monitoring.register_event_duration_secs_listener(self._hear)
            self.listening = True

    def _hear(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == _EVENT:
            self.total += 1


_COUNTER = _Counter()


class Compiles:
    """Compilations since this was made, until it is stopped: `int(compiles)`."""

    def __init__(self) -> None:
        _COUNTER.listen()
        self._start = _COUNTER.total
        self._end: int | None = None

    def stop(self) -> None:
        """Count no further."""
        self._end = _COUNTER.total

    def __int__(self) -> int:
        end = _COUNTER.total if self._end is None else self._end
        return end - self._start


@contextlib.contextmanager
def count_compiles() -> Iterator[Compiles]:
    """Count XLA compilations: `with count_compiles() as n: ...; assert int(n) == 0`.

    A shape that changes with the step compiles anew each time; after the first steps
    the count has to stay flat.
    """
    compiles = Compiles()
    try:
        yield compiles
    finally:
        compiles.stop()
