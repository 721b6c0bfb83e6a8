"""Baselines of PPO's relatives, and the two ways of VAPO to set lambda."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import advantages, errors, types

LENGTHS = [3, 1, 2, 3]


def _trajectory(**changes):
    width, rows = 3, len(LENGTHS)
    mask = np.arange(width)[None] < np.array(LENGTHS)[:, None]
    zeros = jnp.zeros((rows, width))
    terminal = mask & (np.arange(width) == np.array(LENGTHS)[:, None] - 1)
    fields = dict(
        mask=jnp.asarray(mask),
        logprobs=zeros,
        old_logprobs=zeros,
        ref_logprobs=zeros,
        values=None,
        scores=jnp.zeros(rows),
        terminal=jnp.asarray(terminal),
        truncated=jnp.zeros(rows, bool),
        policy_version=jnp.zeros(rows, jnp.int32),
        example_id=jnp.arange(rows),
        weight=jnp.ones(rows),
    )
    return types.Trajectory(**{**fields, **changes})


def _rewards(trajectory, totals):
    """The reward of each response on its last token."""
    tokens = jnp.where(trajectory.terminal, jnp.asarray(totals)[:, None], 0.0)
    return types.Rewards(trajectory.scores, tokens)


def _estimate(estimator, totals, **changes):
    trajectory = _trajectory(**changes)
    rewards = _rewards(trajectory, totals)
    found, _ = estimator.update(rewards, estimator.init(), trajectory)
    return np.asarray(found.advantages), np.asarray(trajectory.mask)


def test_the_batch_mean_includes_the_response_itself():
    """r - mean(r) is (1 - 1/B) of the leave-one-out advantage over the batch."""
    totals = [1.0, 4.0, -2.0, 5.0]
    found, mask = _estimate(advantages.batch_mean(), totals)
    np.testing.assert_allclose(found[:, 0], np.array(totals) - 2.0, rtol=1e-6)
    loo, _ = _estimate(advantages.leave_one_out(4), totals)
    np.testing.assert_allclose(found, loo * (1 - 1 / 4), rtol=1e-6)
    assert np.all(found[~mask] == 0)


def test_best_of_group_picks_one_per_prompt():
    """The best response of each prompt has advantage 1, the first of equals; a
    response of weight 0 is never the best."""
    estimator = advantages.best_of_group(2)
    found, _ = _estimate(estimator, [1.0, 4.0, 3.0, 3.0])
    assert found[:, 0].tolist() == [0, 1, 1, 0]
    weight = jnp.array([1.0, 0.0, 1.0, 1.0])
    found, _ = _estimate(estimator, [1.0, 4.0, 3.0, 3.0], weight=weight)
    assert found[:, 0].tolist() == [1, 0, 1, 0]


def test_above_threshold_keeps_what_is_good_enough():
    found, _ = _estimate(advantages.above_threshold(2.0), [1.0, 4.0, 2.0, 3.0])
    assert found[:, 0].tolist() == [0, 1, 0, 1]


def test_the_greedy_baseline_is_subtracted():
    """ReMax: the reward minus the score of the prompt's greedy response."""
    baseline = jnp.array([1.0, 1.0, 2.0, 2.0])
    estimator = advantages.greedy_baseline()
    found, _ = _estimate(estimator, [1.0, 4.0, 2.0, 3.0], baseline=baseline)
    assert found[:, 0].tolist() == [0, 3, 0, 1]
    with pytest.raises(errors.UserError, match="baseline_sampler"):
        _estimate(estimator, [1.0, 4.0, 2.0, 3.0])


def _gae(lam, **options):
    values = jnp.arange(16.0).reshape(4, 4) / 10
    trajectory = _trajectory(values=values)
    rewards = _rewards(trajectory, [1.0, -1.0, 2.0, 0.5])
    estimator = advantages.gae(1.0, lam, **options)
    return estimator.update(rewards, estimator.init(), trajectory)[0]


def test_decoupled_lambda_changes_the_returns_alone():
    """Advantages by lam, returns by value_lam (VC-PPO, VAPO)."""
    both = _gae(0.5, value_lam=1.0)
    np.testing.assert_array_equal(both.advantages, _gae(0.5).advantages)
    np.testing.assert_array_equal(both.returns, _gae(1.0).returns)
    assert np.max(np.abs(both.returns - _gae(0.5).returns)) > 0.01


def test_length_adaptive_lambda_row_by_row():
    """Each row has lam = max(0, 1 - 1/(alpha length))."""
    values = jnp.arange(16.0).reshape(4, 4) / 10
    trajectory = _trajectory(values=values)
    rewards = _rewards(trajectory, [1.0, -1.0, 2.0, 0.5])
    estimator = advantages.length_adaptive_gae(1.0, alpha=0.75, value_lam=None)
    found, _ = estimator.update(rewards, estimator.init(), trajectory)
    for row, length in enumerate(LENGTHS):
        lam = max(0.0, 1 - 1 / (0.75 * length))
        expected = _gae(lam).advantages[row]
        np.testing.assert_allclose(found.advantages[row], expected, rtol=1e-5)
