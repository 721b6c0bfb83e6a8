"""What says that a stage is done, `done.json`, and how such files are written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlhf_jax import hosts
from rlhf_jax.build.runs.context import Context
from rlhf_jax.errors import UserError
from rlhf_jax.networks.huggingface import read_json
from rlhf_jax.training import fingerprint as fingerprints


def finish(context: Context, stage: str, result: dict[str, Any], spent: float) -> None:
    """Marks a stage as done: `done.json`, written in one piece."""
    record = {
        "stage": stage,
        "seconds": spent,
        "settings": dict(context.settings[stage]),
        "result": result,
    }
    hosts.done(lambda: write_json(context.folder(stage) / "done.json", record))


def result_of(context: Context, stage: str) -> dict[str, Any] | None:
    """The result of a finished stage, or None where it is not done.

    Raises:
      UserError: it was done under other settings that change numbers.
    """
    return hosts.told(lambda: finished(context.folder(stage), context.settings[stage]))


def finished(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """As `result_of`, for the folder of a stage and its settings."""
    path = folder / "done.json"
    if not path.is_file():
        return None
    record = read_json(path)
    for key in ("settings", "result", "seconds"):
        if key not in record:
            raise UserError(f"{path} has no field '{key}'; delete {folder} to redo it")
    fingerprints.check(record["settings"], settings, checkpoint=str(path))
    return record["result"]


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that the file is either the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w") as file:
        json.dump(value, file, indent=2, default=_plain)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return np.asarray(value).tolist()
    return str(value)
