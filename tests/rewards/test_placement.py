import jax.numpy as jnp
import numpy as np
import pytest
import trajectories

from rlhf_jax import advantages, rewards
from rlhf_jax.ops import masking


def place(trajectory, link=None):
    link = rewards.score_at_last_token() if link is None else link
    return link.update(rewards.initial(trajectory), link.init(), trajectory)[0]


def test_the_score_stands_on_the_last_real_token_and_nowhere_else():
    trajectory = trajectories.make((3, 1, 0, 4), 4, (1, 1, 0, 0))
    found = place(trajectory).tokens
    scores = trajectory.scores
    expected = np.zeros((4, 4), np.float32)
    expected[0, 2], expected[1, 0], expected[3, 3] = scores[0], scores[1], scores[3]
    np.testing.assert_array_equal(found, expected)


def test_dense_rewards_are_kept_beside_the_score():
    trajectory = trajectories.make()
    link = rewards.score_at_last_token()
    given = trajectories.token_rewards(trajectory)
    found = link.update(given, link.init(), trajectory)[0]
    np.testing.assert_allclose(
        found.tokens - given.tokens, place(trajectory).tokens, atol=1e-6
    )


@pytest.mark.identity("C15")
def test_returns_of_a_score_with_kl_penalty_by_hand():
    """With the score at the stop token, discount = lam = 1 and no values, the return of
    token t is `score - coef * sum of k1 from t on`, and 0 on padding."""
    trajectory = trajectories.make((3,), 5, (1,))._replace(
        old_logprobs=jnp.array([[-1.0, -2.0, -0.5, 9.0, 9.0]]),
        ref_logprobs=jnp.array([[-1.5, -1.0, -1.25, 7.0, 7.0]]),
        values=jnp.zeros((1, 6)),
        scores=jnp.array([2.0]),
    )
    shaping = rewards.chain(rewards.score_at_last_token(), rewards.kl_penalty(0.25))
    shaped = shaping.update(rewards.initial(trajectory), shaping.init(), trajectory)[0]
    estimator = advantages.gae(1.0, 1.0)
    found = estimator.update(shaped, estimator.init(), trajectory)[0].returns
    # k1 = 0.5, -1, 0.75; its sums from t on: 0.25, -0.25, 0.75.
    wanted = [2 - 0.0625, 2 + 0.0625, 2 - 0.1875, 0.0, 0.0]
    np.testing.assert_array_equal(found, [wanted])


def stop_token_sees_the_whole_score(placement, **options):
    """Raises unless at lam = 0.5 the advantage of the stop token is score - V."""
    trajectory = trajectories.make((3, 2), 5, (1, 1))
    shaped = place(trajectory, placement)
    estimator = advantages.gae(1.0, 0.5, **options)
    found = estimator.update(shaped, estimator.init(), trajectory)[0].advantages
    for row, stop in ((0, 2), (1, 1)):
        wanted = trajectory.scores[row] - trajectory.values[row, stop]
        np.testing.assert_allclose(found[row, stop], wanted, atol=1e-6)


@pytest.mark.identity("B2", "C15")
def test_the_stop_token_sees_the_whole_score():
    """The score is the reward of the stop token itself: with lam = 0.5 its advantage is
    score - V. With the score one column later (the reward index of the N+ code) the
    stop token sees only a part of it."""
    stop_token_sees_the_whole_score(rewards.score_at_last_token())
    for options in ({"after_last": True}, {}):
        with pytest.raises(AssertionError):
            stop_token_sees_the_whole_score(rewards.score_after_last_token(), **options)


def n_plus(rewards_, values, mask, scores, discount, lam):
    """Reward index and GAE as the N+ code writes them, row by row."""
    rows, width = mask.shape
    length = mask.sum(axis=1) - 1
    values, rewards_ = values[:, :width].copy(), rewards_.copy()
    for row in range(rows):
        end = length[row] + 1 if length[row] + 1 < width else length[row]
        rewards_[row, end] += scores[row]
        values[row, length[row] + 2 :] = 0
    found, last = np.zeros((rows, width)), np.zeros(rows)
    for t in reversed(range(width)):
        following = values[:, t + 1] if t < width - 1 else 0.0
        delta = rewards_[:, t] + discount * following - values[:, t]
        last = delta + discount * lam * last
        found[:, t] = last
    return found, found + values


@pytest.mark.identity("B2")
def test_the_reward_index_of_the_n_plus_code_is_reachable():
    """`score_after_last_token` with `gae(after_last=True, bootstrap_truncated=False)`
    gives the advantages and value targets of the N+ code to the letter."""
    trajectory = trajectories.make((3, 1, 5, 4), 5, (1, 1, 1, 0))
    shaping = rewards.chain(rewards.kl_penalty(0.1), rewards.score_after_last_token())
    shaped = shaping.update(rewards.initial(trajectory), shaping.init(), trajectory)[0]
    estimator = advantages.gae(1.0, 0.95, after_last=True, bootstrap_truncated=False)
    found = estimator.update(shaped, estimator.init(), trajectory)[0]
    mask, coef = np.asarray(trajectory.mask), 0.1
    penalty = -coef * np.asarray(trajectory.old_logprobs - trajectory.ref_logprobs)
    expected, targets = n_plus(
        np.where(mask, penalty, 0.0),
        np.asarray(trajectory.values),
        mask,
        np.asarray(trajectory.scores),
        1.0,
        0.95,
    )
    np.testing.assert_allclose(found.advantages[mask], expected[mask], atol=1e-5)
    wide = np.asarray(masking.extend_by_one(trajectory.mask))
    np.testing.assert_allclose(found.returns[wide], targets[wide], atol=1e-5)


def keeps_fractions(scatter):
    """Raises unless a score of 0.75 arrives as 0.75."""
    trajectory = trajectories.make()._replace(scores=jnp.full(4, 0.75))
    assert float(jnp.sum(scatter(trajectory))) == 4 * 0.75


@pytest.mark.identity("I1")
def test_scores_keep_their_fractions_through_the_scatter():
    """Rewards are float32 from the start; a scatter into zeros of the tokens' integer
    type cuts every fraction off."""
    keeps_fractions(lambda t: place(t).tokens)

    def into_integers(t):
        here = masking.last_real_index(t.mask)
        zeros = jnp.zeros(t.mask.shape, jnp.int32)
        return zeros.at[jnp.arange(4), here].set(t.scores.astype(jnp.int32))

    with pytest.raises(AssertionError):
        keeps_fractions(into_integers)
