import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops import kl

LOGITS = np.array([0.3, -1.2, 0.8, 0.1, -0.4, 1.5, -0.9])
REFERENCE = np.array([-0.5, 0.4, 0.2, 1.0, -1.1, 0.3, 0.6])


def exact(logits, reference):
    """KL(softmax(logits) || softmax(reference)), by summing over all outcomes."""
    log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(reference)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q))


def expected(estimator, logits, sampled_from):
    """E of the estimator over outcomes of the (fixed) sampling distribution."""
    weights = jax.lax.stop_gradient(jax.nn.softmax(sampled_from))
    values = estimator(jax.nn.log_softmax(logits), jax.nn.log_softmax(REFERENCE))
    return jnp.sum(weights * values)


@pytest.mark.identity("C11")
def test_k1_and_k3_are_unbiased_and_k2_is_not():
    """Over samples of the policy the expectation of k1 and of k3 is the KL, that of k2
    is not; k2 and k3 are never negative, k1 is of both signs."""
    with jax.enable_x64(True):
        logits = jnp.asarray(LOGITS)
        truth = exact(logits, REFERENCE)
        for estimator in (kl.k1, kl.k3):
            assert abs(expected(estimator, logits, logits) - truth) < 1e-12
        assert abs(expected(kl.k2, logits, logits) - truth) > 0.01 * truth
        pair = jax.nn.log_softmax(logits), jax.nn.log_softmax(REFERENCE)
        assert kl.k3(*pair).min() >= 0 and kl.k2(*pair).min() >= 0
        assert kl.k1(*pair).min() < 0 < kl.k1(*pair).max()


@pytest.mark.identity("C11")
def test_bias_and_spread_on_gaussians_are_those_of_the_published_table():
    """For q = N(0, 1) and p = N(1, 1) the bias over the truth is 0, 0.25, 0 and the
    spread over the truth 2.00, 1.73, 1.70 for k1, k2, k3 (Schulman 2020)."""
    x = np.random.default_rng(0).normal(size=400_000)
    log_q, log_p = -0.5 * x**2, -0.5 * (x - 1) ** 2
    truth, n = 0.5, x.size
    for name, bias, spread in (("k1", 0, 2.0), ("k2", 0.25, 1.73), ("k3", 0, 1.70)):
        drawn = np.asarray(getattr(kl, name)(jnp.asarray(log_q), jnp.asarray(log_p)))
        error = drawn.std() / np.sqrt(n) / truth
        assert abs(drawn.mean() / truth - 1 - bias) < 4 * error + 1e-5
        assert drawn.std() / truth == pytest.approx(spread, rel=0.02)


def has_the_gradient_of(estimator, target):
    """Raises unless E[grad estimator] is the gradient of `target(logits)`."""
    with jax.enable_x64(True):
        logits = jnp.asarray(LOGITS)
        found = jax.grad(lambda x: expected(estimator, x, logits))(logits)
        np.testing.assert_allclose(found, jax.grad(target)(logits), atol=1e-12)


def reverse(logits):
    return exact(logits, jnp.asarray(REFERENCE))


def forward(logits):
    return exact(jnp.asarray(REFERENCE), logits)


@pytest.mark.identity("C11", "B31")
def test_gradients_of_the_estimators_as_losses():
    """As a loss on samples of the policy k1 has gradient 0 in expectation, k2 that of
    KL(policy || reference), and k3 that of KL(reference || policy): taking k3 for the
    reverse KL is a bug of many implementations."""
    has_the_gradient_of(kl.k1, lambda logits: 0.0 * jnp.sum(logits))
    has_the_gradient_of(kl.k2, reverse)
    has_the_gradient_of(kl.k3, forward)
    for estimator, wrong in ((kl.k3, reverse), (kl.k1, reverse), (kl.k2, forward)):
        with pytest.raises(AssertionError):
            has_the_gradient_of(estimator, wrong)


def test_k3_keeps_its_digits_where_the_policies_agree():
    gap = 1e-4
    found = kl.k3(jnp.float32(gap), jnp.float32(0.0))
    assert found == pytest.approx(gap**2 / 2, rel=1e-2)
    naive = jnp.exp(-jnp.float32(gap)) - 1 + jnp.float32(gap)
    assert abs(naive / (gap**2 / 2) - 1) > 0.1


def stays_finite(estimator):
    """Raises unless value and gradient are finite for any gap of log-probs."""
    gaps = jnp.array([-1e4, -500.0, -90.0, 0.0, 90.0, 500.0, 1e4])
    zeros = jnp.zeros_like(gaps)
    values, pull = jax.vjp(lambda x: estimator(x, zeros), gaps)
    assert jnp.isfinite(values).all() and jnp.isfinite(values.sum())
    assert jnp.isfinite(pull(jnp.ones_like(gaps))[0]).all()


@pytest.mark.identity("B32")
def test_huge_gaps_of_log_probs_stay_finite():
    """A token that the reference finds likelier by thousands of nats gives a finite
    estimate and gradient; an unbounded exponential does not."""
    for estimator in (kl.k1, kl.k2, kl.k3):
        stays_finite(estimator)
    with pytest.raises(AssertionError):
        stays_finite(lambda p, q: jnp.expm1(q - p) - (q - p))
