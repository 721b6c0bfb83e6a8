"""What every estimator must satisfy, and what each one is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trajectories

from rlhf_jax import advantages, errors, types
from rlhf_jax.ops import masking

ESTIMATORS = {
    "gae": advantages.gae(1.0, 0.95),
    "gae_discounted": advantages.gae(0.9, 0.5, bootstrap_truncated=False),
    "gae_after_last": advantages.gae(1.0, 0.95, after_last=True),
    "monte_carlo": advantages.monte_carlo(0.9),
    "leave_one_out": advantages.leave_one_out(2),
    "group_relative": advantages.group_relative(2),
    "dr_grpo": advantages.group_relative(2, scale_by_std=False),
    "whitened": advantages.whitened(advantages.gae(1.0, 0.95)),
    "whitened_groups": advantages.whitened(advantages.leave_one_out(2), False),
}
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)


def estimate(estimator, rewards, trajectory):
    if isinstance(estimator, str):
        estimator = ESTIMATORS[estimator]
    return estimator.update(rewards, estimator.init(), trajectory)[0]


def example(**options):
    trajectory = trajectories.make(**options)
    return trajectories.token_rewards(trajectory), trajectory


def sequence_rewards(values, seed=0):
    """One token each, with these rewards; values of a critic beside them."""
    count = len(values)
    trajectory = trajectories.make((1,) * count, 2, (1,) * count, seed)
    tokens = jnp.zeros((count, 2)).at[:, 0].set(jnp.asarray(values, jnp.float32))
    return types.Rewards(trajectory.scores, tokens), trajectory


@every_estimator
@pytest.mark.parametrize("garbage", [1e30, np.nan])
@pytest.mark.identity("I2")
def test_padding_content_changes_nothing(name, garbage):
    """Rewards, values and log-probs at masked positions change no advantage and no
    return, and the advantage of padding is 0."""
    given, trajectory = example()
    dirty_tokens = trajectories.poison(given.tokens, trajectory.mask, garbage)
    if name == "gae_after_last":
        wide = masking.extend_by_one(trajectory.mask)
        dirty_tokens = jnp.where(wide, given.tokens, garbage)
    dirty = given._replace(tokens=dirty_tokens)
    found = estimate(name, dirty, trajectories.poisoned(trajectory, garbage))
    for a, b in zip(found, estimate(name, given, trajectory), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert not found.advantages[~trajectory.mask].any()


@every_estimator
@pytest.mark.identity("I25")
def test_permuting_the_batch_permutes_the_advantages(name):
    """Whole groups in another order, and rows of a group in another order, give the
    same advantages in that order."""
    given, trajectory = example(weight=(1.0, 1.0, 2.0, 2.0))
    order = jnp.array([3, 2, 0, 1])
    shuffled = jax.tree.map(lambda x: x[order], (given, trajectory))
    found = estimate(name, *shuffled)
    expected = jax.tree.map(lambda x: x[order], estimate(name, given, trajectory))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@every_estimator
def test_more_padding_changes_nothing(name):
    given, trajectory = example()

    def pad(x):
        return jnp.pad(x, ((0, 0), (0, 3))) if x.ndim == 2 else x

    found = estimate(name, *jax.tree.map(pad, (given, trajectory)))
    wide = np.array(masking.extend_by_one(trajectory.mask))
    mask = np.array(trajectory.mask)
    before = estimate(name, given, trajectory)
    if name == "gae_after_last":  # the full row gains a column to step into
        mask[0], wide[0] = False, False
    np.testing.assert_allclose(
        found.advantages[:, :5][mask], before.advantages[mask], atol=1e-5
    )
    np.testing.assert_allclose(
        found.returns[:, :5][wide], before.returns[wide], atol=1e-5
    )


@every_estimator
def test_jit_changes_nothing_and_results_are_float32(name):
    given, trajectory = example()
    estimator = ESTIMATORS[name]
    jitted, state = jax.jit(estimator.update)(given, estimator.init(), trajectory)
    assert jax.tree.structure(state) == jax.tree.structure(estimator.init())
    for a, b in zip(jitted, estimate(name, given, trajectory), strict=True):
        assert a.dtype == jnp.float32 and a.shape == trajectory.mask.shape
        np.testing.assert_allclose(a, b, atol=1e-5)


@every_estimator
@pytest.mark.identity("B16")
def test_no_gradient_leaves_an_estimator(name):
    """Advantages and returns are constants of the loss: their gradient with respect to
    rewards and values is exactly 0."""
    given, trajectory = example()

    def total(tokens, values):
        found = estimate(
            name, given._replace(tokens=tokens), trajectory._replace(values=values)
        )
        return jnp.sum(found.advantages**2) + jnp.sum(found.returns**2)

    slopes = jax.grad(total, argnums=(0, 1))(given.tokens, trajectory.values)
    assert all((np.asarray(x) == 0).all() for x in slopes)


@pytest.mark.identity("C14")
def test_monte_carlo_is_gae_at_lambda_one():
    """Returns minus values are GAE with lam = 1, bootstrapped or not."""
    given, trajectory = example()
    for bootstrap in (True, False):
        options = {"bootstrap_truncated": bootstrap}
        found = estimate(advantages.monte_carlo(0.9, **options), given, trajectory)
        expected = estimate(advantages.gae(0.9, 1.0, **options), given, trajectory)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_monte_carlo_without_values_gives_returns():
    given, trajectory = example()
    trajectory = trajectory._replace(values=None)
    found = estimate(advantages.monte_carlo(1.0), given, trajectory)
    tokens = np.asarray(given.tokens)
    expected = np.cumsum(tokens[:, ::-1], axis=1)[:, ::-1]
    expected = np.where(trajectory.mask, expected, 0.0)
    np.testing.assert_allclose(found.advantages, expected, atol=1e-6)
    np.testing.assert_allclose(found.returns, expected, atol=1e-6)


@pytest.mark.identity("B14")
def test_truncated_rows_end_with_their_value_unless_told_otherwise():
    """`bootstrap_truncated` decides whether the value after a cut row counts, in its
    last token's advantage and nowhere in finished rows."""
    given, trajectory = example()
    with_value, without = (
        estimate(
            advantages.gae(1.0, 0.0, bootstrap_truncated=b), given, trajectory
        ).advantages
        for b in (True, False)
    )
    difference = np.array(with_value - without)
    assert difference[0, 4] == pytest.approx(float(trajectory.values[0, 5]), rel=1e-5)
    difference[0, 4] = 0.0
    assert not difference.any()


