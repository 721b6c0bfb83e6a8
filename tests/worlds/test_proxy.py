"""Reward models of enumerable worlds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import rng
from rlhf_jax.worlds import enumerable, proxy

WORLD = enumerable.e64(0)
KEY = rng.root(0)
HOT = jnp.asarray(proxy.features(WORLD))


def trained(rankings, counts, key=KEY, steps=30):
    start = proxy.initial(rng.named(key, "start"), len(counts), HOT.shape[1], 4)
    given = jnp.asarray(counts)
    return proxy.train(
        start, HOT, rankings, given, key, loss=proxy.bradley_terry, steps=steps
    )


def test_features_are_one_hot_tokens():
    hot = proxy.features(WORLD).reshape(64, 3, 4)
    np.testing.assert_array_equal(hot.argmax(axis=2), enumerable.contents(4, 3))
    np.testing.assert_array_equal(hot.sum(axis=2), 1.0)


@pytest.mark.identity("C23")
@pytest.mark.parametrize(("sharpness", "flip"), [(2.0, 0.0), (1.0, 0.25)])
def test_labels_are_bradley_terry_of_reference_responses(sharpness, flip):
    """P(the better by gold is called better) is sigmoid of the scaled gap, flipped at
    the rate given, and responses come as the reference has them (4 standard errors)."""
    drawn = proxy.compared(WORLD, KEY, 20_000, sharpness=sharpness, flip=flip)
    chosen, rejected = np.asarray(drawn).T
    gap = WORLD.gold[chosen] - WORLD.gold[rejected]
    real = gap != 0
    clean = 1 / (1 + np.exp(-sharpness * np.abs(gap[real])))
    p = (1 - 2 * flip) * clean + flip
    error = np.sqrt(np.sum(p * (1 - p))) / real.sum()
    assert abs(np.mean(gap[real] > 0) - p.mean()) < 4 * error
    share = np.bincount(np.asarray(drawn).ravel(), minlength=64) / drawn.size
    mass = enumerable.reference(WORLD)
    assert np.all(np.abs(share - mass) < 4 * np.sqrt(mass / drawn.size) + 1e-4)


def test_responses_of_a_policy_are_its_own():
    policy = np.zeros(64)
    policy[[5, 9]] = 0.25, 0.75
    drawn = np.asarray(proxy.compared(WORLD, KEY, 4000, policy=policy, responses=3))
    assert set(np.unique(drawn)) == {5, 9} and drawn.shape == (4000, 3)
    assert np.mean(drawn == 9) == pytest.approx(0.75, abs=0.02)


def test_models_do_not_see_each_other_nor_the_padding():
    """A model trains as it would alone, whatever stands behind its own rankings."""
    rankings = proxy.compared(WORLD, KEY, 40).reshape(1, 40, 2)
    garbage = jnp.concatenate([rankings[:, :20], 63 - rankings[:, 20:]], axis=1)
    both = trained(jnp.concatenate([rankings, garbage]), [20, 20])
    other = trained(jnp.concatenate([garbage, rankings]), [20, 40])
    first, second = (jax.tree.map(lambda x: np.asarray(x[0]), t) for t in (both, other))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_training_learns_the_order_of_gold():
    rankings = proxy.compared(WORLD, KEY, 2000, sharpness=4.0)
    (score,) = proxy.learned(WORLD, KEY, rankings[None], [2000], steps=300)
    mass = enumerable.reference(WORLD)
    assert mass @ score == pytest.approx(0.0, abs=1e-9)
    assert mass @ score**2 == pytest.approx(1.0)
    first, second = np.asarray(proxy.compared(WORLD, rng.root(1), 2000, sharpness=99)).T
    assert np.mean(score[first] > score[second]) > 0.6
    turned = jnp.flip(rankings, axis=1)
    (wrong,) = proxy.learned(WORLD, KEY, turned[None], [2000], steps=300)
    assert np.mean(wrong[first] > wrong[second]) < 0.4


@pytest.mark.identity("C29")
def test_an_ensemble_of_one_opinion_is_that_opinion():
    """Mean, worst and mean less variance of identical members are the member; without
    penalty the last is the mean."""
    score = np.random.default_rng(0).normal(size=64)
    for kind in ("mean", "wco", "uwo"):
        found = proxy.ensemble(np.stack([score] * 3), kind)
        np.testing.assert_allclose(found, score, atol=1e-12)
    two = np.random.default_rng(1).normal(size=(2, 64))
    np.testing.assert_allclose(proxy.ensemble(two, "uwo", 0.0), two.mean(axis=0))
    np.testing.assert_allclose(proxy.ensemble(two, "wco"), two.min(axis=0))
    uwo = two.mean(axis=0) - 0.5 * (two[0] - two[1]) ** 2 / 4
    np.testing.assert_allclose(proxy.ensemble(two, "uwo"), uwo)
