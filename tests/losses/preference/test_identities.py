"""Facts about preference losses that hold exactly."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses
from rlhf_jax.losses import preference as p

BETA = 0.7
plackett_luce_dpo_loss = jax.jit(p.plackett_luce_dpo_loss, static_argnames="beta")


@pytest.mark.identity("C6", "C22", "I28")
def test_losses_at_the_reference():
    """At pi = pi_ref: DPO log 2, IPO 1/(4 tau^2), KTO half its mean weight, PL log K!.

    SimPO and ORPO, which have no reference, give no such constant."""
    draw = np.random.default_rng(0)
    w, v = (jnp.asarray(-draw.gamma(4, 5, 6), jnp.float32) for _ in "ab")
    for loss in (p.dpo_loss, p.cdpo_loss, p.robust_loss):
        np.testing.assert_allclose(loss(w, v, w, v), math.log(2), rtol=1e-6)
    np.testing.assert_allclose(p.ipo_loss(w, v, w, v, tau=0.2), 1 / 0.16, rtol=1e-6)
    good = jnp.asarray([True, True, False, True, False, False])
    weights = {"desirable_weight": 1.2, "undesirable_weight": 0.6}
    kto = p.kto_loss(w, w, good, jnp.zeros(()), **weights)
    np.testing.assert_allclose(kto, np.where(good, 0.6, 0.3), rtol=1e-6)
    ranks = jnp.asarray([[2, 1, 4, 3]])
    values = plackett_luce_dpo_loss(w[None, :4], w[None, :4], ranks)
    np.testing.assert_allclose(values, math.log(24), rtol=1e-6)
    lengths = jnp.full(6, 4.0)
    for loss in (p.simpo_loss, p.orpo_loss):
        assert np.abs(loss(w, v, lengths, lengths) - math.log(2)).min() > 0.01


@pytest.mark.identity("C7")
def test_robust_dpo_is_unbiased_under_flips(x64):
    """E over flipped labels of robust DPO is DPO on clean ones; cDPO's optimum is
    logit(1 - e)/beta, and its mean over flips is not DPO."""
    draw = np.random.default_rng(0)
    rows = [jnp.asarray(draw.normal(-20, 5, 9)) for _ in range(4)]
    e = 0.15
    flipped = [rows[1], rows[0], rows[3], rows[2]]

    def expectation(loss):
        options = {"beta": BETA, "label_smoothing": e}
        return (1 - e) * loss(*rows, **options) + e * loss(*flipped, **options)

    clean = p.dpo_loss(*rows, beta=BETA)
    np.testing.assert_allclose(expectation(p.robust_loss), clean, atol=1e-10)
    assert np.abs(expectation(p.cdpo_loss) - clean).max() > 0.01

    def loss_of_gap(gap):
        zero = jnp.zeros(1)
        options = {"beta": BETA, "label_smoothing": e}
        return p.cdpo_loss(zero + gap, zero, zero, zero, **options)[0]

    optimum = math.log((1 - e) / e) / BETA
    assert abs(jax.grad(loss_of_gap)(optimum)) < 1e-12


@pytest.mark.identity("C8")
def test_plackett_luce_dpo(x64):
    """PL-DPO at K = 2 is DPO; the probabilities of all orders sum to one; its gradient
    is the sum over stages of softmax less choice."""
    draw = np.random.default_rng(0)
    policy, ref = (jnp.asarray(draw.normal(-20, 4, (24, 4))) for _ in "ab")
    both = jnp.asarray([[1, 2]] * 24)
    pair = plackett_luce_dpo_loss(policy[:, :2], ref[:, :2], both, beta=0.4)
    sides = (policy[:, 0], policy[:, 1], ref[:, 0], ref[:, 1])
    np.testing.assert_allclose(pair, p.dpo_loss(*sides, beta=0.4), atol=1e-10)

    orders = np.asarray(list(itertools.permutations(range(1, 5))))
    one = (jnp.tile(policy[:1], (24, 1)), jnp.tile(ref[:1], (24, 1)))
    loss = plackett_luce_dpo_loss(*one, jnp.asarray(orders), beta=0.4)
    np.testing.assert_allclose(np.exp(-loss).sum(), 1.0, atol=1e-10)

    def first(x):
        return plackett_luce_dpo_loss(
            x[None], ref[:1], jnp.asarray(orders[7:8]), beta=0.4
        )[0]

    h = 0.4 * np.asarray(policy[0] - ref[0])
    expected, left = np.zeros(4), list(np.argsort(orders[7]))
    while left:
        weights = np.exp(h[left] - h[left].max())
        expected[left] += 0.4 * weights / weights.sum()
        expected[left.pop(0)] -= 0.4
    np.testing.assert_allclose(
        jax.jit(jax.grad(first))(policy[0]), expected, atol=1e-10
    )


MARGIN_LOSSES = [
    p.dpo_loss, p.cdpo_loss, p.robust_loss, p.ipo_loss, p.hinge_loss, p.rso_loss,
    p.exo_loss, p.discopop_loss,
]  # fmt: skip


@pytest.mark.identity("C9")
@pytest.mark.parametrize("loss", MARGIN_LOSSES, ids=lambda f: f.__name__)
def test_a_constant_of_the_prompt_changes_no_margin_loss(loss, x64):
    """A shift of both responses' log-ratios, hence r -> r + c(x), changes nothing."""
    draw = np.random.default_rng(1)
    w, v, ref_w, ref_l, c = (jnp.asarray(draw.normal(-20, 5, 9)) for _ in range(5))
    expected = loss(w, v, ref_w, ref_l)
    np.testing.assert_allclose(loss(w + c, v + c, ref_w, ref_l), expected, atol=1e-10)


