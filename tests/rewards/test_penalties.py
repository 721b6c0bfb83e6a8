import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trajectories

from rlhf_jax import errors, metrics, rewards, types
from rlhf_jax.ops import kl
from rlhf_jax.rewards import penalties


def update(link, trajectory, state=None):
    state = link.init() if state is None else state
    return link.update(rewards.initial(trajectory), state, trajectory)


@pytest.mark.identity("I6")
@pytest.mark.parametrize("estimator", [kl.k1, kl.k2, kl.k3])
def test_the_penalty_is_subtracted_once_from_every_real_token(estimator):
    """The penalty is `-coef * kl` on real tokens, once: reward minus placed score is
    exactly that."""
    trajectory = trajectories.make()
    shaping = rewards.chain(
        rewards.score_at_last_token(), rewards.kl_penalty(0.3, estimator)
    )
    placed = update(rewards.score_at_last_token(), trajectory)[0].tokens
    shaped, _, logged = update(shaping, trajectory)
    per_token = estimator(trajectory.old_logprobs, trajectory.ref_logprobs)
    expected = np.where(trajectory.mask, -0.3 * per_token, 0.0)
    np.testing.assert_allclose(shaped.tokens - placed, expected, atol=1e-6)
    found = metrics.finish(logged)
    summed = np.where(trajectory.mask, per_token, 0.0).sum(axis=1)
    assert found["objective/kl"] == pytest.approx(summed.mean(), rel=1e-5)
    assert found["objective/kl_coef"] == pytest.approx(0.3)
    reward = np.mean(np.asarray(trajectory.scores) - 0.3 * summed)
    assert found["objective/rlhf_reward"] == pytest.approx(reward, rel=1e-5)
    assert reward == pytest.approx(np.asarray(shaped.tokens).sum(1).mean(), rel=1e-5)


def kl_ends_at_the_stop_token(per_sequence):
    """Raises unless the mean sequence KL ignores what is written past the end."""
    trajectory = trajectories.make()
    clean = per_sequence(trajectory)
    dirty = per_sequence(trajectories.poisoned(trajectory, -3.0))
    past_end = trajectory._replace(
        old_logprobs=trajectories.poison(trajectory.old_logprobs, trajectory.mask, -9.0)
    )
    np.testing.assert_array_equal(clean, dirty)
    np.testing.assert_array_equal(clean, per_sequence(past_end))


@pytest.mark.identity("B15")
def test_kl_is_not_counted_past_the_stop_token():
    """The KL of a response ends at its stop token, whatever was sampled after it; a sum
    over all columns is caught. Gradients at positions past it are exactly 0."""

    def ours(trajectory):
        return update(rewards.kl_penalty(0.1), trajectory)[2]["objective/kl"].total

    def over_all_columns(trajectory):
        return jnp.sum(trajectory.old_logprobs - trajectory.ref_logprobs)

    kl_ends_at_the_stop_token(ours)
    with pytest.raises(AssertionError):
        kl_ends_at_the_stop_token(over_all_columns)
    trajectory = trajectories.make()

    def total(old):
        moved = trajectory._replace(old_logprobs=old)
        return jnp.sum(update(rewards.kl_penalty(0.1, kl.k3), moved)[0].tokens)

    slope = np.asarray(jax.grad(total)(trajectory.old_logprobs))
    assert (slope[~trajectory.mask] == 0).all() and (slope[trajectory.mask] != 0).all()


LOGITS = jnp.array([0.3, -1.2, 0.8, 0.1, 1.5])
REFERENCE = jnp.array([-0.5, 0.4, 0.2, 1.0, -0.3])


def exact_kl(logits):
    log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(REFERENCE)
    return float(jnp.sum(jnp.exp(log_p) * (log_p - log_q)))


