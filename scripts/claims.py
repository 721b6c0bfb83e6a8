"""Writes docs/claims.md from what `rlhf-jax reproduce` measured, in pieces or at once.

    python scripts/claims.py runs/r4/results.json runs/r5/results.json

A claim keeps its row until one of the files has a newer one; a row of a claim that is
no longer in `experiments/claims` goes. Rows stand in the order of the claims' files.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rlhf_jax.studies import reproduction
from rlhf_jax.studies.reproduction import table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "claims.md"


def merged(page: str, results: list[dict], order: list[str]) -> str:
    """The page with the rows of some results in place of its own.

    Args:
      page: Markdown of `table.markdown`.
      results: rows of `results.json`, later ones last.
      order: ids of all claims.
    """
    head, _, _ = table.markdown([]).partition("\n| ---")
    lines = {_id(line): line for line in page.splitlines() if line.startswith("| ")}
    for row in results:
        lines[row["id"]] = table.markdown([row]).splitlines()[-1]
    rule = table.markdown([]).splitlines()[-1]
    kept = [lines[id] for id in order if id in lines]
    return "\n".join([head, rule, *kept]) + "\n"


def _id(line: str) -> str:
    return line.split("|")[1].strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path)
    found = [
        row
        for path in parser.parse_args().results
        for row in json.loads(path.read_text())
    ]
    claims = {one.id: one for one in reproduction.read(ROOT / "experiments/claims")}
    for row in found:
        one = claims.get(row["id"])
        if one is None or (one.version, one.statement) != (
            row["version"],
            row["statement"],
        ):
            print(f"error: {row['id']} is no claim of this version", file=sys.stderr)
            return 2
    PAGE.write_text(merged(PAGE.read_text(), found, list(claims)))
    missing = [id for id in claims if f"\n| {id} |" not in PAGE.read_text()]
    print(f"{PAGE}: {len(found)} rows written; not measured: {', '.join(missing)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
