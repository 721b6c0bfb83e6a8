"""C17: each estimator's expected gradient, summed over all responses and all groups.

The library's own estimators run on every response (or every group of two) of E64 at
once; probabilities are then summed over in float64 and compared with the gradient of
the exact objective.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from every_response import (
    GOLD,
    PI,
    TABLE,
    WORLD,
    cosine,
    exact,
    gradient,
    rewards,
    same,
    trajectory,
)

from rlhf_jax import advantages
from rlhf_jax.rollout import best_of_n
from rlhf_jax.worlds import enumerable, expected, fixed_points, relatives


def estimate(estimator, found):
    result, _ = estimator.update(rewards(found), estimator.init(), found)
    return np.asarray(result.advantages, np.float64)


def per_response(estimator, values=None):
    """Coefficients of an estimator that looks at one response at a time."""
    return estimate(estimator, trajectory(GOLD, values=values))


def pairs(estimator):
    """Coefficients of an estimator in batches of one group of two, others summed out.

    Every ordered pair is a batch of its own, so that statistics over the batch are
    those of the pair.
    """
    one, other = np.divmod(np.arange(64 * 64), 64)
    scores = jnp.asarray(np.stack([GOLD[one], GOLD[other]], axis=1), jnp.float32)
    like = trajectory(GOLD[:2])

    def single(pair):
        found = like._replace(scores=pair)
        result, _ = estimator.update(rewards(found), estimator.init(), found)
        return result.advantages

    found = np.asarray(jax.vmap(single)(scores), np.float64).reshape(64, 64, 2, 3)
    as_first = np.einsum("abt,b->at", found[:, :, 0], PI)
    as_second = np.einsum("bat,b->at", found[:, :, 1], PI)
    return 0.5 * (as_first + as_second)


@pytest.mark.identity("C17")
def test_reinforce_is_unbiased():
    """E[r grad log pi] is the gradient of E r."""
    same(gradient(per_response(advantages.monte_carlo(discount=1.0))), exact())


@pytest.mark.identity("C17")
def test_a_value_baseline_changes_nothing_at_lam_one():
    """Whatever the values of the states before each token are."""
    table = np.random.default_rng(0).normal(size=21) * 0.25
    table = np.round(table * 1024) / 1024
    values = np.concatenate([table[enumerable.rows(4, 3)], np.zeros((64, 1))], axis=1)
    values = jnp.asarray(values, jnp.float32)
    found = per_response(advantages.gae(discount=1.0, lam=1.0), values)
    same(gradient(found), exact(), 1e-6)
    same(gradient(per_response(advantages.monte_carlo(1.0), values)), exact(), 1e-6)


@pytest.mark.identity("C17")
def test_lam_below_one_is_biased_by_wrong_values_only():
    """GAE at lam 0.5: exact with the true values, biased with those of nothing."""
    after = expected.after_token(TABLE, np.repeat(GOLD[:, None], 3, axis=1))
    truth = np.sum(np.exp(tabular_logprobs()) * after, axis=1)
    at = enumerable.rows(4, 3)
    right = np.concatenate([truth[at], np.zeros((64, 1))], axis=1)
    estimator = advantages.gae(discount=1.0, lam=0.5)
    found = gradient(per_response(estimator, jnp.asarray(right, jnp.float32)))
    same(found, exact(), 1e-6)
    wrong = gradient(per_response(estimator, jnp.zeros((64, 4), jnp.float32)))
    assert cosine(wrong, exact()) < 0.99


def tabular_logprobs():
    shifted = TABLE - TABLE.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


@pytest.mark.identity("C17")
def test_the_score_of_a_greedy_response_is_a_baseline_like_any_other():
    """ReMax: a number that depends on the prompt alone leaves the gradient exact."""
    greedy = GOLD[np.argmax(PI)]
    found = trajectory(GOLD)._replace(baseline=jnp.full(64, greedy, jnp.float32))
    same(gradient(estimate(advantages.greedy_baseline(), found)), exact())


@pytest.mark.identity("C35")
def test_keeping_the_best_of_two_imitates_best_of_two():
    """RAFT: the expected update is that of log-likelihood on best-of-2 samples."""
    kept = best_of_n.pmf(PI, GOLD, 2)
    found = 2.0 * gradient(pairs(advantages.best_of_group(2)))
    same(found, gradient(np.repeat((kept / PI)[:, None], 3, axis=1)))


@pytest.mark.identity("C17", "C16")
def test_leave_one_out_is_unbiased():
    """RLOO: the mean of the others is independent of the response."""
    same(gradient(pairs(advantages.leave_one_out(2))), exact())


@pytest.mark.identity("C17", "C16")
def test_a_mean_that_includes_the_sample_shrinks_the_gradient():
    """Batch mean including the sample itself: exact gradient times 1 - 1/G."""
    centered = advantages.group_relative(2, scale_by_std=False)
    same(gradient(pairs(centered)), 0.5 * exact())
    same(gradient(pairs(advantages.batch_mean())), 0.5 * exact())


@pytest.mark.identity("C17", "C16")
def test_grpo_reweights_groups_by_their_deviation():
    """GRPO: each group's centered gradient over its standard deviation; of two, the
    sign of the difference, so the expected gradient is that of another reward."""
    found = pairs(advantages.group_relative(2))
    gap = GOLD[:, None] - GOLD[None, :]
    wins = np.sign(gap) @ PI
    near = (np.abs(gap) > 0) & (np.abs(gap) < 2e-4)
    assert not near.any()  # no pair meets the floor of the deviation
    same(found, np.repeat(wins[:, None], 3, axis=1), 1e-5)
    same(gradient(found), exact(wins), 1e-5)
    assert cosine(gradient(found), exact()) < 0.999
    world = WORLD._replace(gold=GOLD)
    again = fixed_points.coefficients(world, TABLE, relatives.relative("none", 0, 2))
    same(found, again, 1e-5)


@pytest.mark.identity("C17")
def test_whitening_is_biased():
    """Advantages over the deviation of their own batch: no multiple of the gradient."""
    white = advantages.whitened(advantages.monte_carlo(discount=1.0))
    assert cosine(gradient(pairs(white)), exact()) < 0.999
    reward_to_go = advantages.whitened(advantages.leave_one_out(2), shift_mean=False)
    assert cosine(gradient(pairs(reward_to_go)), exact()) < 0.999
