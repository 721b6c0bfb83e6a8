"""ROUGE-L against a slow oracle and known values."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.data import text_metrics

LETTERS = st.lists(st.sampled_from("abc"), max_size=7)


def oracle(first: tuple, second: tuple) -> int:
    """The definition: try to drop the last item of either."""

    @functools.cache
    def longest(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return 0
        if first[i - 1] == second[j - 1]:
            return longest(i - 1, j - 1) + 1
        return max(longest(i - 1, j), longest(i, j - 1))

    return longest(len(first), len(second))


@settings(max_examples=100, deadline=None)
@given(LETTERS, LETTERS)
def test_common_subsequence_is_the_definition(first, second):
    found = text_metrics.longest_common_subsequence(first, second)
    assert found == oracle(tuple(first), tuple(second))


@settings(max_examples=60, deadline=None)
@given(LETTERS, LETTERS)
def test_rouge_is_symmetric_between_zero_and_one(first, second):
    one, two = " ".join(first), " ".join(second)
    value = text_metrics.rouge_l(one, two)
    assert value == text_metrics.rouge_l(two, one)
    assert 0 <= value <= 1 and (value == 1) == (first == second != [])


@pytest.mark.parametrize(
    ("candidate", "reference", "value"),
    [
        # The example of the rouge-score package: P = 5/8, R = 5/9.
        (
            "The quick brown dog jumps on the log.",
            "The quick brown fox jumps over the lazy dog",
            10 / 17,
        ),
        # Lin 2004, section 3.1: three of four words in order, then two.
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("A_b-c", "a b c", 1.0),
        ("", "a", 0.0),
        ("", "", 0.0),
    ],
)
def test_known_values(candidate, reference, value):
    assert text_metrics.rouge_l(candidate, reference) == pytest.approx(value, abs=1e-12)
