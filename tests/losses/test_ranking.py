"""Reward-model losses against slow enumeration and closed formulas."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, metrics
from rlhf_jax.losses import orderings

PAIR_TERMS = {
    "all_pairs": losses.all_pairs(),
    "plackett_luce": losses.plackett_luce(),
    "best_of_k": losses.best_of_k(),
}
bradley_terry = jax.jit(losses.bradley_terry())
all_pairs = jax.jit(losses.all_pairs())
plackett_luce = jax.jit(losses.plackett_luce())
best_of_k = jax.jit(losses.best_of_k())
score_centering = jax.jit(losses.score_centering())


@functools.cache
def summed(term):
    """Jitted `(scores, batch) -> (sum of the values, gradient)`."""
    return jax.jit(jax.value_and_grad(lambda s, batch: term(s, batch)[0].sum()))


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


def slow_efron(scores, ranks) -> float:
    """Efron's form for every tie group that has something below it."""
    scores, ranks = np.asarray(scores, np.float64), np.asarray(ranks)
    loss = 0.0
    for rank in sorted(set(ranks[ranks > 0]))[:-1]:
        group, rest = scores[ranks == rank], scores[ranks > rank]
        inside, outside = np.exp(group).sum(), np.exp(rest).sum()
        for number, score in enumerate(group):
            left = outside + (1 - number / len(group)) * inside
            loss += np.log(left) - score - np.log(number + 1)
    return loss


def slow_all_pairs(scores, ranks, margin=0.0, smoothing=0.0) -> float:
    """Two loops over the pairs of a prompt."""
    terms = []
    for i, j in itertools.permutations(range(len(ranks)), 2):
        if 0 < ranks[i] < ranks[j]:
            gap = float(scores[i]) - float(scores[j])
            kept = np.log1p(np.exp(-(gap - margin)))
            flipped = np.log1p(np.exp(gap + margin))
            terms.append((1 - smoothing) * kept + smoothing * flipped)
    return float(np.mean(terms)) if terms else 0.0


def padded(ranks):
    """Ranks [15 7] with rows and responses that are absent: one shape, one compile."""
    ranks = np.asarray(ranks)
    return np.pad(ranks, ((0, 15 - ranks.shape[0]), (0, 7 - ranks.shape[1])))


RANKS = [
    [1, 2, 3, 4, 5, 6],
    [2, 1, 2, 3, 2, 3],
    [1, 1, 1, 1, 2, 2],
    [1, 1, 2, 2, 3, 3],
    [0, 1, 1, 0, 2, 2],
    [0, 0, 7, 0, 9, 9],
    [1, 2, 3, 3, 3, 3],
    [1, 2, 2, 2, 2, 2],
    [2, 3, 2, 1, 2, 2],
    [1, 1, 1, 1, 1, 1],
    [0, 0, 0, 1, 0, 0],
    [0, 0, 0, 0, 0, 0],
]


@pytest.mark.identity("C8")
def test_plackett_luce_is_the_sum_over_linear_extensions(x64, ranking):
    """Plackett-Luce with ties is the sum over the orders that a tie leaves open."""
    scores, batch = ranking(0, padded(RANKS), np.float64)
    values, _ = plackett_luce(scores, batch)
    slow = [slow_plackett_luce(s, r) for s, r in zip(scores, RANKS[:-1], strict=False)]
    np.testing.assert_allclose(values, slow + [0.0] * 4, atol=1e-10)


def test_more_than_four_tied_responses_follow_efron(x64, ranking):
    ranks = [[1, 1, 1, 1, 1, 2, 3], [3, 2, 2, 2, 2, 2, 1], [2, 1, 1, 1, 1, 1, 1]]
    scores, batch = ranking(1, padded(ranks), np.float64)
    scores = np.asarray(scores)

    def against(slow, factor, atol):
        values, _ = plackett_luce(jnp.asarray(factor * scores), batch)
        expected = [slow(s, r) for s, r in zip(factor * scores, ranks, strict=False)]
        np.testing.assert_allclose(values[:3], expected, atol=atol)

    against(slow_efron, 1.0, 1e-10)
    against(slow_plackett_luce, 0.1, 0.02)
    against(slow_plackett_luce, 0.0, 1e-10)


