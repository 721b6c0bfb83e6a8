"""What each loss takes of feedback: lossy views that count what they leave out.

A view goes through a set of records and returns training records with `dropped`, how
often each reason to leave something out occurred. A reason that begins with "record:"
is a whole record that gave nothing; the others are parts of records that a loss of this
kind cannot use.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from rlhf_jax.data import records
from rlhf_jax.data.feedback import checks, orders
from rlhf_jax.data.feedback.orders import Count
from rlhf_jax.data.feedback.record import SAYS, Feedback
from rlhf_jax.data.fields import PromptText, Text
from rlhf_jax.data.records import Demonstration, Ranking
from rlhf_jax.data.sources import Dataset


@dataclass(frozen=True, kw_only=True)
class LabeledResponse(records._Record):
    """A prompt and a response called good or bad (KTO, BCO)."""

    kind: ClassVar[str] = "label"
    prompt: PromptText
    response: Text
    good: bool


@dataclass(frozen=True, kw_only=True)
class RatedResponse(records._Record):
    """A prompt and a response with ratings per attribute, each scaled to 0 .. 1."""

    kind: ClassVar[str] = "rating"
    prompt: PromptText
    response: Text
    ratings: Mapping[str, float]


class View(NamedTuple):
    """Training records, and how often each reason to drop something occurred."""

    records: tuple[Any, ...]
    dropped: Mapping[str, int]

    def dataset(self, name: str) -> Dataset:
        """As a `data.Dataset`, for `data.ranking_stream` and `data.sequence_stream`."""
        return Dataset(name, self.records)


def pairs(
    feedback: Iterable[Feedback],
    *,
    attribute: str | None = None,
    margin: float = 0.0,
) -> View:
    """Pairs (`data.Ranking` of two) for DPO and its relatives.

    Every strict comparison that a record states is a pair, once. A tie is no
    preference (check B28) and is dropped. A record of several pairs shares its weight
    among them, so that a prompt counts once (check B26).

    Args:
      feedback: the records.
      attribute: compare by the ratings of this attribute instead.
      margin: that a pair's scores must reach, per unit of the pair's strength.
    """

    def of_record(item: Feedback, count: Count) -> list[Ranking]:
        found: dict[tuple[str, str], float | None] = {}
        if attribute is not None:
            found = orders.by_rating(item, attribute, count)
        else:
            for comparison in checks.comparisons(item):
                key = (comparison.better, comparison.worse)
                if key in found:
                    count("comparison: stated twice")
                found[key] = comparison.strength or found.get(key)
            for _ in checks.ties(item):
                count("tie: no preference")
        if not margin:
            for strength in found.values():
                if strength is not None:
                    count("strength: not used without margin")
        return [
            records.pair(
                item.prompt,
                item.text(better),
                item.text(worse),
                id=f"{item.id}/{better}>{worse}",
                weight=item.weight / len(found),
                margin=margin * (strength or 0.0),
            )
            for (better, worse), strength in found.items()
        ]

    used = ("ratings",) if attribute is not None else ("ranking", "pairs")
    return _view(feedback, of_record, "no comparison", used)


def rankings(feedback: Iterable[Feedback], *, attribute: str | None = None) -> View:
    """Rankings of K (`data.Ranking`) for Plackett-Luce losses and reward models.

    Responses that the record does not order have rank 0. A partial order that no
    ranking can hold (a above b, c above d, nothing between) is dropped whole.

    Args:
      feedback: the records.
      attribute: rank by the ratings of this attribute instead.
    """

    def of_record(item: Feedback, count: Count) -> list[Ranking]:
        if attribute is None:
            ranks = orders.stated_ranks(item)
            if ranks is None:
                count("order: partial, no ranking holds it")
                return []
            for pair in item.pairs:
                if pair.strength is not None:
                    count("strength: not used")
        else:
            ranks = orders.rating_ranks(item, attribute, count)
        present = sorted(set(ranks.values()))
        if len(present) < 2:
            return []
        listed = [present.index(ranks[r.id]) + 1 if r.id in ranks else 0
                  for r in item.responses]  # fmt: skip
        for _ in range(listed.count(0)):
            count("response: not ranked")
        return [
            Ranking(
                id=item.id,
                weight=item.weight,
                prompt=item.prompt,
                responses=tuple(response.text for response in item.responses),
                ranks=tuple(listed),
            )
        ]

    used = ("ratings",) if attribute is not None else ("ranking", "pairs")
    return _view(feedback, of_record, "no order", used)


def labels(
    feedback: Iterable[Feedback],
    *,
    from_comparisons: bool = False,
    attribute: str | None = None,
) -> View:
    """Good and bad responses (`LabeledResponse`) for KTO and BCO.

    Args:
      feedback: the records.
      from_comparisons: responses without a label of their own are good where the
        record puts them above another and below none, bad where below and above none;
        those in the middle are dropped.
      attribute: compare by the ratings of this attribute instead.
    """

    def of_record(item: Feedback, count: Count) -> list[LabeledResponse]:
        said: dict[str, set[bool]] = {}
        for label in item.labels:
            said.setdefault(label.response, set()).add(label.good)
        if from_comparisons:
            ends = (
                orders.extremes(item)
                if attribute is None
                else orders.rated_extremes(item, attribute, count)
            )
            for name, verdicts in ends.items():
                said.setdefault(name, verdicts)
        of_text: dict[Text, set[bool]] = {}
        for name, verdicts in said.items():
            of_text.setdefault(item.text(name), set()).update(verdicts)
        found = []
        for name, verdicts in said.items():
            if len(of_text[item.text(name)]) > 1:
                count("label: good and bad at once")
                continue
            found.append(
                LabeledResponse(
                    id=f"{item.id}/{name}",
                    weight=item.weight,
                    prompt=item.prompt,
                    response=item.text(name),
                    good=next(iter(verdicts)),
                )
            )
        return found

    compared = ("ratings",) if attribute is not None else ("ranking", "pairs")
    used = ("labels", *compared) if from_comparisons else ("labels",)
    return _view(feedback, of_record, "no label", used)


def ratings(feedback: Iterable[Feedback], attributes: Sequence[str]) -> View:
    """Responses with ratings in 0 .. 1 (`RatedResponse`) for attribute regression.

    Args:
      feedback: the records.
      attributes: those that a response must have; several ratings of one attribute are
        averaged, others dropped.
    """

    def of_record(item: Feedback, count: Count) -> list[RatedResponse]:
        values: dict[str, dict[str, list[float]]] = {}
        for rating in item.ratings:
            if rating.attribute not in attributes:
                count(f"rating: attribute '{rating.attribute}' not asked for")
                continue
            scaled = (rating.value - rating.low) / (rating.high - rating.low)
            given = values.setdefault(rating.response, {})
            given.setdefault(rating.attribute, []).append(scaled)
        found = []
        for name, given in values.items():
            missing = [a for a in attributes if a not in given]
            if missing:
                count(f"response: no rating of '{missing[0]}'")
                continue
            found.append(
                RatedResponse(
                    id=f"{item.id}/{name}",
                    weight=item.weight,
                    prompt=item.prompt,
                    response=item.text(name),
                    ratings={a: sum(given[a]) / len(given[a]) for a in attributes},
                )
            )
        return found

    return _view(feedback, of_record, "no usable rating", ("ratings",))


def demonstrations(feedback: Iterable[Feedback], *, best: bool = False) -> View:
    """What to imitate (`data.Demonstration`): corrections, or else the best response.

    Args:
      feedback: the records.
      best: where a record has no correction, take the one response that is above
        another and below none.
    """

    def of_record(item: Feedback, count: Count) -> list[Demonstration]:
        texts = [(f"{item.id}/edit{i}", e.text) for i, e in enumerate(item.edits)]
        if best and not texts:
            top = [
                name for name, good in orders.extremes(item).items() if good == {True}
            ]
            if len(top) > 1:
                count("best response: several share the place")
                return []
            texts = [(f"{item.id}/{name}", item.text(name)) for name in top]
        return [
            Demonstration(
                id=name,
                weight=item.weight / len(texts),
                prompt=item.prompt,
                response=text,
            )
            for name, text in texts
        ]

    used = ("edits", "ranking", "pairs") if best else ("edits",)
    return _view(feedback, of_record, "nothing to imitate", used)


def _view(
    feedback: Iterable[Feedback],
    of_record: Callable[[Feedback, Count], list[Any]],
    nothing: str,
    used: Sequence[str],
) -> View:
    dropped: collections.Counter[str] = collections.Counter()

    def count(reason: str) -> None:
        dropped[reason] += 1

    found: list[Any] = []
    for item in feedback:
        made = of_record(item, count)
        if not made:
            count(f"record: {nothing}")
        for name in SAYS:
            if name not in used and getattr(item, name):
                dropped[f"{name}: not used"] += len(getattr(item, name))
        for reason in item.left_out():
            count(f"response: {reason}")
        if "margin" in item.extra:
            count("margin: not used")
        found.extend(made)
    return View(tuple(found), dict(dropped))
