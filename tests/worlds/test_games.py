"""Preference games: equilibria by their own definition."""

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.worlds import games


@pytest.fixture
def game():
    """(wins, reference) of 64 responses of three tokens, more than half a cycle."""
    draw = np.random.default_rng(0)
    wins = games.cyclic(draw.integers(0, 3, 64), 0.6, draw.normal(size=64))
    return wins, draw.dirichlet(np.ones(64))


@pytest.mark.identity("C27")
def test_rock_paper_scissors_regularized_to_uniform_has_a_uniform_nash():
    """Nash-MD's fixed point of rock-paper-scissors is uniform for every mixture."""
    uniform = np.full(3, 1 / 3)
    for weight in (0.0, 0.5):
        found = games.nash_md(games.ROCK_PAPER_SCISSORS, uniform, 0.05, weight)
        np.testing.assert_allclose(found, uniform, atol=1e-9)
    off = np.asarray([0.6, 0.2, 0.2])
    wins = games.ROCK_PAPER_SCISSORS
    assert games.exploitability(wins, uniform, off, 0.05) > 0.05
    pulled = games.nash_md(wins, off, 0.2)
    assert np.abs(pulled - uniform).max() > 0.05, "the reference pulls it away"


def test_no_one_gains_against_a_nash_equilibrium(game):
    """In self play no policy does better than 1/2; whoever is not Nash is exploited."""
    wins, mu = game
    np.testing.assert_allclose(wins + wins.T, 1.0)
    tau = 0.1
    nash = games.nash_md(wins, mu, tau)
    assert abs(games.exploitability(wins, mu, nash, tau)) < 1e-9
    draw = np.random.default_rng(1)

    def cost(pi):
        return tau * pi @ np.log(pi / mu)

    for _ in range(20):
        rival = draw.dirichlet(np.ones(64))
        payoff = rival @ wins @ nash - cost(rival) + cost(nash)
        assert payoff < 0.5
        assert games.exploitability(wins, mu, rival, tau) > 0


def test_without_cycles_the_answer_to_the_reference_is_a_tilt(game):
    """Against the reference alone the fixed point is mu exp(P(. > mu) / tau) / Z."""
    reward = np.random.default_rng(2).normal(size=64)
    wins, mu = games.bradley_terry(reward), game[1]
    found = games.nash_md(wins, mu, 0.3, weight=1.0)
    expected = mu * np.exp(wins @ mu / 0.3)
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-8)


def test_a_mixture_moves_the_fixed_point_away_from_nash(game):
    """The more of the reference the opponent has, the further; mixed token by token."""
    wins, mu = game
    nash = games.nash_md(wins, mu, 0.1)
    away = [
        np.abs(games.nash_md(wins, mu, 0.1, weight, vocab=4) - nash).sum() / 2
        for weight in (0.0, 0.125, 0.5, 1.0)
    ]
    assert away[0] < 1e-8 and away == sorted(away) and away[-1] > 0.1
    whole = games.mixture(nash, mu, 0.5, vocab=64)
    np.testing.assert_allclose(whole, np.sqrt(nash * mu) / np.sqrt(nash * mu).sum())
    tokens = games.mixture(nash, mu, 0.5, vocab=4)
    assert tokens.sum() == pytest.approx(1.0)
    assert np.abs(tokens - whole).max() > 1e-4


def test_a_game_without_kl_is_refused(game):
    with pytest.raises(UserError, match="positive weight"):
        games.nash_md(*game, 0.0)