@pytest.mark.identity("C8")
def test_probabilities_of_all_orders_sum_to_one(x64, ranking):
    """The Plackett-Luce probabilities of the K! orders sum to one, for K to 5."""
    sizes = [2, 3, 4, 5]
    ranks = [
        [*order] + [0] * (5 - size)
        for size in sizes
        for order in itertools.permutations(range(1, size + 1))
    ]
    scores, batch = ranking(2, ranks, np.float64)
    same = jnp.asarray(np.tile(np.asarray(scores)[:1], (len(ranks), 1)))
    probability = np.exp(-np.asarray(plackett_luce(same, batch)[0]))
    responses = (np.asarray(ranks) > 0).sum(axis=1)
    for size in sizes:
        total = probability[responses == size].sum()
        np.testing.assert_allclose(total, 1.0, atol=1e-10)


@pytest.mark.identity("C8")
def test_probabilities_with_four_tied_sum_to_one(x64, ranking):
    """The probabilities of all choices of a tied best four of six sum to one."""
    best = itertools.combinations(range(6), 4)
    ranks = [[1 if i in group else 2 for i in range(6)] for group in best]
    scores, batch = ranking(3, padded(ranks), np.float64)
    values, _ = plackett_luce(jnp.asarray(np.tile(scores[:1], (15, 1))), batch)
    np.testing.assert_allclose(np.exp(-np.asarray(values)).sum(), 1.0, atol=1e-10)


@pytest.mark.identity("C8")
def test_gradient_is_the_sum_over_stages(x64, ranking):
    """The gradient of Plackett-Luce is the sum over stages of softmax minus choice."""
    scores, batch = ranking(4, padded([[3, 1, 4, 2, 5]]), np.float64)
    _, gradient = summed(PAIR_TERMS["plackett_luce"])(scores, batch)
    expected, left = np.zeros(5), [1, 3, 0, 2, 4]
    while left:
        weights = np.exp(np.asarray(scores)[0, left])
        expected[left] += weights / weights.sum()
        expected[left.pop(0)] -= 1
    np.testing.assert_allclose(gradient[0, :5], expected, atol=1e-10)


