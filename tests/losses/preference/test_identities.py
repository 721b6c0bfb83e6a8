"""Facts about preference losses that hold exactly, on worlds small enough to count."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses
from rlhf_jax.losses import preference as p

SIZE, BETA = 12, 0.7


class World:
    """A dozen responses to one prompt: gold reward, reference, lengths, BT labels."""

    def __init__(self, seed=0):
        draw = np.random.default_rng(seed)
        self.reward = draw.normal(0, 1, SIZE)
        self.ref = jax.nn.log_softmax(jnp.asarray(draw.normal(0, 1, SIZE)))
        self.lengths = jnp.asarray(draw.integers(1, 9, SIZE).astype(np.float64))
        both = list(itertools.permutations(range(SIZE), 2))
        self.first, self.second = np.asarray(both).T
        gap = self.reward[self.first] - self.reward[self.second]
        self.label = jnp.asarray(1 / (1 + np.exp(-gap)))

    def pairs(self, logprobs, pairs=slice(None)):
        first, second = self.first[pairs], self.second[pairs]
        return logprobs[first], logprobs[second], self.ref[first], self.ref[second]

    def tilt(self, reward):
        return np.asarray(jax.nn.softmax(self.ref + jnp.asarray(reward) / BETA))


def minimum(objective, start, steps=30):
    """Newton's method on logits, which have one free direction or more."""
    slope, bend = jax.jit(jax.grad(objective)), jax.jit(jax.hessian(objective))
    for _ in range(steps):
        step = np.linalg.lstsq(bend(start), slope(start), rcond=1e-11)[0]
        start = start - jnp.asarray(step / max(1.0, np.abs(step).max()))
    assert np.abs(slope(start)).max() < 1e-9
    return np.asarray(jax.nn.log_softmax(start))


def total_variation(a, b):
    return 0.5 * np.abs(a - b).sum()


def centered(x):
    return x - np.mean(x)


@pytest.fixture
def world(x64):
    return World()


@pytest.mark.identity("C4")
def test_the_population_optimum_of_dpo_is_the_tilt(world):
    """DPO's population optimum is pi_ref e^{r/beta}/Z, its rewards the centered r."""

    def optimum(reference):
        def objective(logits):
            a, b, ref_a, ref_b = world.pairs(jax.nn.log_softmax(logits))
            loss = p.dpo_loss(a, b, reference * ref_a, reference * ref_b, beta=BETA)
            return jnp.mean(world.label * loss)

        return minimum(objective, jnp.zeros(SIZE))

    found = optimum(1.0)
    assert total_variation(np.exp(found), world.tilt(world.reward)) < 1e-6
    rewards = BETA * (found - np.asarray(world.ref))
    np.testing.assert_allclose(centered(rewards), centered(world.reward), atol=1e-6)
    # The bug: the reference is left out.
    assert total_variation(np.exp(optimum(0.0)), world.tilt(world.reward)) > 0.1


@pytest.mark.identity("C4")
@pytest.mark.parametrize("name", ["forward_kl", "jensen_shannon", "alpha_divergence"])
def test_the_population_optimum_of_f_dpo_has_its_reward(name, world):
    """At f-DPO's population optimum beta f'(pi/pi_ref) is the centered reward."""
    derivative = (
        p.alpha_divergence(0.5) if name == "alpha_divergence" else vars(p)[name]
    )
    reward = 0.4 * world.reward  # within the reach of divergences that saturate
    gap = reward[world.first] - reward[world.second]
    label = jnp.asarray(1 / (1 + np.exp(-gap)))

    def objective(logits):
        arguments = world.pairs(jax.nn.log_softmax(logits))
        return jnp.mean(
            label * p.f_dpo_loss(*arguments, derivative=derivative, beta=2.0)
        )

    found = minimum(objective, world.ref)
    implied = 2.0 * derivative(jnp.asarray(found) - world.ref)
    np.testing.assert_allclose(centered(implied), centered(reward), atol=1e-6)


@pytest.mark.identity("C4")
def test_length_penalized_dpo_is_the_tilt_of_the_penalized_reward(world):
    """R-DPO's population optimum is the tilt of r - alpha |y|: longer is worse."""

    def objective(logits):
        arguments = world.pairs(jax.nn.log_softmax(logits))
        lengths = world.lengths[world.first], world.lengths[world.second]
        loss = p.length_penalized_dpo_loss(*arguments, *lengths, beta=BETA, alpha=0.2)
        return jnp.mean(world.label * loss)

    found = np.exp(minimum(objective, jnp.zeros(SIZE)))
    wanted = world.tilt(world.reward - 0.2 * np.asarray(world.lengths))
    assert total_variation(found, wanted) < 1e-6


@pytest.mark.identity("C4")
def test_the_population_optimum_of_ipo_is_the_tilt_of_win_rates(world):
    """IPO's population optimum tilts by the win rate against the pair distribution."""

    def objective(logits):
        arguments = world.pairs(jax.nn.log_softmax(logits))
        return jnp.mean(world.label * p.ipo_loss(*arguments, tau=0.5))

    found = minimum(objective, jnp.zeros(SIZE))
    gap = world.reward[:, None] - world.reward[None]
    win_rate = np.mean(1 / (1 + np.exp(-gap)), axis=1)
    wanted = np.asarray(jax.nn.softmax(world.ref + jnp.asarray(win_rate) / 0.5))
    assert total_variation(np.exp(found), wanted) < 1e-6