SHIFT_INVARIANT = ("leave_one_out", "group_relative", "dr_grpo", "whitened_groups")


def shifted(given, trajectory, per_row):
    """Adds per_row[i] to the reward of row i's first token."""
    first = jnp.zeros_like(given.tokens).at[:, 0].set(per_row)
    return given._replace(tokens=given.tokens + first), trajectory


def offsets_cancel(name, group_of):
    """Raises unless an offset per prompt changes no advantage."""
    given, trajectory = example(lengths=(3, 2, 4, 1, 2, 5), finished=(1,) * 6)
    offset = jnp.array([5.0, -3.0, 11.0])[jnp.asarray(group_of)]
    base = estimate(name, given, trajectory).advantages
    moved = estimate(name, *shifted(given, trajectory, offset)).advantages
    np.testing.assert_allclose(moved, base, atol=1e-5)


@pytest.mark.parametrize("name", SHIFT_INVARIANT)
@pytest.mark.identity("C9", "B18", "I25")
def test_an_offset_per_prompt_cancels_in_group_estimators(name):
    """Adding c(prompt) to the reward changes no group-relative advantage, as each
    group is one prompt; in a batch whose rows were shuffled before, groups mix prompts
    and the offset shows."""
    offsets_cancel(name, [0, 0, 1, 1, 2, 2])
    with pytest.raises(AssertionError):
        offsets_cancel(name, [0, 1, 2, 0, 1, 2])


@pytest.mark.identity("C9")
def test_an_offset_per_prompt_moves_only_the_value_baseline():
    """Adding c(prompt) to reward and value alike leaves the advantages of a critic as
    they are and moves its targets by c."""
    given, trajectory = example(finished=(1, 1, 1, 1))
    offset = jnp.array([5.0, -3.0, 11.0, 0.5])
    last = masking.last_real_index(trajectory.mask)
    tokens = given.tokens.at[jnp.arange(4), last].add(offset)
    values = trajectory.values + offset[:, None]
    base = estimate("gae", given, trajectory)
    moved = estimate(
        "gae", given._replace(tokens=tokens), trajectory._replace(values=values)
    )
    np.testing.assert_allclose(moved.advantages, base.advantages, atol=1e-5)
    shift = np.where(trajectory.mask, offset[:, None], 0.0)
    np.testing.assert_allclose(moved.returns - base.returns, shift, atol=1e-5)


@pytest.mark.identity("C16")
def test_leave_one_out_is_the_scaled_distance_from_the_group_mean():
    """RLOO = r - mean of the others = G / (G - 1) (r - mean)."""
    group = np.random.default_rng(0).normal(size=(3, 4))
    found = estimate(advantages.leave_one_out(4), *sequence_rewards(group.ravel()))
    others = (group.sum(axis=1, keepdims=True) - group) / 3
    first = np.asarray(found.advantages)[:, 0].reshape(3, 4)
    np.testing.assert_allclose(first, group - others, atol=1e-6)
    centered = group - group.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(first, 4 / 3 * centered, atol=1e-6)
    np.testing.assert_allclose(found.returns[:, 0], group.ravel(), atol=1e-6)


