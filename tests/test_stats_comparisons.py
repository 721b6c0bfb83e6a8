"""Comparisons of paired runs, each against a slow oracle or a number worked by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import errors, stats

VALUES = st.lists(st.floats(-100, 100), min_size=1, max_size=30)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


def normal(n, mean=0.0, seed=0):
    return np.random.default_rng(seed).normal(mean, 1.0, n)


@given(VALUES)
def test_the_interquartile_mean_is_that_of_four_copies_of_each_value(values):
    copies = np.sort(np.repeat(values, 4))
    middle = copies[len(values) : 3 * len(values)]
    found = stats.interquartile_mean(values)
    assert found == pytest.approx(np.mean(middle), abs=1e-9)


def test_the_interquartile_mean_by_hand():
    assert stats.interquartile_mean([9.0, 1.0, 2.0, 3.0]) == 2.5
    five = (0.75 * 2 + 3 + 0.75 * 4) / 2.5
    assert stats.interquartile_mean([1, 2, 3, 4, 1000]) == pytest.approx(five)
    assert stats.interquartile_mean([7.0]) == 7.0


def brute_force_sign_flip(d, side):
    """Every sign pattern, one by one, over integers so that ties are exact."""
    sums = [
        sum(s * x for s, x in zip(signs, d, strict=True))
        for signs in itertools.product((1, -1), repeat=len(d))
    ]
    score = {"two": abs, "greater": lambda v: v, "less": lambda v: -v}[side]
    return sum(score(v) >= score(sum(d)) for v in sums) / len(sums)


@pytest.mark.parametrize("side", ["two", "greater", "less"])
@given(d=st.lists(st.integers(-9, 9), min_size=1, max_size=8))
def test_sign_flips_count_every_pattern(side, d):
    assert stats.sign_flip(d, side=side) == brute_force_sign_flip(d, side)


def test_ties_by_round_off_count_as_ties():
    d = [0.1, 0.2, 0.3]  # the sum depends on the order at 1e-17
    expected = brute_force_sign_flip([1, 2, 3], "two")
    assert stats.sign_flip(d) == expected == 0.25
    assert stats.sign_flip([x * 1e-12 for x in d]) == expected


def test_differences_of_one_sign_give_the_smallest_p():
    for n in (2, 5, 8, 16):
        assert stats.sign_flip(normal(n) ** 2 + 0.1) == stats.smallest_sign_flip(n)
    assert stats.smallest_sign_flip(8) == 2 / 256
    assert stats.smallest_sign_flip(8, "greater") == 1 / 256
    assert stats.smallest_sign_flip(1) == 1.0


def test_drawn_sign_flips_are_near_the_enumerated_ones_and_their_seed_decides():
    d = normal(18, 0.4)
    signs = 1 - 2 * ((np.arange(2**18)[:, None] >> np.arange(18)) & 1)
    exact = np.mean(np.abs(signs @ d) >= abs(d.sum()) - 1e-9)
    found = stats.sign_flip(d)
    assert found == pytest.approx(exact, abs=5 * math.sqrt(exact / 100_000))
    assert found == stats.sign_flip(d) != stats.sign_flip(d, seed=1)
    assert stats.sign_flip(np.full(40, 1.0), draws=99) == 1 / 100


def test_no_difference_has_p_one_and_none_has_no_p():
    assert stats.sign_flip([0.0, 0.0, 0.0]) == 1.0
    assert math.isnan(stats.sign_flip([]))


def cauchy_above(t):
    """P(T > t) of Student's t with one degree of freedom, in closed form."""
    return 0.5 - math.atan(t) / math.pi


def test_the_paired_t_test_of_two_pairs_by_hand():
    d = [0.1, 0.3]  # mean 0.2, standard error 0.1, so t = 2
    assert stats.paired_t(d) == pytest.approx(2 * cauchy_above(2.0))
    assert stats.paired_t(d, side="greater") == pytest.approx(cauchy_above(2.0))
    assert stats.paired_t(d, side="less") == pytest.approx(1 - cauchy_above(2.0))


@given(st.integers(0, 1000), st.sampled_from([0.8, 0.95]))
def test_the_t_test_rejects_where_its_interval_excludes_zero(seed, confidence):
    d = normal(6, 0.7, seed)
    interval = stats.mean(d, confidence=confidence)
    excludes = interval.low > 0 or interval.high < 0
    assert (stats.paired_t(d) < 1 - confidence) == excludes


def test_differences_without_spread():
    assert stats.paired_t([0.5, 0.5, 0.5]) == 0.0
    assert stats.paired_t([0.5, 0.5], side="less") == 1.0
    assert stats.paired_t([0.0, 0.0]) == 1.0
    assert math.isnan(stats.paired_t([0.5]))


def closed_test(p):
    """Holm as what it is: every subset must be rejected by Bonferroni."""
    members = range(len(p))
    subsets = [
        s for k in range(1, len(p) + 1) for s in itertools.combinations(members, k)
    ]
    return [
        max(min(1.0, len(s) * min(p[j] for j in s)) for s in subsets if i in s)
        for i in members
    ]