@pytest.mark.identity("C5")
def test_dpo_says_nothing_off_the_support_of_the_data(world):
    """With pairs of half the responses: conditional exact, their mass left free."""
    half = SIZE // 2
    kept = np.flatnonzero((world.first < half) & (world.second < half))

    def objective(logits):
        arguments = world.pairs(jax.nn.log_softmax(logits), kept)
        return jnp.mean(world.label[kept] * p.dpo_loss(*arguments, beta=BETA))

    masses, conditionals = [], []
    for seed in range(3):
        start = jnp.asarray(np.random.default_rng(seed).normal(0, 1.5, SIZE))
        found = np.exp(minimum(objective, start))
        masses.append(found[:half].sum())
        conditionals.append(found[:half] / masses[-1])
    wanted = world.tilt(world.reward)[:half]
    for conditional in conditionals:
        assert np.abs(conditional - wanted / wanted.sum()).max() < 1e-8
    assert max(masses) - min(masses) > 0.05


plackett_luce_dpo_loss = jax.jit(p.plackett_luce_dpo_loss, static_argnames="beta")


@pytest.mark.identity("C6", "I28")
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


@pytest.mark.identity("C26")
def test_spin_stands_still_at_the_data(x64):
    """SPIN (DPO of data against the own samples) has gradient 0 only at pi = p_data."""
    draw = np.random.default_rng(0)
    data = jax.nn.softmax(jnp.asarray(draw.normal(0, 1, 8)))
    other = jax.nn.softmax(jnp.asarray(draw.normal(0, 1, 8)))
    y, rival = (x.ravel() for x in jnp.meshgrid(jnp.arange(8), jnp.arange(8)))

    def gradient(opponent):
        ref = jnp.log(opponent)

        def objective(logits):
            logprobs = jax.nn.log_softmax(logits)
            loss = p.dpo_loss(logprobs[y], logprobs[rival], ref[y], ref[rival])
            return jnp.sum(data[y] * opponent[rival] * loss)

        return jax.grad(objective)(ref)

    assert np.abs(gradient(data)).max() < 1e-8
    assert np.abs(gradient(other)).max() > 1e-3


WIN = np.asarray([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]])
"""Rock, paper, scissors: row beats column."""


@pytest.mark.identity("C27")
def test_rock_paper_scissors_has_no_reward_but_an_equilibrium(x64):
    """DPO's rewards of rock-paper-scissors are constant; online IPO, regularized to
    uniform, ends at the Nash equilibrium; SPPO stands still there and cycles around."""
    y, rival = (jnp.asarray(x) for x in np.nonzero(np.ones((3, 3))))
    label, uniform = jnp.asarray(WIN)[y, rival], jnp.full(3, 1 / 3)

    def pairs(logprobs, ref):
        return logprobs[y], logprobs[rival], ref[y], ref[rival]

    def dpo(logits):
        logprobs = jax.nn.log_softmax(logits)
        return jnp.mean(
            label * p.dpo_loss(*pairs(logprobs, jnp.log(uniform)), beta=1.0)
        )

    rewards = minimum(dpo, jnp.asarray([0.5, -0.4, 0.1]))
    assert np.ptp(rewards) < 1e-8

    def online_ipo(logits, drawn):
        logprobs = jax.nn.log_softmax(logits)
        weight = drawn[y] * drawn[rival] * label
        return jnp.sum(weight * p.ipo_loss(*pairs(logprobs, jnp.log(uniform)), tau=0.5))

    step = jax.jit(lambda z: z - 0.1 * jax.grad(online_ipo)(z, jax.nn.softmax(z)))
    logits = jnp.asarray([1.5, -1.0, 0.2])
    assert total_variation(jax.nn.softmax(logits), uniform) > 0.3
    for _ in range(300):
        logits = step(logits)
    assert total_variation(jax.nn.softmax(logits), uniform) < 0.02

    def sppo(policy):
        """Gradient of the round that starts from this policy, eta = 1."""
        ref, win = jnp.log(policy), jnp.asarray(WIN) @ policy

        def objective(logits):
            logprobs = jax.nn.log_softmax(logits)
            # The paper's half is the winner's; the other one is constant here.
            loss = p.sppo_loss(logprobs, ref, ref, ref, beta=1.0, win_probability=win)
            return jnp.sum(policy * loss)

        return jax.grad(objective)(ref)

    assert np.abs(sppo(uniform)).max() < 1e-12
    off = jnp.asarray([0.5, 0.3, 0.2])
    assert np.abs(sppo(off)).max() > 1e-3
    distances, policy = [], off
    for _ in range(40):  # its exact minimum: multiplicative weights
        policy = policy * jnp.exp(0.5 * (jnp.asarray(WIN) @ policy - 0.5))
        policy = policy / policy.sum()
        distances.append(total_variation(policy, uniform))
    assert distances[-1] > distances[0]


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
