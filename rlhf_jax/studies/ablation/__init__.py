"""Ablations: switch parts, run them over paired seeds, say what each one did.

Modules:
  plan: `Plan` (made by `make`), `Cell`, `Metric`; frozen in `plan.json`.
  grids: `one_at_a_time`, `product`, `leave_one_out`, `add_one_in`; `Factor`, `Term`.
  outcome: `Outcome` of a run, `Diverged`, `from_workdir`.
  runner: `execute(plan, run, folder)`: what is done is kept; `execute_packed`.
  analysis: `analyse(plan, records)`: intervals, p values, verdicts.
  output: `write(analysis, records, folder)`: JSON, CSV, tables, `report.html`.

`run(cell, seed)` is handed in: nothing here builds or trains.
"""

from collections.abc import Callable
from pathlib import Path

from rlhf_jax.studies.ablation.analysis import Analysis, analyse
from rlhf_jax.studies.ablation.grids import (
    Factor,
    Term,
    add_one_in,
    leave_one_out,
    one_at_a_time,
    product,
)
from rlhf_jax.studies.ablation.outcome import Diverged, Outcome, from_workdir
from rlhf_jax.studies.ablation.output import rewrite, write
from rlhf_jax.studies.ablation.plan import Cell, Metric, Plan, make
from rlhf_jax.studies.ablation.runner import (
    Pack,
    Progress,
    Run,
    execute,
    execute_packed,
)
from rlhf_jax.studies.ablation.words import summary

__all__ = [
    "Analysis",
    "Cell",
    "Diverged",
    "Factor",
    "Metric",
    "Outcome",
    "Pack",
    "Plan",
    "Progress",
    "Run",
    "Term",
    "add_one_in",
    "analyse",
    "execute",
    "execute_packed",
    "from_workdir",
    "leave_one_out",
    "make",
    "one_at_a_time",
    "product",
    "rewrite",
    "study",
    "summary",
    "write",
]


def study(
    plan: Plan,
    run: Run,
    folder: Path,
    progress: Callable[[Progress], None] | None = None,
    pack: Pack | None = None,
) -> Analysis:
    """`execute`, `analyse` and `write` in one: the whole study in `folder`.

    Args:
      plan: what to run.
      run: trains one cell under one seed.
      folder: where everything lies; run again after a kill, it goes on.
      progress: told after each run.
      pack: trains many seeds of a cell at once, in the place of `run`; None for one
        after the other.

    Raises:
      UserError: see `execute`.
    """
    if pack is None:
        records = execute(plan, run, folder, progress)
    else:
        records = execute_packed(plan, pack, folder, progress)
    found = analyse(plan, records)
    write(found, records, folder)
    return found
