"""Counts, what views leave out, repetitions and contradictions of a set of feedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.data.feedback import Feedback, FeedbackSet, reports, views
from rlhf_jax.data.feedback.record import SAYS
from rlhf_jax.data.feedback.reports import Duplicate
from rlhf_jax.studies.feedback_report import agreeing
from rlhf_jax.studies.feedback_report.agreeing import Agreement


class Report(NamedTuple):
    """What was found; every part is plain values, as JSON has them.

    Attributes:
      counts: name -> number, of records, prompts, responses and annotators.
      verdicts: kind of verdict -> number of `records` that have it and of its `items`.
      views: view -> number of `records` that it makes and, by reason, `dropped`.
      duplicates: kind -> groups of records that say the same, their ids and annotators.
      contradictions: kind -> what records say against each other.
      agreement: kind of verdict -> how far annotators agree.
    """

    counts: Mapping[str, int]
    verdicts: Mapping[str, Mapping[str, int]]
    views: Mapping[str, Mapping[str, Any]]
    duplicates: Mapping[str, Sequence[Any]]
    contradictions: Mapping[str, Sequence[Any]]
    agreement: Mapping[str, Agreement]

    def row(self) -> dict[str, Any]:
        """As `feedback_report.json` has it."""
        agreement = {kind: found.row() for kind, found in self.agreement.items()}
        return {**self._asdict(), "agreement": agreement}


def measure(found: FeedbackSet) -> Report:
    """Everything that can be said of a set of feedback without a model."""
    records = found.records
    attributes = _attributes(records)
    return Report(
        counts=_counts(found),
        verdicts={
            name: {"records": len(said), "items": sum(said)}
            for name in SAYS
            if (said := [n for x in records if (n := len(getattr(x, name)))])
        },
        views={
            name: {"records": len(view.records), "dropped": dict(view.dropped)}
            for name, view in _views(records, attributes).items()
        },
        duplicates=_duplicates(reports.duplicates(records)),
        contradictions={
            kind: [one._asdict() for one in listed]
            for kind, listed in reports.against_each_other(records).items()
        },
        agreement=agreeing.measure(records, attributes),
    )


def _attributes(records: Sequence[Feedback]) -> tuple[str, ...]:
    names = (rating.attribute for item in records for rating in item.ratings)
    return tuple(dict.fromkeys(names))


def _counts(found: FeedbackSet) -> dict[str, int]:
    records = found.records
    texts = {(item.prompt, r.text) for item in records for r in item.responses}
    named = [item.annotator for item in records if item.annotator is not None]
    left = {f"responses left out, {why}": n for why, n in found.left_out.items()}
    return {
        "records": len(records),
        "prompts": len({item.prompt for item in records}),
        "responses": sum(len(item.responses) for item in records),
        "different responses": len(texts),
        "annotators": len(set(named)),
        "records without annotator": len(records) - len(named),
        **left,
    }


def _views(
    records: Sequence[Feedback], attributes: Sequence[str]
) -> dict[str, views.View]:
    """What every loss would be given."""
    found = {
        "pairs": views.pairs(records),
        "rankings": views.rankings(records),
        "labels": views.labels(records),
        "ratings": views.ratings(records, attributes),
        "demonstrations": views.demonstrations(records),
    }
    rated = {f"pairs by {a}": views.pairs(records, attribute=a) for a in attributes}
    return found | rated


def _duplicates(groups: Sequence[Duplicate]) -> dict[str, list[dict[str, Any]]]:
    """A group that several annotators make may also have one of them twice."""
    kinds: dict[str, list[dict[str, Any]]] = {
        "by one annotator twice": [],
        "by several annotators": [],
        "by unknown annotators": [],
    }
    for group in groups:
        named = [name for name in group.annotators if name is not None]
        if len(set(named)) < len(named):
            kinds["by one annotator twice"].append(group._asdict())
        if len(set(named)) > 1:
            kinds["by several annotators"].append(group._asdict())
        if len(named) < 2:
            kinds["by unknown annotators"].append(group._asdict())
    return kinds
