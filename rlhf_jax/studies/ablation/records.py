"""Results on disk: one JSON file per cell and seed, whole or not there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.studies import files
from rlhf_jax.studies.ablation.outcome import Diverged, Outcome
from rlhf_jax.studies.ablation.plan import Cell, Plan, slug


class Record(NamedTuple):
    """What is known of one cell under one seed.

    Attributes:
      cell: its name.
      seed: its seed.
      metrics: metric name -> number; NaN where the run diverged.
      curves: name -> steps float64[N] and values float64[N] (NaN: not finite).
      gradients: float64[N], gradient norm of every update.
      diverged: why it diverged; "" where it did not.
      step: at which it diverged; -1 where it did not or is unknown.
      seconds: wall time.
    """

    cell: str
    seed: int
    metrics: dict[str, float]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    gradients: np.ndarray
    diverged: str = ""
    step: int = -1
    seconds: float = math.nan


def path(plan: Plan, cell: Cell, seed: int, folder: Path) -> Path:
    """Where the result of a cell and a seed lies."""
    number = [one.name for one in plan.cells].index(cell.name)
    return folder / "results" / f"{number:03d}-{slug(cell.name)}" / f"seed-{seed}.json"


def keep(
    plan: Plan, cell: Cell, seed: int, found: Outcome | Diverged, folder: Path
) -> Record:
    """Write a result and give it as it will be read again.

    Raises:
      UserError: an outcome without a metric of the plan.
    """
    value = {"cell": cell.name, "seed": seed} | (
        {"diverged": found.reason or "unknown", "step": found.step}
        if isinstance(found, Diverged)
        else _of_outcome(plan, cell, found)
    )
    place = path(plan, cell, seed, folder)
    files.write_json(place, value)
    return read(place)


def _of_outcome(plan: Plan, cell: Cell, found: Outcome) -> dict[str, Any]:
    names = [metric.name for metric in plan.metrics]
    missing = [name for name in names if name not in found.metrics]
    if missing:
        raise UserError(
            f"cell {cell.name!r} ended without the metric {missing[0]!r}; it has "
            f"{', '.join(found.metrics) or 'none'}"
        )
    metrics = {name: float(value) for name, value in found.metrics.items()}
    bad = [name for name in names if not math.isfinite(metrics[name])]
    reason = f"{bad[0]} is not finite ({metrics[bad[0]]})" if bad else ""
    return {
        "metrics": metrics,
        "curves": {
            name: [_floats(steps), _floats(values)]
            for name, (steps, values) in found.curves.items()
        },
        "gradients": _floats(found.gradients),
        "diverged": reason,
        "seconds": float(found.seconds),
    }


def read(place: Path) -> Record:
    """A result as `keep` wrote it."""
    value: Mapping[str, Any] = files.read_json(place)
    metrics = value.get("metrics", {})
    return Record(
        cell=value["cell"],
        seed=value["seed"],
        metrics={name: _number(number) for name, number in metrics.items()},
        curves={
            name: (_array(steps), _array(values))
            for name, (steps, values) in value.get("curves", {}).items()
        },
        gradients=_array(value.get("gradients", [])),
        diverged=value.get("diverged", ""),
        step=value.get("step", -1),
        seconds=_number(value.get("seconds")),
    )


def read_all(plan: Plan, folder: Path) -> list[Record]:
    """Every result that is there, by seed, then by cell."""
    places = [
        path(plan, cell, seed, folder) for seed in plan.seeds for cell in plan.cells
    ]
    return [read(place) for place in places if place.exists()]


def _floats(values: Any) -> list[float]:
    return np.asarray(values, np.float64).reshape(-1).tolist()


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _array(values: Any) -> np.ndarray:
    return np.asarray([_number(value) for value in values], np.float64)
