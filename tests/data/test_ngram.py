"""The Kneser-Ney bigram: a distribution, the formula, and where it stands."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.data import ngram
from rlhf_jax.data.encode import Encoded
from rlhf_jax.errors import UserError

PAIRS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30
)


def oracle(pairs: list, vocab_size: int, history: int, token: int) -> float:
    """Chen & Goodman's interpolated Kneser-Ney, counted afresh for every question."""

    def discount(counts: list) -> float:
        once, twice = counts.count(1), counts.count(2)
        return once / (once + 2 * twice) if once and twice else 0.5

    types = set(pairs)
    continuation = [sum(w == x for _, w in types) for x in range(vocab_size)]
    d_low = discount([n for n in continuation if n])
    seen = sum(n > 0 for n in continuation)
    low = max(continuation[token] - d_low, 0) / len(types)
    low += d_low * seen / len(types) / vocab_size
    total = sum(v == history for v, _ in pairs)
    if not total:
        return low
    d = discount([pairs.count(pair) for pair in types])
    followers = sum(v == history for v, _ in types)
    high = max(pairs.count((history, token)) - d, 0) / total
    return high + d * followers / total * low


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_it_is_the_formula_and_a_distribution(pairs):
    probability = ngram.kneser_ney(pairs, vocab_size=5)
    for history in range(5):
        row = [probability(history, token) for token in range(5)]
        assert math.fsum(row) == pytest.approx(1, abs=1e-12) and min(row) > 0
        expected = [oracle(pairs, 5, history, token) for token in range(5)]
        np.testing.assert_allclose(row, expected, rtol=1e-12)


def encoded(tokens: list[int], mask: list[int] | None = None) -> Encoded:
    chosen = np.asarray(mask or [0] + [1] * (len(tokens) - 1), bool)
    return Encoded(np.asarray(tokens, np.int32), chosen)


def test_perplexity_is_over_the_targets_of_the_mask():
    train = [encoded([1, 2, 3, 1, 2])]
    both = ngram.bigram_perplexity(train, [encoded([1, 2, 3])], vocab_size=4)
    probability = ngram.kneser_ney([(1, 2), (2, 3), (3, 1), (1, 2)], 4)
    nats = -math.log(probability(1, 2)) - math.log(probability(2, 3))
    assert both == pytest.approx((math.exp(nats / 2), nats, 2))
    last = ngram.bigram_perplexity(train, [encoded([1, 2, 3], [0, 0, 1])], vocab_size=4)
    assert last.tokens == 1
    assert last.perplexity == pytest.approx(1 / probability(2, 3))


def test_bigrams_do_not_cross_from_one_sequence_to_the_next():
    apart = ngram.bigram_perplexity(
        [encoded([1, 2]), encoded([3, 1])], [encoded([2, 3])], vocab_size=4
    )
    joined = ngram.bigram_perplexity(
        [encoded([1, 2, 3, 1])], [encoded([2, 3])], vocab_size=4
    )
    assert joined.perplexity < apart.perplexity


def test_it_comes_close_to_the_entropy_of_a_markov_chain():
    random = np.random.default_rng(0)
    rows = random.dirichlet(np.ones(6), size=6)
    tokens = [0]
    for _ in range(12_000):
        tokens.append(int(random.choice(6, p=rows[tokens[-1]])))
    values, vectors = np.linalg.eig(rows.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary /= stationary.sum()
    entropy = -np.sum(stationary[:, None] * rows * np.log(rows))
    train, heldout = encoded(tokens[:9000]), encoded(tokens[9000:])
    found = ngram.bigram_perplexity([train], [heldout], vocab_size=6)
    assert math.log(found.perplexity) == pytest.approx(entropy, abs=0.05)


def test_nothing_to_learn_or_measure_is_an_error():
    with pytest.raises(UserError, match="at least two tokens"):
        ngram.bigram_perplexity([encoded([1])], [encoded([1, 2])], vocab_size=4)
    with pytest.raises(UserError, match="no held-out target"):
        ngram.bigram_perplexity([encoded([1, 2])], [encoded([1])], vocab_size=4)
