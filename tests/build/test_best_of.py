"""Best-of-n as a stage: what it keeps and wins, its KL, and what learns from it."""

import numpy as np
import pytest

from rlhf_jax import rollout
from rlhf_jax.build.stages import best_of
from rlhf_jax.build.stages.best_of import Drawn


@pytest.mark.identity("C10", "C39")
def test_the_win_rate_and_the_kl_of_many_alike():
    """Best of n of 1,000 equal atoms wins n / (n + 1) of the time, and both forms of
    its KL agree; of two atoms the formula is far above the estimate."""
    draw, n = np.random.default_rng(0), 4
    scores = draw.integers(0, 1000, (20_000, n + 1)).astype(np.float64)
    logprobs = np.full(scores.shape, -np.log(1000.0))
    halves = [Drawn(scores[:7000], logprobs[:7000], -scores[:7000]),
              Drawn(scores[7000:], logprobs[7000:], -scores[7000:])]  # fmt: skip
    found = best_of.measured(halves, n, 20_000)
    error = abs(found["win_rate"]["mean"] - n / (n + 1))
    assert error < 4 * found["win_rate"]["se"] < 0.02
    assert found["kl"]["mean"] == pytest.approx(found["kl_formula"], rel=0.02)
    assert found["win_rate_gold"]["mean"] < 0.5, "gold is judged by itself"

    coin = draw.integers(0, 2, (20_000, 17)).astype(np.float64)
    alike = [Drawn(coin, np.full(coin.shape, -np.log(2.0)), None)]
    two = best_of.measured(alike, 16, 20_000)
    exact = rollout.best_of_n.pmf(np.full(2, 0.5), np.arange(2), 16)
    expected = float(np.sum(exact * np.log(exact / 0.5)))
    assert two["kl"]["mean"] == pytest.approx(expected, rel=0.02)
    assert two["kl_formula"] > 2.5 * expected
    assert two["win_rate"]["mean"] == pytest.approx(0.75, abs=0.01)


def test_filling_rows_do_not_count():
    scores = np.asarray([[0.0, 1.0, 0.5], [9.0, 9.0, 0.0]])
    found = best_of.measured([Drawn(scores, -np.ones((2, 3)), None)], 2, 1)
    assert found["prompts"] == 1 and found["proxy"]["mean"] == 1.0
    assert found["win_rate"]["mean"] == 1.0
