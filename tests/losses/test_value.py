"""Value terms against their formulas, and explained variance that merges."""

import jax
import numpy as np
import pytest

from rlhf_jax import losses, metrics
from rlhf_jax.errors import UserError


def test_value_losses_against_their_formulas(x64, experience):
    outputs, batch = experience(0, [4, 2], 4, np.float64)
    clipped, report = jax.jit(losses.clipped_value(clip_eps=0.3))(outputs, batch)
    plain, _ = jax.jit(losses.squared_value())(outputs, batch)
    value, target = np.asarray(outputs.values), np.asarray(batch.advantages.returns)
    old = np.asarray(batch.trajectory.values)[:, :-1]
    free = (value - target) ** 2
    near = (np.clip(value, old - 0.3, old + 0.3) - target) ** 2
    np.testing.assert_allclose(plain, 0.5 * free, atol=1e-12)
    np.testing.assert_allclose(clipped, 0.5 * np.maximum(free, near), atol=1e-12)
    scale = np.asarray(batch.trajectory.mask * batch.trajectory.weight[:, None])
    found = metrics.finish(report)
    fraction = (scale * (near > free)).sum() / scale.sum()
    mean = (scale * 0.5 * np.maximum(free, near)).sum() / scale.sum()
    np.testing.assert_allclose(found["value/clip_fraction"], fraction, rtol=1e-6)
    np.testing.assert_allclose(found["value/loss"], mean, rtol=1e-6)


def test_explained_variance_merges_over_parts(experience, rows):
    outputs, batch = experience(1, [4, 2, 3, 1], 4)
    term = jax.jit(losses.squared_value())
    _, whole = term(outputs, batch)
    parts = [
        term(rows(outputs, part), rows(batch, part))[1] for part in ([0, 3], [2, 1])
    ]
    name = "value/explained_variance"
    merged = metrics.finish(metrics.merge(parts))[name]
    scale = np.asarray(batch.trajectory.mask * batch.trajectory.weight[:, None])
    target = np.asarray(batch.advantages.returns)
    error = target - np.asarray(outputs.values)

    def variance(x):
        mean = (scale * x).sum() / scale.sum()
        return (scale * (x - mean) ** 2).sum() / scale.sum()

    expected = 1 - variance(error) / variance(target)
    np.testing.assert_allclose(metrics.finish(whole)[name], expected, rtol=1e-5)
    np.testing.assert_allclose(merged, expected, rtol=1e-5)
    averaged = np.mean([metrics.finish(part)[name] for part in parts])
    assert abs(averaged - expected) > 1e-3  # the bug: averaging the parts' ratios


def test_values_can_be_trained_one_token_further(experience):
    """The N+ paper's value loss also counts the column after the last token."""
    outputs, batch = experience(3, [2, 4], 4)
    term = losses.Term(losses.squared_value(), support=losses.one_more_token)
    loss = losses.combine(value=term, reduction=losses.token_mean)
    value, _ = loss.apply(outputs, batch, loss.prepare(batch, loss.init())[0], 0)
    scale = np.asarray([[1, 1, 1, 0], [1, 1, 1, 1]]) * np.asarray(
        batch.trajectory.weight[:, None]
    )
    errors = 0.5 * np.asarray(outputs.values - batch.advantages.returns) ** 2
    np.testing.assert_allclose(value, (scale * errors).sum() / scale.sum(), rtol=1e-5)


def test_explained_variance_of_nothing_is_nan():
    assert np.isnan(losses.ExplainedVariance(*[np.zeros(())] * 5).finish())
    constant = losses.ExplainedVariance(*[np.float32(x) for x in (2, 6, 18, 0, 0)])
    assert np.isnan(constant.finish())


def test_missing_values_are_named(experience):
    outputs, batch = experience(2, [2], 2)
    with pytest.raises(UserError, match="PolicyOutputs.values"):
        losses.squared_value()(outputs._replace(values=None), batch)
    without = batch._replace(trajectory=batch.trajectory._replace(values=None))
    with pytest.raises(UserError, match="Trajectory.values"):
        losses.clipped_value()(outputs, without)