def kl_after_one_step(link, rate=0.1):
    """KL to the reference after one exact policy gradient step on the shaped reward.

    Every action of a one-step bandit is one row, weighted by its probability.
    """
    log_p, actions = jax.nn.log_softmax(LOGITS), LOGITS.shape[0]
    trajectory = trajectories.make((1,) * actions, 1, (1,) * actions)._replace(
        old_logprobs=log_p[:, None],
        ref_logprobs=jax.nn.log_softmax(REFERENCE)[:, None],
        scores=jnp.zeros(actions),
        weight=jnp.exp(log_p),
    )
    reward = update(link, trajectory)[0].tokens[:, 0]

    def objective(logits):
        return jnp.sum(jnp.exp(log_p) * reward * jax.nn.log_softmax(logits))

    return exact_kl(LOGITS + rate * jax.grad(objective)(LOGITS))


def penalty_pulls_to_the_reference(factory):
    """Raises unless a larger coefficient brings the policy nearer in one step."""
    found = [kl_after_one_step(factory(coef)) for coef in (0.0, 0.1, 0.5, 2.0)]
    assert found[0] == pytest.approx(exact_kl(LOGITS), rel=1e-5)
    assert found == sorted(found, reverse=True) and found[-1] < found[0]


@pytest.mark.identity("C33", "B3")
def test_a_larger_kl_coefficient_pulls_nearer_to_the_reference():
    """One exact policy gradient step on the shaped reward lowers the KL, more so with a
    larger coefficient, and coefficient 0 leaves it. With the sign of the penalty
    flipped, as public code has had it, the KL grows."""
    penalty_pulls_to_the_reference(rewards.kl_penalty)
    penalty_pulls_to_the_reference(
        lambda coef: rewards.adaptive_kl_penalty(coef, 6.0, 100.0)
    )
    with pytest.raises(AssertionError):
        penalty_pulls_to_the_reference(lambda coef: rewards.kl_penalty(-coef))


def step_rewards_what_pays(sign):
    """Raises unless a step on the reward raises the log-prob of a good action."""
    log_p = jax.nn.log_softmax(LOGITS)
    good = jnp.array([0.0, 1.0, 0.0, 0.0, 0.0])

    def objective(logits):
        return sign * jnp.sum(jnp.exp(log_p) * good * jax.nn.log_softmax(logits))

    moved = LOGITS + 0.1 * jax.grad(objective)(LOGITS)
    assert jax.nn.log_softmax(moved)[1] > log_p[1]


@pytest.mark.identity("B3")
def test_a_positive_reward_raises_the_log_prob():
    """Ascending the policy gradient of a rewarded action raises its log-prob; with the
    minus missing it falls (Ziegler's sign flip)."""
    step_rewards_what_pays(1.0)
    with pytest.raises(AssertionError):
        step_rewards_what_pays(-1.0)


def with_sequence_kl(value, weight=None):
    """Four episodes whose k1 sums to `value` each."""
    trajectory = trajectories.make(weight=weight)
    per_token = value / jnp.sum(trajectory.mask, axis=1, keepdims=True)
    ref = trajectory.old_logprobs - jnp.where(trajectory.mask, per_token, 0.0)
    return trajectory._replace(ref_logprobs=ref)


def coefficients(link, sequence_kls, **options):
    state, found = link.init(), []
    for value in sequence_kls:
        _, state, _ = update(link, with_sequence_kl(value, **options), state)
        found.append(float(state.coef))
    return found


@pytest.mark.identity("C24")
def test_the_controller_at_twice_its_target_grows_by_its_clipped_error():
    """At a constant KL of twice the target each batch of n episodes multiplies the
    coefficient by 1 + 0.2 n / horizon; at the target nothing changes; below it falls by
    the clipped error, and inside the clip the change is proportional."""
    link, n = rewards.adaptive_kl_penalty(0.15, target=6.0, horizon=100.0), 4
    growing = coefficients(link, [12.0] * 50)
    expected = 0.15 * (1 + 0.2 * n / 100) ** np.arange(1, 51)
    np.testing.assert_allclose(growing, expected, rtol=1e-5)
    np.testing.assert_allclose(coefficients(link, [6.0] * 5), 0.15, rtol=1e-5)
    falling = coefficients(link, [0.0])[0]
    assert falling == pytest.approx(0.15 * (1 - 0.2 * n / 100), rel=1e-5)
    inside = coefficients(link, [6.6])[0]
    assert inside == pytest.approx(0.15 * (1 + 0.1 * n / 100), rel=1e-4)


