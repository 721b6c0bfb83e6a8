"""Who said what of the same: verdicts as tables, which measures of agreement take."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data.feedback import checks, orders
from rlhf_jax.data.feedback.agreement import krippendorff_alpha
from rlhf_jax.data.feedback.record import Feedback


class Table(NamedTuple):
    """Verdicts on what two or more annotators judged; nothing else is compared.

    Attributes:
      values: float64[annotators, columns], NaN where one said nothing.
      annotators: names of the rows, sorted.
      columns: what the columns are about, see the function that makes the table.
    """

    values: np.ndarray
    annotators: tuple[str, ...]
    columns: tuple[Any, ...]

    def alpha(self, level: str) -> float:
        """Krippendorff's alpha of the verdicts, see `agreement`."""
        return krippendorff_alpha(self.values, level)


def comparisons(feedback: Iterable[Feedback]) -> Table:
    """Who preferred what: 1 the first text, -1 the second, 0 a tie.

    Of several verdicts of one annotator it is the mean's sign. Columns are (prompt,
    first text, second text); records without annotator are left out.
    """

    def said(item: Feedback) -> Iterable[tuple[Hashable, float]]:
        found = [(item.text(c.better), item.text(c.worse), 1)
                 for c in checks.comparisons(item)]  # fmt: skip
        found += [(item.text(one), item.text(two), 0) for one, two in checks.ties(item)]
        for one, two, value in dict.fromkeys(x for x in found if x[0] != x[1]):
            first, second = sorted((one, two))
            yield (item.prompt, first, second), value if one == first else -value

    return _table(feedback, said, lambda values: float(np.sign(np.mean(values))))


def labels(feedback: Iterable[Feedback]) -> Table:
    """Who called what good: 1, or bad: 0.

    Who said both equally often said nothing, else what was said more often. Columns
    are (prompt, text); records without annotator are left out.
    """

    def said(item: Feedback) -> Iterable[tuple[Hashable, float]]:
        for label in item.labels:
            yield (item.prompt, item.text(label.response)), float(label.good)

    def majority(values: Sequence[float]) -> float:
        mean = np.mean(values)
        return float("nan") if mean == 0.5 else float(mean > 0.5)

    return _table(feedback, said, majority)


def ratings(feedback: Iterable[Feedback], attribute: str) -> Table:
    """Who rated what how high on an attribute, scaled to 0 .. 1, the mean of several.

    Columns are (prompt, text); records without annotator are left out.
    """

    def said(item: Feedback) -> Iterable[tuple[Hashable, float]]:
        for name, value in orders.rating_values(item, attribute).items():
            yield (item.prompt, item.text(name)), value

    return _table(feedback, said, lambda values: float(np.mean(values)))


def _table(
    feedback: Iterable[Feedback],
    said: Callable[[Feedback], Iterable[tuple[Hashable, float]]],
    merge: Callable[[Sequence[float]], float],
) -> Table:
    given: dict[Hashable, dict[str, list[float]]] = {}
    for item in feedback:
        if item.annotator is not None:
            for column, value in said(item):
                by_name = given.setdefault(column, {})
                by_name.setdefault(item.annotator, []).append(value)
    shared: dict[Hashable, dict[str, float]] = {}
    for column, by_name in given.items():
        merged = {name: merge(values) for name, values in by_name.items()}
        known = {name: value for name, value in merged.items() if value == value}
        if len(known) > 1:
            shared[column] = known
    names = sorted({name for by_name in shared.values() for name in by_name})
    rows = {name: row for row, name in enumerate(names)}
    values = np.full((len(names), len(shared)), np.nan)
    for column, by_name in enumerate(shared.values()):
        for name, value in by_name.items():
            values[rows[name], column] = value
    return Table(values, tuple(names), tuple(shared))
