"""Judges in both orders: no place wins, ties are ties, verdicts are checked."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.rollout import judges
from rlhf_jax.types import PromptBatch, Rollout

PROMPTS, ONE, TWO = ["p", "q", "r"], ["aa", "b", "c"], ["a", "bb", "c"]


def longer(prompts, first, second):
    return [float(len(a) > len(b)) for a, b in zip(first, second, strict=True)]


def fair(prompts, first, second):
    return [
        0.5 + 0.5 * np.sign(len(a) - len(b)) for a, b in zip(first, second, strict=True)
    ]


def first_place(prompts, first, second):
    return [True] * len(prompts)


def biased(prompts, first, second):
    return [min(1.0, x + 0.25) for x in fair(prompts, first, second)]


@pytest.mark.identity("B28")
@pytest.mark.parametrize("judge", [longer, fair, first_place, biased])
def test_both_orders_add_up_to_one(judge):
    """judge(A, B) + judge(B, A) = 1 after swapping, and no tie counts as a win."""
    forth = judges.swapped(judge, PROMPTS, ONE, TWO)
    back = judges.swapped(judge, PROMPTS, TWO, ONE)
    np.testing.assert_allclose(forth + back, 1.0)
    assert forth[2] == 0.5, "equal responses tie"
    if judge is not first_place:
        assert forth[0] > 0.5 > forth[1]
    unswapped = np.asarray(judge(PROMPTS, ONE, TWO), float)
    turned = np.asarray(judge(PROMPTS, TWO, ONE), float)
    if judge is not fair:
        assert not np.allclose(unswapped + turned, 1.0), "asked once it would not"


def test_a_judge_of_the_place_calls_everything_a_tie():
    assert judges.swapped(first_place, PROMPTS, ONE, TWO).tolist() == [0.5] * 3
    assert judges.position_bias(first_place, PROMPTS, ONE, TWO) == 1.0
    assert judges.position_bias(fair, PROMPTS, ONE, TWO) == 0.0


def test_a_judge_scores_neighbors():
    tokens = jnp.asarray([[5, 6, 1], [5, 1, 0], [7, 1, 0], [7, 7, 1]])
    mask = jnp.asarray([[1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 1, 1]], bool)
    prompt = PromptBatch(
        jnp.asarray([[2], [2], [3], [3]]),
        jnp.ones((4, 1), bool),
        jnp.asarray([0, 0, 1, 1]),
        jnp.ones(4),
    )
    terminal = mask & (tokens == 1)
    rollout = Rollout(
        prompt, tokens, mask, jnp.zeros((4, 3)), terminal, jnp.zeros(4, bool)
    )
    asked = []

    def judge(prompts, first, second):
        asked.append((prompts, first, second))
        return fair(prompts, first, second)

    scorer = judges.judge_scorer(judge, lambda ids: "".join(map(str, ids)))
    found = scorer.apply(scorer.init(), None, rollout).sequence
    assert found.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert asked[0] == (["2", "3"], ["56", "7"], ["5", "77"])
    assert asked[1] == (["2", "3"], ["5", "77"], ["56", "7"])


@pytest.mark.parametrize(
    "judge, problem",
    [
        (lambda p, a, b: [0.5], "gave 1 verdicts on 3 pairs"),
        (lambda p, a, b: [0.5, 2.0, 0.5], r"said 2.0 of pair 1 \('q'\)"),
        (lambda p, a, b: [0.5, "A", 0.5], "said 'A' of pair 1"),
        (lambda p, a, b: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_a_verdict_that_is_none_is_named(judge, problem):
    with pytest.raises(UserError, match=problem):
        judges.swapped(judge, PROMPTS, ONE, TWO)


def test_chances_from_scores_are_means_over_the_others():
    """Two scores give the Bradley-Terry chance; chances of a group average 1/2."""
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
    pair = judges.bradley_terry_wins(scores[:, :2])
    gap = np.float64(scores[:, 0]) - np.float64(scores[:, 1])
    expected = 1 / (1 + np.exp(-gap))
    np.testing.assert_allclose(pair, np.stack([expected, 1 - expected], 1), rtol=1e-5)
    found = judges.bradley_terry_wins(scores)
    s = np.asarray(scores, np.float64)
    slow = [
        [np.mean([1 / (1 + np.exp(y[j] - y[i])) for j in range(4) if j != i])
         for i in range(4)] for y in s
    ]  # fmt: skip
    np.testing.assert_allclose(found, slow, rtol=1e-5)
    np.testing.assert_allclose(np.mean(found, axis=1), 0.5, rtol=1e-6)
    np.testing.assert_allclose(judges.bradley_terry_wins(scores + 3.0), found, 1e-5)
