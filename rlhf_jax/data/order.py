"""Which examples make up which batch: a pure function of (data seed, step).

An epoch visits every example once. Inside an epoch the examples of one length bucket
are shuffled and cut into batches; what is left of a bucket joins the next longer one,
where it fits; the batches of all buckets are then shuffled together. One short batch
remains at most, and `remainder` says what becomes of it. Nothing depends on earlier
calls, so the position in the data is the step number alone.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from rlhf_jax.errors import UserError

Remainder = Literal["drop", "pad", "wrap"]
IntArray = np.ndarray


class Slot(NamedTuple):
    """One batch: padded length, rows int64[batch], real bool[batch] (False = filler
    that must not count)."""

    length: int
    rows: IntArray
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
        remainder: Remainder = "drop",
    ):
        """Plan the batches.

        Args:
          sizes: tokens of each example; none exceeds `max(lengths)`.
          lengths: bucket lengths; every batch is padded to one of them.
          batch_size: examples in a batch, over all processes.
          seed: data seed; epochs of one seed and other seeds are unrelated.
          shuffle: False keeps the given order inside each bucket, short buckets first.
          remainder: `drop` leaves the short last batch out (other examples each
            epoch), `pad` fills it with rows that do not count, `wrap` fills it with
            examples seen earlier in the same epoch.

        Raises:
          UserError: no example, or fewer than a batch under `drop`.
        """
        self.lengths = tuple(sorted(set(lengths)))
        self._batch_size, self._seed = batch_size, seed
        self._shuffle, self._remainder = shuffle, remainder
        if remainder not in ("drop", "pad", "wrap"):
            raise UserError(f"remainder must be drop, pad or wrap, not '{remainder}'")
        if batch_size < 1 or not len(sizes):
            raise UserError(
                f"{len(sizes)} examples cannot fill batches of {batch_size}"
            )
        bucket = np.searchsorted(np.asarray(self.lengths), np.asarray(sizes))
        self._members = [
            (length, np.flatnonzero(bucket == b))
            for b, length in enumerate(self.lengths)
            if np.any(bucket == b)
        ]
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
        slots: list[Slot] = []
        carry = np.zeros(0, np.int64)
        size, length = self._batch_size, self.lengths[0]
        for length, members in self._members:
            queue = np.concatenate(
                [carry, self._permuted(members, epoch, f"b{length}")]
            )
            cut = len(queue) - len(queue) % size
            real = np.ones(size, bool)
            slots += [
                Slot(length, rows, real) for rows in queue[:cut].reshape(-1, size)
            ]
            carry = queue[cut:]
        if len(carry) and self._remainder != "drop":
            slots.append(self._filled(carry, length, slots))
        return [slots[i] for i in self._permuted(np.arange(len(slots)), epoch, "slots")]

    def _filled(self, carry: IntArray, length: int, slots: list[Slot]) -> Slot:
        seen = np.concatenate([*(slot.rows for slot in slots), carry])
        filler = np.resize(seen, self._batch_size - len(carry))
        real = np.ones(self._batch_size, bool)
        real[len(carry) :] = self._remainder == "wrap"
        return Slot(length, np.concatenate([carry, filler]), real)

    def _permuted(self, items: IntArray, epoch: int, purpose: str) -> IntArray:
        if not self._shuffle:
            return items
        import grain

        # Seeds of different purposes and runs are hashed apart, for grain shuffles
        # epoch e of seed s as epoch 0 of seed s + e.
        seed = zlib.crc32(f"rlhf_jax.data/{self._seed}/{purpose}".encode())
        shuffled = (
            grain.MapDataset.source(items.tolist()).shuffle(seed=seed).repeat(None)
        )
        begin = epoch * len(items)
        return np.asarray([shuffled[begin + i] for i in range(len(items))], np.int64)
