"""Slopes and their clustered errors against slow definitions."""

import numpy as np
import pytest

from rlhf_jax.studies.rm_report import regression


def data(count=60, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 2))
    return x, x @ [1.0, -0.5] + rng.normal(size=count), np.arange(count) // 4


def slow_sandwich(x, residuals, bread, clusters):
    total = np.zeros((2, 2))
    for name in np.unique(clusters):
        rows = clusters == name
        s = (x[rows] * residuals[rows][:, None]).sum(axis=0)
        total += np.outer(s, s)
    count = len(np.unique(clusters))
    return count / (count - 1) * bread @ total @ bread


def test_least_squares_with_clusters():
    x, y, clusters = data()
    fit = regression.least_squares(x, y, clusters)
    slopes = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(fit.slopes, slopes, atol=1e-10)
    wanted = slow_sandwich(x, y - x @ slopes, np.linalg.inv(x.T @ x), clusters)
    np.testing.assert_allclose(fit.covariance, wanted, atol=1e-12)
    assert fit.clusters == 15


def test_logistic_is_the_maximum_and_turning_a_pair_changes_nothing():
    x, y, clusters = data(400)
    wins = (y > 0).astype(float)
    fit = regression.logistic(x, clusters, wins)
    p = 1 / (1 + np.exp(-(x @ fit.slopes)))
    np.testing.assert_allclose(x.T @ (wins - p), 0.0, atol=1e-6)
    bread = np.linalg.inv((x * (p * (1 - p))[:, None]).T @ x)
    wanted = slow_sandwich(x, wins - p, bread, clusters)
    np.testing.assert_allclose(fit.covariance, wanted, rtol=1e-6)
    turned = np.random.default_rng(1).random(400) < 0.5
    other = regression.logistic(
        np.where(turned[:, None], -x, x), clusters, np.where(turned, 1 - wins, wins)
    )
    np.testing.assert_allclose(other.slopes, fit.slopes, atol=1e-9)


def test_clusters_widen_the_interval_as_they_should():
    """Every row ten times over is no more evidence, if the copies are one cluster."""
    x, y, _ = data(50)
    once = regression.least_squares(x, y, np.arange(50)).estimate([1.0, 0.0])
    copies = np.repeat(np.arange(50), 10)
    fit = regression.least_squares(x[copies], y[copies], copies)
    again = fit.estimate([1.0, 0.0])
    assert again.low == pytest.approx(once.low) and again.n == 50


def test_separable_or_collinear_data_say_nothing():
    x, y, clusters = data()
    assert np.isnan(regression.logistic(np.abs(x[:, :1]), clusters).slopes).all()
    twice = np.stack([x[:, 0], 2 * x[:, 0]], axis=1)
    assert np.isnan(regression.least_squares(twice, y, clusters).slopes).all()
    assert np.isnan(regression.logistic(twice, clusters).slopes).all()
    still = regression.logistic(0 * x, clusters)
    assert np.isnan(still.estimate([1.0, 0.0]).mean)


def test_a_ratio_covers_its_truth():
    """The delta method's interval of -d/c covers in about 95 % of draws."""
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(400, 2))
        p = 1 / (1 + np.exp(-(1.2 * x[:, 0] - 0.6 * x[:, 1])))
        wins = rng.random(400) < p
        fit = regression.logistic(x, np.arange(400), wins)
        found = fit.minus_ratio(1, 0)
        hits += found.low < 0.5 < found.high
    assert hits >= 88
