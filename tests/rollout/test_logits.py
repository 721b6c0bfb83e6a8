import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.errors import UserError
from rlhf_jax.rollout import logits as rules

STEP = jnp.zeros((), jnp.int32)


def softmax(x):
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def slow_top_k(row, k):
    """Keep a token if fewer than k tokens are strictly likelier."""
    return np.array([x if sum(row > x) < k else -np.inf for x in row])


def slow_top_p(row, p):
    """Keep a token if those strictly likelier hold less than p."""
    mass = softmax(row.astype(np.float64))
    return np.array([x if mass[row > x].sum() < p else -np.inf for x in row], row.dtype)


random_logits = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).normal(0, 2, (3, 9)).astype(np.float32)
)


@settings(max_examples=25, deadline=None)
@given(random_logits, st.integers(1, 12))
def test_top_k_is_the_slow_one(logits, k):
    ours = rules.top_k(k)(jnp.asarray(logits), STEP)
    np.testing.assert_array_equal(ours, [slow_top_k(row, k) for row in logits])


@settings(max_examples=25, deadline=None)
@given(random_logits, st.sampled_from([1e-6, 0.1, 0.37, 0.5, 0.83, 0.999]))
def test_top_p_is_the_slow_one(logits, p):
    ours = rules.top_p(p)(jnp.asarray(logits), STEP)
    np.testing.assert_array_equal(ours, [slow_top_p(row, p) for row in logits])


def test_top_p_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.15, 0.1]]))
    for p, kept in ((0.4, 1), (0.6, 2), (0.76, 3), (0.95, 4)):
        alive = np.isfinite(np.asarray(rules.top_p(p)(logits, STEP)))[0]
        np.testing.assert_array_equal(alive, np.arange(4) < kept)


def test_top_p_after_top_k_ignores_what_top_k_forbade():
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]]))
    chain = rules.standard(sampling_temperature=1.0, k=2, p=0.6)
    alive = np.isfinite(np.asarray(rules.apply_rules(chain, logits, STEP)))[0]
    # renormalized on the best two: 4/7 < 0.6, so both stay
    np.testing.assert_array_equal(alive, [True, True, False, False])


def test_temperature_comes_before_top_p():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.2]]))
    chain = rules.standard(sampling_temperature=0.25, p=0.8)
    alive = np.isfinite(np.asarray(rules.apply_rules(chain, logits, STEP)))[0]
    # at T = 1 two tokens are needed for 0.8; at T = 0.25 the first holds 0.87
    np.testing.assert_array_equal(alive, [True, False, False])


def test_stop_tokens_are_forbidden_before_the_minimum_length():
    logits = jnp.zeros((2, 5))
    rule = rules.forbid_before(3, (1, 4))
    for step, blocked in ((0, True), (2, True), (3, False)):
        ours = np.asarray(rule(logits, jnp.asarray(step)))
        assert np.isneginf(ours[:, [1, 4]]).all() == blocked
        assert (ours[:, [0, 2, 3]] == 0).all()


def test_rules_that_do_nothing_are_left_out():
    assert rules.standard(sampling_temperature=1.0, p=1.0, stop_tokens=(1,)) == ()
    assert rules.standard(sampling_temperature=0.0, min_length=2) == ()
    assert len(rules.standard(sampling_temperature=0.5, k=3, p=0.9)) == 3


@pytest.mark.parametrize("vocab", [2, 3, 16, 17, 101])
def test_draws_follow_the_softmax(vocab):
    """Chi-square of 20,000 draws at a fixed seed; five standard deviations allowed."""
    row = jax.random.normal(jax.random.key(vocab), (vocab,)) * 1.5
    count = 20_000
    tokens = rules.draw(jax.random.key(5), jnp.broadcast_to(row, (count, vocab)))
    observed = np.bincount(np.asarray(tokens), minlength=vocab)
    expected = count * softmax(np.asarray(row, np.float64))
    statistic = np.sum((observed - expected) ** 2 / expected)
    freedom = vocab - 1
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)


def test_a_forbidden_token_is_never_drawn():
    logits = np.full((4096, 1000), -np.inf, np.float32)
    allowed = np.random.default_rng(0).permutation(1000)[:300]
    logits[:, allowed] = np.random.default_rng(1).normal(0, 4, (4096, 300))
    tokens = rules.draw(jax.random.key(0), jnp.asarray(logits))
    assert np.isin(np.asarray(tokens), allowed).all()


def test_rounding_of_prefix_sums_draws_no_token_of_weight_zero(monkeypatch):
    """A parallel prefix sum may rise at a weight of 0 and end below its largest."""
    sums = jnp.array([[0.3, 0.30001, 1.0, 1.00001, 0.99999]])
    weights = jnp.array([[0.3, 0.0, 0.7, 0.0, 0.0]])
    monkeypatch.setattr(jnp, "cumsum", lambda x, axis: sums)
    for uniform, token in ((0.1, 0), (0.300005, 2), (1.0 - 2.0**-23, 2)):
        assert rules._inverse_cdf(jnp.array([uniform]), weights)[0] == token


def test_the_extremes_of_the_uniform_number_stay_inside():
    weights = jnp.array([[0.0, 0.3, 0.0, 0.7, 0.0]])
    largest = jnp.array([1.0 - 2.0**-23])
    assert rules._inverse_cdf(jnp.zeros(1), weights)[0] == 1
    assert rules._inverse_cdf(largest, weights)[0] == 3


@pytest.mark.identity("B10")
def test_training_refuses_a_truncated_support():
    """Top-k and top-p samples are refused for training, with the reason; evaluation is
    free to use them."""
    rules.check_trainable(sampling_temperature=0.7, k=None, p=1.0)
    for k, p in ((5, None), (None, 0.9)):
        assert rules.requires_support(k, p)
        with pytest.raises(UserError, match="evaluation and best-of-n may"):
            rules.check_trainable(sampling_temperature=1.0, k=k, p=p)
    with pytest.raises(UserError, match="greedy"):
        rules.check_trainable(sampling_temperature=0.0, k=None, p=None)


@pytest.mark.parametrize(
    "name, value",
    [
        ("max_length", 0),
        ("min_length", 9),
        ("sampling_temperature", -1.0),
        ("sampling_temperature", float("nan")),
        ("k", 0),
        ("p", 0.0),
        ("p", 1.5),
        ("samples_per_prompt", 0),
        ("tokens", (3, 50)),
    ],
)
def test_a_meaningless_setting_is_named(name, value):
    fine = dict(
        max_length=8,
        min_length=0,
        sampling_temperature=1.0,
        k=None,
        p=None,
        samples_per_prompt=1,
        tokens=(0,),
        vocab_size=50,
    )
    rules.check_settings(**fine)
    with pytest.raises(UserError, match="sampling: "):
        rules.check_settings(**fine | {name: value})


def test_a_temperature_is_zero_or_one_that_logits_can_be_divided_by():
    """The coldest one gives numbers whatever the logits; a colder one is refused."""

    def check(temperature):
        rules.check_settings(
            max_length=1,
            min_length=0,
            sampling_temperature=temperature,
            k=None,
            p=None,
            samples_per_prompt=1,
            tokens=(),
            vocab_size=2,
        )

    for good in (0, 0.0, rules.COLDEST, 1e30):
        check(good)
    for bad in (-1.0, 1e-40, rules.COLDEST / 2, np.inf, np.nan):
        with pytest.raises(UserError, match=f"temperature={bad} must be 0"):
            check(bad)
    cold = rules.temperature(rules.COLDEST)(jnp.asarray([[1e6, -1e6]]), STEP)
    assert bool(jnp.isfinite(cold).all())
