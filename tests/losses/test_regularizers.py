"""Entropy, KL in the loss and z-loss against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, metrics
from rlhf_jax.errors import UserError


def test_entropy_bonus_is_minus_the_entropy(experience):
    outputs, batch = experience(0, [3, 2], 3)
    values, report = losses.entropy_bonus()(outputs, batch)
    np.testing.assert_array_equal(values, -outputs.entropy)
    scale = np.asarray(batch.trajectory.mask * batch.trajectory.weight[:, None])
    mean = (scale * np.asarray(outputs.entropy)).sum() / scale.sum()
    np.testing.assert_allclose(metrics.finish(report)["policy/entropy"], mean, 1e-6)


@pytest.mark.parametrize("name", ["k1", "k2", "k3", "exact"])
def test_kl_estimators_against_their_formulas(name, x64, experience):
    outputs, batch = experience(1, [3, 2], 3, np.float64)
    values, _ = jax.jit(losses.kl_to_reference(name))(outputs, batch)
    d = np.asarray(outputs.logprobs - batch.trajectory.ref_logprobs)
    expected = {
        "k1": d,
        "k2": d**2 / 2,
        "k3": np.exp(-d) - 1 + d,
        "exact": np.asarray(outputs.kl_exact),
    }[name]
    mask = np.asarray(batch.trajectory.mask)
    np.testing.assert_allclose(np.asarray(values)[mask], expected[mask], atol=1e-12)


def test_kl_accepts_a_function_and_names_the_unknown(experience):
    outputs, batch = experience(2, [2], 2)
    values, _ = losses.kl_to_reference(lambda p, q: jnp.abs(p - q))(outputs, batch)
    assert np.all(values >= 0)
    with pytest.raises(UserError, match="k4"):
        losses.kl_to_reference("k4")
    with pytest.raises(UserError, match="kl_exact"):
        losses.kl_to_reference()(outputs._replace(kl_exact=None), batch)


def test_z_loss_squares_the_log_normalizer(experience, sequences):
    for outputs, batch in (experience(3, [3, 2], 3), sequences(3, [3, 2], 3)):
        values, report = losses.z_loss()(outputs, batch)
        np.testing.assert_allclose(values, np.square(outputs.logsumexp))
        assert np.isfinite(metrics.finish(report)["language/logsumexp"])
