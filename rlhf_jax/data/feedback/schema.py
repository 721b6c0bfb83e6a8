"""Feedback records as JSON objects, both ways and without loss."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rlhf_jax.data import fields
from rlhf_jax.data.feedback.record import (
    Comment,
    Edit,
    Feedback,
    FeedbackError,
    FollowUp,
    Label,
    Pair,
    Rating,
    Response,
)
from rlhf_jax.data.fields import FieldError, Message, show

FIELDS = tuple(Feedback.__dataclass_fields__)
Item = TypeVar("Item")
Row = Mapping[str, Any]


def parse(row: Any, default_id: str) -> Feedback:
    """Read one record from a JSON object; what the schema does not know is an error.

    Args:
      row: a mapping with the fields of `Feedback`; `prompt` and `responses` must be
        there. Source fields that have no place go into the object `extra`.
      default_id: id of a row that names none.

    Raises:
      FeedbackError: a field is missing, unknown, of the wrong type or out of range.
    """
    try:
        return _parse(row, default_id)
    except FeedbackError:
        raise
    except FieldError as error:
        raise _as_schema(error) from error


def row(feedback: Feedback) -> dict[str, Any]:
    """The JSON object of a record; empty fields are left out. `parse` inverts it."""
    found: dict[str, Any] = {"id": feedback.id, "prompt": _prompt(feedback.prompt)}
    found["responses"] = [_item(response) for response in feedback.responses]
    found["ranking"] = [list(group) for group in feedback.ranking]
    for name in ("pairs", "ratings", "labels", "edits", "comments", "follow_ups"):
        found[name] = [_item(item) for item in getattr(feedback, name)]
    found |= {"annotator": feedback.annotator, "time": feedback.time}
    found |= {"provenance": feedback.provenance, "parents": list(feedback.parents)}
    found["extra"] = dict(feedback.extra)
    kept = {
        name: value
        for name, value in found.items()
        if name in ("id", "prompt", "responses") or value not in (None, [], {})
    }
    if feedback.provenance == "":
        kept.pop("provenance")
    return kept if feedback.weight == 1.0 else kept | {"weight": feedback.weight}


def _parse(row: Any, default_id: str) -> Feedback:
    if not isinstance(row, Mapping):
        raise FieldError("(line)", f"expected a JSON object, got {show(row)}")
    _known("", row, FIELDS)
    extra = row.get("extra", {})
    if not isinstance(extra, Mapping):
        raise FieldError("extra", f"expected an object, got {show(extra)}")
    return Feedback(
        id=fields.identifier(row.get("id", default_id)),
        prompt=fields.prompt(row),
        responses=_items(row, "responses", _response, required=True),
        ranking=_ranking(row),
        pairs=_items(row, "pairs", _pair),
        ratings=_items(row, "ratings", _rating),
        labels=_items(row, "labels", _label),
        edits=_items(row, "edits", _edit),
        comments=_items(row, "comments", _comment),
        follow_ups=_items(row, "follow_ups", _follow_up),
        annotator=optional("annotator", row.get("annotator")),
        time=optional("time", row.get("time")),
        provenance=_text("provenance", row.get("provenance", "")),
        parents=_texts(row, "parents"),
        weight=fields.number(row, "weight", 1.0, low=0.0),
        extra=dict(extra),
    )


def _as_schema(error: FieldError) -> FeedbackError:
    found = FeedbackError("schema", "", "")
    found.args = error.args
    return found


def _known(where: str, row: Row, names: tuple[str, ...]) -> None:
    for name in row:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise FieldError(
                f"{where}{name}", f"unknown (known: {', '.join(names)}){hint}"
            )


def _items(
    row: Row,
    name: str,
    read: Callable[[str, Row], Item],
    required: bool = False,
) -> tuple[Item, ...]:
    if not required and name not in row:
        return ()
    found = []
    for index, item in enumerate(fields.items(row, name)):
        where = f"{name}[{index}]"
        if not isinstance(item, Mapping):
            raise FieldError(where, f"expected an object, got {show(item)}")
        found.append(read(where + ".", item))
    return tuple(found)


def _get(where: str, item: Row, name: str) -> Any:
    if name not in item:
        raise FieldError(where + name, f"missing (the object has {', '.join(item)})")
    return item[name]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise FieldError(name, f"expected text, got {show(value)}")
    found = fields.text_value(name, value)
    assert isinstance(found, str)
    return found


def optional(name: str, value: Any) -> str | None:
    """Text, or None where there is none."""
    return None if value is None else _text(name, value)


def _texts(row: Row, name: str) -> tuple[str, ...]:
    values = fields.items(row, name) if name in row else ()
    return tuple(_text(f"{name}[{i}]", value) for i, value in enumerate(values))


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise FieldError(name, f"expected true or false, got {show(value)}")
    return value


def _number(where: str, item: Row, name: str) -> float:
    _get(where, item, name)
    try:
        return fields.number(item, name, 0.0)
    except FieldError as error:
        problem = str(error).split(": ", 1)[1]
        raise FieldError(where + name, problem) from error


def _ranking(row: Row) -> tuple[tuple[str, ...], ...]:
    """Groups best first; an id alone stands for a group of one."""
    groups = []
    for index, group in enumerate(
        fields.items(row, "ranking") if "ranking" in row else ()
    ):
        name = f"ranking[{index}]"
        if isinstance(group, str):
            group = [group]
        if not isinstance(group, list | tuple):
            raise FieldError(name, f"expected a list of ids, got {show(group)}")
        groups.append(tuple(_text(name, identifier) for identifier in group))
    return tuple(groups)


def _response(where: str, item: Row) -> Response:
    _known(where, item, Response._fields)
    identifier = _text(where + "id", _get(where, item, "id"))
    text = fields.text_value(where + "text", _get(where, item, "text"))
    return Response(identifier, text, _text(where + "source", item.get("source", "")))


def _pair(where: str, item: Row) -> Pair:
    _known(where, item, Pair._fields)
    better, worse = (
        _text(where + name, _get(where, item, name)) for name in ("better", "worse")
    )
    strength = None
    if item.get("strength") is not None:
        strength = _number(where, item, "strength")
    return Pair(better, worse, strength, _flag(where + "tie", item.get("tie", False)))


def _rating(where: str, item: Row) -> Rating:
    _known(where, item, Rating._fields)
    return Rating(
        _text(where + "response", _get(where, item, "response")),
        _text(where + "attribute", _get(where, item, "attribute")),
        *(_number(where, item, name) for name in ("value", "low", "high")),
    )


def _label(where: str, item: Row) -> Label:
    _known(where, item, Label._fields)
    response = _text(where + "response", _get(where, item, "response"))
    return Label(response, _flag(where + "good", _get(where, item, "good")))


def _edit(where: str, item: Row) -> Edit:
    _known(where, item, Edit._fields)
    response = _text(where + "response", _get(where, item, "response"))
    return Edit(response, fields.text_value(where + "text", _get(where, item, "text")))


def _comment(where: str, item: Row) -> Comment:
    _known(where, item, Comment._fields)
    text = _text(where + "text", _get(where, item, "text"))
    return Comment(text, optional(where + "response", item.get("response")))


def _follow_up(where: str, item: Row) -> FollowUp:
    _known(where, item, FollowUp._fields)
    response = _text(where + "response", _get(where, item, "response"))
    return FollowUp(response, _text(where + "message", _get(where, item, "message")))


def _prompt(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return [turn._asdict() if isinstance(turn, Message) else turn for turn in value]


def _item(item: Any) -> dict[str, Any]:
    """A part of a record without what holds its default."""
    defaults = item._field_defaults
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in item._asdict().items()
        if name not in defaults or value != defaults[name]
    }
