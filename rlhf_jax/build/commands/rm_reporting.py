"""`rlhf-jax rm-report`: what a reward model does, measured on labelled responses."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.build.commands import opening
from rlhf_jax.build.commands import rm_report_data as read
from rlhf_jax.build.commands.opening import Opened
from rlhf_jax.build.stages.answering import Answer, Judge
from rlhf_jax.errors import UserError
from rlhf_jax.studies import rm_report

PADDING = 3
"""Columns of padding more, on both sides, in the pass that must change nothing."""

EDITS: dict[str, tuple[Callable[[Any, Answer], Any], str]] = {
    "whitespace": (read.spaces, "single spaces between words become double"),
    "punctuation": (read.period, "a final period is taken away, or put there"),
    "neighbors": (read.neighbors, "two neighboring tokens trade places"),
}
"""Edits that should not matter: of text the first two, of bare token ids the last."""


class _Measured(NamedTuple):
    """One reward model on one file."""

    opened: Opened
    judge: Judge
    source: read.Source
    found: rm_report.Pairs
    scores: np.ndarray
    hidden: np.ndarray


def report(options: argparse.Namespace) -> str:
    """Writes `rm_report.json` and `report.html` into a work folder.

    Args:
      options: `model` (stage folder or Hugging Face directory), `data` (JSONL of pairs
        or rankings; fields `gold` per response, `cluster` and others are used where
        present), `workdir`, `label_noise` (or None), `reference_samples` and
        `policy_samples` (JSONL of prompt and response, or None), `limit`.

    Returns:
      What was found, one line each, and where it is.

    Raises:
      UserError: no reward model, a bad line, or no untied pair.
    """
    path = Path(options.data)
    opened = opening.open_model(Path(options.model))
    if not opened.scalar:
        raise UserError(
            f"{opened.name} is a language model; rm-report is about a reward model,"
            " such as the stage folder RUN/rm"
        )
    measured = _measure(opened, path, options.limit)
    noise = options.label_noise
    noise = read.noise(path) if noise is None else noise
    difference = measured.found.difference(measured.scores)
    results = rm_report.results(difference, measured.found, noise)
    results = results.with_entries(_position(measured))
    results = results.with_entries(_edits(measured))
    results = results.with_entries(_shift(measured, options))
    facts = {
        "model": str(options.model),
        "data": str(path),
        **measured.source.counts,
        "responses": len(measured.scores),
        "untied pairs": measured.found.count,
        "tied pairs, left out": measured.found.tied,
        "prompts": len(np.unique(measured.found.cluster)),
        "label noise": "unknown" if noise is None else noise,
    }
    return rm_report.write(Path(options.workdir), results, facts)


def _measure(opened: Opened, path: Path, limit: int) -> _Measured:
    source = read.rankings(path, opened, limit)
    left_out = source.counts["records too long for the context, left out"]
    if left_out:
        print(f"{path}: {left_out} records are too long, left out", file=sys.stderr)
    found = rm_report.pairs(source.rankings)
    if not found.count:
        raise UserError(f"{path}: every pair ties, so there is nothing to compare with")
    judge = Judge(opened)
    scores, hidden = judge(source.answers)
    if not np.all(np.isfinite(scores)):
        raise UserError(f"{opened.name} gives scores that are not finite")
    return _Measured(opened, judge, source, found, scores, hidden)


def _position(measured: _Measured) -> dict[str, rm_report.Entry]:
    """The same responses in the other order, with more padding."""
    turned = measured.judge(measured.source.answers[::-1], PADDING).scores[::-1]
    listed = measured.found.difference(measured.scores)
    again = measured.found.difference(turned)
    what = "it is scored in another place of the batch, with more padding"
    return {
        "position_bias": rm_report.position_bias(listed, again, measured.found),
        "consistency_padding": rm_report.consistency(
            measured.scores, turned, measured.found, what
        ),
    }


def _edits(measured: _Measured) -> dict[str, rm_report.Entry]:
    """Perturbations that should not matter, saying all twice, another's prompt."""
    source, opened, found = measured.source, measured.opened, measured.found
    entries: dict[str, rm_report.Entry] = {}
    for name, (edit, what) in EDITS.items():
        answers = read.edited(source, opened, edit)
        if answers is not None:
            scores = measured.judge(answers).scores
            entries[f"consistency_{name}"] = rm_report.consistency(
                measured.scores, scores, found, what
            )
    repeated = read.edited(source, opened, read.twice)
    if repeated is not None:
        scores = measured.judge(repeated).scores
        entries["repetition"] = rm_report.repetition(
            measured.scores, scores, source.clusters
        )
    shuffled = read.another_prompt(source)
    if shuffled is not None:
        usable = [
            new if len(new[0]) + len(new[1]) <= opened.context_length else old
            for new, old in zip(shuffled, source.answers, strict=True)
        ]
        entries |= rm_report.prompt_shuffle(
            measured.scores, measured.judge(usable).scores, found, source.clusters
        )
    return entries


def _shift(
    measured: _Measured, options: argparse.Namespace
) -> dict[str, rm_report.Entry]:
    """Drift and distance of samples; not measured where their files are not given."""
    if options.reference_samples is None and options.policy_samples is not None:
        raise UserError(
            "--policy-samples are compared with --reference-samples; give both"
        )

    def judged(path: str | None) -> rm_report.Samples | None:
        if path is None:
            return None
        answers, clusters = read.samples(Path(path), measured.opened)
        return rm_report.Samples(*measured.judge(answers), clusters)

    reference = judged(options.reference_samples)
    policy = judged(options.policy_samples)
    data = rm_report.Samples(measured.scores, measured.hidden, measured.source.clusters)
    far = rm_report.out_of_distribution
    return {
        "ood_data": far(reference, data, "a response of the data"),
        "score_drift": rm_report.score_drift(reference, policy),
        "ood_policy": far(reference, policy, "a sample of the policy"),
    }
