"""The bigram baseline that a trained language model has to beat."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.encode import Encoded
from rlhf_jax.errors import UserError


class Perplexity(NamedTuple):
    """perplexity = exp(nats / tokens), nats = sum of -log p, tokens = targets."""

    perplexity: float
    nats: float
    tokens: int


def kneser_ney(
    bigrams: Iterable[tuple[int, int]], vocab_size: int
) -> Callable[[int, int], float]:
    """Interpolated Kneser-Ney bigram model.

    With counts c, types N1+(. w) = |{v: c(v w) > 0}| and discounts D = n1 / (n1 + 2 n2)
    (Ney et al. 1994), as in Chen & Goodman 1999, eq. 5 to 7::

        p(w | v) = max(c(v w) - D, 0) / c(v .) + D N1+(v .) / c(v .) p_low(w)
        p_low(w) = max(N1+(. w) - D', 0) / N1+(. .) + D' |{w}| / N1+(. .) / V

    so the lower order is itself interpolated with the uniform distribution over the
    `vocab_size` ids; an unseen history gets `p_low`.

    Args:
      bigrams: (history, token) pairs of the training data.
      vocab_size: number of ids V.

    Returns:
      `probability(history, token)`, which sums to one over tokens.
    """
    counts = Counter(bigrams)
    if not counts:
        raise UserError("a bigram model needs at least two tokens of training data")
    total, kinds = defaultdict(int), defaultdict(int)
    continuation: Counter[int] = Counter()
    for (history, token), count in counts.items():
        total[history] += count
        kinds[history] += 1
        continuation[token] += 1
    discount = _discount(counts.values())
    low_discount = _discount(continuation.values())
    uniform = low_discount * len(continuation) / len(counts) / vocab_size

    def low(token: int) -> float:
        kept = max(continuation[token] - low_discount, 0.0)
        return kept / len(counts) + uniform

    def probability(history: int, token: int) -> float:
        if history not in total:
            return low(token)
        kept = max(counts[history, token] - discount, 0.0)
        return (kept + discount * kinds[history] * low(token)) / total[history]

    return probability


def bigram_perplexity(
    train: Iterable[Encoded], heldout: Iterable[Encoded], *, vocab_size: int
) -> Perplexity:
    """Perplexity of a Kneser-Ney bigram on held-out targets.

    Both read the sequences that the language model reads (`Encoder.sequence`) and use
    the targets of their loss masks, so the model's perplexity is on the same tokens.
    Bigrams never cross from one sequence into the next.

    Args:
      train: sequences whose targets are counted.
      heldout: sequences whose targets are predicted from the token before.
      vocab_size: number of ids.
    """
    probability = kneser_ney(
        (pair for sequence in train for pair in _targets(sequence)), vocab_size
    )
    nats = [
        -math.log(probability(*pair)) for item in heldout for pair in _targets(item)
    ]
    if not nats:
        raise UserError("no held-out target token to measure perplexity on")
    mean = math.fsum(nats) / len(nats)
    return Perplexity(math.exp(mean), math.fsum(nats), len(nats))


def _targets(sequence: Encoded) -> Iterable[tuple[int, int]]:
    tokens = sequence.tokens.tolist()
    places = np.flatnonzero(sequence.loss_mask)
    return ((tokens[i - 1], tokens[i]) for i in places.tolist() if i > 0)


def _discount(counts: Iterable[int]) -> float:
    """n1 / (n1 + 2 n2); one half where nothing occurs once (never 0 or 1, so that no
    token gets probability 0 and no history loses all of its mass)."""
    by_count = Counter(counts)
    once, twice = by_count[1], by_count[2]
    return once / (once + 2 * twice) if once and twice else 0.5