@pytest.mark.identity("C8")
@pytest.mark.parametrize("name", PAIR_TERMS)
def test_two_responses_are_bradley_terry(name, ranking):
    """With K = 2 every ranking term is Bradley-Terry bit for bit, gradient too."""
    ranks = [[1, 2], [2, 1], [5, 3], [1, 1], [0, 1]] * 3
    scores, batch = ranking(5, ranks, margin=0.25)
    scores = scores.at[:5].multiply(30.0).at[5:10].multiply(1e3)

    value, gradient = summed(PAIR_TERMS[name])(scores, batch)
    expected, expected_gradient = summed(bradley_terry)(scores, batch)
    assert value == expected
    np.testing.assert_array_equal(gradient, expected_gradient)
    unmargined = batch._replace(margin=0.0 * batch.margin)
    loss, _ = bradley_terry(scores, unmargined)
    better = np.where(np.asarray(ranks)[:, 0] < np.asarray(ranks)[:, 1], 1.0, -1.0)
    gap = np.float64(better) * np.asarray(scores[:, 0] - scores[:, 1], np.float64)
    closed = np.logaddexp(0.0, -gap)
    np.testing.assert_allclose(loss[:3], closed[:3], rtol=1e-6)
    np.testing.assert_array_equal(loss[3:5], 0.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_all_pairs_against_two_loops(x64, smoothing, ranking):
    scores, batch = ranking(6, padded(RANKS), np.float64, margin=0.3)
    term = jax.jit(losses.all_pairs(label_smoothing=smoothing))
    values, _ = term(scores, batch)
    slow = [
        slow_all_pairs(s, r, 0.3, smoothing)
        for s, r in zip(scores, RANKS, strict=False)
    ]
    np.testing.assert_allclose(values[: len(RANKS)], slow, atol=1e-10)


def test_best_of_k_is_the_first_stage(x64, ranking):
    ranks = [[2, 1, 2, 3, 0], [1, 1, 2, 2, 2], [5, 4, 3, 2, 1]]
    scores, batch = ranking(7, padded(ranks), np.float64)
    values, _ = best_of_k(scores, batch)
    weights = np.exp(np.asarray(scores))[:3, :5]
    for value, s, r in zip(values, weights, np.asarray(ranks), strict=False):
        best = r == r[r > 0].min()
        np.testing.assert_allclose(value, -np.log(s[best].sum() / s[r > 0].sum()))


def test_present_but_unranked_responses_share_the_last_rank(x64, ranking):
    """The best 2 of 5: only the first two stages count, the rest is their rival."""
    scores, batch = ranking(8, padded([[1, 2, 3, 3, 3]]), np.float64)
    value, _ = plackett_luce(scores, batch)
    s = np.exp(np.asarray(scores)[0, :5])
    expected = -np.log(s[0] / s.sum()) - np.log(s[1] / s[1:].sum())
    np.testing.assert_allclose(value[0], expected, atol=1e-10)


@pytest.mark.identity("C9")
@pytest.mark.parametrize("name", PAIR_TERMS)
def test_shift_of_a_prompt_changes_nothing(name, x64, ranking):
    """A shift r -> r + c(x) of a prompt's scores changes no reward-model loss."""
    scores, batch = ranking(9, padded(RANKS), np.float64, margin=0.2)
    shift = np.linspace(-50.0, 50.0, 15)[:, None]

    value, gradient = summed(PAIR_TERMS[name])(scores, batch)
    moved, moved_gradient = summed(PAIR_TERMS[name])(scores + shift, batch)
    np.testing.assert_allclose(moved, value, atol=1e-10)
    np.testing.assert_allclose(moved_gradient, gradient, atol=1e-10)
    np.testing.assert_allclose(jnp.sum(gradient, axis=1), 0.0, atol=1e-10)
    level, _ = score_centering(scores, batch)
    lifted, _ = score_centering(scores + shift, batch)
    assert not np.allclose(level, lifted)


@pytest.mark.identity("C22", "I28")
def test_constant_scores_give_the_logarithm_of_the_choices(x64, ranking):
    """At equal scores best-of-4 is log 4, Bradley-Terry log 2, Plackett-Luce log 4!."""
    _, batch = ranking(10, padded([[2, 1, 4, 3], [1, 2, 0, 0]]), np.float64)
    constant = jnp.asarray(np.full((15, 7), 3.0))
    for term, expected in (
        (best_of_k, np.log([4, 2])),
        (all_pairs, np.log([2, 2])),
        (plackett_luce, np.log([24, 2])),
        (jax.jit(losses.all_pairs(label_smoothing=0.2)), np.log([2, 2])),
    ):
        value, _ = term(constant, batch)
        np.testing.assert_allclose(value[:2], expected, atol=1e-10)


@pytest.mark.identity("C22", "B26")
def test_a_prompt_is_one_element_and_counts_once(x64, ranking):
    """InstructGPT's loss of a prompt is the mean over its pairs, each prompt once."""
    ranks = [[1, 2, 3, 4], [2, 1, 0, 0]]
    scores, batch = ranking(11, ranks, np.float64)
    batch = batch._replace(weight=jnp.ones(2))
    loss = losses.combine(
        rm=losses.Term(losses.all_pairs()), reduction=losses.token_mean
    )
    value, _ = jax.jit(loss.apply)(
        scores, batch, jax.jit(loss.prepare)(batch, loss.init())[0], 0
    )
    each = [slow_all_pairs(s, r) for s, r in zip(scores, ranks, strict=True)]
    np.testing.assert_allclose(value, np.mean(each), atol=1e-10)
    # The bug: pairs as elements of their own, so a prompt counts once per pair.
    pairs = [slow_all_pairs(np.asarray(scores[0])[[i, j]], [1, 2])
             for i, j in itertools.combinations(range(4), 2)]  # fmt: skip
    np.testing.assert_allclose(np.mean(pairs), each[0], atol=1e-10)
    assert abs(np.mean([*pairs, each[1]]) - float(value)) > 1e-3


def test_label_smoothing_is_the_expectation_over_flipped_labels(x64, ranking):
    scores, batch = ranking(12, [[1, 2], [2, 1]], np.float64, margin=0.4)
    smooth, _ = jax.jit(losses.bradley_terry(label_smoothing=0.1))(scores, batch)
    plain, _ = bradley_terry(scores, batch)
    flipped, _ = bradley_terry(scores, batch._replace(ranks=3 - batch.ranks))
    np.testing.assert_allclose(smooth, 0.9 * plain + 0.1 * flipped, atol=1e-12)


def test_score_centering_is_the_square_of_the_sum(x64, ranking):
    scores, batch = ranking(13, padded([[1, 2, 0], [2, 2, 1]]), np.float64)
    values, _ = score_centering(scores, batch)
    s = np.asarray(scores)
    np.testing.assert_allclose(values[0], (s[0, 0] + s[0, 1]) ** 2)
    pairs = itertools.combinations(s[1, :3], 2)
    np.testing.assert_allclose(values[1], np.mean([(a + b) ** 2 for a, b in pairs]))


@pytest.mark.parametrize("name", [*PAIR_TERMS, "bradley_terry"])
def test_extreme_scores_keep_their_digits(name, ranking):
    """At scores of 1e4 the loss of a small difference is that of the difference."""
    terms = {**PAIR_TERMS, "bradley_terry": losses.bradley_terry()}
    ranks = (
        [[1, 2], [2, 1]] if name == "bradley_terry" else [[1, 1, 2, 3], [4, 3, 2, 1]]
    )
    _, batch = ranking(14, ranks)
    width = len(ranks[0])
    base = jnp.asarray([[0.0, 0.5, 1.0, 2.0][:width], [-1.0, 0.0, 3.0, 1.0][:width]])

    both = summed(terms[name])
    value, gradient = both(base, batch)
    lifted, lifted_gradient = both(base + 8192.0, batch)
    np.testing.assert_allclose(lifted, value, rtol=1e-6)
    np.testing.assert_allclose(lifted_gradient, gradient, rtol=1e-5, atol=1e-6)
    far = jnp.asarray([[1e4, -1e4, 1e4, 0.0][:width], [-1e4, 1e4, -1e4, 1e4][:width]])
    value, gradient = both(far, batch)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


@pytest.mark.parametrize("name", [*PAIR_TERMS, "score_centering"])
def test_ignored_responses_have_no_influence(name, ranking):
    terms = {**PAIR_TERMS, "score_centering": losses.score_centering()}
    scores, batch = ranking(15, [[1, 0, 2, 3], [0, 0, 0, 0], [2, 1, 1, 0]])
    loss = losses.combine(rm=losses.Term(terms[name]), reduction=losses.token_mean)

    @jax.jit
    def both(s):
        prepared = loss.prepare(batch, loss.init())[0]
        return jax.value_and_grad(
            lambda x: loss.apply(x, batch, prepared, 0), has_aux=True
        )(s)

    (value, report), gradient = both(scores)
    assert np.all(np.asarray(gradient)[np.asarray(batch.ranks) == 0] == 0)
    for garbage in (np.nan, np.inf, 1e30):
        spoiled = jnp.where(batch.ranks > 0, scores, garbage)
        (again, spoiled_report), spoiled_gradient = both(spoiled)
        assert value == again
        assert metrics.finish(report) == metrics.finish(spoiled_report)
        np.testing.assert_array_equal(gradient, spoiled_gradient)


def test_report_counts_untied_pairs_and_halves_equal_scores(ranking):
    _, batch = ranking(16, [[1, 2, 3], [1, 1, 1]])
    batch = batch._replace(weight=jnp.ones(2))
    scores = jnp.asarray([[2.0, 2.0, 3.0], [9.0, 9.0, 9.0]])
    _, report = plackett_luce(scores, batch)
    found = metrics.finish(report)
    assert found["reward_model/accuracy"] == pytest.approx(0.5 / 3)
    assert found["reward_model/margin"] == pytest.approx(-2 / 3)
    assert found["reward_model/scores"] == pytest.approx(7 / 3)


def test_bradley_terry_refuses_more_than_two(ranking):
    scores, batch = ranking(17, [[1, 2, 3]])
    with pytest.raises(ValueError, match="K = 3"):
        bradley_terry(scores, batch)


def test_unbounded_exponentials_would_fail(monkeypatch, ranking):
    """The stability test sees an implementation that exponentiates scores."""

    def naive(x, where, axis):
        return jnp.log(jnp.sum(jnp.where(where, jnp.exp(x), 0.0), axis=axis))

    monkeypatch.setattr(orderings, "logsumexp_where", naive)
    _, batch = ranking(18, [[1, 2, 3]])
    far = jnp.asarray([[-1e4, 1e4, 1e4]])
    value, _ = jax.jit(losses.plackett_luce())(far, batch)
    assert not np.isfinite(value).all()
