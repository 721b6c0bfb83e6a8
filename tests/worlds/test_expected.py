"""Expected updates summed over all responses."""

import numpy as np
import pytest

from rlhf_jax.rollout import best_of_n
from rlhf_jax.worlds import enumerable, expected

E64 = enumerable.e64(0)
TABLE = np.random.default_rng(0).normal(size=(21, 4))


def test_the_expected_gradient_is_that_of_autodiff():
    """Sum of probability times coefficient times score, by finite differences."""
    w = np.random.default_rng(2).normal(size=(64, 3))
    pi = enumerable.distribution(TABLE)
    found = expected.expected_gradient(TABLE, w)
    for row, token in [(0, 1), (3, 0), (20, 3)]:
        step = np.zeros_like(TABLE)
        step[row, token] = 1e-6
        up, down = (enumerable.token_logprobs(TABLE + s * step) for s in (1, -1))
        slope = np.sum(pi[:, None] * w * (up - down)) / 2e-6
        assert found[row, token] == pytest.approx(slope, abs=1e-8)


def test_prefixes_are_reached_with_their_probability():
    pi = enumerable.distribution(TABLE)
    found = expected.reached(TABLE)
    assert found[0] == 1.0
    np.testing.assert_allclose(found[1:5], pi.reshape(4, 16).sum(1), atol=1e-12)
    np.testing.assert_allclose(found[5:], pi.reshape(16, 4).sum(1), atol=1e-12)


@pytest.mark.identity("C35")
def test_imitating_best_of_n_ends_at_best_of_n():
    """Fine-tuning on the best of n of infinitely many samples (RAFT) ends at pi_n:
    pi_n is where the expected update of -log pi(best of n) vanishes, and any other
    distribution has a larger KL(pi_n || pi)."""
    reference = np.exp(E64.reference)
    kept = best_of_n.pmf(reference, E64.gold, 4)
    logits = enumerable.conditionals(reference, 4)
    after = np.exp(enumerable.conditionals(kept, 4))
    weight = expected.reached(np.log(after))[:, None]
    for _ in range(4000):  # ascent of E_{y ~ pi_n} log pi(y)
        pi = np.exp(logits - logits.max(1, keepdims=True))
        pi /= pi.sum(1, keepdims=True)
        logits += 0.5 * (after - pi) * (weight > 0)
    found = enumerable.distribution(logits)
    assert enumerable.total_variation(found, kept) < 1e-3
    assert enumerable.kl(kept, found) < enumerable.kl(kept, reference)
