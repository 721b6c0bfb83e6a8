"""Measures claims, keeps each measurement, judges."""

from __future__ import annotations

import hashlib
import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.errors import UserError
from rlhf_jax.studies import files
from rlhf_jax.studies.reproduction import catalog, curves, verdict
from rlhf_jax.studies.reproduction.claim import Claim
from rlhf_jax.studies.reproduction.curves import Curve, Measured
from rlhf_jax.studies.reproduction.verdict import Result


class Progress(NamedTuple):
    """Where a reproduction stands, after each measurement.

    Attributes:
      done: measurements that are there.
      total: of all claims and seeds.
      claim: the claim's id.
      seed: the seed.
      fresh: whether it was measured now, not found.
    """

    done: int
    total: int
    claim: str
    seed: int
    fresh: bool

    def __str__(self) -> str:
        """A line for a terminal."""
        how = "measured" if self.fresh else "found"
        return f"{self.done}/{self.total} {self.claim}, seed {self.seed}: {how}"


def execute(
    claims: Sequence[Claim],
    folder: Path,
    progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Result]:
    """Measure what `folder` does not hold yet, and judge every claim.

    Each `(claim, seed)` is a file under `folder/measurements`, kept with the version of
    its claim and a digest of the file that the measure stands in: killed and run again,
    only what is missing is measured; a claim that changed is measured anew.

    Args:
      claims: all checked first, before anything is measured.
      folder: for the measurements.
      progress: told after each measurement.
      clock: seconds.

    Raises:
      UserError: a claim that cannot be decided, or a measurement without a quantity
        that its claim names. What a measurement itself raises goes through.
    """
    claims = catalog.checked(claims)
    total = sum(len(claim.seeds) for claim in claims)
    results, done = [], 0
    for claim in claims:
        rows = {}
        for seed in claim.seeds:
            place = folder / "measurements" / claim.id / f"seed-{seed}.json"
            row = _kept(claim, place)
            fresh = row is None
            rows[seed] = row or _measure(claim, seed, place, clock)
            done += 1
            if progress is not None:
                progress(Progress(done, total, claim.id, seed, fresh))
        results.append(_judge(claim, rows))
    return results


def _kept(claim: Claim, place: Path) -> dict[str, Any] | None:
    if not place.exists():
        return None
    row = files.read_json(place)
    same = (row["version"], row["source"]) == (claim.version, _source(claim))
    return row if same and set(claim.thresholds) <= set(row["values"]) else None


def _source(claim: Claim) -> str:
    """Digest of the file that the measure stands in; "" where there is none."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(claim.measure))
        return hashlib.sha256(Path(path or "").read_bytes()).hexdigest()[:16]
    except (TypeError, OSError):
        return ""


def _measure(
    claim: Claim, seed: int, place: Path, clock: Callable[[], float]
) -> dict[str, Any]:
    start, used = clock(), time.process_time()
    found = claim.measure(seed)
    seconds, used = clock() - start, time.process_time() - used
    drawn: Sequence[Curve] = ()
    if isinstance(found, Measured):
        found, drawn = found
    values = dict(found) if isinstance(found, Mapping) else {"": found}
    missing = [name for name in claim.thresholds if name not in values]
    if missing:
        raise UserError(
            f"claim {claim.id!r} has a threshold for {missing[0]!r}, but it measured "
            f"{', '.join(map(repr, values)) or 'nothing'}"
        )
    row = {
        "version": claim.version,
        "source": _source(claim),
        "seed": seed,
        "values": {name: float(value) for name, value in values.items()},
        "seconds": seconds,
        "cpu_seconds": used,
        "curves": [curve._asdict() for curve in drawn],
    }
    files.write_json(place, row)
    return files.read_json(place)


def _judge(claim: Claim, rows: Mapping[int, Mapping[str, Any]]) -> Result:
    measured = {
        seed: {n: float("nan") if v is None else v for n, v in row["values"].items()}
        for seed, row in rows.items()
    }
    wall = sum(row["seconds"] for row in rows.values())
    cpu = sum(row.get("cpu_seconds", math.nan) for row in rows.values())
    drawn = {seed: curves.of_rows(row.get("curves", ())) for seed, row in rows.items()}
    found = verdict.judge(claim, measured, wall)
    return found._replace(curves=drawn, cpu_seconds=cpu)