@pytest.mark.identity("C16")
def test_group_relative_advantages_have_mean_zero_and_deviation_one():
    """GRPO advantages have mean 0 and population standard deviation 1 in every group,
    whatever the scale of its rewards; without the division they are r - mean."""
    group = np.random.default_rng(0).normal(size=(3, 4)) * [[1.0], [50.0], [0.1]]
    given = sequence_rewards(group.ravel())
    found = np.asarray(estimate(advantages.group_relative(4), *given).advantages)
    found = found[:, 0].reshape(3, 4)
    np.testing.assert_allclose(found.mean(axis=1), 0.0, atol=1e-6)
    np.testing.assert_allclose(found.std(axis=1), 1.0, atol=1e-5)
    plain = estimate(advantages.group_relative(4, scale_by_std=False), *given)
    centered = group - group.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(
        plain.advantages[:, 0], centered.ravel(), rtol=1e-4, atol=1e-5
    )


def equal_groups_are_silent(relative):
    """Raises unless equal rewards give exactly 0 and nearly equal ones stay small."""
    for value in (0.1, 1e4, -0.7):
        found = relative(np.full(6, value))
        assert np.isfinite(found).all() and (found == 0).all()
    noise = 1.0 + 1e-6 * np.array([1, -1, 2, 0, 1, -2])
    assert np.abs(relative(noise)).max() < 0.05


@pytest.mark.identity("B19", "C16")
def test_groups_of_equal_rewards_give_exactly_zero():
    """A group of equal rewards gives advantages of exactly 0, no NaN and no round-off,
    and rewards equal up to 1e-6 are not blown up to deviation 1: dividing by the bare
    standard deviation, or by one with a tiny epsilon, fails."""

    def run(estimator):
        def relative(rewards):
            return np.asarray(
                estimate(estimator, *sequence_rewards(rewards)).advantages
            )

        return relative

    def bare(rewards, eps=0.0):
        group = jnp.asarray(rewards, jnp.float32)
        return np.asarray((group - group.mean()) / (group.std() + eps))

    equal_groups_are_silent(run(advantages.group_relative(6)))
    equal_groups_are_silent(run(advantages.group_relative(3)))
    equal_groups_are_silent(run(advantages.leave_one_out(6)))
    for bug in (bare, lambda r: bare(r, eps=1e-8)):
        with pytest.raises(AssertionError):
            equal_groups_are_silent(bug)


def test_group_rewards_are_the_sum_of_token_rewards_on_every_token():
    given, trajectory = example()
    found = estimate("leave_one_out", given, trajectory)
    total = np.where(trajectory.mask, given.tokens, 0.0).sum(axis=1)
    gap = np.array([total[0] - total[1], total[2] - total[3]])
    expected = np.array([gap[0], -gap[0], gap[1], -gap[1]])[:, None]
    np.testing.assert_allclose(
        found.advantages, np.where(trajectory.mask, expected, 0.0), atol=1e-5
    )


@pytest.mark.parametrize("name", ["leave_one_out", "group_relative"])
def test_rows_of_weight_zero_are_in_no_group(name):
    factory = getattr(advantages, name)
    values = np.array([1.0, 4.0, 2.5, 7.0])
    given, trajectory = sequence_rewards([*values, np.nan, 99.0])
    trajectory = trajectory._replace(weight=jnp.array([1.0, 1, 1, 1, 0, 0]))
    found = estimate(factory(6), given, trajectory).advantages
    expected = estimate(factory(4), *sequence_rewards(values)).advantages
    np.testing.assert_allclose(found[:4], expected, atol=1e-5)
    assert not found[4:].any()


@pytest.mark.identity("B12")
def test_whitened_advantages_use_the_whole_batch():
    """Whitened advantages have mean 0 and population deviation 1 over the real tokens
    of the whole batch; whitening halves apart gives other numbers. Returns stay."""
    given, trajectory = example()
    found = estimate("whitened", given, trajectory)
    real = np.asarray(found.advantages)[trajectory.mask]
    assert real.mean() == pytest.approx(0, abs=1e-6)
    assert real.std() == pytest.approx(1, rel=1e-5)
    plain = estimate("gae", given, trajectory)
    np.testing.assert_array_equal(found.returns, plain.returns)
    halves = [
        estimate("whitened", *jax.tree.map(lambda x, s=s: x[s], (given, trajectory)))
        for s in (slice(0, 2), slice(2, 4))
    ]
    apart = np.concatenate([h.advantages for h in halves])
    assert np.abs(apart - found.advantages).max() > 0.05


def test_impossible_requests_are_named():
    given, trajectory = example()
    with pytest.raises(errors.UserError, match="monte_carlo"):
        estimate("gae", given, trajectory._replace(values=None))
    for size in (1, 3):
        with pytest.raises(errors.UserError, match=f"group_size {size}"):
            estimate(advantages.leave_one_out(size), given, trajectory)
