"""UltraFeedback: several completions, rated by aspects."""

from __future__ import annotations

from typing import Any, NamedTuple

from rlhf_jax.data import fields
from rlhf_jax.data.feedback import checks
from rlhf_jax.data.feedback.converters import reading
from rlhf_jax.data.feedback.converters.reading import Row
from rlhf_jax.data.feedback.record import (
    Comment,
    Feedback,
    FeedbackError,
    LeftOut,
    Rating,
    Response,
)


class _Completion(NamedTuple):
    """One completion; `rest` is what has no place in a record."""

    response: Response
    ratings: list[Rating]
    comments: list[Comment]
    rest: dict[str, Any]


def ultrafeedback(row: Any, default_id: str) -> Feedback:
    """UltraFeedback (Cui et al. 2023): ratings of several completions by attribute.

    `{"source", "instruction", "models", "correct_answers", "incorrect_answers",
    "completions": [{"model", "response", "annotations": {attribute: {"Rating": "1" to
    "5" or "N/A", "Rationale", ...}}, "overall_score": 1 to 10, "critique",
    "fine-grained_score", "custom_system_prompt", "principle"}, ...]}`.

    Ratings of "N/A" do not exist; the critique is a comment. `extra` keeps the other
    fields of the row, and `extra["responses"]` by response id those of a completion:
    rationales under `annotations`, the system prompt and its principle. A completion
    without text is left out of the record, and kept in `extra["left_out"]`.
    """
    row = reading.mapping(row)
    found: list[_Completion] = []
    empty: list[LeftOut] = []
    for index, item in enumerate(fields.items(row, "completions")):
        where, name = f"completions[{index}]", str(index)
        item = reading.mapping(item, where)
        if checks.is_empty(reading.text(item, "response", where)):
            empty.append(LeftOut(name, "empty response", item))
        else:
            found.append(_completion(item, name, where))
    if empty and not found:
        problem = f"each of the {len(empty)} responses is empty"
        raise FeedbackError("empty response", "completions", problem)
    extra = reading.rest(row, "instruction", "completions")
    rests = {one.response.id: one.rest for one in found if one.rest}
    extra |= {"responses": rests} if rests else {}
    extra |= {"left_out": [one.row() for one in empty]} if empty else {}
    return Feedback(
        id=default_id,
        prompt=reading.text(row, "instruction"),
        responses=tuple(one.response for one in found),
        ratings=tuple(rating for one in found for rating in one.ratings),
        comments=tuple(comment for one in found for comment in one.comments),
        provenance="ultrafeedback",
        extra=extra,
    )


def _completion(item: Row, name: str, where: str) -> _Completion:
    used = ["response", "annotations"]
    ratings, notes = _annotations(item, name, where)
    comments = []
    if isinstance(item.get("model"), str):
        used.append("model")
    if item.get("overall_score") is not None:
        used.append("overall_score")
        value = reading.number(f"{where}.overall_score", item["overall_score"])
        ratings.append(Rating(name, "overall", value, 1.0, 10.0))
    if isinstance(item.get("critique"), str) and item["critique"].strip():
        used.append("critique")
        comments.append(Comment(item["critique"], name))
    response = Response(
        name, reading.text(item, "response", where), reading.source(item.get("model"))
    )
    rest = reading.rest(item, *used) | ({"annotations": notes} if notes else {})
    return _Completion(response, ratings, comments, rest)


def _annotations(
    item: Row, name: str, where: str
) -> tuple[list[Rating], dict[str, Any]]:
    """Ratings, and what else is said about each attribute."""
    ratings, notes = [], {}
    annotations = reading.mapping(item.get("annotations") or {}, where)
    for attribute, found in annotations.items():
        place = f"{where}.annotations.{attribute}"
        value = reading.mapping(found, place).get("Rating")
        said = value not in (None, "N/A")
        if said:
            number = reading.number(place, value)
            ratings.append(Rating(name, attribute, number, 1.0, 5.0))
        note = reading.rest(found, *(["Rating"] if said else []))
        if note:
            notes[attribute] = note
    return ratings, notes
