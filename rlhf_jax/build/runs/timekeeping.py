"""Wall seconds of a stage, over all the processes that worked on it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.build.runs import finishing
from rlhf_jax.errors import UserError
from rlhf_jax.networks.huggingface import read_json

FILE = "seconds.json"
"""In the folder of a stage that is not done."""


class Timekeeper:
    """Adds up the seconds of a stage; a `Writer`, so that each checkpoint has them.

    Of a process that was killed counts what it did up to its last checkpoint: the rest
    is done again by the next one.

    Args:
      folder: of the stage.

    Raises:
      UserError: the sum of earlier processes cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._before = _read(self._path) if self._path.exists() else 0.0
        self._began = time.monotonic()

    def seconds(self) -> float:
        """So far, those of earlier processes included."""
        return round(self._before + time.monotonic() - self._began, 3)

    def begin(self, stage: str, step: int, evaluated: bool) -> None:
        """Nothing: what was spent on steps that are forgotten was spent."""

    def write(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def write_samples(
        self, stage: str, step: int, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Writes the sum."""
        finishing.write_json(self._path, {"seconds": self.seconds()})

    def close(self) -> None:
        """Removes the sum, which `done.json` has now."""
        self._path.unlink(missing_ok=True)


def _read(path: Path) -> float:
    seconds = read_json(path).get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise UserError(
            f"{path}: 'seconds' is {seconds!r}, not a number; delete the file, and the"
            " time of earlier processes is not counted"
        )
    return float(seconds)
