import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.rollout import best_of_n
from rlhf_jax.worlds import enumerable

E64 = enumerable.e64(0)
E32K = enumerable.e32k(0)


def random_policies(count, seed=0, world=E64):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        table = rng.normal(size=(world.prefixes, world.vocab)) * rng.uniform(0.1, 3.0)
        yield enumerable.distribution(table)


def test_sequences_are_in_the_order_of_numbers():
    expected = list(itertools.product(range(4), repeat=3))
    np.testing.assert_array_equal(enumerable.contents(4, 3), expected)
    np.testing.assert_array_equal(enumerable.sequences(E64), np.array(expected) + 2)


def test_a_row_belongs_to_one_prefix():
    """Two tokens share a row exactly where the tokens before them are the same."""
    y, rows = enumerable.contents(4, 3), enumerable.rows(4, 3)
    prefix = {}
    for i, t in np.ndindex(64, 3):
        prefix.setdefault(tuple(y[i, :t]), set()).add(int(rows[i, t]))
    assert all(len(found) == 1 for found in prefix.values())
    assert {found.pop() for found in prefix.values()} == set(range(21))
    assert E64.prefixes == 21 and E32K.prefixes == 4681


@pytest.mark.parametrize("world", [E64, E32K, enumerable.uniform(5)])
def test_gold_is_standardized_and_the_reference_normalized(world):
    weight = np.exp(world.reference)
    assert weight.shape == world.gold.shape == (world.size,)
    assert weight.sum() == pytest.approx(1.0, abs=1e-12)
    assert weight @ world.gold == pytest.approx(0.0, abs=1e-12)
    assert weight @ world.gold**2 == pytest.approx(1.0, abs=1e-12)


def test_worlds_are_functions_of_their_seed():
    np.testing.assert_array_equal(enumerable.e64(3).gold, enumerable.e64(3).gold)
    assert np.abs(enumerable.e64(3).gold - enumerable.e64(4).gold).max() > 0.1


def test_e32k_has_the_gold_of_singles_and_neighbors():
    """A change of token 0 and one of token 3 do not interact: gold is a sum."""
    gold = E32K.gold.reshape(8, 8, 8, 8, 8)
    mixed = gold[1, :, :, 2] - gold[0, :, :, 2] - gold[1, :, :, 5] + gold[0, :, :, 5]
    np.testing.assert_allclose(mixed, 0.0, atol=1e-12)
    near = gold[1, 2] - gold[0, 2] - gold[1, 5] + gold[0, 5]
    assert np.abs(near).max() > 0.1


def test_tables_and_distributions_are_inverse():
    for pi in random_policies(3):
        assert pi.sum() == pytest.approx(1.0, abs=1e-12)
        again = enumerable.distribution(enumerable.conditionals(pi, 4))
        np.testing.assert_allclose(again, pi, atol=1e-14)


def test_a_point_mass_has_a_table():
    pi = enumerable.argmax(E64)
    assert pi[E64.gold.argmax()] == 1.0
    again = enumerable.distribution(enumerable.conditionals(pi, 4))
    np.testing.assert_allclose(again, pi, atol=1e-12)


def test_a_table_of_the_wrong_size_is_refused():
    with pytest.raises(UserError, match="20 rows"):
        enumerable.distribution(np.zeros((20, 4)))


@pytest.mark.identity("C1")
def test_no_policy_beats_the_tilt():
    """pi* = pi_ref exp(r / beta) / Z maximizes J, and max J = beta log Z."""
    for beta in (0.1, 0.3, 1.0):
        star = enumerable.tilt(E64, beta)
        best = enumerable.best_objective(E64, beta)
        assert enumerable.objective(E64, star, beta) == pytest.approx(best, abs=1e-12)
        for pi in random_policies(50):
            assert enumerable.objective(E64, pi, beta) < best
        # also no neighbor, however near
        rng = np.random.default_rng(1)
        for _ in range(20):
            near = star * np.exp(1e-4 * rng.normal(size=64))
            assert enumerable.objective(E64, near / near.sum(), beta) < best


@pytest.mark.identity("C2")
def test_the_gap_to_the_tilt_is_a_divergence():
    """J(pi*) - J(pi) = beta KL(pi || pi*) for every policy pi."""
    for beta, pi in itertools.product((0.1, 1.0), random_policies(50)):
        star = enumerable.tilt(E64, beta)
        gap = enumerable.best_objective(E64, beta) - enumerable.objective(E64, pi, beta)
        assert gap == pytest.approx(beta * enumerable.kl(pi, star), abs=1e-10)


@pytest.mark.identity("C12")
def test_the_divergence_of_tokens_adds_up():
    """sum_t E_pi KL(pi(. | s_t) || ref(. | s_t)) is the KL of whole sequences."""
    own, other = (np.random.default_rng(i).normal(size=(21, 4)) for i in (0, 1))
    p = enumerable.distribution(own)
    log_p, log_q = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (own, other))
    per_prefix = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    tokens = per_prefix[enumerable.rows(4, 3)]
    whole = enumerable.kl(p, enumerable.distribution(other))
    assert p @ tokens.sum(axis=1) == pytest.approx(whole, abs=1e-12)


