"""Ratio levels and clip forms, importance weights, imitation of positive examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, metrics
from rlhf_jax.errors import UserError


def _arrays(outputs, batch):
    mask = np.asarray(batch.trajectory.mask)
    gap = np.asarray(outputs.logprobs - batch.trajectory.old_logprobs)
    return mask, gap, np.asarray(batch.advantages.advantages)


@pytest.mark.identity("B32")
def test_the_sequence_ratio_is_the_exponential_of_the_mean(x64, experience):
    """GSPO's ratio is exp(mean log-ratio) of a response, the same on each token."""
    outputs, batch = experience(1, [4, 2, 3], 5, np.float64)
    mask, gap, advantages = _arrays(outputs, batch)
    mean = np.where(mask, gap, 0).sum(1) / mask.sum(1)
    ratio = np.exp(mean)[:, None]
    expected = -np.minimum(ratio * advantages, np.clip(ratio, 0.9, 1.2) * advantages)
    term = losses.clipped_surrogate((0.1, 0.2), level="sequence")
    values, report = term(outputs, batch)
    np.testing.assert_allclose(np.asarray(values)[mask], expected[mask], atol=1e-12)
    assert float(report["policy/ratio_max"].value) == pytest.approx(np.exp(mean).max())
    # The bug: no length norm; the ratio of a long response leaves every clip range.
    without = np.exp(np.where(mask, gap, 0).sum(1))
    assert np.max(np.abs(without - np.exp(mean))) > 0.05


def test_a_sequence_ratio_pulls_on_every_token(experience):
    outputs, batch = experience(2, [4, 2], 4)
    term = losses.clipped_surrogate(None, level="sequence")

    def first_token_loss(logprobs):
        return term(outputs._replace(logprobs=logprobs), batch)[0][0, 0]

    gradient = np.asarray(jax.grad(first_token_loss)(outputs.logprobs))
    assert np.all(gradient[0] != 0) and np.all(gradient[1] == 0)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_clipped_weight_keeps_every_gradient(x64, level, experience):
    """CISPO: the gradient is -clip(ratio) A grad log pi, also beyond the clip."""
    outputs, batch = experience(3, [3, 3], 3, np.float64)
    outputs = outputs._replace(
        logprobs=batch.trajectory.old_logprobs + jnp.linspace(-1, 1, 6).reshape(2, 3)
    )
    mask, gap, advantages = _arrays(outputs, batch)
    if level == "sequence":
        gap = np.repeat(gap.mean(1, keepdims=True), 3, 1)
    weight = np.clip(np.exp(gap), 0.8, 1.3)
    term = losses.clipped_weight((0.2, 0.3), level)

    def total(logprobs):
        return jnp.sum(term(outputs._replace(logprobs=logprobs), batch)[0])

    gradient = jax.grad(total)(outputs.logprobs)
    np.testing.assert_allclose(gradient, -weight * advantages, atol=1e-12)
    clipped = losses.clipped_surrogate((0.2, 0.3), level=level)

    def ppo(logprobs):
        return jnp.sum(clipped(outputs._replace(logprobs=logprobs), batch)[0])

    lost = np.asarray(jax.grad(ppo)(outputs.logprobs)) == 0
    assert lost.any() or level == "sequence"


def test_no_clip_is_the_plain_surrogate(experience):
    outputs, batch = experience(4, [3, 2], 3)
    mask, gap, advantages = _arrays(outputs, batch)
    values, report = losses.clipped_surrogate(None)(outputs, batch)
    expected = -np.exp(gap) * advantages
    np.testing.assert_allclose(np.asarray(values)[mask], expected[mask], rtol=1e-5)
    assert metrics.finish(report)["policy/clip_fraction"] == 0


def test_an_unknown_level_is_refused():
    with pytest.raises(UserError, match="paragraph"):
        losses.clipped_surrogate(level="paragraph")


def test_truncated_importance_weights_by_the_behaviour_policy(experience):
    outputs, batch = experience(5, [3, 2], 3)
    plain = losses.clipped_surrogate()
    weighted = losses.truncated_importance(plain, cap=1.5)
    values, _ = plain(outputs, batch)
    same, report = weighted(outputs, batch)
    np.testing.assert_array_equal(same, values)  # behaviour = old: weight 1
    assert metrics.finish(report)["policy/importance_mean"] == 1
    shift = jnp.array([[0.2, 0.6, 0.0], [-0.3, 0.1, 0.0]])
    behaviour = batch.trajectory.old_logprobs - shift
    batch = batch._replace(trajectory=batch.trajectory._replace(logprobs=behaviour))
    found, report = weighted(outputs, batch)
    weight = np.minimum(np.exp(shift), 1.5)
    mask = np.asarray(batch.trajectory.mask)
    expected = np.asarray(values) * weight
    np.testing.assert_allclose(np.asarray(found)[mask], expected[mask], rtol=1e-5)
    assert metrics.finish(report)["policy/importance_capped_fraction"] > 0


def test_positive_examples_are_imitated_and_nothing_else(experience):
    outputs, batch = experience(6, [3, 2, 2], 3)
    scores = jnp.array([1.0, -1.0, 0.5])
    trajectory = batch.trajectory._replace(scores=scores, weight=jnp.ones(3))
    batch = batch._replace(trajectory=trajectory)
    loss = losses.combine(
        nll=losses.positive_examples(threshold=0.0), reduction=losses.token_mean
    )
    prepared, _ = loss.prepare(batch, loss.init())
    value, report = loss.apply(outputs, batch, prepared, 0)
    chosen = np.asarray(trajectory.mask) & np.array([True, False, True])[:, None]
    assert float(value) == pytest.approx(-np.asarray(outputs.logprobs)[chosen].mean())
    share = metrics.finish(report)["policy/positive_fraction"]
    assert share == pytest.approx(2 / 3)


def test_the_overlong_filter_drops_truncated_responses(experience):
    outputs, batch = experience(7, [3, 3], 3)
    truncated = jnp.array([False, True])
    batch = batch._replace(trajectory=batch.trajectory._replace(truncated=truncated))
    loss = losses.combine(
        policy=losses.Term(losses.policy_gradient(), mask=losses.complete),
        reduction=losses.token_mean,
    )
    prepared, _ = loss.prepare(batch, loss.init())
    gradient = jax.grad(lambda o: loss.apply(o, batch, prepared, 0)[0])(outputs)
    assert np.all(np.asarray(gradient.logprobs[1]) == 0)
    expected = -np.asarray(batch.advantages.advantages)[0] / 3
    np.testing.assert_allclose(gradient.logprobs[0], expected, rtol=1e-5)
