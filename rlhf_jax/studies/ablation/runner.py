"""Runs what a plan asks for and is not there yet.

Seeds are the outer loop: whoever stops early has complete pairs. Each result is a file
that appears whole, so a kill at any moment loses one run at most, and what comes out in
the end is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.studies import files
from rlhf_jax.studies.ablation import plan as plans
from rlhf_jax.studies.ablation import records
from rlhf_jax.studies.ablation.outcome import Diverged, Outcome
from rlhf_jax.studies.ablation.plan import Cell, Plan
from rlhf_jax.studies.ablation.records import Record

Run = Callable[[Cell, int], Outcome]
"""`run(cell, seed)`: trains the cell's config under the seed. Raises `Diverged`."""

Pack = Callable[[Cell, Sequence[int]], Mapping[int, Outcome | Diverged]]
"""`pack(cell, seeds)`: trains all seeds of a cell at once (`vmap`); every seed given
gets its outcome, or the `Diverged` that froze it."""


class Progress(NamedTuple):
    """Where a study stands, after each piece of work.

    Attributes:
      done: pieces that are there.
      total: cells times seeds.
      record: the one that was just made or found.
      fresh: whether it was made now, not found.
    """

    done: int
    total: int
    record: Record
    fresh: bool

    def __str__(self) -> str:
        """A line for a terminal."""
        record = self.record
        how = f"diverged ({record.diverged})" if record.diverged else "done"
        if not self.fresh:
            how = "found"
        elif np.isfinite(record.seconds):
            how += f" in {record.seconds:.1f} s"
        return f"{self.done}/{self.total} {record.cell}, seed {record.seed}: {how}"


def execute(
    plan: Plan,
    run: Run,
    folder: Path,
    progress: Callable[[Progress], None] | None = None,
) -> list[Record]:
    """Run every cell under every seed that `folder` does not hold yet.

    Args:
      plan: frozen into `folder/plan.json` first.
      run: trains one cell under one seed. `Diverged`, or a metric that is not finite,
        is recorded and the next piece is taken up; any other exception goes through.
      folder: of the study; results lie in `folder/results`.
      progress: told after each piece.

    Returns:
      The records, by seed, then by cell.

    Raises:
      UserError: another plan is in the folder; a run without a metric of the plan; a
        term whose leaving out changes nothing (also kept in `dead.json`).
    """
    plans.freeze(plan, folder)
    found: list[Record] = []
    for seed in plan.seeds:
        for cell in plan.cells:
            fresh = not records.path(plan, cell, seed, folder).exists()
            if fresh:
                _piece(plan, run, cell, seed, folder)
            found.append(_told(plan, cell, seed, folder, len(found), fresh, progress))
            if seed == plan.seeds[-1]:
                _require_alive(plan, cell, found, folder)
    return found


def execute_packed(
    plan: Plan,
    pack: Pack,
    folder: Path,
    progress: Callable[[Progress], None] | None = None,
) -> list[Record]:
    """`execute` for accelerators: cell by cell, the seeds that are missing together.

    What is kept, and what comes out of it, is the same as from `execute` up to the
    round-off of a packed program.

    Args:
      plan: see `execute`.
      pack: trains the given seeds of one cell.
      folder: see `execute`; a study begun unpacked may go on packed.
      progress: told after each piece.

    Returns:
      The records, by seed, then by cell.

    Raises:
      UserError: see `execute`; also a pack without a seed that it was given.
    """
    plans.freeze(plan, folder)
    found: list[Record] = []
    for cell in plan.cells:
        missing = [
            seed
            for seed in plan.seeds
            if not records.path(plan, cell, seed, folder).exists()
        ]
        outcomes = pack(cell, tuple(missing)) if missing else {}
        for seed in missing:
            if seed not in outcomes:
                raise UserError(f"cell {cell.name!r}: the pack left seed {seed} out")
            records.keep(plan, cell, seed, outcomes[seed], folder)
        for seed in plan.seeds:
            fresh = seed in missing
            found.append(_told(plan, cell, seed, folder, len(found), fresh, progress))
        _require_alive(plan, cell, found, folder)
    return records.read_all(plan, folder)


def _told(
    plan: Plan,
    cell: Cell,
    seed: int,
    folder: Path,
    done: int,
    fresh: bool,
    progress: Callable[[Progress], None] | None,
) -> Record:
    """The record that is there now, after telling of it."""
    record = records.read(records.path(plan, cell, seed, folder))
    if progress is not None:
        total = len(plan.cells) * len(plan.seeds)
        progress(Progress(done + 1, total, record, fresh))
    return record


def _piece(plan: Plan, run: Run, cell: Cell, seed: int, folder: Path) -> None:
    try:
        outcome = run(cell, seed)
    except Diverged as ended:
        outcome = ended
    records.keep(plan, cell, seed, outcome, folder)


def dead(plan: Plan, cell: Cell, found: Sequence[Record]) -> bool:
    """Whether leaving the cell's term out left every gradient of every seed as it was.

    Compared are the norms at each update, bit for bit, over the seeds under which
    neither the cell nor the baseline diverged. Without gradients nothing is known, and
    the answer is no.
    """
    if not cell.leaves_out:
        return False
    by_seed = {(r.cell, r.seed): r for r in found if not r.diverged}
    pairs = [
        (by_seed[plan.baseline.name, seed], by_seed[cell.name, seed])
        for seed in plan.seeds
        if (plan.baseline.name, seed) in by_seed and (cell.name, seed) in by_seed
    ]
    known = [(a.gradients, b.gradients) for a, b in pairs if len(a.gradients)]
    return bool(known) and all(np.array_equal(a, b) for a, b in known)


def _require_alive(
    plan: Plan, cell: Cell, found: Sequence[Record], folder: Path
) -> None:
    if not dead(plan, cell, found):
        return
    others = [c.name for c in plan.others if c is not cell and dead(plan, c, found)]
    factors = {"dead": [cell.name], "so_far": others}
    files.write_json(folder / "dead.json", factors)
    more = f" (so far the same holds for {', '.join(others)})" if others else ""
    changes = ", ".join(f"{key}={value!r}" for key, value in cell.changes.items())
    raise UserError(
        f"dead factor: leaving out {cell.leaves_out!r} ({changes}) changed no gradient "
        f"at any step of any of {len(plan.seeds)} seeds{more}. The term is switched "
        "off in the baseline too, or its key is not read: switch it on there, or take "
        "it from the study"
    )
