"""Everything that a study writes for people, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhf_jax.studies import files
from rlhf_jax.studies.ablation import analysis, report, tables
from rlhf_jax.studies.ablation import plan as plans
from rlhf_jax.studies.ablation import records as results
from rlhf_jax.studies.ablation.analysis import Analysis
from rlhf_jax.studies.ablation.records import Record


def write(found: Analysis, records: Sequence[Record], folder: Path) -> None:
    """Write `ablation.json`, `.csv`, `.md`, `.tex` and `report.html`, each atomically.

    None of them holds a time: the same records give the same bytes.

    Args:
      found: what `analyse` made of the records.
      records: for the curves.
      folder: of the study.

    Raises:
      UserError: a place that cannot be written.
    """
    files.write_text(folder / "ablation.csv", tables.to_csv(found))
    files.write_text(folder / "ablation.md", tables.to_markdown(found))
    files.write_text(folder / "ablation.tex", tables.to_latex(found))
    files.write_text(folder / "report.html", report.render(found, records))
    files.write_json(folder / "ablation.json", analysis.to_json(found))


def rewrite(folder: Path) -> Analysis:
    """Analyze and write again what a folder holds, complete or not.

    Raises:
      UserError: a folder without a study.
    """
    plan = plans.read(folder)
    kept = results.read_all(plan, folder)
    found = analysis.analyse(plan, kept)
    write(found, kept, folder)
    return found
