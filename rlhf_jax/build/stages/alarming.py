"""Alarms during a run: the evaluations so far, and what the next one adds to them.

The evaluations of a stage are kept in `evaluations.jsonl` of its folder, so that a run
that was stopped rings as one that was not: a row is written by the evaluation itself,
whatever the loop has on disk by then.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rlhf_jax import stats
from rlhf_jax.studies import alarms

FILE = "evaluations.jsonl"
WATCHED = ("kl", "length", "entropy", "repetition", "disagreement", "proxy")


def repetition(responses: Sequence[str]) -> dict[str, float]:
    """`repetition` and its standard error, of one response a prompt."""
    shares = [alarms.repeated_ngrams(response.split()) for response in responses]
    found = stats.mean(np.asarray(shares, np.float64))
    return {"repetition": found.mean, "repetition_se": found.se}


def levels(
    folder: Path, step: int, measured: Mapping[str, float], held_out: Sequence[str]
) -> dict[str, float]:
    """Remembers one evaluation and gives the levels of all alarms after it.

    Args:
      folder: of the stage.
      step: of the evaluation; rows of this step and later ones are forgotten.
      measured: metrics and their `_se`.
      held_out: names of reward models that are only ever measured.
    """
    names = [*WATCHED, *held_out]
    names += [f"{name}_se" for name in names]
    row = {"step": step} | {k: measured[k] for k in names if k in measured}
    rows = [old for old in _read(folder / FILE) if old["step"] < step] + [row]
    _write(folder / FILE, rows)
    return alarms.levels(alarms.histories(rows), held_out)


def _read(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line]


def _write(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Whole or not at all; what is not finite is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    kept = [{k: v for k, v in row.items() if math.isfinite(v)} for row in rows]
    part.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    os.replace(part, path)
