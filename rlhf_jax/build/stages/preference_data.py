"""What a preference stage learns from: records of a task or of a labelling stage."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from rlhf_jax import data
from rlhf_jax.build.runs.context import Context
from rlhf_jax.build.stages import label
from rlhf_jax.data.feedback import Feedback, plain, shares, views
from rlhf_jax.data.fields import FieldError, Text
from rlhf_jax.data.records import Ranking
from rlhf_jax.errors import UserError


class Source(NamedTuple):
    """Where comparisons come from and how a method sees them.

    Attributes:
      name: `task`, or a labelling stage.
      batch: `pairs`, `rankings` or `labels`.
      attribute: order responses by the ratings of this attribute, or None.
      from_comparisons: label unlabeled responses by the comparisons.
    """

    name: str
    batch: str
    attribute: str | None
    from_comparisons: bool

    def view(self, found: Iterable[Feedback]) -> views.View:
        """The records that the method learns from."""
        if self.batch == "pairs":
            return views.pairs(found, attribute=self.attribute)
        if self.batch == "rankings":
            return views.rankings(found, attribute=self.attribute)
        return views.labels(
            found, from_comparisons=self.from_comparisons, attribute=self.attribute
        )


class Loaded(NamedTuple):
    """A data set of a method, what was left out of it by reason, and of pairs the
    chances float32[N 2] that the responses win (`feedback.shares`)."""

    dataset: data.Dataset
    dropped: dict[str, int]
    wins: np.ndarray | None


def load(context: Context, source: Source, split: str) -> Loaded | None:
    """Comparisons of a split (`train` or `heldout`); None where nothing is held out.

    Raises:
      UserError: nothing in the training data is of the kind that the method takes.
    """
    found, dropped = _feedback(context, source.name, split)
    name = f"{source.name}-{split}"
    if not found and split == "heldout":
        return None
    view = source.view(found)
    for reason, count in view.dropped.items():
        dropped[reason] += count
    if not view.records:
        if split == "heldout":
            return None
        reasons = ", ".join(f"{count} {why}" for why, count in dropped.items())
        raise UserError(
            f"{name} has no {source.batch} to learn from (left out: {reasons});"
            f" choose a loss that learns from what there is{_advice(source)}"
        )
    wins = None if source.batch != "pairs" else _wins(found, view, source.attribute)
    return Loaded(view.dataset(name), dict(dropped), wins)


def contradictions(context: Context, source: Source) -> dict[str, int]:
    """What the task's records say against each other, by kind."""
    collected = context.task.feedback
    if source.name != "task" or collected is None:
        return {}
    return dict(collected.contradictions)


def _wins(
    found: Iterable[Feedback], view: views.View, attribute: str | None
) -> np.ndarray:
    won = shares.win_shares(found, attribute=attribute)
    rows = [[won[r.prompt, text] for text in r.responses] for r in view.records]
    return np.asarray(rows, np.float32)


def _advice(source: Source) -> str:
    if source.batch == "labels" and not source.from_comparisons:
        return ", or set from_comparisons=True"
    if source.attribute is None:
        return ", or name the attribute whose ratings order the responses"
    return ""


def _feedback(
    context: Context, source: str, split: str
) -> tuple[tuple[Feedback, ...], collections.Counter[str]]:
    collected, dropped = context.task.feedback, collections.Counter[str]()
    if source == "task" and collected is not None:
        if split == "heldout":
            return collected.heldout, dropped
        dropped.update({f"bad record: {k}": n for k, n in collected.bad.items()})
        return collected.train, dropped
    if source == "task" and split == "heldout" and not context.task.heldout_rankings:
        return (), dropped
    rankings = label.rankings(context, source, split)
    found = []
    for record in rankings.records:
        assert isinstance(record, Ranking)
        try:
            kept = _distinct(record, dropped)
            if kept is not None:
                found.append(plain.of_ranking(kept))
        except FieldError as error:
            raise UserError(f"{rankings.name}, '{record.id}': {error}") from error
    return tuple(found), dropped


def _distinct(record: Ranking, dropped: collections.Counter[str]) -> Ranking | None:
    """Without the second of identical responses; None where fewer than two remain.

    Sampled responses repeat, and noise ranks copies differently.
    """
    places: dict[Text, int] = {}
    for index, (text, rank) in enumerate(
        zip(record.responses, record.ranks, strict=True)
    ):
        if rank and text in places:
            dropped["identical responses"] += 1
        elif rank:
            places[text] = index
    keep = sorted(places.values())
    if len(keep) < 2:
        dropped["record: fewer than two different responses"] += 1
        return None
    return Ranking(
        id=record.id,
        weight=record.weight,
        prompt=record.prompt,
        responses=tuple(record.responses[i] for i in keep),
        ranks=tuple(record.ranks[i] for i in keep),
    )
