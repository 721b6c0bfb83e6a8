"""The asking side of a worker process; see `work.Channel` for the answering one."""

from __future__ import annotations

import json
import os
import pathlib
import select
import subprocess
import tempfile
from typing import Any

from rlhf_jax.errors import UserError

PATIENCE = 900
"""Seconds that one answer may take before the run is given up."""


class Worker:
    """A process that is ready when this returns; `repeat` asks for one repetition.

    Attributes:
      facts: interpreter, versions and threads, as the worker states them.
    """

    def __init__(self, name: str, command: list[Any], root: pathlib.Path) -> None:
        self._name = name
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": str(root)},
            text=True,
        )
        try:
            self.facts: dict[str, Any] = self._answer()
        except BaseException:
            self.close()
            raise

    def repeat(self) -> dict[str, float]:
        """Seconds of one repetition, and of its parts."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure("ended") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        stream = self._process.stdout
        assert stream is not None
        if not select.select([stream], [], [], PATIENCE)[0]:
            raise self._failure(f"said nothing for {PATIENCE} seconds")
        line = stream.readline()
        if not line:
            raise self._failure("ended")
        return json.loads(line)

    def _failure(self, what: str) -> UserError:
        self._log.seek(0)
        lines = self._log.read().strip().splitlines() or ["nothing"]
        return UserError(
            f"the worker of {self._name} {what}; the last that it said: {lines[-1]}; "
            "leave it out with --systems=..."
        )

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
