"""`results.json` and the page of a reproduction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.studies import digits, files
from rlhf_jax.studies.reproduction import report, table
from rlhf_jax.studies.reproduction.verdict import Beside, Finding, Result


def write(results: Sequence[Result], folder: Path) -> Path:
    """Write `results.json`, `report.html` and `claims.md`, each atomically.

    Returns:
      The path of `results.json`.

    Raises:
      UserError: a place that cannot be written.
    """
    files.write_text(folder / "report.html", report.render(results))
    files.write_text(folder / "claims.md", table.markdown(rows(results)))
    return files.write_json(folder / "results.json", rows(results))


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row a claim: `id, verdict, effect, ci, seeds, seconds` and what they mean.

    `effect` and `ci` are those of the claim's quantity; where it has several, those of
    the one that decides (the first that fails, else the first undecided, else the
    first), and `parts` has them all. `ci` holds the two one-sided bounds; null is
    unknown.
    """
    return [_row(result) for result in results]


def summary(results: Sequence[Result]) -> str:
    """A line a claim, for a terminal: verdict, effect, bounds, what was asked."""
    width = max((len(result.claim.id) for result in results), default=0)
    lines = []
    for result in results:
        one = deciding(result)
        effect = digits.rounded(one.effect, one.high - one.low)
        name = f"{one.name}: " if one.name else ""
        lines.append(
            f"{result.claim.id:<{width}}  {result.verdict:<9}  {name}{effect} "
            f"({digits.interval(one.low, one.high)}), asked {one.threshold}"
        )
    return "\n".join(lines)


def deciding(result: Result) -> Finding:
    """The finding that the verdict of the claim rests on."""
    same = [one for one in result.findings if one.verdict == result.verdict]
    return same[0]


def _row(result: Result) -> dict[str, Any]:
    claim, one = result.claim, deciding(result)
    row = {
        "id": claim.id,
        "verdict": result.verdict,
        "effect": one.effect,
        "ci": [one.low, one.high],
        "seeds": len(claim.seeds),
        "seconds": result.seconds,
        "cpu_seconds": result.cpu_seconds,
        "kind": claim.kind,
        "statement": claim.statement,
        "paper": claim.paper,
        "version": claim.version,
        "full_scale": claim.full_scale.numbers,
    }
    row["parts"] = [_part(part) for part in result.findings]
    return row | {"beside": [_beside(one) for one in result.beside]}


def _beside(one: Beside) -> dict[str, Any]:
    return {"name": one.name, "effect": one.effect, "ci": [one.low, one.high]}


def _part(one: Finding) -> dict[str, Any]:
    return {
        "name": one.name,
        "threshold": one.threshold,
        "verdict": one.verdict,
        "effect": one.effect,
        "ci": [one.low, one.high],
        "values": {str(seed): value for seed, value in one.values.items()},
    }
