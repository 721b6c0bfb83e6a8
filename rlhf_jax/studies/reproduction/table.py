"""The claims as a table of a document, from the rows of `results.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.studies import digits

HEAD = (
    "# Claims\n\n"
    "What papers say, tried in small worlds on a CPU; written by `rlhf-jax reproduce`. "
    "Thresholds and seeds were stated beforehand. The bounds are one-sided 95 % bounds "
    "of the mean over seeds; for facts without sampling error, the least and the "
    "largest value. Of a claim with several quantities, the one that decides is shown: "
    "the first that fails, else the first undecided, else the first. What several "
    "claims share (a fine-tuned policy, compiled programs) is in the seconds of the "
    "first of them.\n\n"
)
COLUMNS = (
    "id",
    "statement",
    "verdict",
    "effect (bounds), asked",
    "seeds",
    "seconds, CPU seconds",
    "at full scale, in the paper",
)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A document with a table, a row a claim.

    Args:
      rows: of `results.json`.
    """
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    lines += [_line(_cells(row)) for row in rows]
    return HEAD + "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    deciding = next(p for p in row["parts"] if p["verdict"] == row["verdict"])
    return [
        row["id"],
        row["statement"],
        f"**{row['verdict']}**" if row["verdict"] != "holds" else "holds",
        _effect(deciding, len(row["parts"])),
        str(row["seeds"]),
        _seconds(row),
        row["full_scale"],
    ]


def _seconds(row: Mapping[str, Any]) -> str:
    both = (_float(row["seconds"]), _float(row["cpu_seconds"]))
    return ", ".join("< 1" if one < 0.5 else f"{one:.0f}" for one in both)


def _effect(part: Mapping[str, Any], count: int) -> str:
    low, high = (_float(end) for end in part["ci"])
    effect = digits.rounded(_float(part["effect"]), high - low)
    name = f"{part['name']}: " if part["name"] else ""
    more = f"; {count - 1} more" if count > 1 else ""
    return f"{name}{effect} ({digits.interval(low, high)}), {part['threshold']}{more}"


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