def test_the_controller_counts_real_episodes_and_penalizes_with_the_old_coefficient():
    link = rewards.adaptive_kl_penalty(0.15, target=6.0, horizon=100.0)
    found = coefficients(link, [12.0], weight=(1.0, 1.0, 0.0, 0.0))[0]
    assert found == pytest.approx(0.15 * (1 + 0.2 * 2 / 100), rel=1e-6)
    trajectory = with_sequence_kl(12.0)
    adaptive, fixed = (
        update(x, trajectory)[0].tokens for x in (link, rewards.kl_penalty(0.15))
    )
    np.testing.assert_array_equal(adaptive, fixed)


def test_the_controller_reaches_its_target_in_a_closed_loop():
    link = rewards.adaptive_kl_penalty(0.1, target=6.0, horizon=20.0)
    state = link.init()
    for _ in range(60):  # a policy whose KL answers the coefficient
        trajectory = with_sequence_kl(1.2 / float(state.coef))
        _, state, logged = update(link, trajectory, state)
    assert metrics.finish(logged)["objective/kl"] == pytest.approx(6.0, rel=0.05)


def test_a_schedule_is_followed_by_update_count():
    link = rewards.kl_penalty(lambda step: 0.1 * (step + 1))
    state, trajectory = link.init(), trajectories.make()
    for wanted in (0.1, 0.2, 0.3):
        _, state, logged = update(link, trajectory, state)
        found = metrics.finish(logged)["objective/kl_coef"]
        assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.identity("I21")
def test_logged_kl_is_the_weighted_mean_of_sequence_sums():
    """`objective/kl` and its k1, k2, k3 are sums over real tokens, averaged over
    sequences by their weight; two halves of a batch merge to the whole."""
    trajectory = trajectories.make(weight=(1.0, 3.0, 0.5, 0.0))
    link = rewards.kl_penalty(0.1)
    whole = metrics.finish(update(link, trajectory)[2])
    parts = [
        update(link, jax.tree.map(lambda x, s=s: x[s], trajectory))[2]
        for s in (slice(0, 2), slice(2, 4))
    ]
    halves = metrics.finish(metrics.merge(parts))
    weight, mask = np.asarray(trajectory.weight), np.asarray(trajectory.mask)
    gap = np.asarray(trajectory.old_logprobs - trajectory.ref_logprobs, np.float64)
    oracles = {"k1": gap, "k2": gap**2 / 2, "k3": np.exp(-gap) - 1 + gap}
    for name, per_token in oracles.items():
        summed = np.where(mask, per_token, 0.0).sum(axis=1)
        expected = np.average(summed, weights=weight)
        assert whole[f"objective/kl_{name}"] == pytest.approx(expected, rel=1e-4)
        assert halves[f"objective/kl_{name}"] == pytest.approx(expected, rel=1e-4)


def test_a_controller_without_target_is_refused():
    with pytest.raises(errors.UserError, match="kl_penalty"):
        rewards.adaptive_kl_penalty(0.1, target=0.0, horizon=100.0)
    with pytest.raises(errors.UserError, match="horizon 0"):
        rewards.adaptive_kl_penalty(0.1, target=6.0, horizon=0)


def test_public_names_are_factories_or_records():
    for name in rewards.__all__:
        assert callable(getattr(rewards, name)), name
    assert isinstance(penalties.kl_penalty(0.1), types.RewardTransformation)


def test_a_kl_that_is_not_finite_leaves_the_coefficient():
    trajectory = trajectories.make()
    broken = trajectory._replace(
        ref_logprobs=trajectory.ref_logprobs.at[0, 0].set(jnp.nan)
    )
    link = rewards.adaptive_kl_penalty(0.2, target=6.0, horizon=100)
    _, state, _ = link.update(rewards.initial(broken), link.init(), broken)
    assert float(state.coef) == pytest.approx(0.2)
