"""Reward-model losses against slow enumeration and closed formulas."""

import itertools

import numpy as np
import pytest

from rlhf_jax import losses

TERMS = {
    "bradley_terry": losses.bradley_terry(),
    "all_pairs": losses.all_pairs(),
    "plackett_luce": losses.plackett_luce(),
    "best_of_k": losses.best_of_k(),
}


def order_probability(scores, order) -> float:
    """Plackett-Luce by definition, one choice after the other."""
    weights = np.exp(np.asarray(scores, np.float64))
    probability, left = 1.0, list(order)
    for chosen in order:
        probability *= weights[chosen] / sum(weights[j] for j in left)
        left.remove(chosen)
    return probability


def slow_plackett_luce(scores, ranks) -> float:
    """Sum over all total orders that agree with the ranks; 0 is left out."""
    present = [i for i in range(len(ranks)) if ranks[i] > 0]
    agreeing = (
        order
        for order in itertools.permutations(present)
        if all(ranks[a] <= ranks[b] for a, b in zip(order, order[1:], strict=False))
    )
    return -np.log(sum(order_probability(scores, order) for order in agreeing))


RANKS = [
    [1, 2, 3, 4, 5, 6],
    [2, 1, 2, 3, 2, 3],
    [1, 1, 1, 1, 2, 2],
    [1, 1, 2, 2, 3, 3],
    [0, 1, 1, 0, 2, 2],
    [0, 0, 7, 0, 9, 9],
    [1, 2, 3, 3, 3, 3],
    [1, 2, 2, 2, 2, 2],
    [4, 2, 2, 1, 1, 1],
    [1, 1, 1, 1, 1, 1],
    [0, 0, 0, 1, 0, 0],
    [0, 0, 0, 0, 0, 0],
]


@pytest.mark.identity("C8")
def test_plackett_luce_equals_the_sum_over_linear_extensions(x64, ranking):
    """Plackett-Luce with ties is the sum over the orders that a tie leaves open."""
    scores, batch = ranking(0, RANKS, np.float64)
    values, _ = losses.plackett_luce()(scores, batch)
    slow = [slow_plackett_luce(s, r) for s, r in zip(scores, RANKS[:-1], strict=False)]
    np.testing.assert_allclose(values, [*slow, 0.0], atol=1e-10)
