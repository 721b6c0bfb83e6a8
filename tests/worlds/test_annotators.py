import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import rng
from rlhf_jax.errors import UserError
from rlhf_jax.worlds import annotators
from rlhf_jax.worlds.annotators import Items

SCORES = jnp.asarray([-2.0, -0.5, 0.0, 0.1, 3.0])
LINKS = {
    "bradley_terry": annotators.bradley_terry(0.7, flip=0.1),
    "no noise": annotators.bradley_terry(0.0),
    "davidson": annotators.davidson(0.8, 0.7),
    "rao_kupper": annotators.rao_kupper(0.4, 0.7),
    "threshold": annotators.rao_kupper(0.4, 0.0),
}


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def everyone():
    """Pairs of all scores, with lengths and kinds."""
    items = Items(SCORES, jnp.asarray([3, 9, 1, 4, 4]), jnp.asarray([0, 1, 2, 0, 1]))
    i, j = np.divmod(np.arange(25), 5)
    return Items(*(x[i] for x in items)), Items(*(x[j] for x in items))


@pytest.mark.parametrize("name", LINKS)
def test_verdicts_are_probabilities_and_antisymmetric(name):
    """They sum to 1, and exchanging the responses exchanges the verdicts."""
    judge = annotators.annotator(LINKS[name], length_bias=0.05, cycle=0.6)
    first, second = everyone()
    there = judge.probabilities(first, second)
    back = judge.probabilities(second, first)
    assert np.all(np.asarray(there) >= 0)
    np.testing.assert_allclose(there.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(there, back[:, ::-1], atol=1e-6)


def test_closed_forms():
    m = np.array([-3.0, -0.2, 0.0, 0.5, 2.0])
    found = LINKS["bradley_terry"](jnp.asarray(m))
    p = sigmoid(m / 0.7)
    np.testing.assert_allclose(found[:, 0], 0.9 * p + 0.1 * (1 - p), atol=1e-6)
    assert not np.any(np.asarray(found[:, 1]))
    found = LINKS["davidson"](jnp.asarray(m))
    a, b = np.exp(m / 1.4), np.exp(-m / 1.4)
    np.testing.assert_allclose(found[:, 1], 0.8 / (a + b + 0.8), atol=1e-6)
    np.testing.assert_allclose(found[:, 0] / found[:, 2], np.exp(m / 0.7), rtol=1e-4)
    found = LINKS["rao_kupper"](jnp.asarray(m))
    theta = np.exp(0.4 / 0.7)
    wins = np.exp(m / 0.7) / (np.exp(m / 0.7) + theta)
    np.testing.assert_allclose(found[:, 0], wins, atol=1e-6)


def test_limits_are_those_of_simpler_annotators():
    """Without ties, Davidson and Rao-Kupper are Bradley-Terry."""
    m = jnp.linspace(-3, 3, 13)
    plain = annotators.bradley_terry(0.7)(m)
    for link in (annotators.davidson(0.0, 0.7), annotators.rao_kupper(0.0, 0.7)):
        np.testing.assert_allclose(link(m), plain, atol=1e-6)
    sharp = annotators.bradley_terry(0.0)(m)
    np.testing.assert_array_equal(sharp[:, 0], (np.sign(m) + 1) / 2)
    small = annotators.rao_kupper(0.5, 1e-4)(m + 0.01)
    np.testing.assert_allclose(
        annotators.rao_kupper(0.5, 0.0)(m + 0.01), small, atol=1e-6
    )


def test_a_length_bias_is_worth_its_tokens():
    """A response 10 tokens longer is preferred as one with 0.5 more score."""
    biased = annotators.annotator(annotators.bradley_terry(), length_bias=0.05)
    even = (
        Items(jnp.zeros(1), jnp.asarray([20])),
        Items(jnp.zeros(1), jnp.asarray([10])),
    )
    found = biased.probabilities(*even)
    assert float(found[0, 0]) == pytest.approx(sigmoid(0.5), abs=1e-6)


@pytest.mark.identity("C27")
def test_a_cycle_has_no_scores():
    """Rock, paper, scissors: each kind beats one and loses to one with the same
    probability, so the Bradley-Terry fit of all pairs has equal scores."""
    judge = annotators.annotator(annotators.bradley_terry(), cycle=2.0)
    kinds = jnp.arange(3)
    pairs = list(itertools.permutations(range(3), 2))
    first, second = (
        Items(jnp.zeros(6), kind=kinds[jnp.asarray([pair[i] for pair in pairs])])
        for i in (0, 1)
    )
    p = np.asarray(judge.probabilities(first, second), np.float64)[:, 0]
    wins = dict(zip(pairs, p, strict=True))
    assert wins[1, 0] == wins[2, 1] == wins[0, 2] == pytest.approx(sigmoid(2.0))
    scores = np.array([0.5, -1.0, 0.2])
    for _ in range(200):
        slope = np.zeros(3)
        for (a, b), won in wins.items():
            slope[a] += won - sigmoid(scores[a] - scores[b])
        scores += slope
    assert np.ptp(scores) < 1e-6


def test_a_mixture_is_the_mean_of_its_annotators():
    likes = annotators.annotator(annotators.bradley_terry())
    hates = annotators.annotator(lambda m: annotators.bradley_terry()(-m))
    both = annotators.mixture([likes, hates], [0.7, 0.3])
    first, second = everyone()
    expected = 0.7 * likes.probabilities(first, second) + 0.3 * hates.probabilities(
        first, second
    )
    np.testing.assert_allclose(both.probabilities(first, second), expected, atol=1e-6)
    nested = annotators.mixture([both, likes], [0.5, 0.5])
    assert nested.weights == pytest.approx((0.35, 0.15, 0.5))


@pytest.mark.parametrize("name", LINKS)
def test_labels_are_drawn_from_the_probabilities(name):
    judge = annotators.annotator(LINKS[name])
    first, second = everyone()
    many = [Items(*(jnp.repeat(x, 4000) for x in side)) for side in (first, second)]
    drawn = np.asarray(annotators.label(judge, rng.root(0), *many)).reshape(25, 4000)
    found = np.stack([(drawn == v).mean(1) for v in (1, 0, -1)], axis=1)
    truth = np.asarray(judge.probabilities(first, second))
    np.testing.assert_allclose(found, truth, atol=0.035)
    assert set(np.unique(drawn)) <= {-1, 0, 1}


@pytest.mark.parametrize("name", ["bradley_terry", "rao_kupper", "davidson"])
def test_two_responses_are_ranked_as_they_are_labelled(name):
    judge = annotators.mixture(
        [annotators.annotator(LINKS[name]), annotators.annotator(LINKS["no noise"])],
        [0.5, 0.5],
    )
    pair = jnp.broadcast_to(jnp.asarray([0.6, 0.0]), (20_000, 2))
    ranks = np.asarray(annotators.rank(judge, rng.root(1), Items(pair)))
    found = [np.mean((ranks == r).all(1)) for r in ([1, 2], [1, 1], [2, 1])]
    truth = judge.probabilities(Items(pair[0, 0]), Items(pair[0, 1]))
    np.testing.assert_allclose(found, truth, atol=0.015)


def test_without_noise_a_tournament_sorts():
    scores = jnp.asarray([[0.3, -1.0, 2.0, 0.9], [5.0, 4.0, 3.0, 2.0]])
    judge = annotators.annotator(annotators.bradley_terry(0.0))
    ranks = annotators.rank(judge, rng.root(0), Items(scores))
    np.testing.assert_array_equal(ranks, [[3, 4, 1, 2], [1, 2, 3, 4]])
    ties = annotators.annotator(annotators.rao_kupper(0.5, 0.0))
    ranks = annotators.rank(
        ties, rng.root(0), Items(jnp.asarray([[0.0, 0.1, 2.0, 2.1]]))
    )
    np.testing.assert_array_equal(ranks, [[3, 3, 1, 1]])


def test_one_annotator_judges_a_whole_row():
    """Rankings of a mixture of opposites are one order or its reverse."""
    likes = annotators.annotator(annotators.bradley_terry(0.0))
    hates = annotators.annotator(lambda m: annotators.bradley_terry(0.0)(-m))
    judge = annotators.mixture([likes, hates], [0.7, 0.3])
    scores = jnp.broadcast_to(jnp.arange(4.0), (2000, 4))
    ranks = np.asarray(annotators.rank(judge, rng.root(2), Items(scores)))
    up = (ranks == [4, 3, 2, 1]).all(1)
    down = (ranks == [1, 2, 3, 4]).all(1)
    assert np.all(up | down) and up.mean() == pytest.approx(0.7, abs=0.03)


@pytest.mark.identity("C8")
def test_plackett_luce_rankings_have_their_probabilities():
    """Every order of three has its product of softmaxes; two make Bradley-Terry."""
    scores = np.array([0.5, -0.3, 1.0])
    rows = jnp.broadcast_to(jnp.asarray(scores), (40_000, 3))
    ranks = np.asarray(
        annotators.plackett_luce_rank(rng.root(0), rows, temperature=0.5)
    )
    for order in itertools.permutations(range(3)):
        wanted = np.empty(3)
        wanted[list(order)] = [1, 2, 3]
        weight = np.exp(scores[list(order)] / 0.5)
        truth = np.prod([weight[k] / weight[k:].sum() for k in range(3)])
        assert np.mean((ranks == wanted).all(1)) == pytest.approx(truth, abs=0.012)
    flipped = annotators.plackett_luce_rank(
        rng.root(1), rows[:, :2], temperature=0.5, flip=0.2
    )
    link = annotators.bradley_terry(0.5, flip=0.2)
    first = float(link(jnp.asarray(scores[0] - scores[1]))[0])
    assert np.mean(np.asarray(flipped)[:, 0] == 1) == pytest.approx(first, abs=0.012)


def test_the_ceiling_is_the_best_accuracy():
    p = annotators.bradley_terry()(jnp.asarray([0.0, 2.0, -1.0]))
    truth = np.mean([0.5, sigmoid(2.0), sigmoid(1.0)])
    assert float(annotators.ceiling(p)) == pytest.approx(truth, abs=1e-6)
    assert float(annotators.ceiling(annotators.davidson(1.0)(jnp.zeros(2)))) == 0.5


def test_labels_compile():
    judge = annotators.annotator(LINKS["davidson"], length_bias=0.1, cycle=0.1)
    first, second = everyone()
    eager = annotators.label(judge, rng.root(0), first, second)
    compiled = jax.jit(lambda key, a, b: annotators.label(judge, key, a, b))
    np.testing.assert_array_equal(compiled(rng.root(0), first, second), eager)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: annotators.bradley_terry(-1.0), "temperature=-1.0"),
        (lambda: annotators.bradley_terry(flip=0.6), "at most 0.5"),
        (lambda: annotators.davidson(1.0, 0.0), "rao_kupper"),
        (lambda: annotators.rao_kupper(-0.1), "threshold"),
        (lambda: annotators.mixture([], [0.5]), "0 annotators"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("setting", ["length_bias", "cycle"])
def test_what_is_not_seen_cannot_be_judged(setting):
    judge = annotators.annotator(annotators.bradley_terry(), **{setting: 0.1})
    with pytest.raises(UserError, match="needs Items"):
        judge.probabilities(Items(jnp.zeros(1)), Items(jnp.zeros(1)))
