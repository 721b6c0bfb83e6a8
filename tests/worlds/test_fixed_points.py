"""Where each relative of PPO really ends, against closed forms of another kind."""

import math

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.worlds import enumerable, fixed_points, groups, relatives
from rlhf_jax.worlds.relatives import Relative, relative

WORLDS = [enumerable.e64(seed) for seed in range(3)]
E64 = WORLDS[0]
TABLE = np.random.default_rng(0).normal(size=(21, 4))


def distance(p, q):
    return enumerable.total_variation(p, q)


def by_levels(world, beta, choose):
    """Backward induction: `choose(reference, q, beta) -> pi` at every prefix, q being
    the plain expected gold after each token."""
    reference = np.exp(enumerable.conditionals(np.exp(world.reference), world.vocab))
    value = world.gold
    pi = np.zeros_like(reference)
    for t in reversed(range(world.length)):
        first = (world.vocab**t - 1) // (world.vocab - 1)
        q = value.reshape(-1, world.vocab)
        rows = slice(first, first + len(q))
        pi[rows] = [choose(reference[rows][i], q[i], beta) for i in range(len(q))]
        value = np.sum(pi[rows] * q, axis=1)
    return enumerable.distribution(np.log(pi))


def choose_k2(reference, q, beta):
    weight = reference * np.exp((q - q.max()) / beta)
    return weight / weight.sum()


def choose_k3(reference, q, beta):
    """pi (q - c) + beta pi_ref = 0 with c above all q."""
    low, high = 1e-15, beta + np.ptp(q)
    for _ in range(200):
        middle = (low + high) / 2
        total = np.sum(beta * reference / (q.max() + middle - q))
        low, high = (middle, high) if total > 1 else (low, middle)
    return beta * reference / (q.max() + high - q)


@pytest.mark.identity("C3")
@pytest.mark.parametrize("beta", [0.1, 0.3, 1.0])
@pytest.mark.parametrize(
    "name", ["reward/k1", "reward/sequence/k1", "loss/sequence/k2"]
)
def test_the_kl_of_sequences_leads_to_the_tilt(name, beta):
    """A KL penalty in the reward, and the sequence-level k2 loss, end at the tilt."""
    for world in WORLDS:
        found = fixed_points.solve(world, relative(name, beta))
        assert distance(found, enumerable.tilt(world, beta)) < 1e-6


@pytest.mark.identity("C3")
@pytest.mark.parametrize("name", ["k2", "k3_with_k2_gradient", "exact"])
def test_a_token_level_loss_ends_at_greedy_values_tilted(name):
    """The summed token-level k2 loss ends at pi_ref(a|s) exp(Q(s,a)/beta), Q the plain
    expected reward: no entropy of later tokens in it. So do the exact per-token KL and
    k3 with the gradient of k2."""
    for world in WORLDS:
        found = fixed_points.solve(world, relative(f"loss/token/{name}", 0.3))
        assert distance(found, by_levels(world, 0.3, choose_k2)) < 1e-9


@pytest.mark.identity("C3", "B31")
def test_a_token_level_k3_loss_ends_elsewhere_again():
    """The summed token-level k3 loss ends at beta pi_ref(a|s) / (c(s) - Q(s,a))."""
    for world in WORLDS:
        found = fixed_points.solve(world, relative("loss/token/k3", 0.3))
        assert distance(found, by_levels(world, 0.3, choose_k3)) < 1e-8


@pytest.mark.identity("C3")
def test_token_level_losses_miss_the_tilt():
    """At beta 0.3 the token-level losses end away from the tilt: over twelve worlds at
    a total variation of 0.18 (k2, between 0.02 and 0.37) and 0.27 (k3, 0.20 to 0.38) in
    the mean."""
    missed = {"k2": [], "k3": []}
    for world in [enumerable.e64(seed) for seed in range(12)]:
        star = enumerable.tilt(world, 0.3)
        for name, found in missed.items():
            pi = fixed_points.solve(world, relative(f"loss/token/{name}", 0.3))
            found.append(distance(pi, star))
    assert np.mean(missed["k2"]) == pytest.approx(0.179, abs=0.002)
    assert np.mean(missed["k3"]) == pytest.approx(0.272, abs=0.002)
    assert min(missed["k2"]) > 0.01 and max(missed["k2"]) < 0.4
    assert min(missed["k3"]) > 0.19 and max(missed["k3"]) < 0.4


