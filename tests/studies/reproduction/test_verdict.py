"""Verdicts: what holds, fails, or cannot be told."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import stats
from rlhf_jax.studies import reproduction as rep
from rlhf_jax.studies.reproduction import verdict


def claim(threshold, seeds, **options):
    return rep.Claim(
        "X", "p", "s", "x", tuple(seeds), lambda seed: 0.0, threshold,
        rep.FullScale("r", "n"), **options,
    )  # fmt: skip


def judged(threshold, values, **options):
    measured = {seed: {"": value} for seed, value in enumerate(values)}
    return rep.judge(claim(threshold, measured, **options), measured)


@pytest.mark.parametrize(
    ("threshold", "low", "high", "expected"),
    [
        (rep.Above(0.3), 0.31, 9.0, "holds"),
        (rep.Above(0.3), 0.3, 0.5, "undecided"),
        (rep.Above(0.3), 0.1, 0.3, "fails"),
        (rep.Above(0.3), -0.1, 0.2, "fails"),
        (rep.Below(0.0), -0.5, -0.1, "holds"),
        (rep.Below(0.0), -0.5, 0.1, "undecided"),
        (rep.Below(0.0), 0.0, 0.1, "fails"),
        (rep.Band(1.0, 2.0), 1.1, 1.9, "holds"),
        (rep.Band(1.0, 2.0), 0.9, 1.9, "undecided"),
        (rep.Band(1.0, 2.0), 0.5, 2.5, "undecided"),
        (rep.Band(1.0, 2.0), 2.0, 2.5, "fails"),
        (rep.Equivalence(0.1), -0.09, 0.09, "holds"),
        (rep.Equivalence(0.1), -0.2, 0.05, "undecided"),
        (rep.Equivalence(0.1), -0.3, -0.1, "fails"),
        (rep.Above(0.0), math.nan, math.nan, "undecided"),
    ],
)
def test_bounds_against_thresholds(threshold, low, high, expected):
    assert verdict.decide(threshold, low, high) == expected


def test_a_minimum_effect_must_lie_below_the_bound_not_below_the_mean():
    values = [0.2, 0.5, 0.3, 0.6, 0.4]  # mean 0.4, one-sided 95 % bound 0.249
    bound = 0.4 - 2.131847 * np.std(values, ddof=1) / math.sqrt(5)
    found = judged(rep.Above(0.2), values)
    assert found.verdict == "holds"
    assert found.findings[0].low == pytest.approx(bound, rel=1e-5)
    assert judged(rep.Above(0.3), values).verdict == "undecided"
    assert judged(rep.Above(0.6), values).verdict == "fails"
    assert judged(rep.Above(0.2), values, confidence=0.999).verdict == "undecided"


@given(st.integers(0, 500), st.floats(0.05, 2.0))
def test_an_equivalence_is_two_one_sided_tests(seed, margin):
    d = np.random.default_rng(seed).normal(0.2, 0.5, 6)
    expected = stats.equivalence(d, np.zeros(6), margin).equivalent
    held = judged(rep.Equivalence(margin), d.tolist()).verdict == "holds"
    assert held == expected


@given(st.integers(0, 500), st.floats(-1, 1))
def test_mirrored_claims_have_the_same_verdict(seed, threshold):
    values = np.random.default_rng(seed).normal(0.2, 0.5, 5)
    up = judged(rep.Above(threshold), values.tolist()).verdict
    assert up == judged(rep.Below(-threshold), (-values).tolist()).verdict


def test_an_exact_claim_is_about_every_seed():
    assert judged(rep.Exact(1.0, 0.1), [0.95, 1.05]).verdict == "holds"
    assert judged(rep.Exact(1.0, 0.1), [0.8, 1.2]).verdict == "fails"
    assert judged(rep.Exact(1.0, 0.1), [1.0, math.nan]).verdict == "fails"
    assert judged(rep.Exact(1.0, 0.0), [1.0]).verdict == "holds"


def test_what_is_not_finite_decides_no_inequality():
    found = judged(rep.Above(0.0), [1.0, 1.1, math.inf])
    assert found.verdict == "undecided" and math.isnan(found.findings[0].effect)


def test_equal_values_have_an_interval_of_no_width():
    assert judged(rep.Above(0.0), [1.0, 1.0]).verdict == "holds"
    assert judged(rep.Above(1.0), [1.0, 1.0]).verdict == "fails"


@pytest.mark.parametrize(
    ("b", "expected"),
    [([1.0, 1.1], "holds"), ([-1.0, -1.1], "fails"), ([-9.0, 9.0], "undecided")],
)
def test_a_claim_of_several_quantities_needs_them_all(b, expected):
    measured = {seed: {"a": 1.0 + seed / 10, "b": b[seed]} for seed in range(2)}
    both = claim({"a": rep.Above(), "b": rep.Above()}, measured)
    assert rep.judge(both, measured).verdict == expected
    together = {"a": rep.Above(), "b": rep.Above(), "c": rep.Below(0.0)}
    worse = {seed: row | {"c": 1.0} for seed, row in measured.items()}
    assert rep.judge(claim(together, worse), worse).verdict == "fails"


def test_exit_codes():
    holds = judged(rep.Above(), [1.0, 1.1])
    fails = judged(rep.Above(), [-1.0, -1.1])
    undecided = judged(rep.Above(), [-1.0, 1.0])
    assert rep.exit_code([holds]) == rep.exit_code([]) == 0
    assert rep.exit_code([holds, undecided]) == 3
    assert rep.exit_code([undecided, fails, holds]) == 1


def test_a_false_claim_holds_in_5_percent_of_studies():
    draw = np.random.default_rng(0)
    held = [
        judged(rep.Above(), draw.normal(size=5).tolist()).verdict == "holds"
        for _ in range(500)
    ]
    assert np.mean(held) == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 500))
