"""OpenAssistant: message trees with ranked replies (Koepf et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rlhf_jax.data import fields
from rlhf_jax.data.feedback import files
from rlhf_jax.data.feedback.record import Feedback, Rating, Response
from rlhf_jax.data.fields import FieldError, Message, show
from rlhf_jax.errors import UserError

Row = Mapping[str, Any]
ROLES = {"prompter": "user", "assistant": "assistant"}


def read(path: str | Path, *, on_bad_record: str = "stop") -> files.FeedbackSet:
    """Every prompt whose replies were ranked, or rated, as one record.

    A row is a message: `{"message_id", "parent_id", "user_id", "created_date", "text",
    "role": "prompter" | "assistant", "rank": 0 (best) ..., "labels": {"name": [...],
    "value": [0 to 1, ...]}, "deleted", "lang", "message_tree_id"}`. The prompt is the
    conversation up to the replies; deleted messages do not exist. The ranking is that
    of the data set, an aggregate over reviewers, so no annotator is named.

    Args:
      path: JSONL of messages (of the flat layout, in any order).
      on_bad_record: `stop` or `skip`, as in `feedback.read`.

    Raises:
      UserError: the file cannot be read or holds no ranked reply, or a record is bad.
    """
    path = Path(path)
    located = [(where, row) for where, row in files.rows_of(path)]
    return files.collect(path.stem, _records(located), on_bad_record, shown=str(path))


def _records(
    located: list[tuple[str, Any]],
) -> Iterable[tuple[str, Callable[[], Feedback]]]:
    messages = {_identifier(where, row): row for where, row in located}
    replies: dict[str, list[Row]] = {}
    places: dict[str, str] = {}
    for where, row in located:
        parent = row.get("parent_id")
        if row.get("role") == "assistant" and parent and not row.get("deleted"):
            replies.setdefault(parent, []).append(row)
            places.setdefault(parent, where)
    for parent, rows in replies.items():
        if (
            len(rows) > 1
            and any(row.get("rank") is not None for row in rows)
            or any(row.get("labels") for row in rows)
        ):
            yield places[parent], lambda p=parent, r=rows: _record(p, r, messages)


def _identifier(where: str, row: Any) -> str:
    if not isinstance(row, Mapping) or not isinstance(row.get("message_id"), str):
        raise UserError(f"{where}: field 'message_id': missing or not text")
    return row["message_id"]


def _record(parent: str, rows: list[Row], messages: Mapping[str, Row]) -> Feedback:
    responses = tuple(
        Response(row["message_id"], _text(row), _text(row, "user_id", ""))
        for row in rows
    )
    ranked: dict[int, list[str]] = {}
    for row in rows:
        if row.get("rank") is not None:
            ranked.setdefault(_rank(row["rank"]), []).append(row["message_id"])
    groups = tuple(tuple(ranked[rank]) for rank in sorted(ranked))
    first = messages.get(parent, {})
    return Feedback(
        id=parent,
        prompt=_conversation(parent, messages),
        responses=responses,
        ranking=groups if len(rows) > 1 else (),
        ratings=tuple(rating for row in rows for rating in _ratings(row)),
        time=_latest(rows),
        provenance="oasst",
        extra={
            name: first[name]
            for name in ("lang", "message_tree_id", "tree_state")
            if first.get(name) is not None
        },
    )


def _rank(value: Any) -> int:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or value != int(value)
    ):
        raise FieldError("rank", f"expected 0, 1, 2 ..., got {show(value)}")
    return int(value)


def _text(row: Row, name: str = "text", default: str | None = None) -> str:
    value = row.get(name, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise FieldError(name, f"expected text, got {show(value)}")
    return value


def _latest(rows: list[Row]) -> str | None:
    dates = [
        row["created_date"] for row in rows if isinstance(row.get("created_date"), str)
    ]
    return max(dates) if dates else None


def _conversation(message: str, messages: Mapping[str, Row]) -> tuple[Message, ...]:
    turns: list[Message] = []
    seen: set[str] = set()
    current: Any = message
    while current is not None:
        if current in seen or current not in messages:
            problem = "leads in a circle" if current in seen else "is not in the file"
            raise FieldError("parent_id", f"message '{current}' {problem}")
        seen.add(current)
        row = messages[current]
        if row.get("deleted"):
            raise FieldError("parent_id", f"message '{current}' is deleted")
        role = row.get("role")
        if role not in ROLES:
            raise FieldError(
                "role", f"expected prompter or assistant, got {show(role)}"
            )
        turns.append(Message(ROLES[role], _text(row)))
        current = row.get("parent_id")
    return tuple(reversed(turns))


def _ratings(row: Row) -> list[Rating]:
    """Labels such as quality and toxicity, means over reviewers in 0 to 1."""
    labels = row.get("labels")
    if not labels:
        return []
    names, values = (
        labels.get(key) if isinstance(labels, Mapping) else None
        for key in ("name", "value")
    )
    if not isinstance(names, list) or not isinstance(values, list):
        raise FieldError(
            "labels", f"expected {{name: [], value: []}}, got {show(labels)}"
        )
    if len(names) != len(values):
        raise FieldError("labels", f"{len(values)} values for {len(names)} names")
    return [
        Rating(row["message_id"], str(name), _value(value), 0.0, 1.0)
        for name, value in zip(names, values, strict=True)
        if value is not None
    ]


def _value(value: Any) -> float:
    return fields.number({"labels": value}, "labels", 0.0)
