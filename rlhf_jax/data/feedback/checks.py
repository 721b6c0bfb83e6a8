"""What a feedback record must satisfy, and the order that it states."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from rlhf_jax.data.feedback.record import SAYS, Feedback, FeedbackError
from rlhf_jax.data.fields import Message, Text, show

Node = TypeVar("Node", bound=Hashable)


class Comparison(NamedTuple):
    """Two response ids: `better` strictly above `worse`; `field` says where."""

    better: str
    worse: str
    strength: float | None
    field: str


def check(feedback: Feedback) -> None:
    """Refuse a record that must not be trained on.

    Raises:
      FeedbackError: names the field and the ids; its `kind` is one of `KINDS`.
    """
    _check_responses(feedback)
    _check_texts(feedback)
    known = {response.id for response in feedback.responses}
    for name, identifier in _mentions(feedback):
        if identifier not in known:
            raise FeedbackError(
                "unknown response",
                name,
                f"no response has the id '{identifier}'; the record has "
                + ", ".join(repr(i) for i in sorted(known)),
            )
    _check_ranking(feedback)
    _check_values(feedback)
    _check_order(feedback)
    if not any(getattr(feedback, name) for name in SAYS):
        raise FeedbackError(
            "schema", "(line)", f"no feedback: all of {', '.join(SAYS)} are empty"
        )
    _check_writable(feedback)


def is_empty(text: Text) -> bool:
    """No token, or nothing but white space."""
    return not (text.strip() if isinstance(text, str) else text)


def comparisons(feedback: Feedback) -> Iterator[Comparison]:
    """Every strict comparison that the record states, in its own order.

    A ranking states all pairs of responses in different groups.
    """
    groups = feedback.ranking
    for upper, group in enumerate(groups):
        for lower in range(upper + 1, len(groups)):
            for better in group:
                for worse in groups[lower]:
                    yield Comparison(better, worse, None, f"ranking[{lower}]")
    for index, pair in enumerate(feedback.pairs):
        if not pair.tie:
            yield Comparison(*pair[:3], field=f"pairs[{index}]")


def ties(feedback: Feedback) -> Iterator[tuple[str, str]]:
    """Pairs of ids that the record says are equally good."""
    for group in feedback.ranking:
        yield from ((a, b) for i, a in enumerate(group) for b in group[i + 1 :])
    yield from ((pair.better, pair.worse) for pair in feedback.pairs if pair.tie)


def tie_groups(feedback: Feedback) -> dict[str, str]:
    """Response id -> representative of all that tie with it, directly or by others."""
    group = {response.id: response.id for response in feedback.responses}
    for one, two in ties(feedback):
        old, new = group[two], group[one]
        group = {i: new if g == old else g for i, g in group.items()}
    return group


def above(feedback: Feedback) -> set[tuple[str, str]]:
    """(better, worse) between tie groups, with all that follows by transitivity."""
    group = tie_groups(feedback)
    order = {(group[c.better], group[c.worse]) for c in comparisons(feedback)}
    names = sorted(set(group.values()))
    for middle in names:
        for upper in names:
            if (upper, middle) in order:
                order |= {(upper, lower) for lower in names if (middle, lower) in order}
    return order


def _check_responses(feedback: Feedback) -> None:
    if not feedback.responses:
        raise FeedbackError("schema", "responses", "a record needs one or more")
    seen: set[str] = set()
    for index, response in enumerate(feedback.responses):
        if response.id in seen:
            problem = f"'{response.id}' is the id of an earlier response"
            raise FeedbackError("schema", f"responses[{index}].id", problem)
        seen.add(response.id)
        if is_empty(response.text):
            problem = f"response '{response.id}' is empty"
            raise FeedbackError("empty response", f"responses[{index}].text", problem)
    for index, edit in enumerate(feedback.edits):
        if is_empty(edit.text):
            problem = f"the correction of '{edit.response}' is empty"
            raise FeedbackError("empty response", f"edits[{index}].text", problem)


def _check_texts(feedback: Feedback) -> None:
    """Text or token ids, not both: ids are those of one tokenizer, text is of none."""
    prompt = feedback.prompt
    ids = isinstance(prompt, tuple) and not any(isinstance(x, Message) for x in prompt)
    texts = [("responses", r.text) for r in feedback.responses]
    texts += [("edits", e.text) for e in feedback.edits]
    for name, text in texts:
        if isinstance(text, tuple) != ids:
            kinds = ("token ids", "text") if ids else ("text", "token ids")
            problem = f"the prompt is {kinds[0]} and this is {kinds[1]}"
            raise FeedbackError("mixed text and token ids", name, problem)


def _mentions(feedback: Feedback) -> Iterator[tuple[str, str]]:
    """(field, response id) of everything that names a response."""
    for index, group in enumerate(feedback.ranking):
        yield from ((f"ranking[{index}]", identifier) for identifier in group)
    for index, pair in enumerate(feedback.pairs):
        yield f"pairs[{index}].better", pair.better
        yield f"pairs[{index}].worse", pair.worse
    for name in ("ratings", "labels", "edits", "comments", "follow_ups"):
        for index, item in enumerate(getattr(feedback, name)):
            if item.response is not None:
                yield f"{name}[{index}].response", item.response


def _check_ranking(feedback: Feedback) -> None:
    seen: set[str] = set()
    for index, group in enumerate(feedback.ranking):
        if not group:
            raise FeedbackError("schema", f"ranking[{index}]", "the group is empty")
        for identifier in group:
            if identifier in seen:
                problem = f"'{identifier}' is ranked twice"
                raise FeedbackError("cyclic preference", f"ranking[{index}]", problem)
            seen.add(identifier)


def _check_values(feedback: Feedback) -> None:
    for index, rating in enumerate(feedback.ratings):
        value, low, high = rating.value, rating.low, rating.high
        if not (low < high and low <= value <= high):
            raise FeedbackError(
                "rating out of range",
                f"ratings[{index}].value",
                f"{value:g} of '{rating.attribute}' is outside of {low:g} to {high:g}",
            )
    for index, pair in enumerate(feedback.pairs):
        if pair.strength is not None and not 0 <= pair.strength < math.inf:
            problem = f"expected a number of at least 0, got {pair.strength}"
            raise FeedbackError("schema", f"pairs[{index}].strength", problem)
    if not 0 <= feedback.weight < math.inf:
        raise FeedbackError("schema", "weight", f"{feedback.weight} is not a weight")
    if feedback.time is not None:
        _check_time(feedback.time)


def _check_writable(feedback: Feedback) -> None:
    """Also what nothing here reads (sources, comments, `extra`) must be JSON in UTF-8,
    or a record could be read and not written."""
    for name in feedback.__dataclass_fields__:
        value = getattr(feedback, name)
        value = dict(value) if isinstance(value, Mapping) else value
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            problem = f"cannot be written as JSON: {error}"
            raise FeedbackError("schema", name, problem) from error


def _check_time(value: Any) -> None:
    try:
        datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        problem = f"expected ISO 8601 (2026-05-04T12:00:00+00:00), got {show(value)}"
        raise FeedbackError("schema", "time", problem) from error


def _check_order(feedback: Feedback) -> None:
    texts = {response.id: response.text for response in feedback.responses}
    for index, pair in enumerate(feedback.pairs):
        if pair.better == pair.worse:
            problem = f"'{pair.better}' is compared with itself"
            raise FeedbackError("identical responses", f"pairs[{index}]", problem)
    for found in comparisons(feedback):
        if texts[found.better] == texts[found.worse]:
            problem = (
                f"'{found.better}' is above '{found.worse}', and both have the same "
                "text"
            )
            raise FeedbackError("identical responses", found.field, problem)
    group = tie_groups(feedback)
    first: dict[Text, str] = {}  # responses of the same text are one
    same = {name: first.setdefault(text, name) for name, text in texts.items()}
    found = cycle(
        [(group[same[c.better]], group[same[c.worse]]) for c in comparisons(feedback)]
    )
    if found:
        problem = "the preferences go in a circle: " + " > ".join(map(repr, found))
        name = "pairs" if feedback.pairs else "ranking"
        raise FeedbackError("cyclic preference", name, problem)


def cycle(edges: Sequence[tuple[Node, Node]]) -> list[Node]:
    """Nodes of a directed circle, first = last; empty where there is none."""
    below: dict[Node, list[Node]] = {}
    for upper, lower in edges:
        below.setdefault(upper, []).append(lower)
    done: set[Node] = set()
    for start in below:
        path: list[Node] = []
        stack: list[tuple[Node, Iterator[Node]]] = []
        node: Node | None = start if start not in done else None
        while node is not None or stack:
            if node is not None:
                path.append(node)
                stack.append((node, iter(below.get(node, ()))))
            following = next(stack[-1][1], None)
            if following is None:
                done.add(stack.pop()[0])
                path.pop()
                node = None
            elif following in path:
                return [*path[path.index(following) :], following]
            else:
                node = None if following in done else following
    return []
