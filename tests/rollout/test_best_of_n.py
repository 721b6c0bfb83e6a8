import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.rollout import best_of_n


def exact_kl(p, q):
    """KL(p || q) of float64 vectors."""
    keep = p > 0
    return float(np.sum(p[keep] * np.log(p[keep] / q[keep])))


def uniform(atoms):
    return np.ones(atoms) / atoms


@pytest.mark.identity("C10")
def test_pmf_is_that_of_all_tuples():
    """The pmf of best-of-n is F^n - F_-^n: equal to summing over all n-tuples, ties
    being broken at random."""
    p = np.array([0.1, 0.4, 0.2, 0.25, 0.05])
    for scores in ([3.0, -1.0, 2.0, 0.5, 9.0], [1.0, 1.0, 2.0, 2.0, 0.0]):
        for n in (1, 2, 4):
            slow = np.zeros(5)
            for draw in itertools.product(range(5), repeat=n):
                best = max(scores[i] for i in draw)
                winners = [i for i in draw if scores[i] == best]
                for i in winners:
                    slow[i] += np.prod(p[list(draw)]) / len(winners)
            np.testing.assert_allclose(
                best_of_n.pmf(p, np.array(scores), n), slow, atol=1e-12
            )


@pytest.mark.parametrize(
    "atoms, kl", [(2, 0.693), (10, 2.294), (100, 3.158), (1000, 3.1743)]
)
@pytest.mark.identity("C10")
def test_kl_stays_below_its_bound(atoms, kl):
    """KL(best-of-n || policy) <= log n - (n - 1)/n, approached as the atoms vanish."""
    pmf = best_of_n.pmf(uniform(atoms), np.arange(atoms), 64)
    assert pmf.sum() == pytest.approx(1.0, abs=1e-12)
    exact = exact_kl(pmf, uniform(atoms))
    assert exact == pytest.approx(kl, abs=6e-4)
    assert exact <= best_of_n.kl_bound(64) + 1e-12
    if atoms == 1000:
        assert best_of_n.kl_bound(64) - exact < 1e-3


@pytest.mark.identity("C10")
def test_win_rate_against_one_draw():
    """Best-of-n wins against one draw (ties count half) with n / (n + 1)."""
    p = uniform(1000)
    below = np.cumsum(p) - p
    for n in (2, 4, 16):
        pmf = best_of_n.pmf(p, np.arange(1000), n)
        assert np.sum(pmf * (below + p / 2)) == pytest.approx(n / (n + 1), abs=1e-5)


@pytest.mark.identity("C10")
def test_selected_samples_follow_the_pmf():
    """Monte Carlo: the rows that `select` keeps have the exact pmf within 5 SE."""
    p = np.array([0.1, 0.4, 0.2, 0.25, 0.05])
    scores = np.array([3.0, -1.0, 2.0, 0.5, 9.0])
    draws = np.random.default_rng(0).choice(5, size=(20_000, 4), p=p)
    index = best_of_n.best_index(jnp.asarray(scores[draws].reshape(-1)), 4)
    kept = np.bincount(draws.reshape(-1)[np.asarray(index)], minlength=5) / 20_000
    exact = best_of_n.pmf(p, scores, 4)
    np.testing.assert_array_less(
        np.abs(kept - exact), 5 * np.sqrt(exact * (1 - exact) / 20_000)
    )


@pytest.mark.parametrize("atoms", [10, 100, 1000])
@pytest.mark.parametrize("n", [16, 64, 256])
@pytest.mark.identity("C39")
def test_beirami_estimator_is_close_to_the_exact_kl(atoms, n):
    """Beirami's estimator is within 2 % of the exact KL of best-of-n on uniform
    atoms, where the bound overstates it up to twofold."""
    exact = exact_kl(best_of_n.pmf(uniform(atoms), np.arange(atoms), n), uniform(atoms))
    estimate = float(best_of_n.kl_estimate(n, jnp.log(jnp.asarray(1 / atoms))))
    assert estimate == pytest.approx(exact, rel=0.02)
    if (atoms, n) == (10, 256):
        assert best_of_n.kl_bound(n) > 1.9 * exact


def test_the_estimator_at_its_ends():
    logprobs = jnp.array([0.0, -1e-6, -27.0, -28.0, -500.0])
    estimate = np.asarray(best_of_n.kl_estimate(16, logprobs))
    assert np.isfinite(estimate).all() and (estimate >= 0).all()
    np.testing.assert_allclose(estimate[:2], [0.0, 1e-6], atol=1e-6)
    np.testing.assert_allclose(estimate[2:], best_of_n.kl_bound(16), rtol=1e-6)
    np.testing.assert_allclose(best_of_n.kl_estimate(1, logprobs), 0.0, atol=1e-6)


def test_expected_best_of_n_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    gold = rng.normal(size=7)
    tied = np.array([1.0, 1, 2, 2, 2, 0, 5])
    for scores, values in ((rng.normal(size=7), gold), (tied, tied)):
        for n in (1, 2, 3, 7):
            slow = [
                values[max(subset, key=lambda i: scores[i])]
                for subset in itertools.combinations(range(7), n)
            ]
            ours = best_of_n.expected(scores, n, values)
            assert ours == pytest.approx(np.mean(slow))


def test_ties_share_by_chance_order():
    """With ties broken at random, all orders of the tied samples are equally likely."""
    scores, gold = np.array([0.0, 1.0, 1.0, 1.0]), np.array([9.0, 1.0, 2.0, 6.0])
    orders = []
    for order in itertools.permutations(range(3)):
        ranked = np.concatenate([[0.0], 1.0 + np.array(order)])
        orders.append(best_of_n.expected(ranked, 2, gold))
    assert best_of_n.expected(scores, 2, gold) == pytest.approx(np.mean(orders))


def test_expected_best_of_n_is_stable_for_many_samples():
    scores = np.random.default_rng(0).normal(size=20_000)
    assert best_of_n.expected(scores, 16) == pytest.approx(1.766, abs=0.05)
    assert best_of_n.expected(scores, 20_000) == pytest.approx(scores.max())


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="multiple of 4"):
        best_of_n.best_index(jnp.zeros(6), 4)
    with pytest.raises(UserError, match="1..3"):
        best_of_n.expected(np.zeros(3), 4)


def test_select_keeps_whole_rows(make_rollout):
    responses = [[i % 5 + 1] * (i % 4 + 1) for i in range(12)]
    result = make_rollout([[i // 3 + 1] for i in range(12)], responses)
    scores = jnp.array([0.0, 2, 1, 5, 5, 4, -3, -2, -1, 0, 0, 0])
    kept = best_of_n.select(result, scores, 3)
    rows = np.array([1, 3, 8, 9])
    np.testing.assert_array_equal(kept.prompt.example_id, rows)
    np.testing.assert_array_equal(kept.tokens, np.asarray(result.tokens)[rows])
    np.testing.assert_array_equal(kept.mask, np.asarray(result.mask)[rows])
