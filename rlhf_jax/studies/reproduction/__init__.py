"""Reproductions: claims of papers, tried in small worlds, with a verdict each.

Modules:
  claim: `Claim`, its thresholds `Above`, `Below`, `Band`, `Equivalence`, `Exact`.
  catalog: `read(folder)`, `select(claims, names, suite)`, `listing(claims)`.
  runner: `execute(claims, folder)`: each measurement is kept.
  verdict: `judge(claim, measured)`, `exit_code(results)`.
  curves: `Measured(values, curves)`: what is drawn on the page, averaged over seeds.
  output: `write(results, folder)`: `results.json`, `report.html`, `claims.md`;
    `summary(results)`.
"""

from rlhf_jax.studies.reproduction.catalog import checked, listing, read, select
from rlhf_jax.studies.reproduction.claim import (
    SUITES,
    Above,
    Band,
    Below,
    Claim,
    Equivalence,
    Exact,
    FullScale,
)
from rlhf_jax.studies.reproduction.curves import Curve, Measured, Plot
from rlhf_jax.studies.reproduction.output import summary, write
from rlhf_jax.studies.reproduction.runner import Progress, execute
from rlhf_jax.studies.reproduction.verdict import (
    Finding,
    Result,
    exit_code,
    judge,
)

__all__ = [
    "SUITES",
    "Above",
    "Band",
    "Below",
    "Claim",
    "Curve",
    "Equivalence",
    "Exact",
    "Finding",
    "FullScale",
    "Measured",
    "Plot",
    "Progress",
    "Result",
    "checked",
    "execute",
    "exit_code",
    "judge",
    "listing",
    "read",
    "select",
    "summary",
    "write",
]
