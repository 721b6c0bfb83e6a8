import jax.numpy as jnp
import numpy as np
import pytest
import trajectories

from rlhf_jax import metrics, rewards


def scores_after(link, trajectory):
    shaped, _, logged = link.update(
        rewards.initial(trajectory), link.init(), trajectory
    )
    return np.asarray(shaped.scores), metrics.finish(logged)


def test_a_missing_stop_token_costs_or_replaces():
    trajectory = trajectories.make(finished=(0, 1, 1, 0))
    before = np.asarray(trajectory.scores)
    missing = np.array([True, False, False, True])
    subtracted, logged = scores_after(rewards.missing_eos_penalty(2.0), trajectory)
    np.testing.assert_allclose(subtracted, before - 2.0 * missing, rtol=1e-6)
    replaced, _ = scores_after(rewards.missing_eos_replacement(-1.0), trajectory)
    np.testing.assert_array_equal(replaced, np.where(missing, -1.0, before))
    assert logged["rewards/missing_eos_fraction"] == 0.5


def test_a_stop_token_on_padding_does_not_finish_a_response():
    trajectory = trajectories.make(finished=(0, 0, 0, 0))
    trajectory = trajectory._replace(terminal=~trajectory.mask)
    found, _ = scores_after(rewards.missing_eos_replacement(-1.0), trajectory)
    np.testing.assert_array_equal(found, -1.0)


@pytest.mark.parametrize("limit", [None, 0.15])
def test_length_costs_beyond_the_free_tokens(limit):
    trajectory = trajectories.make((5, 3, 1, 4))._replace(scores=jnp.zeros(4))
    link = rewards.length_penalty(0.1, start=2, limit=limit)
    found, logged = scores_after(link, trajectory)
    wanted = np.minimum([0.3, 0.1, 0.0, 0.2], np.inf if limit is None else limit)
    np.testing.assert_allclose(found, -wanted, atol=1e-6)
    assert logged["rewards/length_penalty"] == pytest.approx(wanted.mean(), rel=1e-5)