@pytest.mark.identity("C3", "B31")
def test_a_sequence_level_k3_loss_is_the_other_divergence():
    """It ends where E r - beta KL(ref || pi) is largest: not at the tilt."""
    pi = fixed_points.solve(E64, relative("loss/sequence/k3", 0.3))
    reference = np.exp(E64.reference)

    def forward(p):
        return p @ E64.gold - 0.3 * enumerable.kl(reference, p)

    rng = np.random.default_rng(0)
    for _ in range(50):
        near = pi * np.exp(rng.normal(size=64) * 10.0 ** -rng.integers(0, 5))
        assert forward(near / near.sum()) < forward(pi)
    table = enumerable.conditionals(pi, 4)
    left = fixed_points.field(E64, table, relative("loss/sequence/k3", 0.3))
    assert np.abs(left).max() < 1e-9
    assert distance(pi, enumerable.tilt(E64, 0.3)) > 0.3


@pytest.mark.identity("C3")
@pytest.mark.parametrize(
    "found",
    [relative("none", 0.0), relative("loss/token/k1", 0.3), relative("reward/k1", 0.0)],
)
def test_without_a_kl_there_is_no_tilt(found):
    """With beta = 0, and with k1 in the loss, all mass goes to the best response."""
    for world in WORLDS:
        pi = fixed_points.solve(world, found)
        assert distance(pi, enumerable.argmax(world)) < 1e-6


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_other_estimators_in_the_reward_have_no_target(estimator):
    """From the tilt their update leads away, and no end can be promised."""
    found = relative(f"reward/{estimator}", 0.3)
    with pytest.raises(UserError, match="use k1 in the reward"):
        fixed_points.solve(E64, found)
    table = enumerable.conditionals(enumerable.tilt(E64, 0.3), 4)
    assert np.abs(fixed_points.field(E64, table, found)).max() > 1e-2


@pytest.mark.identity("C17")
def test_dividing_by_the_deviation_of_large_groups_rescales_beta():
    """GRPO with the KL in the loss ends at the tilt of beta * std(gold at the end)."""
    for world in WORLDS:
        pi = fixed_points.solve(world, relative("loss/sequence/k2", 1.0, math.inf))
        spread = math.sqrt(pi @ world.gold**2 - (pi @ world.gold) ** 2)
        assert distance(pi, enumerable.tilt(world, spread)) < 1e-6
        assert abs(spread - 1.0) > 1e-3


def test_dividing_by_the_deviation_can_run_away():
    """With a small beta the deviation falls as gold rises: the KL loses its hold."""
    pi = fixed_points.solve(E64, relative("loss/sequence/k2", 0.1, math.inf))
    assert distance(pi, enumerable.argmax(E64)) < 1e-6


def test_the_kl_in_the_reward_outlives_the_deviation():
    """In the reward it is divided by the deviation too: the tilt again."""
    pi = fixed_points.solve(E64, relative("reward/k1", 0.3, math.inf))
    assert distance(pi, enumerable.tilt(E64, 0.3)) < 1e-6


@pytest.mark.parametrize("size", [2, 3])
def test_small_groups_are_enumerated(size):
    """The normalized advantage of a response, over all tuples of others."""
    pi = enumerable.distribution(TABLE)
    rng = np.random.default_rng(1)
    drawn = rng.choice(64, p=pi, size=(20_000, size - 1))
    w = fixed_points.coefficients(E64, TABLE, relative("none", 0.0, size))
    for y in (0, 17, 40):
        group = np.concatenate([np.full((20_000, 1), y), drawn], axis=1)
        r = E64.gold[group]
        found = (r[:, 0] - r.mean(1)) / np.maximum(r.std(1), 1e-4)
        assert w[y, 0] == pytest.approx(found.mean(), abs=0.03)
    assert pi @ w[:, 0] == pytest.approx(0.0, abs=1e-9)


def test_groups_of_two_end_where_wins_balance_the_kl():
    """(r - mean) / std of two is the sign of r_1 - r_2: gold enters by its order."""
    pi = fixed_points.solve(E64, relative("loss/sequence/k2", 1.0, 2))
    monotone = E64._replace(gold=np.argsort(np.argsort(E64.gold)) / 10.0)
    again = fixed_points.solve(monotone, relative("loss/sequence/k2", 1.0, 2))
    assert distance(pi, again) < 1e-4  # gold that nearly ties meets the floor of std
    wins = np.sign(E64.gold[:, None] - E64.gold[None, :]) @ pi
    log_pi = E64.reference + wins
    expected_pi = np.exp(log_pi) / np.exp(log_pi).sum()
    assert distance(pi, expected_pi) < 1e-4


