"""Sampled responses token by token, over the whole training."""

import pytest

from rlhf_jax.build.stages.ppo_evaluation import traced


@pytest.mark.parametrize(
    ("steps", "every", "wanted"),
    [
        (60, 10, [0, 20, 30, 50, 60]),
        (4, 2, [0, 2, 4]),
        (100, 0, [100]),
        (3, 1, [0, 1, 2, 3]),
        (7, 5, [0, 5, 7]),
        (1000, 10, [0, 250, 500, 750, 1000]),
    ],
)
def test_few_evaluations_spread_over_the_training_are_traced(steps, every, wanted):
    evaluated = {steps} | (set(range(0, steps, every)) if every else set())
    assert [s for s in sorted(evaluated) if traced(s, steps, every)] == wanted
