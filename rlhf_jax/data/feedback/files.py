"""Feedback in JSONL files and in memory: read, check, count what is skipped, write."""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.data.feedback import schema
from rlhf_jax.data.feedback.record import Feedback, FeedbackError
from rlhf_jax.data.fields import FieldError, decode
from rlhf_jax.errors import UserError

Convert = Callable[[Any, str], Feedback]
"""`(row, default id) -> Feedback`: `schema.parse`, or a converter of another layout."""


class FeedbackSet(NamedTuple):
    """Records in a fixed order.

    Attributes:
      name: shown in messages and reports.
      records: the feedback.
      skipped: what was wrong with each skipped record (empty unless asked to skip).
      counts: number of skipped records by kind of problem, see `record.KINDS`.
    """

    name: str
    records: tuple[Feedback, ...]
    skipped: tuple[str, ...] = ()
    counts: Mapping[str, int] = {}

    @property
    def left_out(self) -> dict[str, int]:
        """Responses that records lack and their source has, by reason."""
        reasons = [reason for record in self.records for reason in record.left_out()]
        return dict(collections.Counter(reasons))

    def complaint(self, path: str | Path) -> str:
        """How many records of a file were skipped and why, and the first of them."""
        counts = ", ".join(f"{n} {kind}" for kind, n in sorted(self.counts.items()))
        total = len(self.records) + len(self.skipped)
        return (
            f"{path}: {len(self.skipped)} of {total} records are bad ({counts}); the"
            f" first: {self.skipped[0]}"
        )


def read(
    path: str | Path,
    convert: Convert = schema.parse,
    *,
    on_bad_record: str = "stop",
    name: str | None = None,
) -> FeedbackSet:
    """Read one record a line.

    Args:
      path: file of JSON objects, UTF-8, one a line; blank lines are ignored.
      convert: how a line is understood, see `converters` for other layouts.
      on_bad_record: `stop` raises; `skip` leaves the record out and counts it.
      name: defaults to the file's stem; lines without `id` are `name:line`.

    Raises:
      UserError: the file cannot be read or has no usable line, or a record is bad; the
        message names file, line number and field.
    """
    name = name or Path(path).stem
    located = (
        (f"{path}:{number}", _converted(convert, line, f"{name}:{number}"))
        for number, line in lines(path)
    )
    return collect(name, located, on_bad_record, shown=str(path))


def lines(path: str | Path) -> list[tuple[int, bytes]]:
    """(number from 1, content) of every line of a file that is not blank.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        content = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return [(n, line) for n, line in enumerate(content, start=1) if line.strip()]


def from_rows(
    rows: Iterable[Any],
    convert: Convert = schema.parse,
    *,
    on_bad_record: str = "stop",
    name: str = "memory",
) -> FeedbackSet:
    """Records from Python mappings (or rows of a tfds source); as `read`."""
    found = (
        (f"{name}[{i}]", _converted(convert, item, f"{name}:{i}"))
        for i, item in enumerate(rows)
    )
    return collect(name, found, on_bad_record)


def write(path: str | Path, records: Iterable[Feedback]) -> None:
    """Write records as JSONL, whole or not at all; `read` gives the same records.

    Raises:
      UserError: two records have the same id, or the file cannot be written.
    """
    path = Path(path)
    try:
        _write(path, path.with_name(path.name + ".partial"), records)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _write(path: Path, temporary: Path, records: Iterable[Feedback]) -> None:
    seen = set()
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            if record.id in seen:
                temporary.unlink()
                raise UserError(
                    f"cannot write {path}: two records have the id '{record.id}'"
                )
            seen.add(record.id)
            file.write(line(record) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def line(record: Feedback) -> str:
    """A record as one line of JSON."""
    return json.dumps(schema.row(record), ensure_ascii=False, allow_nan=False)


def collect(
    name: str,
    located: Iterable[tuple[str, Callable[[], Feedback]]],
    on_bad_record: str = "stop",
    shown: str | None = None,
) -> FeedbackSet:
    """Make every record, stopping at a bad one or counting it.

    Args:
      name: of the set.
      located: (where, `make() -> Feedback`).
      on_bad_record: `stop` or `skip`.
      shown: how messages call the source.

    Raises:
      UserError: a record is bad, an id comes twice, or nothing is left.
    """
    if on_bad_record not in ("stop", "skip"):
        raise UserError(
            f"on_bad_record must be 'stop' or 'skip', not {on_bad_record!r}"
        )
    kept: list[Feedback] = []
    seen: dict[str, str] = {}
    skipped: list[str] = []
    counts: collections.Counter[str] = collections.Counter()
    for where, make in located:
        try:
            record = make()
            _unseen(record, where, seen)
        except FieldError as error:
            if on_bad_record == "stop":
                raise UserError(
                    f"{where}: {error}; correct it, or skip and count bad records"
                ) from error
            counts[error.kind if isinstance(error, FeedbackError) else "schema"] += 1
            skipped.append(f"{where}: {error}")
            continue
        kept.append(record)
    if not kept:
        detail = f" ({len(skipped)} skipped, first: {skipped[0]})" if skipped else ""
        raise UserError(f"{shown or name} has no usable feedback record{detail}")
    return FeedbackSet(name, tuple(kept), tuple(skipped), dict(counts))


def raising(error: FieldError) -> Callable[[], Feedback]:
    """What makes no record: `collect` stops at the error or counts it."""

    def make() -> Feedback:
        raise error

    return make


def _unseen(record: Feedback, where: str, seen: dict[str, str]) -> None:
    if record.id in seen:
        problem = f"'{record.id}' is already the id of {seen[record.id]}"
        raise FeedbackError("duplicate id", "id", problem)
    seen[record.id] = where


def _converted(convert: Convert, row: Any, default: str) -> Callable[[], Feedback]:
    return lambda: convert(decode(row), default)
