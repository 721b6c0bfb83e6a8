"""Where preference losses end, on worlds small enough to take every expectation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
            loss = p.sppo_loss(logprobs, ref, ref, ref, beta=1.0, chosen_wins=win)
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


def test_kto_has_no_optimum_of_its_own_where_people_disagree(x64):
    """A response liked with chance q: KTO's expected loss is monotone in its log-ratio,
    down for q > 1/2 and up below, at any beta; DPO's has its minimum at logit(q)."""
    ratio = jnp.linspace(-30.0, 30.0, 601)
    zero, yes = jnp.zeros_like(ratio), jnp.ones(601, bool)
    for q, beta in itertools.product((0.2, 0.45, 0.55, 0.9), (0.1, 1.0)):
        likes, dislikes = (
            p.kto_loss(ratio, zero, side, jnp.zeros(()), beta=beta)
            for side in (yes, ~yes)
        )
        slope = np.diff(q * likes + (1 - q) * dislikes)
        assert np.all(slope * np.sign(0.5 - q) > 0)
        first, second = (
            p.dpo_loss(*gap, zero, zero, beta=beta)
            for gap in ((ratio, zero), (zero, ratio))
        )
        best = ratio[jnp.argmin(q * first + (1 - q) * second)]
        assert best * beta == pytest.approx(np.log(q / (1 - q)), abs=0.1)
