"""Curves of best-of-n and tilts, against the slow functions."""

import numpy as np
import pytest

from rlhf_jax.rollout import best_of_n
from rlhf_jax.worlds import enumerable, optimized

WORLD = enumerable.e64(3)
REFERENCE = enumerable.reference(WORLD)
SCORES = np.random.default_rng(0).normal(size=(2, 64))


def described(policy, score):
    gold = policy @ WORLD.gold
    return [enumerable.kl(policy, REFERENCE), gold, policy @ score]


@pytest.mark.identity("C10")
def test_best_of_n_curves_are_those_of_the_distribution_function():
    """KL, gold and score of best-of-n from p_n = F^n - F-^n, at every n and score."""
    draws = (1, 2, 16, 1024)
    found = optimized.best_of(WORLD, SCORES, draws)
    for score, curve in zip(SCORES, found, strict=True):
        slow = [described(best_of_n.pmf(REFERENCE, score, n), score) for n in draws]
        np.testing.assert_allclose(curve, slow, atol=1e-9)


@pytest.mark.identity("C1")
def test_tilts_are_those_of_the_world():
    """KL, gold and score of pi_ref exp(score / beta) / Z, at every beta and score."""
    betas = (3.0, 0.3, 0.05)
    found = optimized.tilts(WORLD, SCORES, betas)
    for score, curve in zip(SCORES, found, strict=True):
        slow = [described(enumerable.tilt(WORLD, b, score), score) for b in betas]
        np.testing.assert_allclose(curve, slow, atol=1e-9)


def test_n_need_not_be_whole_and_one_draw_is_the_reference():
    low, middle, high = optimized.best_of(WORLD, SCORES[:1], (1.0, 1.5, 2.0))[0]
    np.testing.assert_allclose(low[0], 0.0, atol=1e-12)
    assert low[0] < middle[0] < high[0] and low[2] < middle[2] < high[2]
