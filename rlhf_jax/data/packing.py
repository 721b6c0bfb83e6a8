"""Packing: several short documents in one row, without attention between them.

Which documents share a row depends on the data alone (best fit, longest first), so it
is the same in every run and epoch; the order of the rows is shuffled like any other.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from rlhf_jax.errors import UserError


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of document indices, each row holding at most `capacity` tokens.

    Longest first, each into the fullest row where it still fits (best-fit decreasing,
    at most 11/9 of the optimal number of rows + 1: Johnson 1973). Ties go to the
    earlier document and the earlier row.

    Args:
      sizes: tokens of each document.
      capacity: tokens of a row.

    Raises:
      UserError: a document is longer than a row.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens left, row), ascending
    for document in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        size = sizes[document]
        if size > capacity:
            raise UserError(f"document {document} has {size} tokens, a row {capacity}")
        place = bisect.bisect_left(free, (size, -1))
        if place == len(free):
            left, row = capacity, len(rows)
            rows.append([])
        else:
            left, row = free.pop(place)
        rows[row].append(document)
        bisect.insort(free, (left - size, row))
    return rows
