"""A report on feedback for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rlhf_jax.studies.feedback_report.agreeing import Agreement
from rlhf_jax.studies.feedback_report.measures import Report
from rlhf_jax.studies.summary import number

SHOWN = 8
"""Annotators, and pairs of them, that are listed; the others are in the file."""
WIDTH = 44


def summary(found: Report) -> str:
    """The report, one line a number."""
    lines = [_line(name, count) for name, count in found.counts.items()]
    lines += ["", "what records say"]
    for name, count in found.verdicts.items():
        lines.append(f"{_line(name, count['items'])} in {count['records']} records")
    lines += ["", "what views make of them, and leave out"]
    for name, view in found.views.items():
        lines.append(_line(name, view["records"]))
        lines += [_line(f"  {why}", n) for why, n in view["dropped"].items()]
    lines += ["", "what is said twice"]
    lines += _listed(found.duplicates)
    lines += ["", "what is said against each other"]
    lines += _listed(found.contradictions)
    lines += ["", "agreement of annotators"]
    for name, one in found.agreement.items():
        lines += _agreement(name, one)
    return "\n".join(lines)


def _line(name: str, value: Any) -> str:
    return f"  {name:<{WIDTH}} {value:>8}"


def _listed(kinds: Mapping[str, Iterable[Mapping[str, Any]]]) -> Iterator[str]:
    for kind, groups in kinds.items():
        groups = list(groups)
        alone = sum(bool(group.get("same_annotator")) for group in groups)
        more = f", {alone} of them by one annotator" if alone else ""
        yield _line(kind, len(groups)) + more


def _agreement(name: str, one: Agreement) -> Iterator[str]:
    if not one.n:
        yield f"  {name}: not measured, {one.unmeasured['alpha']}"
        return
    yield f"  {name}: {one.n} judged by two or more of {one.annotators} annotators"
    for what, why in one.unmeasured.items():
        yield f"    {what}: not measured, {why}"
    if "alpha" not in one.unmeasured:
        yield _line(f"  Krippendorff's alpha, {one.level}", number(one.alpha))
    kappas = (("Cohen's kappa, " + " and ".join(k.annotators), k.value, k.n)
              for k in one.kappas)  # fmt: skip
    yield from _first(kappas)
    accuracies = (("Dawid-Skene accuracy, " + a.annotator, a.value, a.n)
                  for a in one.accuracies)  # fmt: skip
    yield from _first(accuracies)


def _first(rows: Iterable[tuple[str, float, int]]) -> Iterator[str]:
    rows = list(rows)
    for name, value, n in rows[:SHOWN]:
        yield f"{_line('  ' + ' '.join(name.split()), number(value))} of {n}"
    if len(rows) > SHOWN:
        yield f"    and {len(rows) - SHOWN} more, which feedback_report.json has"
