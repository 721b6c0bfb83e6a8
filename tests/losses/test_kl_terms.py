"""KL to the reference in the loss: levels, importance weights, controllers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, metrics, types
from rlhf_jax.errors import UserError
from rlhf_jax.ops import kl

LOGITS = np.array([0.3, -0.8, 1.1, 0.1])
REFERENCE = np.array([-0.4, 0.5, 0.2, 0.0])


def _softmax(x):
    return jax.nn.log_softmax(jnp.asarray(x))


def _everything(experience, old):
    """A batch of one-token responses, one per token of the vocabulary."""
    _, batch = experience(0, [1] * 4, 1, np.float64)
    ref = _softmax(REFERENCE)[:, None]
    trajectory = batch.trajectory._replace(
        old_logprobs=old[:, None], logprobs=old[:, None], ref_logprobs=ref
    )
    return batch._replace(trajectory=trajectory)


def _expected_gradient(term, batch, sampled_from):
    """Gradient in the logits of E_{y ~ sampled_from} term(y)."""

    def objective(logits):
        logprobs = _softmax(logits)[:, None]
        outputs = types.PolicyOutputs(logprobs, logprobs, logprobs)
        return jnp.dot(jnp.exp(sampled_from), term(outputs, batch)[0][:, 0])

    return np.asarray(jax.grad(objective)(jnp.asarray(LOGITS)))


def _true_gradient():
    def divergence(logits):
        log_p, log_q = _softmax(logits), _softmax(REFERENCE)
        return jnp.sum(jnp.exp(log_p) * (log_p - log_q))

    return np.asarray(jax.grad(divergence)(jnp.asarray(LOGITS)))


@pytest.mark.identity("C11", "B31")
@pytest.mark.parametrize("name", ["k2", "k3_with_k2_gradient"])
def test_k2_has_the_gradient_of_the_divergence(x64, name, experience):
    """As a loss on the policy's samples k2 has the gradient of KL(policy||reference),
    and so has k3 with the gradient of k2."""
    policy = _softmax(LOGITS)
    batch = _everything(experience, policy)
    found = _expected_gradient(losses.kl_to_reference(name), batch, policy)
    np.testing.assert_allclose(found, _true_gradient(), atol=1e-12)
    wrong = _expected_gradient(losses.kl_to_reference("k3"), batch, policy)
    assert np.max(np.abs(wrong - _true_gradient())) > 1e-2


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_importance_weights_make_the_gradient_right(x64, name, experience):
    """k1 and k3 times the ratio have value and gradient of the KL off policy too."""
    old = _softmax(np.array([0.0, 0.7, -0.2, 0.4]))
    batch = _everything(experience, old)
    term = losses.kl_to_reference(name, importance_weighted=True)
    found = _expected_gradient(term, batch, old)
    np.testing.assert_allclose(found, _true_gradient(), atol=1e-12)


def test_k3_with_k2_gradient_shows_the_value_of_k3():
    a, b = jnp.array([-1.0, -0.2]), jnp.array([-0.5, -0.9])
    np.testing.assert_allclose(kl.k3_with_k2_gradient(a, b), kl.k3(a, b), rtol=1e-6)


def test_at_sequence_level_the_tokens_share_one_divergence(x64, experience):
    outputs, batch = experience(1, [3, 2], 4, np.float64)
    mask = np.asarray(batch.trajectory.mask)
    gap = np.asarray(outputs.logprobs - batch.trajectory.ref_logprobs)
    whole = np.where(mask, gap, 0).sum(1) ** 2 / 2
    values, _ = losses.kl_to_reference("k2", level="sequence")(outputs, batch)
    np.testing.assert_allclose(np.sum(values, axis=1), whole, atol=1e-12)
    assert np.all(np.asarray(values)[~mask] == 0)
    with pytest.raises(UserError, match="sequence"):
        losses.kl_to_reference("exact", level="sequence")


@pytest.mark.parametrize(
    "term",
    [
        losses.adaptive_kl_to_reference(0.1, 1.0, 10.0, "k2"),
        losses.lagrangian_kl_to_reference(0.1, 1.0, 0.5, "k2"),
    ],
    ids=["adaptive", "lagrangian"],
)
def test_a_controlled_coefficient_follows_the_divergence(term, experience):
    """The first minibatch has the first coefficient; above the target it then rises,
    below it falls; microbatches share one coefficient."""
    outputs, batch = experience(2, [2, 2], 2)
    loss = losses.combine(kl=term, reduction=losses.token_mean)
    plain = losses.combine(
        kl=losses.Term(losses.kl_to_reference("k2"), weight=0.1),
        reduction=losses.token_mean,
    )
    for shift, sign in ((1.5, 1), (0.0, -1)):
        trajectory = batch.trajectory
        ref = trajectory.old_logprobs - shift
        moved = batch._replace(trajectory=trajectory._replace(ref_logprobs=ref))
        state = loss.init()
        prepared, state = loss.prepare(moved, state)
        value, report = loss.apply(outputs, moved, prepared, 0)
        first = metrics.finish(report)["policy/kl_coef"]
        assert first == pytest.approx(0.1)
        expected, _ = plain.apply(
            outputs, moved, plain.prepare(moved, plain.init())[0], 0
        )
        assert float(value) == pytest.approx(float(expected), rel=1e-5)
        prepared, _ = loss.prepare(moved, state)
        second = metrics.finish(loss.apply(outputs, moved, prepared, 0)[1])
        assert np.sign(second["policy/kl_coef"] - first) == sign
