"""Minima of population losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.losses import preference
from rlhf_jax.worlds import enumerable, population

WORLD = enumerable.uniform(5)


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def dpo(gold, beta=0.5):
    log_ref = jnp.asarray(WORLD.reference)
    weight = population.wins(jnp.asarray(gold))
    return population.pair_objective(
        preference.dpo_loss, weight, log_ref, {"beta": beta}
    )


def test_all_ordered_pairs_are_there_once():
    found = {tuple(pair) for pair in population.pairs(5).tolist()}
    assert found == {(i, j) for i in range(5) for j in range(5) if i != j}


def test_wins_and_losses_of_a_pair_add_to_one():
    chances = np.zeros((5, 5))
    rows = population.pairs(5)
    chances[tuple(rows.T)] = population.wins(jnp.asarray(WORLD.gold), 0.2)
    np.testing.assert_allclose((chances + chances.T)[tuple(rows.T)], 1.0)
    gap = WORLD.gold[4] - WORLD.gold[0]
    assert chances[4, 0] == pytest.approx(0.6 / (1 + np.exp(-gap)) + 0.2)


@pytest.mark.identity("C4")
def test_newton_finds_the_optimum_of_rlhf_under_dpo():
    """The minimum of DPO's population loss is the tilt, to round-off, from anywhere;
    with the labels turned round it is another."""
    tilt = enumerable.tilt(WORLD, 0.5)
    for start in (WORLD.reference, np.random.default_rng(0).normal(size=5)):
        find = jax.jit(lambda x: population.newton(dpo(WORLD.gold), x))
        pi = population.probabilities(find(jnp.asarray(start)))
        np.testing.assert_allclose(pi, tilt, atol=1e-12)
    wrong = population.newton(dpo(-WORLD.gold), jnp.asarray(WORLD.reference))
    assert enumerable.total_variation(population.probabilities(wrong), tilt) > 0.1


def test_descent_is_kept_at_each_mark_and_ends_where_newton_does():
    objective, start = dpo(WORLD.gold), jnp.asarray(WORLD.reference)
    descend = population.descend
    long = jax.jit(lambda x: descend(objective, x, (10, 400), 0.05))(start)
    short = jax.jit(lambda x: descend(objective, x, (10,), 0.05))(start)
    np.testing.assert_allclose(long[0], short[0], atol=1e-12)
    best = population.probabilities(population.newton(objective, start))
    np.testing.assert_allclose(population.probabilities(long[1]), best, atol=1e-3)
