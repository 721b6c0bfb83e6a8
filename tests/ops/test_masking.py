import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops import masking

MASK = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)


def numbers(seed=0, shape=MASK.shape):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype(np.float32)


@pytest.mark.parametrize("garbage", [0.0, 1e30, np.inf, np.nan])
def test_sum_and_mean_see_real_elements_only(garbage):
    x = numbers()
    dirty = jnp.asarray(np.where(MASK, x, garbage))
    assert masking.masked_sum(dirty, jnp.asarray(MASK)) == pytest.approx(x[MASK].sum())
    found = masking.masked_mean(dirty, jnp.asarray(MASK))
    assert found == pytest.approx(x[MASK].mean())


def test_mean_of_nothing_is_zero_with_finite_gradient():
    nothing = jnp.zeros(MASK.shape, bool)
    value, slope = jax.value_and_grad(masking.masked_mean)(
        jnp.ones(MASK.shape), nothing
    )
    assert value == 0 and not slope.any()


def test_a_row_of_weight_two_counts_as_two_rows():
    x, mask = jnp.asarray(numbers()), jnp.asarray(MASK)
    weight = jnp.array([2.0, 1.0, 1.0, 0.0])
    repeated = jnp.array([0, 0, 1, 2])
    for found, expected in (
        (
            masking.masked_mean(x, mask, weight),
            masking.masked_mean(x[repeated], mask[repeated]),
        ),
        (
            masking.masked_whiten(x, mask, weight=weight)[:3],
            masking.masked_whiten(x[repeated], mask[repeated])[1:],
        ),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def whitens_like_numpy(whiten):
    """Raises unless `whiten(x, mask)` whitens the real entries as NumPy does."""
    x = numbers()
    real = x[MASK].astype(np.float64)
    expected = (real - real.mean()) / np.sqrt(real.var() + 1e-8)
    for garbage in (0.0, 1e6):
        found = np.asarray(whiten(jnp.asarray(np.where(MASK, x, garbage))))[MASK]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def pads_included(x):
    return (x - x.mean()) / jnp.sqrt(x.var() + 1e-8)


def sample_variance(x):
    real = x[MASK]
    return (x - real.mean()) / jnp.sqrt(real.var(ddof=1) + 1e-8)


def per_microbatch(x):
    halves = zip(jnp.split(x, 2), jnp.split(jnp.asarray(MASK), 2), strict=True)
    return jnp.concatenate([masking.masked_whiten(*half) for half in halves])


def epsilon_outside(x):
    real = x[MASK]
    return (x - real.mean()) / (real.std() + 1e-2)


@pytest.mark.identity("B12", "I2")
def test_whitening_is_that_of_numpy_on_real_entries():
    """Masked whitening uses the real entries of the whole batch and the population
    variance: padding, microbatches, `n - 1` and another epsilon give other numbers."""
    whitens_like_numpy(lambda x: masking.masked_whiten(x, jnp.asarray(MASK)))
    for bug in (pads_included, sample_variance, per_microbatch, epsilon_outside):
        with pytest.raises(AssertionError):
            whitens_like_numpy(bug)


def test_whitening_without_shift_keeps_the_mean():
    x, mask = jnp.asarray(numbers()), jnp.asarray(MASK)
    shifted, kept = (masking.masked_whiten(x, mask, s) for s in (True, False))
    np.testing.assert_allclose(kept[MASK], shifted[MASK] + x[MASK].mean(), rtol=1e-5)
    assert not shifted[~MASK].any() and not kept[~MASK].any()


@pytest.mark.parametrize("level", [0.1, 15744082.8, -14015202.1])
def test_a_constant_whitens_to_zero_and_not_to_round_off(level):
    white = masking.masked_whiten(jnp.full((1001,), level), jnp.ones((1001,), bool))
    assert jnp.abs(white).max() < 1e-2


@pytest.mark.identity("B29")
def test_masks_are_counted_in_float32():
    """The count of a mask is a float32 sum: in bfloat16 it stops at 256, and the mean
    of a thousand ones is no longer 1."""
    ones, mask = jnp.ones((1000,), jnp.bfloat16), jnp.ones((1000,), bool)
    assert masking.masked_mean(ones, mask) == 1.0
    assert masking.masked_sum(ones, mask) == 1000.0
    counted = jax.lax.fori_loop(  # a bfloat16 accumulator, as a TPU reduction has it
        0, 1000, lambda i, n: n + mask[i].astype(jnp.bfloat16), jnp.bfloat16(0)
    )
    assert counted == 256.0


def test_positions_count_the_real_tokens_before():
    mask = jnp.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    found = masking.positions_from_mask(mask)
    assert found.dtype == jnp.int32
    assert found[0, 2:].tolist() == [0, 1, 2] == found[1, :3].tolist()


@pytest.mark.identity("B6")
def test_last_real_index_of_any_padding():
    """The last real token is found by the mask, in rows with left padding, right
    padding, none at all (where `argmax` of the padding gives 0 and `0 - 1` wraps), and
    is -1 in a row without tokens."""
    mask = jnp.array([[0, 1, 1], [1, 1, 0], [1, 1, 1], [0, 0, 0]], bool)
    assert masking.last_real_index(mask).tolist() == [2, 1, 2, -1]
    first_pad = jnp.argmax(~mask, axis=1) - 1
    assert first_pad.tolist() != [2, 1, 2, -1]


def test_extended_masks_gain_one_column_where_there_is_room():
    mask = jnp.array([[1, 0, 0], [1, 1, 1], [0, 0, 0]], bool)
    wanted = [[True, True, False], [True, True, True], [False, False, False]]
    assert masking.extend_by_one(mask).tolist() == wanted


def test_join_puts_responses_after_left_padded_prompts():
    inputs = masking.join(
        jnp.array([[0, 7, 8], [4, 5, 6]]),
        jnp.array([[0, 1, 1], [1, 1, 1]], bool),
        jnp.array([[9, 2], [3, 0]]),
        jnp.array([[1, 1], [1, 0]], bool),
    )
    assert inputs.tokens.tolist() == [[0, 7, 8, 9, 2], [4, 5, 6, 3, 0]]
    assert inputs.mask.tolist() == [[False] + [True] * 4, [True] * 4 + [False]]
    assert inputs.positions.tolist() == [[0, 0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert not inputs.segment_ids.any() and inputs.tokens.dtype == jnp.int32
