"""Reference log-probs on disk, keyed by the model and the data that they came from."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from rlhf_jax import data, hosts
from rlhf_jax.errors import UserError
from rlhf_jax.types import ComparisonBatch, Params

KEY = "key"


def fingerprint(variables: Params) -> str:
    """A hash of names, shapes, types and bytes of all arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        array = np.ascontiguousarray(hosts.fetch(leaf))
        name = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n"
        digest.update(name.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def cached(
    path: Path,
    key: Mapping[str, Any],
    compute: Callable[[], Mapping[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Arrays of a file, or computed now and written in one piece.

    Args:
      path: the `.npz` file.
      key: what the arrays hang on, in plain values.
      compute: makes them.

    Raises:
      UserError: the file is there and was made with another key, which is named, or it
        cannot be read.
    """
    plain = json.loads(json.dumps(key, default=str))
    if hosts.told(path.is_file):
        return _read(path, plain)
    logging.info("computing %s", path)
    found = dict(compute())
    hosts.done(lambda: _write(path, plain, found))
    return found


def _write(path: Path, plain: Any, found: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(file, **{KEY: np.asarray(json.dumps(plain))}, **found)  # type: ignore
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _read(path: Path, key: Mapping[str, Any]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        stored = json.loads(str(arrays.pop(KEY)))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read ({error}); delete it to compute the reference"
            " log-probs again"
        ) from error
    changed = [name for name in {**stored, **key} if stored.get(name) != key.get(name)]
    if changed:
        listed = "; ".join(
            f"{name} was {_short(stored.get(name))}, is now {_short(key.get(name))}"
            for name in changed
        )
        raise UserError(
            f"stale cache: the reference log-probs in {path} belong to another"
            f" {' and another '.join(changed)} ({listed}); restore it, or delete the"
            " file and start in another workdir"
        )
    return arrays


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:16]}..."


def collect(
    score: Callable[[Any], Mapping[str, Any]],
    batches: Iterable[ComparisonBatch],
    records: int,
) -> dict[str, np.ndarray]:
    """Scores float32[N K] by name of all rows of some batches; NaN where none is."""
    found: dict[str, np.ndarray] = {}
    for batch in batches:
        rows = np.asarray(batch.example_id)
        real = rows >= 0
        for name, values in hosts.fetch(dict(score(batch))).items():
            values = np.asarray(values, np.float32)
            empty = np.full((records, values.shape[1]), np.nan, np.float32)
            found.setdefault(name, empty)[rows[real]] = values[real]
    return found


class WithFields(NamedTuple):
    """A stream whose batches bring further fields of their rows along.

    Attributes:
      stream: `data.Stream` of comparisons.
      table: arrays [N K] by field of the batch, row = `example_id`.
      key: what the arrays hang on, in plain values.
    """

    stream: Any
    table: Mapping[str, np.ndarray]
    key: Mapping[str, Any]

    @property
    def fingerprint(self) -> Any:
        """Of the data and of what the fields were made from."""
        return {"stream": self.stream.fingerprint, **self.key}

    def batch(self, step: int) -> ComparisonBatch:
        """The batch of a step."""
        return self._filled(self.stream.batch(step))

    def epoch(self) -> Iterable[ComparisonBatch]:
        """The batches of one epoch."""
        return map(self._filled, self.stream.epoch())

    @property
    def rows(self) -> int:
        """Rows in a batch, over all processes."""
        return self.stream.rows

    def shared(self, rows: data.Rows) -> WithFields:
        """See `data.Stream.shared`."""
        return self._replace(stream=self.stream.shared(rows))

    def position(self, step: int) -> Mapping[str, Any]:
        """Where the data stands before a step."""
        return self.stream.position(step)

    def _filled(self, batch: ComparisonBatch) -> ComparisonBatch:
        rows = np.asarray(batch.example_id)
        real = (rows >= 0)[:, None]
        fields: Any = {
            name: np.where(real, values[rows], 0.0).astype(np.float32)
            for name, values in self.table.items()
        }
        return batch._replace(**fields)
