import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trajectories
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.ops import returns


def slow_gae(rewards, values, lengths, truncated, discount, lam):
    """The O(T^2) definition in float64, one row and one token at a time."""
    advantages = np.zeros(rewards.shape)
    for row, length in enumerate(lengths):
        after = values[row].astype(np.float64).copy()
        after[length:] = after[length] if truncated[row] else 0.0
        deltas = rewards[row, :length] + discount * after[1 : length + 1]
        deltas = deltas - values[row, :length]
        for t in range(length):
            weights = (discount * lam) ** np.arange(length - t)
            advantages[row, t] = np.sum(weights * deltas[t:])
    return advantages


def slow_returns(rewards, lengths, discount, bootstrap):
    found = np.zeros(rewards.shape)
    for row, length in enumerate(lengths):
        for t in range(length):
            powers = discount ** np.arange(length - t)
            rest = discount ** (length - t) * bootstrap[row]
            found[row, t] = np.sum(powers * rewards[row, t:length]) + rest
    return found


def run_gae(trajectory, tokens, discount=1.0, lam=0.95):
    return returns.gae(
        tokens,
        trajectory.values,
        trajectory.mask,
        trajectory.terminal,
        trajectory.truncated,
        discount,
        lam,
    )


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=3, max_size=3),
    finished=st.lists(st.booleans(), min_size=3, max_size=3),
    discount=st.sampled_from([1.0, 0.9]),
    lam=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    seed=st.integers(0, 99),
)
def test_gae_is_its_definition(lengths, finished, discount, lam, seed):
    trajectory = trajectories.make(lengths, 6, finished, seed)
    tokens = trajectories.token_rewards(trajectory, seed).tokens
    found, targets = run_gae(trajectory, tokens, discount, lam)
    values = np.asarray(trajectory.values)
    truncated = np.asarray(trajectory.truncated)
    expected = slow_gae(np.asarray(tokens), values, lengths, truncated, discount, lam)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    baseline = np.where(trajectory.mask, values[:, :-1], 0.0)
    np.testing.assert_allclose(targets, expected + baseline, atol=1e-5)


def test_discounted_returns_are_their_definition():
    trajectory = trajectories.make()
    tokens = trajectories.token_rewards(trajectory).tokens
    lengths = np.asarray(trajectory.mask.sum(axis=1))
    bootstrap = np.array([1.5, 0.0, -2.0, 0.0])
    found = returns.discounted_returns(
        tokens, trajectory.mask, 0.9, jnp.asarray(bootstrap, jnp.float32)
    )
    expected = slow_returns(np.asarray(tokens), lengths, 0.9, bootstrap)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    without = returns.discounted_returns(tokens, trajectory.mask, 0.9)
    expected = slow_returns(np.asarray(tokens), lengths, 0.9, np.zeros(4))
    np.testing.assert_allclose(without, expected, atol=1e-5)


def after_the_end(trajectory):
    """The bootstrap value of each row: V(length) if truncated, else 0."""
    length = trajectory.mask.sum(axis=1)[:, None]
    value = jnp.take_along_axis(trajectory.values, length, axis=1)[:, 0]
    return jnp.where(trajectory.truncated, value, 0.0)


@pytest.mark.identity("C14")
def test_gae_at_lambda_one_is_returns_minus_values():
    """With lam = 1 the advantage is the discounted return minus the value."""
    trajectory = trajectories.make()
    tokens = trajectories.token_rewards(trajectory).tokens
    found, targets = run_gae(trajectory, tokens, 0.9, 1.0)
    expected = returns.discounted_returns(
        tokens, trajectory.mask, 0.9, after_the_end(trajectory)
    )
    np.testing.assert_allclose(targets, expected, atol=1e-5)
    minus = jnp.where(trajectory.mask, expected - trajectory.values[:, :-1], 0.0)
    np.testing.assert_allclose(found, minus, atol=1e-5)


