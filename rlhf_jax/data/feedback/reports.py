"""What records say again, and what they say against each other."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rlhf_jax.data.feedback import checks, orders
from rlhf_jax.data.feedback.record import Feedback
from rlhf_jax.data.fields import PromptText, Text


class Duplicate(NamedTuple):
    """Records that say the same of the same texts: their ids and annotators."""

    ids: tuple[str, ...]
    annotators: tuple[str | None, ...]


class Contradiction(NamedTuple):
    """Two texts that records order both ways.

    Attributes:
      prompt: of both.
      texts: the two responses.
      first_above: ids of records that put the first text above the second.
      second_above: ids of records that say the opposite.
      same_annotator: annotators who said both.
      attribute: whose ratings order them, or None where records compare them.
    """

    prompt: PromptText
    texts: tuple[Text, Text]
    first_above: tuple[str, ...]
    second_above: tuple[str, ...]
    same_annotator: tuple[str, ...]
    attribute: str | None = None


class LabelContradiction(NamedTuple):
    """A text that one record calls good and another one bad.

    Attributes:
      prompt: that it answers.
      text: the response.
      good: ids of records that call it good.
      bad: ids of records that call it bad.
      same_annotator: annotators who said both.
    """

    prompt: PromptText
    text: Text
    good: tuple[str, ...]
    bad: tuple[str, ...]
    same_annotator: tuple[str, ...]


class Circle(NamedTuple):
    """Texts that records of a prompt, taken together, prefer in a circle.

    Attributes:
      prompt: of all.
      texts: each above the next one, first = last.
    """

    prompt: PromptText
    texts: tuple[Text, ...]


def duplicates(feedback: Iterable[Feedback]) -> list[Duplicate]:
    """Groups of records with the same prompt, texts and verdicts.

    Response ids and the order of responses do not matter; comments do not count. One
    annotator twice is a repetition, two annotators are an agreement: both are listed.
    """
    groups: dict[object, list[Feedback]] = {}
    for item in feedback:
        groups.setdefault(_verdict(item), []).append(item)
    return [
        Duplicate(tuple(i.id for i in group), tuple(i.annotator for i in group))
        for group in groups.values()
        if len(group) > 1
    ]


def contradictions(feedback: Iterable[Feedback]) -> list[Contradiction]:
    """Pairs of texts that records (of one or of several annotators) order both ways.

    By what they compare; see `rating_contradictions` and `label_contradictions`."""
    return _both_ways((item, None, _orders(item)) for item in _shared(feedback))


def rating_contradictions(feedback: Iterable[Feedback]) -> list[Contradiction]:
    """Pairs of texts that records order both ways by their ratings of one attribute.

    A record orders the texts that it rates itself, whatever its scale; of several
    ratings of a text it says the mean.
    """
    return _both_ways(
        (item, attribute, orders.rated_texts(item, attribute))
        for item in _shared(feedback)
        for attribute in dict.fromkeys(rating.attribute for rating in item.ratings)
    )


def label_contradictions(feedback: Iterable[Feedback]) -> list[LabelContradiction]:
    """Texts that one record calls good and another one bad, for the same prompt.

    A record that says both by itself is counted by `views.labels`, and is listed here
    where another record joins in.
    """
    said: dict[tuple, tuple[dict[str, Feedback], dict[str, Feedback]]] = {}
    for item in _shared(feedback):
        for label in item.labels:
            key = item.prompt, item.text(label.response)
            said.setdefault(key, ({}, {}))[not label.good][item.id] = item
    return [
        LabelContradiction(
            prompt, text, tuple(good), tuple(bad), _both(good.values(), bad.values())
        )
        for (prompt, text), (good, bad) in said.items()
        if good and bad and len({*good, *bad}) > 1
    ]


def circles(feedback: Iterable[Feedback]) -> list[Circle]:
    """Prompts whose records, taken together, prefer in a circle: one such circle each.

    No single record does; see `checks.check`."""
    edges: dict[PromptText, set[tuple[Text, Text]]] = {}
    for item in _shared(feedback):
        edges.setdefault(item.prompt, set()).update(_orders(item))
    found = {prompt: checks.cycle(sorted(pairs))
             for prompt, pairs in edges.items()}  # fmt: skip
    return [Circle(prompt, tuple(circle)) for prompt, circle in found.items() if circle]


def against_each_other(feedback: Sequence[Feedback]) -> dict[str, Sequence[Any]]:
    """All that records say against each other, by kind."""
    return {
        "pairs ordered both ways": contradictions(feedback),
        "pairs rated both ways": rating_contradictions(feedback),
        "responses called good and bad": label_contradictions(feedback),
        "prompts whose preferences go in a circle": circles(feedback),
    }


def _shared(feedback: Iterable[Feedback]) -> list[Feedback]:
    """Records whose prompt others have too: no record contradicts itself."""
    items = list(feedback)
    count = collections.Counter(item.prompt for item in items)
    return [item for item in items if count[item.prompt] > 1]


def _both_ways(
    stated: Iterable[tuple[Feedback, str | None, set[tuple[Text, Text]]]],
) -> list[Contradiction]:
    """Of (record, attribute, what it puts (above, below)): what is said both ways."""
    said: dict[tuple, tuple[list[Feedback], list[Feedback]]] = {}
    for item, attribute, edges in stated:
        for better, worse in sorted(edges):
            first, second = sorted((better, worse))
            key = item.prompt, first, second, attribute
            said.setdefault(key, ([], []))[better != first].append(item)
    return [
        Contradiction(
            prompt,
            (first, second),
            tuple(item.id for item in up),
            tuple(item.id for item in down),
            _both(up, down),
            attribute,
        )
        for (prompt, first, second, attribute), (up, down) in said.items()
        if up and down
    ]


def _orders(item: Feedback) -> set[tuple[Text, Text]]:
    """(better text, worse text), each once."""
    return {(item.text(c.better), item.text(c.worse)) for c in checks.comparisons(item)}


def _verdict(item: Feedback) -> object:
    tied = frozenset(
        frozenset((item.text(one), item.text(two))) for one, two in checks.ties(item)
    )
    return (
        item.prompt,
        frozenset(response.text for response in item.responses),
        frozenset(_orders(item)),
        tied,
        frozenset((item.text(r.response), *r[1:]) for r in item.ratings),
        frozenset((item.text(x.response), x.good) for x in item.labels),
        frozenset((item.text(x.response), x.text) for x in item.edits),
        frozenset((item.text(x.response), x.message) for x in item.follow_ups),
    )


def _both(one: Iterable[Feedback], other: Iterable[Feedback]) -> tuple[str, ...]:
    """Annotators of both, sorted."""
    return tuple(sorted(_names(one) & _names(other)))


def _names(items: Iterable[Feedback]) -> set[str]:
    return {item.annotator for item in items if item.annotator is not None}