def test_groups_that_are_too_large_to_enumerate_are_drawn(monkeypatch):
    """Fixed draws of the others give what enumeration gives, to about 0.01."""
    held = relative("loss/token/k3", 0.3, 3)
    exact = fixed_points.solve(E64, held)
    monkeypatch.setattr(groups, "_MOST_TUPLES", 2)
    drawn = fixed_points.solve(E64, held)
    assert 0 < distance(drawn, exact) < 0.01


@pytest.mark.identity("C3")
def test_groups_approach_their_limit_slowly():
    """GRPO with the k3 loss at beta 0.3: the fixed point of groups of 8 is still far
    from that of large groups, that of groups of 64 is near."""
    limit = fixed_points.solve(E64, relative("loss/token/k3", 0.3, math.inf))
    away = [
        distance(fixed_points.solve(E64, relative("loss/token/k3", 0.3, size)), limit)
        for size in (2, 8, 64)
    ]
    assert away == pytest.approx([0.299, 0.176, 0.009], abs=0.01)


def test_groups_in_a_large_world_are_interpolated():
    """On a grid of rewards u is as in the limit, which groups of 64 nearly reach."""
    world = enumerable.e32k(0)
    pi = enumerable.reference(world)
    found = groups.normalized(world.gold, pi, 64)
    limit = groups.normalized(world.gold, pi, math.inf)
    assert np.sum(pi * np.abs(found - limit)) < 0.05
    assert np.all(np.diff(found[np.argsort(world.gold)]) > -1e-12)


def test_e32k_is_solved_too():
    world = enumerable.e32k(0)
    found = fixed_points.solve(world, relative("loss/sequence/k2", 0.5))
    assert distance(found, enumerable.tilt(world, 0.5)) < 1e-6
    token = fixed_points.solve(world, relative("loss/token/k2", 0.5))
    assert distance(token, by_levels(world, 0.5, choose_k2)) < 1e-9


@pytest.mark.identity("C2", "C3")
def test_the_table_of_relatives():
    """Which relatives end at the tilt, and what the others lose: J misses its maximum
    by beta KL(pi || tilt)."""
    rows = {row.name: row for row in fixed_points.table(E64, 0.3)}
    assert set(rows) == set(relatives.NAMES)
    tilted = {name for name, row in rows.items() if row.tv_to_tilt < 1e-6}
    assert tilted == {"reward/k1", "loss/sequence/k2"}
    star = enumerable.tilt(E64, 0.3)
    for name, row in rows.items():
        pi = fixed_points.solve(E64, relative(name, 0.3))
        assert row.j_gap == pytest.approx(0.3 * enumerable.kl(pi, star), abs=1e-6)
        assert row.gold <= enumerable.frontier(E64, row.kl) + 1e-6
    # to be quoted, rounded
    assert rows["loss/token/k2"].tv_to_tilt == pytest.approx(0.218, abs=1e-3)
    assert rows["loss/token/k3"].tv_to_tilt == pytest.approx(0.227, abs=1e-3)
    assert rows["none"].tv_to_tilt == pytest.approx(0.708, abs=1e-3)


def test_names_and_words():
    assert relative("loss/token/k3", 0.2) == Relative("loss", "k3", "token", 0.2)
    words = relatives.described(relative("loss/token/k3", 0.2, math.inf))
    assert (
        words
        == "token-level k3 loss, beta 0.2, divided by the deviation of large groups"
    )
    assert (
        relatives.described(relative("reward/k1", 0.2)) == "k1 in the reward, beta 0.2"
    )
    assert relatives.described(relative("none", 0.0, 4)).endswith("groups of 4")


@pytest.mark.parametrize(
    ("name", "beta", "group", "message"),
    [
        ("loss/k3", 0.1, None, "loss/LEVEL/ESTIMATOR"),
        ("los/token/k3", 0.1, None, "place 'los'"),
        ("loss/word/k3", 0.1, None, "level 'word'"),
        ("loss/token/k4", 0.1, None, "estimator 'k4'"),
        ("reward/exact", 0.1, None, "KL \\*loss\\*"),
        ("loss/token/k3", -0.1, None, "must not be negative"),
        ("loss/token/k3", 0.1, 1, "at least 2"),
    ],
)
def test_nonsense_is_refused(name, beta, group, message):
    with pytest.raises(UserError, match=message):
        relative(name, beta, group)