@pytest.mark.identity("C13")
def test_the_first_bit_of_divergence_buys_most():
    """As beta grows, E r = Var_ref(r)/beta and KL = Var/(2 beta^2) of the tilt."""
    reference = np.exp(E32K.reference)
    for beta in (20.0, 50.0):
        pi = enumerable.tilt(E32K, beta)
        gain, divergence = pi @ E32K.gold, enumerable.kl(pi, reference)
        assert divergence < 0.01
        assert gain == pytest.approx(1.0 / beta, rel=0.05)
        assert gain == pytest.approx(math.sqrt(2.0 * divergence), rel=0.02)
    far = enumerable.tilt(E32K, 0.2)
    limit = math.sqrt(2.0 * enumerable.kl(far, reference))
    assert far @ E32K.gold < 0.95 * limit


@pytest.mark.identity("C36")
def test_no_policy_passes_the_frontier():
    """At its KL to the reference no policy has more gold than the tilt has there."""
    reference = np.exp(E64.reference)
    for pi in random_policies(30):
        divergence = enumerable.kl(pi, reference)
        assert pi @ E64.gold <= enumerable.frontier(E64, divergence) + 1e-9
    for n in (2, 8, 64):
        pi = best_of_n.pmf(reference, E64.gold, n)
        at = enumerable.frontier(E64, enumerable.kl(pi, reference))
        assert pi @ E64.gold <= at + 1e-9
        assert pi @ E64.gold > at - 0.1
    star = enumerable.tilt(E64, 0.4)
    at = enumerable.frontier(E64, enumerable.kl(star, reference))
    assert star @ E64.gold == pytest.approx(at, abs=1e-6)


@pytest.mark.identity("C36")
def test_a_tilt_by_a_proxy_stays_below_the_frontier_of_gold():
    """A policy that is best for a reward model is at most as good as the gold tilt."""
    proxy = E64.gold + np.random.default_rng(0).normal(size=64)
    reference = np.exp(E64.reference)
    for beta in (0.2, 0.5, 1.0):
        pi = enumerable.tilt(E64, beta, proxy)
        divergence = enumerable.kl(pi, reference)
        assert pi @ E64.gold < enumerable.frontier(E64, divergence)
        at = enumerable.frontier(E64, divergence, proxy)
        assert pi @ proxy == pytest.approx(at, abs=1e-6)


@pytest.mark.identity("C39")
def test_beirami_estimate_on_a_uniform_world():
    """Beirami's estimate of the KL of best-of-n is within 2 % of the exact one."""
    for size, n in itertools.product((10, 100, 1000), (16, 64, 256)):
        world = enumerable.uniform(size)
        p = np.exp(world.reference)
        kept = best_of_n.pmf(p, world.gold, n)
        exact = enumerable.kl(kept, p)
        guess = best_of_n.kl_estimate(n, jnp.asarray(world.reference, jnp.float32))
        assert kept @ np.asarray(guess, np.float64) == pytest.approx(exact, rel=0.02)


def test_beta_zero_has_no_tilt():
    with pytest.raises(UserError, match="positive beta"):
        enumerable.tilt(E64, 0.0)


def test_divergence_and_distance_at_the_edges():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([1.0, 0.0, 0.0])
    assert enumerable.kl(p, q) == math.inf
    assert enumerable.kl(q, p) == pytest.approx(math.log(2.0))
    assert enumerable.total_variation(p, q) == 0.5


def test_gold_looks_up_every_response():
    y = jnp.asarray(enumerable.sequences(E64))
    prompt, real = jnp.ones((64, 1), jnp.int32), jnp.ones((64, 1), bool)
    found = enumerable.gold(E64, prompt, real, y, jnp.ones(y.shape, bool))
    np.testing.assert_allclose(found, E64.gold, atol=1e-6)


def test_gold_refuses_what_is_no_response():
    """A short response, a token that is no content, and one token too many."""
    tokens = jnp.asarray([[2, 3, 0, 0], [2, 1, 3, 0], [2, 3, 4, 5], [2, 3, 4, 0]])
    mask = jnp.asarray([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 0]], bool)
    prompt, real = jnp.ones((4, 1), jnp.int32), jnp.ones((4, 1), bool)
    found = np.asarray(enumerable.gold(E64, prompt, real, tokens, mask))
    np.testing.assert_allclose(found[:3], E64.gold.min() - 1.0, rtol=1e-6)
    assert found[3] == pytest.approx(E64.gold[0 * 16 + 1 * 4 + 2], abs=1e-6)


def test_draws_follow_the_distribution():
    pi = enumerable.tilt(E64, 0.5)
    drawn = enumerable.draw(E64, pi, seed=1, count=20_000) - enumerable.FIRST
    counts = np.bincount(drawn @ [16, 4, 1], minlength=64) / 20_000
    assert enumerable.total_variation(counts, pi) < 0.03


def test_names_are_distinct():
    assert enumerable.names(E64) == ["<pad>", "<bos>", "a", "b", "c", "d"]
    assert len(set(enumerable.names(enumerable.uniform(100)))) == 102
