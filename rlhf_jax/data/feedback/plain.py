"""Plain layouts as feedback: pairs, rankings and labeled responses, one a line.

::

    {"prompt": "...", "chosen": "...", "rejected": "...", "tie": false}
    {"prompt": "...", "responses": ["...", ...], "ranks": [1, 2, 2, 0]}
    {"prompt": "...", "response": "...", "good": true}     or completion and label

each with `id`, `weight`, `annotator` and `time` where known; other fields are kept.
Read as `Feedback`, they pass the same checks: no empty response, no order between
identical ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.data import fields, records
from rlhf_jax.data.feedback import converters, files, helpsteer2, oasst, schema
from rlhf_jax.data.feedback.record import (
    Feedback,
    FeedbackError,
    Label,
    Response,
)
from rlhf_jax.data.fields import FieldError

Row = Mapping[str, Any]


def convert(row: Any, default_id: str) -> Feedback:
    """One line of any of these layouts, or of the feedback layout, by its fields.

    Two whole conversations without a prompt are HH-RLHF.

    Raises:
      FeedbackError: a record that cannot be accepted, see `record.KINDS`.
    """
    if not isinstance(row, Mapping):
        return schema.parse(row, default_id)
    pair = "chosen" in row and "rejected" in row
    try:
        if pair and "prompt" not in row:
            return converters.hh_rlhf(row, default_id)
        if pair or "ranks" in row:
            kind = "pair" if pair else "ranking"
            return _told_by(of_ranking(_ranking(kind, row, default_id)))
        if "response" in row or "completion" in row:
            return _told_by(_label(row, default_id))
        if "responses" not in row:
            has = ", ".join(map(str, row)) or "nothing"
            problem = f"of no layout that its fields tell ({has}); name its layout"
            raise FieldError("(line)", f"{problem}: {', '.join(_NAMED)}")
    except FeedbackError:
        raise
    except FieldError as error:
        found = FeedbackError("schema", "", "")
        found.args = error.args
        raise found from error
    return schema.parse(row, default_id)


def _told_by(found: Feedback) -> Feedback:
    """With the `annotator` and `time` of the row where they belong."""
    rest = dict(found.extra)
    told = {k: schema.optional(k, rest.pop(k, None)) for k in ("annotator", "time")}
    return dataclasses.replace(found, **told, extra=rest)


def of_ranking(record: records.Ranking) -> Feedback:
    """A ranking (a pair is one) as feedback; its responses are called "0", "1" ...

    Its margin, which no view of feedback reads, is kept in `extra`.
    """
    responses = tuple(
        Response(str(index), text) for index, text in enumerate(record.responses)
    )
    return Feedback(
        id=record.id,
        prompt=record.prompt,
        responses=responses,
        ranking=_groups(record.ranks),
        weight=record.weight,
        extra={**record.extra, "margin": record.margin}
        if record.margin
        else record.extra,
    )


def _groups(ranks: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    levels = sorted({rank for rank in ranks if rank})
    return tuple(
        tuple(str(i) for i, rank in enumerate(ranks) if rank == level)
        for level in levels
    )


def _ranking(kind: str, row: Row, default_id: str) -> records.Ranking:
    found = records.parse(kind, row, default_id)
    assert isinstance(found, records.Ranking)
    return found


def _label(row: Row, default_id: str) -> Feedback:
    text = "response" if "response" in row else "completion"
    good = "good" if "good" in row else "label"
    if not isinstance(fields.present(row, good), bool):
        problem = f"expected true or false, got {fields.show(row[good])}"
        raise FieldError(good, problem)
    names = ("id", "prompt", text, good, "weight")
    return Feedback(
        id=fields.identifier(row.get("id", default_id)),
        prompt=fields.prompt(row),
        responses=(Response("0", fields.text(row, text)),),
        labels=(Label("0", row[good]),),
        weight=fields.number(row, "weight", 1.0, low=0.0),
        extra={name: value for name, value in row.items() if name not in names},
    )


_SEVERAL: Mapping[str, Callable[..., files.FeedbackSet]] = {
    "helpsteer2": helpsteer2.read,
    "oasst": oasst.read,
}
"""Readers of layouts of several lines a record, by name."""
_NAMED = (*converters.LAYOUTS, *_SEVERAL)
LAYOUTS: Mapping[str, Callable[[Any, str], Feedback]] = {
    "auto": convert,
    "feedback": schema.parse,
    **converters.LAYOUTS,
}
"""Layouts of one record a line, by name."""
NAMES = (*LAYOUTS, *_SEVERAL)
"""Layouts that `read` knows."""


def read(
    path: str | Path, layout: str, *, on_bad_record: str = "stop"
) -> files.FeedbackSet:
    """A file of any layout of `NAMES`.

    Raises:
      UserError: see `files.read`, `helpsteer2.read` and `oasst.read`.
    """
    if layout in _SEVERAL:
        return _SEVERAL[layout](path, on_bad_record=on_bad_record)
    return files.read(path, LAYOUTS[layout], on_bad_record=on_bad_record)
