import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trajectories

from rlhf_jax import errors, metrics, rewards


def update(link, trajectory, state=None, tokens=False):
    given = rewards.initial(trajectory)
    if tokens:
        given = trajectories.token_rewards(trajectory)
    return link.update(given, link.init() if state is None else state, trajectory)


def batches(count=3):
    draw = np.random.default_rng(0)
    for i in range(count):
        scores = jnp.asarray(draw.normal(3.0 + i, 2.0, 4), jnp.float32)
        weight = jnp.asarray(draw.integers(0, 3, 4), jnp.float32)
        yield trajectories.make()._replace(scores=scores, weight=weight)


@pytest.mark.parametrize("shift_mean", [True, False])
def test_running_moments_are_those_of_all_scores_so_far(shift_mean):
    link = rewards.running_normalization(shift_mean=shift_mean)
    state, seen, weights = link.init(), [], []
    for trajectory in batches():
        shaped, state, logged = update(link, trajectory, state)
        seen.extend(np.asarray(trajectory.scores, np.float64))
        weights.extend(np.asarray(trajectory.weight))
        mean = np.average(seen, weights=weights)
        std = np.sqrt(np.average((np.array(seen) - mean) ** 2, weights=weights))
        shift = mean if shift_mean else 0.0
        expected = (np.asarray(trajectory.scores) - shift) / std
        np.testing.assert_allclose(shaped.scores, expected, rtol=1e-4, atol=1e-5)
        found = metrics.finish(logged)
        assert found["rewards/running_mean"] == pytest.approx(mean, rel=1e-5)
        assert found["rewards/running_std"] == pytest.approx(std, rel=1e-4)


def test_running_moments_do_not_depend_on_the_split():
    """Chan's update: one batch of 4 or two of 2."""
    link = rewards.running_normalization()
    trajectory = next(batches(1))
    _, whole, _ = update(link, trajectory)
    _, first, _ = update(link, jax.tree.map(lambda x: x[:2], trajectory))
    _, both, _ = update(link, jax.tree.map(lambda x: x[2:], trajectory), first)
    np.testing.assert_allclose(both, whole, rtol=1e-5)


def test_running_normalization_of_equal_scores_is_finite():
    trajectory = trajectories.make()._replace(scores=jnp.full(4, 2.0))
    shaped = update(rewards.running_normalization(), trajectory)[0]
    np.testing.assert_allclose(shaped.scores, 0.0, atol=1e-3)


def shows_the_drift(normalize):
    """Raises unless scores that rise by 10 rise in the normalized scores as well.

    `normalize(reference scores)` returns a function of (scores, step).
    """
    draw = np.random.default_rng(0)
    reference = draw.normal(5.0, 2.0, 500)
    apply = normalize(reference)
    means = []
    for step in range(5):
        scores = draw.normal(5.0 + 2.5 * step, 2.0, 64).astype(np.float32)
        means.append(float(np.mean(apply(jnp.asarray(scores)))))
    assert means[-1] - means[0] > 4.0


@pytest.mark.identity("B25", "I23")
def test_gain_and_bias_are_fixed_under_the_reference():
    """Gain and bias, measured once on responses of the reference, leave the drift of
    the policy's scores visible; normalizing by each batch of the policy hides it."""

    def frozen(reference):
        gain, bias = rewards.measure_gain_and_bias(reference)
        link = rewards.gain_and_bias(gain, bias)
        rows = trajectories.make((1,) * 64, 1, (1,) * 64)
        return lambda scores: update(link, rows._replace(scores=scores))[0].scores

    def per_batch(reference):
        return lambda scores: (scores - scores.mean()) / scores.std()

    shows_the_drift(frozen)
    with pytest.raises(AssertionError):
        shows_the_drift(per_batch)


def test_measured_gain_and_bias_give_the_wanted_moments():
    draw = np.random.default_rng(0)
    scores, weight = draw.normal(4.0, 3.0, 50), draw.integers(0, 3, 50)
    gain, bias = rewards.measure_gain_and_bias(scores, weight, mean=0.5, std=2.0)
    shaped = gain * scores + bias
    mean = np.average(shaped, weights=weight)
    assert mean == pytest.approx(0.5)
    assert np.average((shaped - mean) ** 2, weights=weight) == pytest.approx(4.0)


@pytest.mark.parametrize("scores", [[1.0, 1.0, 1.0], [1e6 + 0.0] * 3, [1.0, np.nan]])
def test_gain_of_scores_that_do_not_vary_is_refused(scores):
    with pytest.raises(errors.UserError, match="vary"):
        rewards.measure_gain_and_bias(scores)


def test_scale_and_clip_edit_the_named_part_only():
    trajectory = trajectories.make()
    given = trajectories.token_rewards(trajectory)
    for of, other in (("scores", "tokens"), ("tokens", "scores")):
        scaled = update(rewards.scale(3.0, of=of), trajectory, tokens=True)[0]
        before, after = getattr(given, of), getattr(scaled, of)
        np.testing.assert_allclose(after, 3.0 * before, rtol=1e-6)
        np.testing.assert_array_equal(getattr(scaled, other), getattr(given, other))
        clipped = update(rewards.clip(-0.2, 0.3, of=of), trajectory, tokens=True)[0]
        np.testing.assert_allclose(getattr(clipped, of), np.clip(before, -0.2, 0.3))
        np.testing.assert_array_equal(getattr(clipped, other), getattr(given, other))


def test_clipping_logs_its_fraction_of_real_rewards():
    trajectory = trajectories.make()
    given = trajectories.token_rewards(trajectory)
    link = rewards.clip(0.1, 0.4, of="tokens")
    shaped, _, logged = update(link, trajectory, tokens=True)
    real = np.asarray(given.tokens)[trajectory.mask]
    fraction = np.mean((real < 0.1) | (real > 0.4))
    found = metrics.finish(logged)["rewards/clipped_fraction"]
    assert found == pytest.approx(fraction, rel=1e-5)
    assert not shaped.tokens[~trajectory.mask].any()


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitened_rewards_have_unit_variance_over_real_tokens(shift_mean):
    trajectory = trajectories.make()
    before = np.asarray(trajectories.token_rewards(trajectory).tokens)[trajectory.mask]
    shaped = update(rewards.whiten(shift_mean), trajectory, tokens=True)[0].tokens
    real = np.asarray(shaped)[trajectory.mask]
    assert real.std() == pytest.approx(1.0, rel=1e-4)
    wanted = 0.0 if shift_mean else before.mean()
    assert real.mean() == pytest.approx(wanted, abs=1e-5)
    assert not shaped[~trajectory.mask].any()


def test_whitening_counts_the_column_after_the_last_on_request():
    trajectory = trajectories.make()
    shaping = rewards.chain(
        rewards.score_after_last_token(), rewards.whiten(after_last=True)
    )
    found = update(shaping, trajectory)[0].tokens
    placed = update(rewards.score_after_last_token(), trajectory)[0].tokens
    wide = np.asarray(trajectory.mask) | (np.asarray(placed) != 0)
    assert np.asarray(found)[wide].std() == pytest.approx(1.0, rel=1e-4)


def test_impossible_options_are_named():
    with pytest.raises(errors.UserError, match="minimum 1"):
        rewards.clip(1.0, 0.0)
