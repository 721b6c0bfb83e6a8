"""Which examples make up which batch: a pure function of (data seed, step).

An epoch visits every example once, in a shuffled order. Each example joins the queue
of its length bucket, and a queue that is full becomes a batch. What is left in a queue
when the epoch ends joins the next longer bucket, where it fits; one short batch remains
at most, and `remainder` says what becomes of it. Nothing depends on earlier calls or
epochs, so the position in the data is the step number alone.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.errors import UserError

REMAINDERS = ("drop", "pad", "wrap")


class Slot(NamedTuple):
    """One batch: padded length, rows int64[batch], real bool[batch] (False = filler
    that must not count)."""

    length: int
    rows: np.ndarray
    real: np.ndarray


class Order:
    """The order of examples over all epochs.

    Attributes:
      steps_per_epoch: batches in one epoch, the same in every epoch.
      lengths: the padded lengths that can occur, ascending.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        remainder: str = "drop",
    ):
        """Plan the batches.

        Args:
          sizes: tokens of each example; none exceeds `max(lengths)`.
          lengths: bucket lengths; every batch is padded to one of them.
          batch_size: examples in a batch, over all processes.
          seed: data seed; epochs of one seed and other seeds are unrelated.
          shuffle: False visits the examples in the given order.
          remainder: `drop` leaves the short last batch out (other examples each
            epoch), `pad` fills it with rows that do not count, `wrap` fills it with
            examples seen earlier in the same epoch.

        Raises:
          UserError: no example, or fewer than a batch under `drop`.
        """
        self.lengths = tuple(sorted(set(lengths)))
        self._batch_size, self._seed = batch_size, seed
        self._shuffle, self._remainder = shuffle, remainder
        if remainder not in REMAINDERS:
            raise UserError(f"remainder must be drop, pad or wrap, not '{remainder}'")
        if batch_size < 1 or not len(sizes):
            raise UserError(
                f"{len(sizes)} examples cannot fill batches of {batch_size}"
            )
        bucket = np.searchsorted(np.asarray(self.lengths), np.asarray(sizes))
        self._bucket: list[int] = bucket.tolist()
        whole, rest = divmod(len(sizes), batch_size)
        self.steps_per_epoch = whole + (rest > 0 and remainder != "drop")
        if not self.steps_per_epoch:
            raise UserError(
                f"{len(sizes)} examples make no batch of {batch_size}; use a smaller"
                " batch, or remainder 'wrap' (repeat examples) or 'pad' (evaluation)"
            )
        self._epoch = functools.lru_cache(maxsize=2)(self._plan)

    def slot(self, step: int) -> Slot:
        """The batch of a step (0, 1, ...)."""
        if step < 0:
            raise UserError(f"step {step} is negative")
        epoch, index = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[index]

    def _plan(self, epoch: int) -> list[Slot]:
        queues: list[list[int]] = [[] for _ in self.lengths]
        slots: list[Slot] = []
        for row in self._permutation(epoch):
            bucket = self._bucket[row]
            queues[bucket].append(row)
            if len(queues[bucket]) == self._batch_size:
                slots.append(self._slot(bucket, queues[bucket]))
                queues[bucket] = []
        carry: list[int] = []
        bucket = 0
        for b, queue in enumerate(queues):
            carry, bucket = [*carry, *queue], b if queue else bucket
            if len(carry) >= self._batch_size:
                slots.append(self._slot(bucket, carry[: self._batch_size]))
                carry = carry[self._batch_size :]
        if carry and self._remainder != "drop":
            slots.append(self._filled(carry, bucket, slots))
        return slots

    def _slot(self, bucket: int, rows: Sequence[int]) -> Slot:
        real = np.ones(len(rows), bool)
        return Slot(self.lengths[bucket], np.asarray(rows, np.int64), real)

    def _filled(self, carry: list[int], bucket: int, slots: list[Slot]) -> Slot:
        missing = self._batch_size - len(carry)
        earlier = [slot.rows for slot in slots if slot.length <= self.lengths[bucket]]
        filler = np.resize(np.concatenate([*earlier, carry]), missing)
        slot = self._slot(bucket, [*carry, *filler.tolist()])
        slot.real[len(carry) :] = self._remainder == "wrap"
        return slot

    def _permutation(self, epoch: int) -> list[int]:
        count = len(self._bucket)
        if not self._shuffle:
            return list(range(count))
        import grain

        # Hashed, for grain shuffles epoch e of seed s as epoch 0 of seed s + e.
        seed = zlib.crc32(f"rlhf_jax.data/{self._seed}".encode())
        shuffled = grain.MapDataset.range(count).shuffle(seed=seed).repeat(None)
        begin = epoch * count
        return [shuffled[begin + i] for i in range(count)]  # type: ignore