@pytest.mark.identity("C14")
def test_gae_at_lambda_zero_is_the_one_step_error():
    """With lam = 0 the advantage is r + discount * V' - V, where V' is 0 at the end."""
    trajectory = trajectories.make()
    tokens = trajectories.token_rewards(trajectory).tokens
    found, _ = run_gae(trajectory, tokens, 0.9, 0.0)
    mask, values = np.asarray(trajectory.mask), np.asarray(trajectory.values)
    following = np.where(mask, values[:, 1:], 0.0)
    last = mask & ~np.pad(mask, ((0, 0), (0, 1)))[:, 1:]
    ends = last & ~np.asarray(trajectory.truncated)[:, None]
    following[ends] = 0.0
    expected = np.where(mask, tokens + 0.9 * following - values[:, :-1], 0.0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.identity("C14")
def test_a_constant_in_all_values_matters_at_the_terminal_token_only():
    """With discount 1 a constant added to every value moves only the one-step error of
    a terminal token (by minus the constant, discounted by lam before it); a truncated
    row does not move. Advantages are linear in rewards and values."""
    trajectory = trajectories.make()
    tokens = trajectories.token_rewards(trajectory).tokens
    base, _ = run_gae(trajectory, tokens)
    moved, _ = run_gae(trajectory._replace(values=trajectory.values + 10.0), tokens)
    length = np.asarray(trajectory.mask.sum(axis=1))
    steps = length[:, None] - 1 - np.arange(5)[None]
    shift = -10.0 * 0.95 ** np.maximum(steps, 0)
    shift = np.where(trajectory.mask & ~trajectory.truncated[:, None], shift, 0.0)
    np.testing.assert_allclose(moved - base, shift, atol=1e-4)
    twice, _ = run_gae(trajectory._replace(values=2 * trajectory.values), 2 * tokens)
    np.testing.assert_allclose(twice, 2 * base, atol=1e-5)


def ends_are_told_apart(gae):
    """Raises unless a terminal row ends with 0 and a truncated row with V(length)."""
    trajectory = trajectories.make((3, 3), 4, (1, 0))
    tokens = jnp.zeros((2, 4))
    found = gae(trajectory, tokens)
    values = trajectory.values
    np.testing.assert_allclose(found[0, 2], -values[0, 2], atol=1e-6)
    np.testing.assert_allclose(found[1, 2], values[1, 3] - values[1, 2], atol=1e-6)


@pytest.mark.identity("B14")
def test_terminal_and_truncated_rows_end_differently():
    """Nothing follows a stop token; after a row cut by length stands the value of its
    last state. Treating the cut as an end, or the end as a cut, is caught."""
    ends_are_told_apart(lambda t, r: run_gae(t, r)[0])

    def truncation_is_the_end(t, r):
        return run_gae(t._replace(truncated=jnp.zeros_like(t.truncated)), r)[0]

    def always_bootstrap(t, r):
        t = t._replace(
            terminal=jnp.zeros_like(t.terminal), truncated=jnp.ones_like(t.truncated)
        )
        return run_gae(t, r)[0]

    for bug in (truncation_is_the_end, always_bootstrap):
        with pytest.raises(AssertionError):
            ends_are_told_apart(bug)


@pytest.mark.identity("B14")
def test_a_stop_token_in_the_last_column_ends_a_truncated_row():
    """A stop token ends its episode even where the row is also marked as truncated (it
    came at the longest length), and in the middle of a row."""
    trajectory = trajectories.make((4, 4), 4, (1, 0))
    middle = trajectory.terminal.at[1, 1].set(True)
    trajectory = trajectory._replace(truncated=jnp.array([True, True]), terminal=middle)
    found, _ = run_gae(trajectory, jnp.zeros((2, 4)), 1.0, 1.0)
    values = np.asarray(trajectory.values)
    np.testing.assert_allclose(found[0], -values[0, :4], atol=1e-6)
    np.testing.assert_allclose(found[1, :2], -values[1, :2], atol=1e-6)
    rest = values[1, 4] - values[1, 2:4]
    np.testing.assert_allclose(found[1, 2:], rest, atol=1e-6)


@pytest.mark.identity("I2")
@pytest.mark.parametrize("garbage", [1e30, np.inf, np.nan])
def test_padding_of_rewards_and_values_changes_nothing(garbage):
    """Rewards and values at masked positions cannot change a valid advantage."""
    trajectory = trajectories.make()
    tokens = trajectories.token_rewards(trajectory).tokens
    clean = run_gae(trajectory, tokens)
    dirty = run_gae(
        trajectories.poisoned(trajectory, garbage),
        trajectories.poison(tokens, trajectory.mask, garbage),
    )
    for a, b in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(a, b)


def test_gradients_through_poisoned_padding_are_finite():
    trajectory = trajectories.make()
    tokens = trajectories.poison(jnp.ones((4, 5)), trajectory.mask, jnp.nan)

    def total(values):
        return run_gae(trajectory._replace(values=values), tokens)[0].sum()

    values = trajectories.poison(trajectory.values, trajectory.mask, jnp.nan)
    assert jnp.isfinite(jax.grad(total)(values)).all()
