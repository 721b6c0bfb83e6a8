"""What every link of the shaping chain must satisfy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trajectories

from rlhf_jax import metrics, rewards, types
from rlhf_jax.ops import kl

LINKS = {
    "score_at_last_token": rewards.score_at_last_token(),
    "score_after_last_token": rewards.score_after_last_token(),
    "kl_penalty": rewards.kl_penalty(0.1),
    "kl_penalty_k3": rewards.kl_penalty(0.1, kl.k3),
    "kl_penalty_schedule": rewards.kl_penalty(lambda step: 0.1 / (1.0 + step)),
    "adaptive_kl_penalty": rewards.adaptive_kl_penalty(0.15, 6.0, 100.0),
    "missing_eos_penalty": rewards.missing_eos_penalty(1.0),
    "missing_eos_replacement": rewards.missing_eos_replacement(-1.0),
    "length_penalty": rewards.length_penalty(0.1, start=2, limit=0.25),
    "scale": rewards.scale(0.5),
    "scale_tokens": rewards.scale(0.5, of="tokens"),
    "clip": rewards.clip(-0.3, 0.4),
    "clip_tokens": rewards.clip(0.1, 0.4, of="tokens"),
    "gain_and_bias": rewards.gain_and_bias(2.0, -1.0),
    "running_normalization": rewards.running_normalization(),
    "running_scale": rewards.running_normalization(shift_mean=False),
    "whiten": rewards.whiten(),
    "whiten_shift": rewards.whiten(shift_mean=True),
    "chain": rewards.chain(
        rewards.missing_eos_penalty(1.0),
        rewards.running_normalization(),
        rewards.clip(-2.0, 2.0),
        rewards.score_at_last_token(),
        rewards.adaptive_kl_penalty(0.15, 6.0, 100.0),
        rewards.whiten(),
    ),
}
every_link = pytest.mark.parametrize("name", LINKS)


def step(name, given, trajectory):
    link = LINKS[name]
    return link.update(given, link.init(), trajectory)


def numbers(result):
    shaped, state, logged = result
    return shaped, state, metrics.finish(logged)


def assert_same(found, expected, **tolerance):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@every_link
@pytest.mark.parametrize("garbage", [1e30, np.nan])
@pytest.mark.identity("I2", "I21", "B15")
def test_padding_content_changes_nothing(name, garbage):
    """Log-probs, values and token rewards at masked positions change no reward, no
    state and no metric of any link."""
    trajectory = trajectories.make()
    given = trajectories.token_rewards(trajectory)
    poisoned = given._replace(
        tokens=trajectories.poison(given.tokens, trajectory.mask, garbage)
    )
    dirty_trajectory = trajectories.poisoned(trajectory, garbage)
    dirty_given = poisoned if name in PLACES else given
    dirty = numbers(step(name, dirty_given, dirty_trajectory))
    assert_same(dirty, numbers(step(name, given, trajectory)), rtol=1e-6)


PLACES = ("score_at_last_token", "score_after_last_token", "whiten", "chain")
"""Links that meet token rewards first, and so must clear their padding."""


@every_link
def test_permuting_the_batch_permutes_the_rewards(name):
    trajectory = trajectories.make(weight=(1.0, 2.0, 0.5, 1.0))
    given = trajectories.token_rewards(trajectory)
    order = jnp.array([2, 0, 3, 1])
    shuffled = jax.tree.map(lambda x: x[order], (given, trajectory))
    shaped, state, logged = numbers(step(name, given, trajectory))
    expected = jax.tree.map(lambda x: x[order], shaped), state, logged
    assert_same(numbers(step(name, *shuffled)), expected, rtol=1e-5, atol=1e-6)


@every_link
def test_a_row_of_weight_zero_is_not_there(name):
    trajectory = trajectories.make(weight=(1.0, 1.0, 1.0, 0.0))
    given = trajectories.token_rewards(trajectory)
    fewer = jax.tree.map(lambda x: x[:3], (given, trajectory))
    shaped, state, logged = numbers(step(name, given, trajectory))
    found = jax.tree.map(lambda x: x[:3], shaped), state, logged
    assert_same(found, numbers(step(name, *fewer)), rtol=1e-5, atol=1e-6)


@every_link
@pytest.mark.identity("I1")
def test_rewards_are_float32_whatever_the_scores(name):
    """Integer scores come out as float32 rewards with their fractions."""
    trajectory = trajectories.make()._replace(scores=jnp.array([1, 0, 3, -2]))
    given = rewards.initial(trajectory)
    assert {x.dtype for x in given} == {jnp.dtype("float32")}
    raw = types.Rewards(trajectory.scores, given.tokens)
    for rewards_in in (given, raw):
        shaped = step(name, rewards_in, trajectory)[0]
        assert shaped.tokens.dtype == jnp.float32
        if name not in ("scale_tokens", "clip_tokens"):
            assert_same(shaped.tokens, step(name, given, trajectory)[0].tokens)


@every_link
def test_jit_changes_nothing_and_state_keeps_its_structure(name):
    trajectory = trajectories.make()
    given = trajectories.token_rewards(trajectory)
    link = LINKS[name]
    state = link.init()
    shaped, after, logged = link.update(given, state, trajectory)
    jitted = jax.jit(link.update)(given, state, trajectory)
    assert_same(numbers(jitted), numbers((shaped, after, logged)), rtol=1e-5, atol=1e-6)
    described = jax.tree.map(lambda x: (x.shape, x.dtype), (state, shaped))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), (after, given)) == described
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))


@every_link
def test_gradients_are_finite(name):
    trajectory = trajectories.poisoned(trajectories.make(), np.nan)
    given = trajectories.token_rewards(trajectory)

    def total(scores, old_logprobs):
        moved = trajectory._replace(old_logprobs=old_logprobs, scores=scores)
        shaped = step(name, given._replace(scores=scores), moved)[0]
        return jnp.sum(shaped.tokens) + jnp.sum(shaped.scores)

    slopes = jax.grad(total, argnums=(0, 1))(given.scores, trajectory.old_logprobs)
    assert all(jnp.isfinite(x).all() for x in slopes)


def test_a_chain_applies_its_links_in_order():
    trajectory = trajectories.make()
    given = rewards.initial(trajectory)
    first = rewards.chain(rewards.scale(2.0), rewards.gain_and_bias(1.0, 3.0))
    second = rewards.chain(rewards.gain_and_bias(1.0, 3.0), rewards.scale(2.0))
    scores = [c.update(given, c.init(), trajectory)[0].scores for c in (first, second)]
    np.testing.assert_allclose(scores[0], 2 * given.scores + 3, rtol=1e-6)
    np.testing.assert_allclose(scores[1], 2 * (given.scores + 3), rtol=1e-6)


def test_a_chain_logs_incoming_scores_and_keeps_equal_names_apart():
    trajectory = trajectories.make(weight=(1.0, 1.0, 1.0, 3.0))
    link = rewards.chain(rewards.clip(-0.1, 0.1), rewards.clip(-1.0, 1.0))
    given = rewards.initial(trajectory)
    logged = metrics.finish(link.update(given, link.init(), trajectory)[2])
    scores, weights = np.asarray(trajectory.scores), np.array([1, 1, 1, 3])
    mean = np.average(scores, weights=weights)
    std = np.sqrt(np.average((scores - mean) ** 2, weights=weights))
    assert logged["objective/scores"] == pytest.approx(mean, rel=1e-5)
    assert logged["objective/scores_std"] == pytest.approx(std, rel=1e-4)
    assert logged["rewards/clipped_fraction"] > 0
    assert logged["rewards/clipped_fraction_2"] == 0


def test_token_scores_start_a_chain_without_their_padding():
    trajectory = trajectories.make()
    dense = trajectories.poison(jnp.full((4, 5), 0.5), trajectory.mask, jnp.nan)
    given = rewards.initial(trajectory, dense)
    np.testing.assert_array_equal(given.tokens, 0.5 * trajectory.mask)
