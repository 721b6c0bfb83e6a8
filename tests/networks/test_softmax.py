"""The softmax of attention against the formula that autodiff differentiates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.networks import softmax


def direct(scores, values, mask):
    weights = jnp.where(mask, jnp.exp(scores - scores.max(-1, keepdims=True)), 0.0)
    total = weights.sum(-1, keepdims=True)
    weights = weights / jnp.where(total == 0, 1.0, total)
    return jnp.einsum("bkgls,bkse->bkgle", weights, values)


@pytest.fixture
def arrays():
    """Scores, values and a causal mask with one row that may look at nothing."""
    source = np.random.default_rng(0)
    scores = 3 * source.standard_normal((2, 2, 3, 4, 5))
    values = source.standard_normal((2, 2, 5, 6))
    mask = np.tril(np.ones((4, 5), bool))[None, None, None].repeat(2, axis=0)
    mask[1, :, :, 2] = False
    return jnp.float32(scores), jnp.float32(values), jnp.asarray(mask)


def test_values_and_gradients_are_those_of_the_formula(arrays):
    """dS = P (dP - rowsum(dP P)), with the row sum taken as rowsum(dO O)."""
    scores, values, mask = arrays
    found, pull = jax.vjp(lambda s, v: softmax.mix(s, v, mask), scores, values)
    wanted, pull_direct = jax.vjp(lambda s, v: direct(s, v, mask), scores, values)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    push = jnp.asarray(np.random.default_rng(1).standard_normal(found.shape), "float32")
    for one, other in zip(pull(push), pull_direct(push), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_fully_masked_row_gives_zeros_and_finite_gradients(arrays):
    scores, values, mask = arrays
    mixed = softmax.mix(scores, values, mask)
    assert (mixed[1, :, :, 2] == 0).all() and (mixed[0, :, :, 2] != 0).all()
    gradient = jax.grad(lambda s: softmax.mix(s, values, mask).sum())(scores)
    assert jnp.isfinite(gradient).all() and (gradient[1, :, :, 2] == 0).all()


def test_huge_scores_do_not_overflow(arrays):
    scores, values, mask = arrays
    assert jnp.isfinite(softmax.mix(1e4 * scores, values, mask)).all()
