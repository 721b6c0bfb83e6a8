"""Attributes with missing ratings, and ODIN's terms."""

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import losses
from rlhf_jax.losses import attributes, odin


def rated(ratings, mask):
    batch = attributes.AttributeBatch(
        inputs=None,
        ratings=jnp.asarray(ratings, jnp.float32),
        rated=jnp.asarray(mask, bool),
        example_id=jnp.arange(len(ratings)),
        weight=jnp.asarray([1.0, 2.0, 1.0], jnp.float32),
    )
    return batch


def test_missing_ratings_have_no_influence():
    """Kills: a mean over all attributes, a NaN that a missing rating lets through."""
    mask = [[1, 0, 1], [0, 0, 0], [1, 1, 1]]
    ratings = np.where(mask, [[1, 9, 3], [9, 9, 9], [0, 1, 2]], np.nan)
    batch = rated(ratings, mask)
    outputs = jnp.asarray([[0.0, 5.0, 1.0], [7.0, 7.0, 7.0], [0.0, 0.0, 0.0]])
    term = losses.Term(attributes.attribute_regression())
    loss = losses.combine(regression=term, reduction=losses.sequence_mean)
    prepared = loss.prepare(batch, loss.init())[0]

    def value(outputs):
        return loss.apply(outputs, batch, prepared, 0)[0]

    found, gradient = jax.value_and_grad(value)(outputs)
    rows = [(1 + 4) / 2, (0 + 1 + 4) / 3]
    np.testing.assert_allclose(found, (rows[0] + rows[1]) / 2, rtol=1e-6)
    assert np.all(np.isfinite(gradient)) and not np.any(gradient[1])
    assert gradient[0, 1] == 0


def two_heads(ranking, quality, length, real):
    _, batch = ranking(0, [[1, 2, 3]] * 4)
    mask = np.arange(6) < np.asarray(real)[:, :, None]
    batch = batch._replace(inputs=batch.inputs._replace(mask=jnp.asarray(mask)))
    overlap = jnp.zeros(4)
    return odin.TwoHeads(jnp.asarray(quality), jnp.asarray(length), overlap), batch


def test_decorrelation_rewards_the_length_head_alone(ranking):
    """The length head gains by following length, the quality head by not."""
    draw = np.random.default_rng(0)
    real = draw.integers(1, 6, (4, 3))
    noise = draw.normal(size=(4, 3)).astype(np.float32)
    shift = np.asarray([[5.0], [-3.0], [0.0], [9.0]])  # of a prompt: says nothing
    follows = (2.0 * real + shift).astype(np.float32)
    term = odin.length_decorrelation().values
    outputs, batch = two_heads(ranking, noise, follows, real)
    value, report = term(outputs, batch)
    quality = float(report["reward_model/quality_length_correlation"].finish())
    centered = [x - x.mean(axis=1, keepdims=True) for x in (noise, real)]
    wanted = np.corrcoef(centered[0].ravel(), centered[1].ravel())[0, 1]
    np.testing.assert_allclose(quality, wanted, atol=1e-4)
    np.testing.assert_allclose(value, abs(wanted) - 1.0, atol=1e-4)

    gradient = jax.grad(lambda o: term(o, batch)[0][0])(
        outputs._replace(length=jnp.asarray(noise))
    )
    descent = -np.asarray(gradient.length) * centered[1]
    assert descent.sum() > 0
    away = -np.asarray(gradient.quality) * centered[1]
    assert away.sum() * np.sign(wanted) < 0


def test_equal_scores_have_no_correlation_and_a_finite_gradient(ranking):
    outputs, batch = two_heads(
        ranking, np.ones((4, 3), np.float32), np.ones((4, 3), np.float32), [[3] * 3] * 4
    )
    term = odin.length_decorrelation().values
    assert float(term(outputs, batch)[0][0]) == 0.0
    gradient = jax.grad(lambda o: term(o, batch)[0].sum())(outputs)
    assert all(np.all(np.isfinite(x)) for x in gradient)


def test_preference_is_of_the_sum_and_heads_may_be_orthogonal(ranking):
    draw = np.random.default_rng(1)
    quality, length = (draw.normal(size=(4, 3)).astype(np.float32) for _ in range(2))
    outputs, batch = two_heads(ranking, quality, length, [[3] * 3] * 4)
    found = odin.two_headed_preference()(outputs, batch)[0]
    wanted = losses.all_pairs()(jnp.asarray(quality + length), batch)[0]
    np.testing.assert_array_equal(found, wanted)
    one = jnp.asarray([[1.0, 0.0], [0.0, 3.0]])
    np.testing.assert_allclose(odin.overlap(one), 0.0, atol=1e-6)
    np.testing.assert_allclose(odin.overlap(jnp.ones((4, 2))), 1.0, atol=1e-6)