@pytest.mark.identity("B20")
def test_labels_prompt_and_sums(preferences):
    """Swapped labels negate the margin; the prompt's log-prob cancels; sums are sums.

    The bugs: chosen and rejected swapped, prompt tokens summed, an average for a sum.
    """
    outputs, batch = preferences(0, [[1, 2], [2, 1], [1, 2], [1, 2]])

    def margin(outputs, batch):
        found = p.dpo(beta=0.3)(outputs, batch)[1]["preference/margin"]
        return float(found.total)

    def check(change):
        swapped = batch._replace(ranks=3 - batch.ranks)
        before = margin(outputs, change(batch))
        after = margin(outputs, change(swapped))
        assert before != 0
        assert after == pytest.approx(-before)

    check(lambda batch: batch)
    with pytest.raises(AssertionError):  # the bug: columns taken for labels
        check(lambda batch: batch._replace(ranks=jnp.asarray([[1, 2]] * 4)))

    prompt = jnp.asarray([[-3.0], [-11.0], [-0.5], [-7.0]])
    with_prompt = outputs._replace(logprobs=outputs.logprobs + prompt)
    reference = batch._replace(ref_logprobs=batch.ref_logprobs + 0.5 * prompt)
    values, _ = p.dpo()(outputs, batch)
    same, _ = p.dpo()(with_prompt, reference)
    np.testing.assert_allclose(same, values, rtol=1e-4)
    # A method without reference has nothing that would cancel the prompt's tokens.
    simpo, _ = p.simpo()(outputs, batch)
    spoiled, _ = p.simpo()(with_prompt, batch)
    assert np.abs(simpo - spoiled).max() > 0.01

    averaged = outputs._replace(logprobs=outputs.logprobs / batch.lengths)
    ref_averaged = batch._replace(ref_logprobs=batch.ref_logprobs / batch.lengths)
    wrong, _ = p.dpo()(averaged, ref_averaged)
    assert np.abs(wrong - values).max() > 0.01
    named, _ = p.normalized_dpo(beta=0.1)(outputs, batch)
    np.testing.assert_allclose(wrong, named, rtol=1e-5)


@pytest.mark.identity("I19", "B20", "B1")
def test_a_sequence_logprob_is_that_of_the_response_and_all_of_it():
    """The sum has the first response token and the end token, no prompt, no padding."""
    # Two prompt tokens (one padded), then a response, its end, padding on the right.
    response = jnp.asarray([[0, 0, 1, 1, 1, 0], [0, 0, 1, 0, 0, 0]], bool)
    nan = jnp.nan
    tokens = jnp.asarray([[nan, -1.0, -2.0, -4.0, nan], [-9.0, -3.0, nan, nan, nan]])

    def check(function):
        sums, lengths = function(tokens, response)
        np.testing.assert_array_equal(sums, [-7.0, -3.0])
        np.testing.assert_array_equal(lengths, [3.0, 1.0])

    check(p.sequence_logprobs)
    ranked = p.sequence_logprobs(tokens[None].astype(jnp.bfloat16), response[None])
    np.testing.assert_array_equal(ranked[0], [[-7.0, -3.0]])
    assert ranked[0].dtype == jnp.float32
    for wrong in (
        lambda x, m: p.sequence_logprobs(x, jnp.roll(m, 1, axis=1)),  # off by one
        lambda x, m: p.sequence_logprobs(x, jnp.roll(m, -1, axis=1)),
        lambda x, m: p.sequence_logprobs(x, jnp.ones_like(m)),  # with the prompt
    ):
        with pytest.raises(AssertionError):
            check(wrong)
    with pytest.raises(ValueError, match="5 tokens for a mask of 5"):
        p.sequence_logprobs(tokens, response[:, 1:])


