"""`rlhf-jax reproduce`: claims of papers, tried and judged."""

from __future__ import annotations

from pathlib import Path

from rlhf_jax.errors import UserError
from rlhf_jax.studies import reproduction

CLAIMS = Path("experiments/claims")
"""Where the claims of this repository are."""


def listing(names: tuple[str, ...], suite: str | None, claims: Path) -> str:
    """What `reproduce` would try, all where nothing is named; two lines per claim."""
    return reproduction.listing(reproduction.select(_read(claims), names, suite))


def reproduce(
    names: tuple[str, ...], suite: str | None, claims: Path, workdir: Path
) -> int:
    """Tries claims and writes `results.json` and `report.html`.

    Args:
      names: ids or families of claims; none for all of the suite.
      suite: `smoke`, `nightly` or `release`, or None.
      claims: folder of claim files.
      workdir: where measurements are kept; those that are there are not repeated.

    Returns:
      0 where all hold, 1 where one fails, 3 where one is undecided.

    Raises:
      UserError: there is no such claim or suite, or neither is named.
    """
    if not names and suite is None:
        raise UserError("name claims, or a suite with --suite=smoke|nightly|release")
    chosen = reproduction.select(_read(claims), names, suite)
    results = reproduction.execute(
        chosen, workdir, progress=lambda done: print(done, flush=True)
    )
    reproduction.write(results, workdir)
    print(reproduction.summary(results))
    print(f"report: {workdir / 'report.html'}")
    return reproduction.exit_code(results)


def _read(claims: Path) -> list[reproduction.Claim]:
    if not claims.is_dir():
        raise UserError(
            f"--claims={claims} is no folder; run from the repository, or name one"
        )
    return reproduction.read(claims)
