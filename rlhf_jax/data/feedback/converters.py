"""Published layouts of feedback as `Feedback` records.

A converter is `(row, default id) -> Feedback` and goes to `files.read` or
`files.from_rows`::

    found = feedback.read("hh.jsonl", feedback.converters.hh_rlhf, on_bad_record="skip")

OASST is a table of messages, several rows a record: `feedback.oasst.read(path)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from rlhf_jax.data import fields
from rlhf_jax.data.feedback.record import (
    Comment,
    Feedback,
    FeedbackError,
    Pair,
    Rating,
    Response,
)
from rlhf_jax.data.fields import FieldError, Message, show

Row = Mapping[str, Any]


def hh_rlhf(row: Any, default_id: str) -> Feedback:
    """HH-RLHF (Bai et al. 2022): `{"chosen", "rejected"}`, two whole conversations.

    Each is `"\\n\\nHuman: ...\\n\\nAssistant: ..."`; they agree up to the last turn of
    the assistant, which is the response.
    """
    row = _mapping(row)
    chosen, rejected = (
        _turns(name, _text(row, name)) for name in ("chosen", "rejected")
    )
    if chosen[:-1] != rejected[:-1]:
        raise FieldError("rejected", "its conversation is not that of 'chosen'")
    responses = (
        Response("chosen", chosen[-1].content),
        Response("rejected", rejected[-1].content),
    )
    return _made(
        id=_identifier(row, "id", default_id),
        prompt=chosen[:-1],
        responses=responses,
        pairs=(Pair("chosen", "rejected"),),
        provenance="hh-rlhf",
    )


def tldr_comparisons(row: Any, default_id: str) -> Feedback:
    """OpenAI's TL;DR comparisons (Stiennon et al. 2020).

    `{"info": {"post" | "article", "title", "subreddit", "id"}, "summaries": [{"text",
    "policy", "note"}, ...], "choice", "worker", "batch", "split", "extra":
    {"confidence"}}`. A worker's note is a comment; the confidence, a place on a scale
    of 9 of which the data do not say what its ends are, is kept in `extra`.
    """
    row = _mapping(row)
    info = _mapping(_get(row, "info"), "info")
    summaries = fields.items(row, "summaries")
    responses, comments = [], []
    for index, item in enumerate(summaries):
        where = f"summaries[{index}]"
        item = _mapping(item, where)
        responses.append(
            Response(
                str(index), _text(item, "text", where), _source(item.get("policy"))
            )
        )
        if isinstance(item.get("note"), str) and item["note"].strip():
            comments.append(Comment(item["note"], str(index)))
    choice = _get(row, "choice")
    if not _is_side(choice) or len(responses) != 2:
        problem = f"expected 0 or 1 of two summaries, got {show(choice)}"
        raise FieldError("choice", problem)
    further = _mapping(row.get("extra") or {}, "extra")
    return _made(
        id=default_id,
        prompt=_tldr_prompt(info),
        responses=tuple(responses),
        pairs=(Pair(str(choice), str(1 - choice)),),
        comments=tuple(comments),
        annotator=_annotator(row.get("worker")),
        provenance="summarize-from-feedback",
        extra=_kept(row, "batch", "split")
        | _kept(info, "id", "subreddit", "site")
        | _kept(further, "confidence"),
    )


def ultrafeedback(row: Any, default_id: str) -> Feedback:
    """UltraFeedback (Cui et al. 2023): ratings of several completions by attribute.

    `{"source", "instruction", "completions": [{"model", "response", "annotations":
    {attribute: {"Rating": "1" to "5" or "N/A", "Rationale"}}, "overall_score": 1 to
    10, "critique"}, ...]}`. Ratings of "N/A" do not exist; the critique is a comment.
    """
    row = _mapping(row)
    responses, ratings, comments = [], [], []
    for index, item in enumerate(fields.items(row, "completions")):
        where, name = f"completions[{index}]", str(index)
        item = _mapping(item, where)
        responses.append(
            Response(name, _text(item, "response", where), _source(item.get("model")))
        )
        for attribute, found in _mapping(item.get("annotations") or {}, where).items():
            place = f"{where}.annotations.{attribute}"
            value = _mapping(found, place).get("Rating")
            if value not in (None, "N/A"):
                ratings.append(Rating(name, attribute, _number(place, value), 1.0, 5.0))
        if item.get("overall_score") is not None:
            value = _number(f"{where}.overall_score", item["overall_score"])
            ratings.append(Rating(name, "overall", value, 1.0, 10.0))
        if isinstance(item.get("critique"), str) and item["critique"].strip():
            comments.append(Comment(item["critique"], name))
    return _made(
        id=default_id,
        prompt=_text(row, "instruction"),
        responses=tuple(responses),
        ratings=tuple(ratings),
        comments=tuple(comments),
        provenance="ultrafeedback",
        extra=_kept(row, "source"),
    )


def shp(row: Any, default_id: str) -> Feedback:
    """SHP (Ethayarajh et al. 2022): `{"history", "human_ref_A", "human_ref_B",
    "labels", "score_A", "score_B", "score_ratio", "post_id", "domain", ...}`.

    `labels` 1 means that A is preferred; the score ratio is the pair's strength.
    """
    row = _mapping(row)
    label = _get(row, "labels")
    if not _is_side(label):
        raise FieldError("labels", f"expected 0 or 1, got {show(label)}")
    better, worse = ("A", "B") if label == 1 else ("B", "A")
    ratio = row.get("score_ratio")
    created = [row.get(f"created_at_utc_{side}") for side in "AB"]
    return _made(
        id=default_id,
        prompt=_text(row, "history"),
        responses=tuple(
            Response(s, _text(row, f"human_ref_{s}"), "human") for s in "AB"
        ),
        pairs=(
            Pair(
                better, worse, None if ratio is None else _number("score_ratio", ratio)
            ),
        ),
        time=_utc(created),
        provenance="shp",
        extra=_kept(row, "post_id", "domain", "score_A", "score_B", "upvote_ratio"),
    )


HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def helpsteer(row: Any, default_id: str) -> Feedback:
    """HelpSteer (Wang et al. 2023): one response, five ratings.

    `{"prompt", "response", "helpfulness", "correctness", "coherence", "complexity",
    "verbosity"}`, each 0 to 4. HelpSteer2 has the same fields; its conversations stay
    one text, and the two responses to a prompt two records.
    """
    row = _mapping(row)
    ratings = tuple(
        Rating("0", name, _number(name, _get(row, name)), 0.0, 4.0)
        for name in HELPSTEER
    )
    return _made(
        id=default_id,
        prompt=_text(row, "prompt"),
        responses=(Response("0", _text(row, "response")),),
        ratings=ratings,
        provenance="helpsteer",
    )


LAYOUTS: Mapping[str, Callable[[Any, str], Feedback]] = {
    "hh_rlhf": hh_rlhf,
    "tldr_comparisons": tldr_comparisons,
    "ultrafeedback": ultrafeedback,
    "shp": shp,
    "helpsteer": helpsteer,
}
"""Converters of one row a record, by name."""


def _made(**values: Any) -> Feedback:
    return Feedback(**values)


def _mapping(value: Any, name: str = "(line)") -> Row:
    if not isinstance(value, Mapping):
        raise FieldError(name, f"expected a JSON object, got {show(value)}")
    return value


def _get(row: Row, name: str, where: str = "") -> Any:
    place = f"{where}.{name}" if where else name
    if name not in row:
        raise FieldError(place, f"missing (there is {', '.join(row) or 'nothing'})")
    return row[name]


def _text(row: Row, name: str, where: str = "") -> str:
    value = _get(row, name, where)
    place = f"{where}.{name}" if where else name
    if not isinstance(value, str):
        raise FieldError(place, f"expected text, got {show(value)}")
    return str(fields.text_value(place, value))


def _number(name: str, value: Any) -> float:
    """A number, or one written as text."""
    try:
        found = float(value) if isinstance(value, str) else value
    except ValueError as error:
        raise FieldError(name, f"expected a number, got {show(value)}") from error
    return fields.number({name: found}, name, 0.0)


def _is_side(value: Any) -> bool:
    """Whether a value is the whole number 0 or 1, which names one of two."""
    return isinstance(value, int) and value in (0, 1) and not isinstance(value, bool)


def _identifier(row: Row, name: str, default_id: str) -> str:
    return fields.identifier(row.get(name, default_id))


def _source(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _annotator(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _kept(row: Row, *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names if row.get(name) is not None}


def _utc(seconds: list[Any]) -> str | None:
    """The later of two UNIX times, as the comparison cannot be older."""
    known = [
        x for x in seconds if isinstance(x, int | float) and not isinstance(x, bool)
    ]
    try:
        return datetime.fromtimestamp(max(known), UTC).isoformat() if known else None
    except (ValueError, OverflowError, OSError) as error:
        problem = f"{show(max(known))} is no time that a calendar holds"
        raise FieldError("created_at_utc", problem) from error


def _tldr_prompt(info: Row) -> str:
    """The query of Huang et al. 2024: subreddit, title and post; or the article."""
    if isinstance(info.get("article"), str):
        return _text(info, "article", "info")
    post = _text(info, "post", "info")
    head = [
        f"{label}{info[name]}"
        for label, name in (("SUBREDDIT: r/", "subreddit"), ("TITLE: ", "title"))
        if isinstance(info.get(name), str)
    ]
    return "\n\n".join([*head, f"POST: {post}", "TL;DR:"])


_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def _turns(name: str, text: str) -> tuple[Message, ...]:
    """An HH conversation as messages, the last one of the assistant."""
    parts = _TURN.split(text)
    turns = tuple(
        Message(_ROLES[role], content)
        for role, content in zip(parts[1::2], parts[2::2], strict=True)
    )
    if parts[0].strip() or len(turns) < 2 or turns[-1].role != "assistant":
        raise FieldError(
            name,
            "expected '\\n\\nHuman: ...\\n\\nAssistant: ...' ending with the assistant",
        )
    if not turns[-1].content.strip():
        raise FeedbackError(
            "empty response", name, "the assistant's last turn is empty"
        )
    return turns