@given(P_VALUES)
def test_holm_is_the_closed_test_of_bonferroni(p):
    np.testing.assert_allclose(stats.holm(p), closed_test(p), atol=1e-12)


@given(P_VALUES)
def test_laws_of_holm(p):
    adjusted = stats.holm(p)
    order = np.argsort(p, kind="stable")
    assert np.all(adjusted >= np.asarray(p)) and np.all(adjusted <= 1)
    assert np.all(np.diff(adjusted[order]) >= 0)
    assert adjusted[order[0]] == min(1.0, len(p) * p[order[0]])
    assert np.all(adjusted <= np.minimum(1.0, len(p) * np.asarray(p)) + 1e-15)
    np.testing.assert_array_equal(stats.holm(p[::-1]), adjusted[::-1])


def test_holm_by_hand():
    found = stats.holm([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(found, [0.03, 0.06, 0.06, 0.02])


def test_a_comparison_that_was_not_made_is_no_member_of_the_family():
    found = stats.holm([0.01, math.nan, 0.02])
    np.testing.assert_allclose(found[[0, 2]], [0.02, 0.02])
    assert math.isnan(found[1])
    assert len(stats.holm([])) == 0
    with pytest.raises(errors.UserError, match=r"1\.5"):
        stats.holm([0.5, 1.5])


def test_the_small_sample_factor_by_hand():
    """J(2) = Gamma(1) / Gamma(1/2), J(4) = 1 / (sqrt(2) Gamma(3/2)); then its limit."""
    assert stats.small_sample_factor(2) == pytest.approx(1 / math.sqrt(math.pi))
    assert stats.small_sample_factor(4) == pytest.approx(math.sqrt(2 / math.pi))
    for df in (7, 20, 100):
        approximate = 1 - 3 / (4 * df - 1)
        assert stats.small_sample_factor(df) == pytest.approx(approximate, abs=2e-3)
    assert stats.small_sample_factor(1) == 0.0


def test_hedges_g_is_unbiased_where_the_plain_ratio_is_not():
    draws = np.random.default_rng(0).normal(0.8, 1.0, (2000, 5))
    found = [stats.hedges_g(d, np.zeros(5)) for d in draws]
    error = np.std(found) / math.sqrt(len(found))
    assert np.mean(found) == pytest.approx(0.8, abs=4 * error)
    plain = draws.mean(1) / draws.std(1, ddof=1)
    assert np.mean(plain) > 0.8 + 4 * error


def test_hedges_g_by_hand_and_its_ends():
    d = [1.0, 2.0, 3.0]  # mean 2, deviation 1
    expected = 2 * stats.small_sample_factor(2)
    assert stats.hedges_g(d, [0.0] * 3) == pytest.approx(expected)
    assert stats.hedges_g([0.0] * 3, d) == pytest.approx(-expected)
    assert stats.hedges_g([1.0, 1.0], [1.0, 1.0]) == 0.0
    assert stats.hedges_g([1.0, 1.0], [2.0, 2.0]) == -math.inf
    assert math.isnan(stats.hedges_g([1.0], [2.0])) and math.isnan(
        stats.hedges_g([], [])
    )


def test_equivalence_of_two_pairs_by_hand():
    found = stats.equivalence([0.1, 0.3], [0.0, 0.0], 1.0)
    assert found.p == pytest.approx(max(cauchy_above(12.0), cauchy_above(8.0)))
    assert found.equivalent and found.n == 2
    assert not stats.equivalence([0.1, 0.3], [0.0, 0.0], 0.5).equivalent


@given(st.integers(0, 1000), st.floats(0.05, 3.0), st.floats(-1, 1))
def test_equivalence_is_the_90_percent_interval_inside_the_margin(seed, margin, shift):
    a, b = normal(7, shift, seed), normal(7, 0.0, seed + 10_000)
    found = stats.equivalence(a, b, margin)
    ninety = stats.paired(a, b, confidence=0.9)
    assert (found.low, found.high) == pytest.approx((ninety.low, ninety.high))
    inside = -margin < ninety.low and ninety.high < margin
    assert found.equivalent == inside


def test_noise_is_no_evidence_of_equality():
    a, b = normal(5, 0.0, 1) * 10, normal(5, 0.0, 2) * 10
    assert stats.paired_t(a - b) > 0.05
    assert not stats.equivalence(a, b, 1.0).equivalent


def test_what_cannot_be_compared_is_named():
    with pytest.raises(errors.UserError, match="no values"):
        stats.interquartile_mean([])
    with pytest.raises(errors.UserError, match="positive margin"):
        stats.equivalence([1.0, 2.0], [1.0, 2.0], 0.0)
    with pytest.raises(errors.UserError, match="3 values against 2"):
        stats.hedges_g([1, 2, 3], [1, 2])
