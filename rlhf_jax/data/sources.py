"""Where records come from: lists in memory, JSONL files, tfds builders.

Every source is read whole and checked before anything is trained: a bad line stops
with file, line number and field, or is skipped and counted when asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data import records
from rlhf_jax.data.fields import FieldError, decode
from rlhf_jax.data.records import Record
from rlhf_jax.errors import UserError


class Dataset(NamedTuple):
    """Records in a fixed order; `example_id` in every batch is a row of this table.

    Attributes:
      name: shown in messages and reports.
      records: the table.
      skipped: what was wrong with each skipped line (empty unless asked to skip).
    """

    name: str
    records: tuple[Record, ...]
    skipped: tuple[str, ...] = ()

    def subset(self, keep: Sequence[int], name: str) -> Dataset:
        """The records of the given rows, in that order, under another name."""
        return Dataset(name, tuple(self.records[row] for row in keep))


def require_weight(name: str, weights: Iterable[float]) -> None:
    """Refuses examples that all weigh nothing: no loss and no mean comes of them.

    Args:
      name: of the dataset, for the message.
      weights: of its examples; of none at all nothing is said.

    Raises:
      UserError: all weights are zero in float32.
    """
    found = np.fromiter(weights, np.float32)
    if found.size and not found.any():
        raise UserError(
            f"{name}: the weight of each of its {found.size} examples is 0, so nothing"
            " can be learned or measured; give some a weight above 0"
        )


def split(
    dataset: Dataset,
    fraction: float,
    *,
    purpose: str = "heldout",
    by: Callable[[Record], str] = lambda record: record.id,
) -> tuple[Dataset, Dataset]:
    """Two disjoint parts, decided by a hash, so a record keeps its side when others
    come or go.

    Args:
      dataset: what to split.
      fraction: chance that a record goes into the second part.
      purpose: splits of other purposes are independent of this one.
      by: records with the same key stay together (a module, a prompt).

    Returns:
      (the rest, which keeps the messages about skipped lines, the chosen part).
    """
    sides: tuple[list[int], list[int]] = ([], [])
    for row, record in enumerate(dataset.records):
        sides[hash_fraction(f"{purpose}/{by(record)}") < fraction].append(row)
    rest, chosen = sides
    return (
        dataset.subset(rest, dataset.name)._replace(skipped=dataset.skipped),
        dataset.subset(chosen, f"{dataset.name}/{purpose}"),
    )


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def read(
    source: str | Path,
    kind: str,
    *,
    split: str = "train",
    on_bad_line: str = "stop",
    fields: Mapping[str, str] | None = None,
) -> Dataset:
    """Read what a config names: a JSONL file, or a tfds dataset.

    Args:
      source: path of a JSONL file; or `tfds:` and the name of a builder, or the
        folder of a prepared one (the one that holds `dataset_info.json`).
      kind: one of `records.KINDS`.
      split: of a tfds dataset.
      on_bad_line: as in `jsonl`.
      fields: as in `jsonl`.
    """
    text = str(source)
    if text.startswith("tfds:") or Path(source, "dataset_info.json").is_file():
        return tfds(
            text.removeprefix("tfds:"),
            kind,
            split=split,
            on_bad_line=on_bad_line,
            fields=fields,
        )
    return jsonl(source, kind, on_bad_line=on_bad_line, fields=fields)


def in_memory(items: Iterable[Record], *, name: str = "memory") -> Dataset:
    """A dataset of records that already exist; ids must differ."""
    return _collect(name, ((f"{name}[{i}]", item) for i, item in enumerate(items)))


def mappings(
    rows: Iterable[Mapping[str, Any]],
    kind: str,
    *,
    name: str = "memory",
    on_bad_line: str = "stop",
) -> Dataset:
    """A dataset from Python mappings with the fields of a JSONL line."""
    located = ((f"{name}[{i}]", f"{name}:{i}", row) for i, row in enumerate(rows))
    return _parse_all(name, kind, located, on_bad_line)


def jsonl(
    path: str | Path,
    kind: str,
    *,
    on_bad_line: str = "stop",
    name: str | None = None,
    fields: Mapping[str, str] | None = None,
) -> Dataset:
    """Read one record a line.

    Args:
      path: file of JSON objects, UTF-8, one a line; blank lines are ignored.
      kind: one of `records.KINDS`.
      on_bad_line: `stop` raises; `skip` leaves the line out and counts it.
      name: defaults to the file's stem; lines without `id` are `name:line`.
      fields: our field -> the name it has in the file, where they differ.

    Raises:
      UserError: the file cannot be read or has no usable line, or a line is bad; the
        message names file, line number and field.
    """
    path = Path(path)
    name = name or path.stem
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    located = (
        (f"{path}:{number}", f"{name}:{number}", line)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )
    return _parse_all(name, kind, located, on_bad_line, fields, where=str(path))


def tfds(
    builder: Any,
    kind: str,
    *,
    split: str = "train",
    data_dir: str | Path | None = None,
    on_bad_line: str = "stop",
    fields: Mapping[str, str] | None = None,
) -> Dataset:
    """Read a prepared tfds builder as a random-access data source (no TensorFlow).

    Args:
      builder: a prepared `tfds.core.DatasetBuilder` stored as array_record, the
        folder of one, or the name of a registered one.
      kind: one of `records.KINDS`; features are the fields of a JSONL line.
      split: name of the split, slicing allowed (`train[:80%]`).
      data_dir: where a builder given by name was prepared.
      on_bad_line: as in `jsonl`; the "line number" is the row of the split.
      fields: as in `jsonl`.

    Raises:
      UserError: the builder is unknown or not prepared, or a row is bad.
    """
    name = f"{builder if isinstance(builder, str | Path) else builder.name}/{split}"
    try:
        source = _tfds_builder(builder, data_dir).as_data_source(split=split)
    except Exception as error:  # tfds raises a dozen unrelated types here
        message = " ".join(str(error).split())[:200]
        raise UserError(f"cannot open tfds dataset {name}: {message}") from error
    located = (
        (f"{name}:{row}", f"{name}:{row}", source[row]) for row in range(len(source))
    )
    return _parse_all(name, kind, located, on_bad_line, fields)


def _tfds_builder(builder: Any, data_dir: str | Path | None) -> Any:
    if not isinstance(builder, str | Path):
        return builder
    import tensorflow_datasets

    if Path(builder).is_dir():
        return tensorflow_datasets.builder_from_directory(builder)
    return tensorflow_datasets.builder(str(builder), data_dir=data_dir)


def _parse_all(
    name: str,
    kind: str,
    located: Iterable[tuple[str, str, Any]],
    on_bad_line: str,
    fields: Mapping[str, str] | None = None,
    where: str | None = None,
) -> Dataset:
    if on_bad_line not in ("stop", "skip"):
        raise UserError(f"on_bad_line must be 'stop' or 'skip', not {on_bad_line!r}")
    skipped: list[str] = []

    def parsed() -> Iterator[tuple[str, Record]]:
        for location, default_id, row in located:
            try:
                yield location, _parse(kind, row, default_id, fields)
            except FieldError as error:
                if on_bad_line == "stop":
                    raise _bad_line(location, error) from error
                skipped.append(f"{location}: {error}")

    dataset = _collect(name, parsed(), skipped if on_bad_line == "skip" else None)
    if not dataset.records:
        detail = f" ({len(skipped)} skipped, first: {skipped[0]})" if skipped else ""
        raise UserError(f"{where or name} has no usable {kind} record{detail}")
    return dataset


def _collect(
    name: str, located: Iterable[tuple[str, Record]], skipped: list[str] | None = None
) -> Dataset:
    seen: dict[str, str] = {}
    kept: list[Record] = []
    for location, record in located:
        if record.id in seen:
            problem = f"'{record.id}' is already the id of {seen[record.id]}"
            if skipped is None:
                raise _bad_line(location, FieldError("id", problem))
            skipped.append(f"{location}: field 'id': {problem}")
            continue
        seen[record.id] = location
        kept.append(record)
    return Dataset(name, tuple(kept), tuple(skipped or ()))


def _bad_line(location: str, error: FieldError) -> UserError:
    return UserError(f"{location}: {error}; correct it, or skip and count bad lines")


def _parse(
    kind: str, row: Any, default_id: str, fields: Mapping[str, str] | None
) -> Record:
    row = decode(row)
    if fields and isinstance(row, Mapping):
        kept = {name: row[name] for name in row if name not in fields.values()}
        found = {ours: row[name] for ours, name in fields.items() if name in row}
        row = kept | found
    return records.parse(kind, row, default_id)
