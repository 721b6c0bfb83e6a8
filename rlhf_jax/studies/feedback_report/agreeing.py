"""How far annotators agree, where two or more of them judged the same."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data.feedback import Feedback, agreement, dawid_skene, tables
from rlhf_jax.data.feedback.tables import Table

ENOUGH = 10
"""Things that two of many annotators must both have judged for a kappa of their own."""


class Kappa(NamedTuple):
    """Cohen's kappa of two annotators; NaN where both always said the same one thing.

    Attributes:
      annotators: the two.
      value: 1 for perfect agreement, 0 for chance.
      n: what both judged.
    """

    annotators: tuple[str, str]
    value: float
    n: int


class Accuracy(NamedTuple):
    """How often an annotator is right, by Dawid and Skene's model.

    Attributes:
      annotator: who.
      value: mean chance that what they said is the true verdict.
      n: verdicts, on what others judged too.
    """

    annotator: str
    value: float
    n: int


class Agreement(NamedTuple):
    """Agreement on one kind of verdict.

    Attributes:
      level: of Krippendorff's alpha: nominal, or interval.
      annotators: who judged what another one judged too.
      n: what two or more annotators judged.
      alpha: Krippendorff's; NaN where nothing can be compared.
      kappas: Cohen's, of the pairs of annotators with most in common first.
      accuracies: lowest first.
      unmeasured: measure -> why there is none.
    """

    level: str
    annotators: int = 0
    n: int = 0
    alpha: float = float("nan")
    kappas: Sequence[Kappa] = ()
    accuracies: Sequence[Accuracy] = ()
    unmeasured: dict[str, str] = {}

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            **self._asdict(),
            "kappas": [one._asdict() for one in self.kappas],
            "accuracies": [one._asdict() for one in self.accuracies],
        }


def measure(
    records: Sequence[Feedback], attributes: Sequence[str]
) -> dict[str, Agreement]:
    """Agreement on preferences, on labels, and on the ratings of each attribute.

    A tie is a third verdict beside the two preferences. Ratings have alpha alone, for
    the scales of kappa and of Dawid and Skene have no distances.
    """

    def rated(attribute: str) -> Agreement:
        who = [x for x in records if any(r.attribute == attribute for r in x.ratings)]
        return _measured(who, tables.ratings(who, attribute), "interval")

    compared = [x for x in records if x.pairs or x.ranking]
    labeled = [x for x in records if x.labels]
    found = {
        "preferences": _measured(compared, tables.comparisons(compared), "nominal"),
        "labels": _measured(labeled, tables.labels(labeled), "nominal"),
    }
    return found | {f"ratings of {name}": rated(name) for name in attributes}


def _measured(who: Sequence[Feedback], table: Table, level: str) -> Agreement:
    """`who` are the records with such verdicts."""
    reason = _reason(who, table)
    if reason is not None:
        return Agreement(level, unmeasured={"alpha": reason})
    annotators, columns = table.values.shape
    found = Agreement(level, annotators, columns, table.alpha(level))
    missing = {}
    if math.isnan(found.alpha):
        missing["alpha"] = "all verdicts are the same"
    if level == "nominal":
        kappas = _kappas(table)
        if not kappas:
            missing["kappa"] = f"no two annotators judged {ENOUGH} of the same"
        found = found._replace(kappas=kappas, accuracies=_accuracies(table))
    return found._replace(unmeasured=missing)


def _reason(who: Sequence[Feedback], table: Table) -> str | None:
    named = {item.annotator for item in who if item.annotator is not None}
    if not who:
        return "no record says such"
    if not named:
        return "no annotator is named"
    if len(named) == 1:
        return "there is one annotator"
    return None if table.columns else "no two annotators judged the same"


def _kappas(table: Table) -> list[Kappa]:
    known = ~np.isnan(table.values)
    common = known.astype(np.int64) @ known.T.astype(np.int64)
    least = 1 if len(table.annotators) == 2 else ENOUGH
    found = []
    for one, two in itertools.combinations(range(len(table.annotators)), 2):
        if common[one, two] >= least:
            both = known[one] & known[two]
            first, second = (table.values[row, both].tolist() for row in (one, two))
            names = table.annotators[one], table.annotators[two]
            value = agreement.cohen_kappa(first, second)
            found.append(Kappa(names, value, len(first)))
    return sorted(found, key=lambda kappa: -kappa.n)


def _accuracies(table: Table) -> list[Accuracy]:
    rows, columns = np.nonzero(~np.isnan(table.values))
    _, classes = np.unique(table.values[rows, columns], return_inverse=True)
    fitted = dawid_skene.fit(columns, rows, classes)
    right = fitted.posterior[columns, classes]
    count = np.bincount(rows)
    mean = np.bincount(rows, right) / count
    found = [
        Accuracy(*one)
        for one in zip(table.annotators, mean, count.tolist(), strict=True)
    ]
    return sorted(found, key=_accuracy)


def _accuracy(one: Accuracy) -> float:
    return one.value
