"""OpenAI's comparisons of summaries."""

from __future__ import annotations

from typing import Any

from rlhf_jax.data import fields
from rlhf_jax.data.feedback.converters import reading
from rlhf_jax.data.feedback.converters.reading import Row
from rlhf_jax.data.feedback.record import Comment, Feedback, Pair, Response
from rlhf_jax.data.fields import FieldError, show


def tldr_comparisons(row: Any, default_id: str) -> Feedback:
    """OpenAI's TL;DR comparisons (Stiennon et al. 2020).

    `{"info": {"post" | "article", "title", "subreddit", "id"}, "summaries": [{"text",
    "policy", "note"}, ...], "choice", "worker", "batch", "split", "extra":
    {"confidence"}}`. A worker's note is a comment. `extra` keeps the other fields of
    the row, of its info and of its `extra`: the confidence is a place on a scale of 9
    of which the data do not say what its ends are.
    """
    row = reading.mapping(row)
    info = reading.mapping(reading.get(row, "info"), "info")
    summaries = fields.items(row, "summaries")
    responses, comments, rests = [], [], {}
    for index, item in enumerate(summaries):
        where = f"summaries[{index}]"
        item = reading.mapping(item, where)
        responses.append(
            Response(
                str(index),
                reading.text(item, "text", where),
                reading.source(item.get("policy")),
            )
        )
        if isinstance(item.get("note"), str) and item["note"].strip():
            comments.append(Comment(item["note"], str(index)))
        rest = reading.rest(item, "text", "policy", "note")
        rests |= {str(index): rest} if rest else {}
    choice = reading.get(row, "choice")
    if not reading.is_side(choice) or len(responses) != 2:
        problem = f"expected 0 or 1 of two summaries, got {show(choice)}"
        raise FieldError("choice", problem)
    further = reading.mapping(row.get("extra") or {}, "extra")
    return Feedback(
        id=default_id,
        prompt=_tldr_prompt(info),
        responses=tuple(responses),
        pairs=(Pair(str(choice), str(1 - choice)),),
        comments=tuple(comments),
        annotator=_annotator(row.get("worker")),
        provenance="summarize-from-feedback",
        extra=reading.rest(row, "info", "summaries", "choice", "worker", "extra")
        | reading.rest(info, _asked(info))
        | reading.rest(further)
        | ({"responses": rests} if rests else {}),
    )


def _annotator(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _asked(info: Row) -> str:
    """The field that is to be summarized."""
    return "article" if isinstance(info.get("article"), str) else "post"


def _tldr_prompt(info: Row) -> str:
    """The query of Huang et al. 2024: subreddit, title and post; or the article."""
    if _asked(info) == "article":
        return reading.text(info, "article", "info")
    post = reading.text(info, "post", "info")
    head = [
        f"{label}{info[name]}"
        for label, name in (("SUBREDDIT: r/", "subreddit"), ("TITLE: ", "title"))
        if isinstance(info.get(name), str)
    ]
    return "\n\n".join([*head, f"POST: {post}", "TL;DR:"])
