"""Rankings as pairs: what every measure of a reward model starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Ranked(NamedTuple):
    """One ranking with what is known of its responses; `rows` are theirs in the flat
    arrays of scores.

    Attributes:
      rows: int[K].
      ranks: int[K], 1 = best, equal numbers tie, 0 = not ranked.
      lengths: float[K], tokens.
      gold: float[K], or None where no gold is known.
      margin: the margin that the label came with, 0 for none.
      cluster: what intervals are clustered by: the prompt, or what the data name.
      fields: plain fields of the record that slices may be made of.
    """

    rows: Sequence[int]
    ranks: Sequence[int]
    lengths: Sequence[float]
    gold: Sequence[float] | None
    margin: float
    cluster: str
    fields: Mapping[str, str]


class Pairs(NamedTuple):
    """Untied pairs, each as better and worse by the label.

    Attributes:
      better: int[N], row of the better response.
      worse: int[N].
      length: float[N], tokens of the better minus those of the worse.
      gold: float[N], likewise, or None where a ranking has none.
      margin: float[N].
      first: bool[N], whether the better one is listed first.
      cluster: str[N].
      fields: name -> str[N].
      tied: number of pairs that the labels leave open.
    """

    better: np.ndarray
    worse: np.ndarray
    length: np.ndarray
    gold: np.ndarray | None
    margin: np.ndarray
    first: np.ndarray
    cluster: np.ndarray
    fields: dict[str, np.ndarray]
    tied: int

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.better)

    def difference(self, scores: np.ndarray) -> np.ndarray:
        """Score of the better minus score of the worse, float64[N]."""
        scores = np.asarray(scores, np.float64)
        return scores[self.better] - scores[self.worse]


def pairs(rankings: Sequence[Ranked]) -> Pairs:
    """All untied pairs of all rankings, in order."""
    found: list[tuple[int, int, float, float, bool, int]] = []
    golds: list[float] = []
    tied = 0
    for number, one in enumerate(rankings):
        for i, j in np.ndindex(len(one.ranks), len(one.ranks)):
            first, second = one.ranks[i], one.ranks[j]
            tied += bool(i < j and first == second > 0)
            if not 0 < first < second:
                continue
            length = float(one.lengths[i] - one.lengths[j])
            found.append((one.rows[i], one.rows[j], length, one.margin, i < j, number))
            if one.gold is not None:
                golds.append(float(one.gold[i] - one.gold[j]))
    columns = list(zip(*found, strict=True)) if found else [()] * 6
    of = [rankings[number] for number in columns[5]]
    names = dict.fromkeys(name for one in rankings for name in one.fields)
    return Pairs(
        better=np.asarray(columns[0], np.int64),
        worse=np.asarray(columns[1], np.int64),
        length=np.asarray(columns[2], np.float64),
        gold=np.asarray(golds) if golds and len(golds) == len(found) else None,
        margin=np.asarray(columns[3], np.float64),
        first=np.asarray(columns[4], bool),
        cluster=np.asarray([one.cluster for one in of], object).astype(str),
        fields={n: np.asarray([one.fields.get(n, "") for one in of]) for n in names},
        tied=tied,
    )
