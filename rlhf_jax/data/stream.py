"""Random-access streams of batches: `stream.batch(step)` is a pure function of the
data, its settings and the step, so a checkpoint stores the step and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, SupportsInt, TypeVar

import numpy as np

from rlhf_jax import types
from rlhf_jax.data.batching import Example
from rlhf_jax.data.order import Order
from rlhf_jax.data.records import Record
from rlhf_jax.data.sources import Dataset, require_weight
from rlhf_jax.errors import UserError

Batch = TypeVar(
    "Batch",
    types.PromptBatch,
    types.SequenceBatch,
    types.RankingBatch,
    types.ComparisonBatch,
)
Build = Callable[[np.ndarray, np.ndarray, int], Batch]
Rows = Callable[[int], np.ndarray]
"""`rows(n)`: which rows of a batch of n this process reads, ascending."""


@dataclass(frozen=True, kw_only=True)
class Stream(Generic[Batch]):
    """Batches of NumPy arrays, addressed by step.

    Attributes:
      dataset: the record table; `example_id` in batches is a row of it.
      fingerprint: hash of content and settings, the same on every process.
      skipped: what was left out as too long (rule `skip`), one message each.
      batch_size: rows in a batch, over all processes.
      largest_token: largest id in the data; a model with fewer ids cannot read it.
    """

    dataset: Dataset
    fingerprint: str
    skipped: tuple[str, ...]
    batch_size: int
    largest_token: int
    _order: Order
    _build: Build[Batch]
    _rows: Rows = np.arange

    @property
    def rows(self) -> int:
        """Rows in a batch, over all processes."""
        return self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, the same in every epoch."""
        return self._order.steps_per_epoch

    @property
    def lengths(self) -> tuple[int, ...]:
        """Padded lengths that occur, ascending: all the shapes there are."""
        return self._order.lengths

    def batch(self, step: int) -> Batch:
        """The batch of a step (0, 1, ...); of a shared stream the rows read here."""
        slot = self._order.slot(step)
        mine = self._rows(self.batch_size)
        return self._build(slot.rows[mine], slot.real[mine], slot.length)

    def shared(self, rows: Rows) -> Stream[Batch]:
        """The same batches, of which this process reads only some rows.

        Args:
          rows: which; of every batch, those that the devices of this process hold.
        """
        return replace(self, _rows=rows)

    def epoch(self, number: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, in order (evaluation: `remainder="pad"`)."""
        for index in range(self.steps_per_epoch):
            yield self.batch(number * self.steps_per_epoch + index)

    def record(self, example_id: SupportsInt) -> Record:
        """The record that a row of a batch came from."""
        return self.dataset.records[int(example_id)]

    def position(self, step: int) -> dict[str, Any]:
        """What a checkpoint stores: `step` is the next one to take."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return {
            "step": step,
            "epoch": epoch,
            "index": index,
            "fingerprint": self.fingerprint,
        }

    def resume(self, position: Mapping[str, Any]) -> int:
        """The step of a stored position.

        Raises:
          UserError: the position belongs to other data or other settings.
        """
        theirs = str(position["fingerprint"])
        if theirs != self.fingerprint:
            raise UserError(
                "the checkpoint was made with other data or data settings than"
                f" '{self.dataset.name}' has now (fingerprint {theirs[:12]}, now"
                f" {self.fingerprint[:12]}); restore them, or start a new workdir"
            )
        return int(position["step"])

    def grain(self, start: int = 0, stop: int | None = None) -> Any:
        """Batches from a step on as a `grain.MapDataset`; to prefetch them in
        threads: `stream.grain(step).to_iter_dataset()`."""
        import grain

        last = 2**62 if stop is None else stop
        return grain.MapDataset.range(start, last).map(lambda i: self.batch(int(i)))


def make(
    dataset: Dataset,
    examples: Sequence[Example],
    skipped: Sequence[str],
    build: Build[Batch],
    sizes: Sequence[int],
    content: Sequence[Any],
    *,
    batch_size: int,
    seed: int,
    lengths: Sequence[int],
    shuffle: bool = True,
    remainder: str = "drop",
) -> Stream[Batch]:
    """Order and fingerprint over rows of the given sizes; see `pipeline`.

    Raises:
      UserError: every example weighs nothing; batches cannot be formed.
    """
    require_weight(dataset.name, (example.weight for example in examples))
    order = Order(
        sizes,
        lengths=lengths,
        batch_size=batch_size,
        seed=seed,
        shuffle=shuffle,
        remainder=remainder,
    )
    settings = (*content, batch_size, seed, sorted(set(lengths)), shuffle, remainder)
    return Stream(
        dataset=dataset,
        fingerprint=_fingerprint(dataset, examples, settings),
        skipped=tuple(skipped),
        batch_size=batch_size,
        largest_token=max(
            int(sequence.tokens.max(initial=0))
            for example in examples
            for sequence in example.sequences
        ),
        _order=order,
        _build=build,
    )


def _fingerprint(
    dataset: Dataset, examples: Sequence[Example], settings: Sequence[Any]
) -> str:
    digest = hashlib.sha256(json.dumps(settings).encode())
    for example in examples:
        name = dataset.records[example.example_id].id
        about = (name, example.weight, example.ranks, example.margin)
        digest.update(json.dumps(about).encode())
        for sequence in example.sequences:
            digest.update(sequence.tokens.tobytes() + b"/")
            digest.update(sequence.loss_mask.tobytes() + b";")
    return digest.hexdigest()
