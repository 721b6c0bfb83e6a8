"""Davidson's model against its definition."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses
from rlhf_jax.errors import UserError
from rlhf_jax.losses import ties
from rlhf_jax.worlds import annotators


def slow(scores, ranks, margin, nu):
    """The definition, pair by pair."""
    found = []
    for i, j in itertools.combinations(range(len(ranks)), 2):
        if not ranks[i] or not ranks[j]:
            continue
        if ranks[i] > ranks[j]:
            i, j = j, i
        m = scores[i] - scores[j]
        if ranks[i] == ranks[j]:
            parts = [np.exp(m / 2), nu, np.exp(-m / 2)]
            if nu:
                found.append(-np.log(parts[1] / sum(parts)))
        else:
            m -= margin
            parts = [np.exp(m / 2), nu, np.exp(-m / 2)]
            found.append(-np.log(parts[0] / sum(parts)))
    return np.mean(found) if found else 0.0


RANKS = [[1, 2, 2, 0], [1, 1, 1, 1], [4, 3, 2, 1], [0, 1, 0, 1], [0, 0, 0, 1]]


@pytest.mark.parametrize("nu", [0.0, 0.7, 3.0])
def test_the_loss_is_its_definition(x64, ranking, nu):
    scores, batch = ranking(0, RANKS, np.float64, margin=0.3)
    found, _ = losses.davidson(nu).values(scores, batch)
    wanted = [
        slow(s, r, 0.3, nu) for s, r in zip(np.asarray(scores), RANKS, strict=True)
    ]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_without_ties_it_is_bradley_terry(x64, ranking):
    """Davidson's model with nu = 0 is Bradley-Terry, gradient too."""
    scores, batch = ranking(1, RANKS, np.float64, margin=0.2)
    terms = losses.davidson(0.0).values, losses.all_pairs()
    value, other = (t(scores, batch)[0] for t in terms)
    np.testing.assert_allclose(value, other, atol=1e-12)
    one, two = (jax.grad(lambda s, t=t: t(s, batch)[0].sum())(scores) for t in terms)
    np.testing.assert_allclose(one, two, atol=1e-12)


@pytest.mark.parametrize("nu", [0.0, 1e-6, 2.0])
def test_probabilities_sum_to_one_and_are_the_annotators(nu):
    """Win, tie and loss sum to one; equal scores tie with nu / (2 + nu)."""
    gap = jnp.asarray([-1e4, -3.0, 0.0, 0.5, 1e4])
    found = np.exp(np.asarray(ties.log_probabilities(gap, nu)))
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(found[2, 1], nu / (2 + nu), atol=1e-6)
    np.testing.assert_allclose(found, annotators.davidson(nu)(gap), atol=1e-6)
    if nu:
        share = nu / (2 + nu)
        assert ties.tie_parameter(share) == pytest.approx(nu)


def test_a_row_that_ties_counts_and_pulls_scores_together(ranking):
    scores, batch = ranking(2, [[1, 1], [1, 2]])
    term = losses.davidson(1.0)
    assert np.asarray(term.support(batch).mask).tolist() == [True, True]
    assert np.asarray(losses.davidson(0.0).support(batch).mask).tolist() == [
        False,
        True,
    ]
    scores = jnp.asarray([[2.0, -1.0], [0.0, 0.0]])
    gradient = jax.grad(lambda s: term.values(s, batch)[0].sum())(scores)
    assert gradient[0, 0] > 0 > gradient[0, 1] and gradient[1, 0] < 0 < gradient[1, 1]


@pytest.mark.parametrize("nu", [-0.1, np.inf, np.nan])
def test_a_wrong_tie_parameter_is_refused(nu):
    with pytest.raises(UserError, match="nu must be"):
        losses.davidson(nu)
