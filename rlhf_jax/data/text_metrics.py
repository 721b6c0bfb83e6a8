"""Measures on text that need no model."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

_WORD = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """Lower-case runs of ASCII letters and digits, as the ROUGE scripts tokenize."""
    return _WORD.findall(text.lower())


def longest_common_subsequence(
    first: Sequence[Hashable], second: Sequence[Hashable]
) -> int:
    """Length of the longest (not necessarily contiguous) common subsequence."""
    row = [0] * (len(second) + 1)
    for item in first:
        diagonal = 0
        for j, other in enumerate(second, start=1):
            above = row[j]
            row[j] = diagonal + 1 if item == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]


def rouge_l(candidate: str, reference: str) -> float:
    """ROUGE-L F-measure over words, without stemming (Lin 2004, section 3, beta = 1).

    With `lcs` the longest common subsequence, `P = lcs / |candidate|`,
    `R = lcs / |reference|`, the value is `2 P R / (P + R)`; 0 where they share nothing.
    """
    ours, theirs = words(candidate), words(reference)
    common = longest_common_subsequence(ours, theirs)
    # 2PR / (P + R) with both fractions expanded; no 0 / 0 where a text is empty.
    return 2.0 * common / (len(ours) + len(theirs)) if common else 0.0
