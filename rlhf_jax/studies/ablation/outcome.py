"""What one run of a cell ends with, and how a workdir is read into it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.studies import compare, runs
from rlhf_jax.studies.ablation.plan import Metric

Curve = tuple[Sequence[float], Sequence[float]]
"""Steps [N] ascending and values [N]."""


class Outcome(NamedTuple):
    """The result of one cell under one seed.

    Attributes:
      metrics: metric name -> number, at least those of the plan.
      curves: curve name -> steps and values, for plots; may be empty.
      gradients: norm of the gradient at every update, the fingerprint of what was
        optimized; empty where unknown, and then no dead term is looked for.
      seconds: wall time; kept apart from everything that is compared.
    """

    metrics: Mapping[str, float]
    curves: Mapping[str, Curve] = {}
    gradients: Sequence[float] = ()
    seconds: float = math.nan


class Diverged(Exception):
    """A run that cannot go on, such as one whose loss is not finite.

    Attributes:
      step: update at which it ended.
      reason: what was not as it must be.
    """

    def __init__(self, step: int, reason: str):
        super().__init__(f"diverged at step {step}: {reason}")
        self.step = step
        self.reason = reason


def from_workdir(
    workdir: Path,
    metrics: Sequence[Metric],
    *,
    curves: Sequence[str] = (),
    gradients: str = "optim/grad_norm",
    stage: str | None = None,
    seconds: float = math.nan,
) -> Outcome:
    """The outcome of a run that wrote `summary.json` and `metrics.jsonl`.

    Args:
      workdir: of the run.
      metrics: what to look up (see `find`).
      curves: names of metrics to keep by step.
      gradients: name of the metric that holds the gradient norm of each update.
      stage: whose rows count; None: the last stage written.
      seconds: wall time of the run.

    Raises:
      UserError: no run, no such stage, or a metric that it does not have.
    """
    (run,) = runs.read([workdir])
    if stage is not None and stage not in run.stages:
        have = ", ".join(run.stages) or "none"
        raise UserError(f"{workdir} has no stage {stage!r}; it has {have}")
    rows = run.stages[stage or list(run.stages)[-1]] if run.stages else {}
    found = {metric.name: find(run.summary, rows, metric.source) for metric in metrics}
    kept = {
        name: (rows[name].steps.tolist(), rows[name].values.tolist())
        for name in curves
        if name in rows
    }
    norms = rows[gradients].values.tolist() if gradients in rows else []
    return Outcome(found, kept, norms, seconds)


def find(
    summary: Mapping[str, Any], rows: Mapping[str, runs.Curve], path: str
) -> float:
    """A number by its path: in the summary, else the last value of a metric.

    A path into the summary may end at a table cell, whose mean is taken.

    Args:
      summary: `summary.json`.
      rows: metric name -> curve of one stage.
      path: dotted keys, such as `table.ppo.gold`, or a metric such as `eval/gold`.

    Raises:
      UserError: nothing there; the message names what there is.
    """
    value = _walk(summary, path)
    if isinstance(value, Mapping):
        value = value.get("mean")
    if isinstance(value, (int, float)):
        return float(value)
    if path in rows and len(rows[path].values):
        return float(np.asarray(rows[path].values)[-1])
    if value is None and _known(summary, path):
        return math.nan
    have = [*compare.leaves(summary), *rows]
    raise UserError(
        f"the run has no metric {path!r}: nothing in its summary and no metric of that "
        f"name; it has {', '.join(have[:20]) or 'none'}"
    )


def _walk(tree: Any, path: str) -> Any:
    """The value at dotted keys; a key may hold dots itself. None where absent."""
    if not path:
        return tree
    if not isinstance(tree, Mapping):
        return None
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        key = ".".join(parts[:count])
        if key in tree:
            return _walk(tree[key], ".".join(parts[count:]))
    return None


def _known(tree: Any, path: str) -> bool:
    """Whether the path leads to a null: a number that was not finite."""
    marker = object()
    parent, _, last = path.rpartition(".")
    above = _walk(tree, parent)
    found = above.get(last, marker) if isinstance(above, Mapping) else marker
    if isinstance(found, Mapping):
        found = found.get("mean", marker)
    return found is None
