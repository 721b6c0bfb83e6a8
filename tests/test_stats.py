import math

import numpy as np
import pytest
import scipy.stats

from rlhf_jax import errors, stats


@pytest.mark.parametrize("df", [1, 2, 4, 7.5, 30, 1000, 1e6])
def test_t_quantiles_are_those_of_scipy(df):
    for p in (0.01, 0.3, 0.6, 0.9, 0.975, 0.9995):
        found = stats.student_t_quantile(p, df)
        assert found == pytest.approx(scipy.stats.t.ppf(p, df), rel=1e-8)


def test_mean_error_and_interval_are_those_of_scipy():
    x = np.random.default_rng(0).normal(1.0, 2.0, 9)
    found = stats.mean(x)
    low, high = scipy.stats.t.interval(0.95, 8, x.mean(), scipy.stats.sem(x))
    assert found.mean == pytest.approx(x.mean())
    assert found.se == pytest.approx(scipy.stats.sem(x))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.row() == {"mean": found.mean, "se": found.se, "n": 9}


def test_paired_comparison_is_the_paired_t_test():
    draw = np.random.default_rng(0)
    shared = draw.normal(0, 5, 8)
    a, b = shared + draw.normal(0.5, 0.3, 8), shared + draw.normal(0, 0.3, 8)
    found = stats.paired(a, b)
    interval = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    above = stats.paired(a, b, side="greater")
    one = scipy.stats.ttest_rel(a, b, alternative="greater").confidence_interval(0.95)
    assert above.low == pytest.approx(one.low) and above.high == math.inf
    below = stats.paired(a, b, side="less")
    assert below.low == -math.inf and below.high > found.mean


def test_clusters_of_equal_size_give_the_error_of_their_means():
    values = np.random.default_rng(0).normal(size=(6, 4))
    labels = np.repeat([f"module {i}" for i in range(6)], 4)
    found = stats.clustered_mean(values.ravel(), labels)
    by_cluster = stats.mean(values.mean(axis=1))
    assert found == pytest.approx(by_cluster)
    assert found.n == 6


def test_weights_repeat_values_within_their_cluster():
    draw = np.random.default_rng(0)
    values, labels = draw.normal(size=8), [0, 0, 0, 1, 1, 2, 2, 3]
    weights = [1, 2, 0, 1, 3, 1, 1, 2]
    found = stats.clustered_mean(values, labels, weights)
    repeated = stats.clustered_mean(
        np.repeat(values, weights), np.repeat(labels, weights)
    )
    assert found == pytest.approx(repeated)


def test_duplicated_values_in_a_cluster_do_not_shrink_the_error():
    x = np.random.default_rng(0).normal(size=10)
    found = stats.clustered_mean(np.repeat(x, 5), np.repeat(np.arange(10), 5))
    assert found.se == pytest.approx(stats.mean(x).se)
    assert stats.mean(np.repeat(x, 5)).se < 0.5 * found.se


def test_one_cluster_has_a_mean_and_no_error():
    found = stats.clustered_mean([1.0, 2.0], ["a", "a"])
    assert found.mean == 1.5 and found.n == 1
    assert all(math.isnan(x) for x in (found.se, found.low, found.high))


@pytest.mark.parametrize("method", [stats.mean, stats.bootstrap])
def test_intervals_of_small_samples_cover(method):
    """95 % intervals of the mean of 6 normal values cover in about 95 % of draws."""
    draw = np.random.default_rng(1)
    options = {} if method is stats.mean else {"resamples": 400}
    hits = 0
    for _ in range(400):
        found = method(draw.normal(2.0, 1.0, 6), **options)
        hits += found.low <= 2.0 <= found.high
    assert 0.92 <= hits / 400 <= 0.99


def test_the_bootstrap_resamples_whole_clusters():
    draw = np.random.default_rng(0)
    values = np.repeat(draw.normal(size=30), 4)
    labels = np.repeat(np.arange(30), 4)
    found = stats.bootstrap(values, labels)
    expected = stats.clustered_mean(values, labels)
    assert found.mean == pytest.approx(expected.mean)
    assert found.se == pytest.approx(expected.se, rel=0.1)
    assert found.n == 30
    assert stats.bootstrap(values).se < 0.7 * found.se


def test_the_bootstrap_takes_any_statistic_and_its_seed_decides():
    x = np.random.default_rng(0).normal(3.0, 1.0, 200)
    found = stats.bootstrap(x, statistic=np.median, seed=3)
    assert found.mean == np.median(x) and found.low < np.median(x) < found.high
    assert found.se == pytest.approx(1.2533 / np.sqrt(200), rel=0.25)
    assert found == stats.bootstrap(x, statistic=np.median, seed=3)
    assert found != stats.bootstrap(x, statistic=np.median, seed=4)


def test_the_bootstrap_leans_to_the_long_tail():
    x = np.random.default_rng(0).exponential(size=15)
    found = stats.bootstrap(x)
    assert found.high - found.mean > 1.3 * (found.mean - found.low)
    mirrored = stats.bootstrap(-x)
    assert mirrored.mean - mirrored.low > 1.3 * (mirrored.high - mirrored.mean)


def test_equal_values_have_no_error():
    for found in (stats.mean([2.0] * 5), stats.bootstrap([2.0] * 5)):
        assert (found.se, found.low, found.high) == (0.0, 2.0, 2.0)


def test_what_cannot_be_computed_is_named():
    with pytest.raises(errors.UserError, match="no values"):
        stats.mean([])
    with pytest.raises(errors.UserError, match="3 values against 2"):
        stats.paired([1, 2, 3], [1, 2])
    with pytest.raises(errors.UserError, match="2 cluster labels"):
        stats.clustered_mean([1, 2, 3], [1, 2])
    with pytest.raises(errors.UserError, match="between 0 and 1"):
        stats.mean([1.0, 2.0], confidence=95)
