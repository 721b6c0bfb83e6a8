"""SHP: which of two comments got more votes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rlhf_jax.data.feedback.converters import reading
from rlhf_jax.data.feedback.record import Feedback, Pair, Response
from rlhf_jax.data.fields import FieldError, show

USED = ("history", "human_ref_A", "human_ref_B", "labels", "score_ratio")
"""Fields that have a place in the record."""


def shp(row: Any, default_id: str) -> Feedback:
    """SHP (Ethayarajh et al. 2022): `{"history", "human_ref_A", "human_ref_B",
    "labels", "score_A", "score_B", "score_ratio", "post_id", "domain", "upvote_ratio",
    "c_root_id_A", "c_root_id_B", "created_at_utc_A", "created_at_utc_B",
    "seconds_difference"}`.

    `labels` 1 means that A is preferred; the score ratio is the pair's strength, and
    the record's time the later one of the two. `extra` keeps the other fields and both
    times.
    """
    row = reading.mapping(row)
    label = reading.get(row, "labels")
    if not reading.is_side(label):
        raise FieldError("labels", f"expected 0 or 1, got {show(label)}")
    better, worse = ("A", "B") if label == 1 else ("B", "A")
    ratio = row.get("score_ratio")
    strength = None if ratio is None else reading.number("score_ratio", ratio)
    created = [row.get(f"created_at_utc_{side}") for side in "AB"]
    return Feedback(
        id=default_id,
        prompt=reading.text(row, "history"),
        responses=tuple(
            Response(s, reading.text(row, f"human_ref_{s}"), "human") for s in "AB"
        ),
        pairs=(Pair(better, worse, strength),),
        time=_utc(created),
        provenance="shp",
        extra=reading.rest(row, *USED),
    )


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
