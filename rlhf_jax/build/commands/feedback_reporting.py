"""`rlhf-jax feedback-report`: what a file of human feedback says, before training."""

from __future__ import annotations

import argparse
from pathlib import Path

from rlhf_jax.build.runs import claiming
from rlhf_jax.data import feedback
from rlhf_jax.data.feedback import plain
from rlhf_jax.errors import UserError
from rlhf_jax.studies import feedback_report, files

NAME = "feedback_report.json"


def report(options: argparse.Namespace) -> str:
    """Measures a file, and writes `feedback_report.json` where a work folder is given.

    Args:
      options: `data` (JSONL), `layout` (one of `plain.NAMES`), `workdir` (or None).

    Returns:
      What was found, for a terminal, and where it is.

    Raises:
      UserError: a bad line, an unknown layout, or a place that cannot be written or
        holds another report.
    """
    place = None if options.workdir is None else _place(options.workdir)
    found = feedback_report.measure(_read(options.data, options.layout))
    shown = f"{options.data}\n{feedback_report.summary(found)}"
    if place is None:
        return shown
    row = files.finite({"data": options.data, "layout": options.layout, **found.row()})
    if place.exists() and files.read_json(place) != row:
        raise UserError(
            f"{place} is another report, of other data or another version; choose"
            " another --workdir, nothing is overwritten"
        )
    return f"{shown}\n\n{files.write_json(place, row)}"


def _place(workdir: str) -> Path:
    if not workdir.strip():
        raise UserError("--workdir is empty; name a folder, or leave it out")
    claiming.check_folder(Path(workdir))
    return Path(workdir) / NAME


def _read(path: str, layout: str) -> feedback.FeedbackSet:
    if layout not in plain.NAMES:
        raise UserError(
            f"--layout={layout} is not known; it is one of {', '.join(plain.NAMES)}"
        )
    found = plain.read(path, layout, on_bad_record="skip")
    if found.skipped:
        raise UserError(f"{found.complaint(path)}; correct them, or take them out")
    return found