@pytest.mark.identity("B21")
def test_the_reference_point_of_kto(labels):
    """z0 comes from other prompts' responses, has no gradient, and is not negative."""
    outputs, batch = labels(2, 8)
    z0 = p.reference_point(batch)
    mask, weight = np.asarray(batch.mask), np.asarray(batch.weight)
    gap = np.asarray(batch.mismatched_logprobs - batch.mismatched_ref_logprobs)
    np.testing.assert_allclose(z0, np.average(gap[mask], weights=weight[mask]), 1e-5)
    swapped = batch._replace(
        mismatched_logprobs=batch.mismatched_ref_logprobs,
        mismatched_ref_logprobs=batch.mismatched_logprobs,
    )
    assert p.reference_point(swapped) == 0.0

    for loss in (p.kto_loss, p.bco_loss):  # no gradient, whoever made the number

        def of_point(point, loss=loss):
            rows = (outputs.logprobs, batch.ref_logprobs, batch.labels)
            return jnp.sum(loss(*rows, point))

        assert jax.grad(of_point)(z0) == 0.0

    def gradient(point):
        def total(shift):
            moved = batch._replace(
                mismatched_logprobs=batch.mismatched_logprobs + shift
            )
            loss = p.kto_loss(
                outputs.logprobs + shift, batch.ref_logprobs, batch.labels, point(moved)
            )
            return jnp.sum(jnp.where(batch.mask, loss, 0.0))

        return float(jax.grad(total)(0.0))

    fixed = gradient(lambda moved: z0)
    assert gradient(p.reference_point) == pytest.approx(fixed)

    def leaky_loss(policy, ref, good, point):
        gap = 0.1 * (policy - ref - point)
        return jax.nn.sigmoid(jnp.where(good, -gap, gap))

    def leaky(shift):
        moved = jnp.mean((gap + shift)[mask])
        loss = leaky_loss(
            outputs.logprobs + shift, batch.ref_logprobs, batch.labels, moved
        )
        return jnp.sum(jnp.where(batch.mask, loss, 0.0))

    assert abs(float(jax.grad(leaky)(0.0)) - fixed) > 1e-3  # the bug


@pytest.mark.identity("B21")
def test_mismatched_rows_are_of_other_prompts():
    """Every response is borrowed once, and never by its own prompt."""

    def check(partner, prompts):
        assert sorted(partner) == list(range(len(prompts)))
        assert all(prompts[i] != prompts[j] for i, j in enumerate(partner))

    for prompts in ("aabbcc", "abc", "aab" + "cdde", ["x", "y", "x", "y"]):
        check(p.mismatched(prompts), prompts)
    with pytest.raises(AssertionError):  # the bug: the neighbour, of the same prompt
        check(np.roll(np.arange(6), 1), "aabbcc")
    with pytest.raises(Exception, match="one prompt has 3 of 4 rows"):
        p.mismatched("aaab")


@pytest.mark.identity("I18")
def test_orpo_is_stable_as_p_goes_to_one():
    """log(p / (1 - p)) keeps its digits and gradient up to p = 1."""

    def check(function):
        x = -np.logspace(-6, 2, 33).astype(np.float32)
        exact = x.astype(np.float64) - np.log(-np.expm1(x.astype(np.float64)))
        value, slope = jax.vmap(jax.value_and_grad(function))(jnp.asarray(x))
        np.testing.assert_allclose(value, exact, rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(
            slope, -1 / np.expm1(x.astype(np.float64)), rtol=1e-5
        )
        for edge in (0.0, -1e-9, 1e-7):
            value, slope = jax.value_and_grad(function)(jnp.float32(edge))
            assert np.isfinite(value) and np.isfinite(slope) and slope > 1e5

    check(lambda x: p.log_odds(x[None])[0])
    with pytest.raises(AssertionError):  # the bug: log1p(-exp(x))
        check(lambda x: x - jnp.log1p(-jnp.exp(x)))
    ones = jnp.ones(2)
    certain = p.orpo_loss(jnp.zeros(2), jnp.zeros(2), ones, ones)
    np.testing.assert_allclose(certain, 0.1 * math.log(2), rtol=1e-6)


@pytest.mark.identity("B26")
def test_a_ranking_is_one_element_and_counts_once(preferences):
    """A prompt with K responses has the weight of one prompt, whatever K."""
    outputs, batch = preferences(3, [[1, 2, 3, 4], [2, 1, 0, 0]])
    batch = batch._replace(weight=jnp.ones(2))
    loss = losses.combine(
        term=losses.Term(p.plackett_luce_dpo()), reduction=losses.token_mean
    )
    prepared, _ = loss.prepare(batch, loss.init())
    value, _ = jax.jit(loss.apply)(outputs, batch, prepared, 0)
    each, _ = jax.jit(p.plackett_luce_dpo())(outputs, batch)
    np.testing.assert_allclose(value, np.mean(each), rtol=1e-6)
