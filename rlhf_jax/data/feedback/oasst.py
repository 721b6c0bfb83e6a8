"""OpenAssistant: message trees with ranked replies (Koepf et al. 2023)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf_jax.data import fields
from rlhf_jax.data.feedback import files
from rlhf_jax.data.feedback.record import Feedback, FeedbackError, Rating, Response
from rlhf_jax.data.fields import FieldError, Message, show

Row = Mapping[str, Any]
ROLES = {"prompter": "user", "assistant": "assistant"}


def read(path: str | Path, *, on_bad_record: str = "stop") -> files.FeedbackSet:
    """Every prompt whose replies were ranked, or rated, as one record.

    A row is a message: `{"message_id", "parent_id", "user_id", "created_date", "text",
    "role": "prompter" | "assistant", "rank": 0 (best) ..., "labels": {"name": [...],
    "value": [0 to 1, ...]}, "deleted", "lang", "message_tree_id"}`, with labels also as
    `{"quality": {"value", "count"}}`; or a tree, `{"message_tree_id", "prompt": a
    message with its "replies", ...}`. The prompt is the conversation up to the replies;
    deleted messages do not exist. The ranking is that of the data set, an aggregate
    over reviewers, so no annotator is named.

    Args:
      path: JSONL of messages, in any order, or of trees.
      on_bad_record: `stop` or `skip`, as in `feedback.read`; a line that is no message
        counts as a bad record, and so do the replies below it.

    Raises:
      UserError: the file cannot be read or holds no ranked reply, or a record is bad.
    """
    messages: dict[str, Row] = {}
    places: dict[str, str] = {}
    bad: list[tuple[str, Callable[[], Feedback]]] = []
    for number, line in files.lines(path):
        where = f"{path}:{number}"
        try:
            rows = list(_flat(fields.decode(line)))
        except FieldError as error:
            bad.append((where, files.raising(error)))
            continue
        for found in rows:
            try:
                name, row = _message(found, places)
            except FieldError as error:
                bad.append((where, files.raising(error)))
            else:
                messages[name], places[name] = row, where
    found = itertools.chain(bad, _records(messages, places))
    return files.collect(Path(path).stem, found, on_bad_record, shown=str(path))


def _flat(row: Any) -> Iterator[Any]:
    """The messages of a line: itself, or those of the tree that it holds."""
    if not isinstance(row, Mapping) or "message_id" in row or "prompt" not in row:
        yield row
        return
    waiting = [(row["prompt"], None)]
    while waiting:
        message, parent = waiting.pop()
        if not isinstance(message, Mapping):
            raise FieldError("prompt", f"expected a message, got {show(message)}")
        replies = message.get("replies") or []
        if not isinstance(replies, list):
            raise FieldError("replies", f"expected a list, got {show(replies)}")
        yield {"parent_id": parent, "message_tree_id": row.get("message_tree_id")} | {
            name: value for name, value in message.items() if name != "replies"
        }
        waiting += [(reply, message.get("message_id")) for reply in reversed(replies)]


def _message(row: Any, places: Mapping[str, str]) -> tuple[str, Row]:
    """(id, message) of a row; what makes it part of a tree is checked."""
    if not isinstance(row, Mapping):
        raise FieldError("(line)", f"expected a JSON object, got {show(row)}")
    name = fields.present(row, "message_id")
    if not isinstance(name, str):
        raise FieldError("message_id", f"expected text, got {show(name)}")
    if name in places:
        problem = f"'{name}' is already the id of {places[name]}"
        raise FeedbackError("duplicate id", "message_id", problem)
    parent, role = row.get("parent_id"), row.get("role")
    if parent is not None and not isinstance(parent, str):
        raise FieldError("parent_id", f"expected text or null, got {show(parent)}")
    if not isinstance(role, str) or role not in ROLES:
        raise FieldError("role", f"expected prompter or assistant, got {show(role)}")
    return name, row


def _records(
    messages: Mapping[str, Row], places: Mapping[str, str]
) -> Iterator[tuple[str, Callable[[], Feedback]]]:
    replies: dict[str, list[Row]] = {}
    for row in messages.values():
        parent = row.get("parent_id")
        if row["role"] == "assistant" and parent is not None and not row.get("deleted"):
            replies.setdefault(parent, []).append(row)
    for parent, rows in replies.items():
        ranked = len(rows) > 1 and any(row.get("rank") is not None for row in rows)
        if ranked or any(row.get("labels") for row in rows):
            where = places[rows[0]["message_id"]]
            yield where, lambda p=parent, r=rows: _record(p, r, messages)


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
        or value < 0
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
        turns.append(Message(ROLES[row["role"]], _text(row)))
        current = row.get("parent_id")
    return tuple(reversed(turns))


def _ratings(row: Row) -> list[Rating]:
    """Labels such as quality and toxicity, means over reviewers in 0 to 1."""
    labels = row.get("labels")
    if not labels:
        return []
    if isinstance(labels, Mapping) and not {"name", "value"} & set(labels):
        labels = _columns(labels)
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


def _columns(labels: Row) -> Row:
    """`{"quality": {"value": 0.7, "count": 3}}` as columns of names and values."""
    for name, found in labels.items():
        if not isinstance(found, Mapping) or "value" not in found:
            raise FieldError(
                f"labels.{name}", f"expected {{value, count}}, got {show(found)}"
            )
    return {"name": list(labels), "value": [x["value"] for x in labels.values()]}


def _value(value: Any) -> float:
    return fields.number({"labels": value}, "labels", 0.0)
