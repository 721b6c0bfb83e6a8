"""Every loss against float64 NumPy, written from the papers, and TRL's formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rlhf_jax.losses import preference


def sigmoid(x):
    return np.where(
        x >= 0, 1 / (1 + np.exp(-np.abs(x))), 1 - 1 / (1 + np.exp(-np.abs(x)))
    )


def log_sigmoid(x):
    return -np.logaddexp(0.0, -x)


def log1mexp(x):
    return np.log(-np.expm1(x))


class Numbers:
    """Log-probs of pairs: random ones, then extreme ones."""

    def __init__(self):
        draw = np.random.default_rng(0)
        ordinary = 48
        policy = -draw.gamma(3.0, 6.0, (2, ordinary))
        reference = policy + draw.normal(0, 2.5, (2, ordinary))
        reference[:, :4] = policy[:, :4]
        extreme = np.asarray(
            [
                [-1e4, -1.0, -2.0, -3.0],
                [-1.0, -1e4, -2.0, -3.0],
                [-3.0, -3.0, -1e4, -1.0],
                [-2.0, -5.0, -1.0, -1e4],
                [-1e-4, -1e-5, -0.5, -0.5],
                [-2e4, -2e4, -2e4, -2e4],
                [-300.0, -10.0, -310.0, -250.0],
                [-0.25, -900.0, -0.25, -0.125],
            ]
        ).T
        rows = np.concatenate([np.concatenate([policy, reference]), extreme], axis=1)
        self.ordinary = ordinary
        self.single = rows.astype(np.float32)
        self.double = self.single.astype(np.float64)
        self.lengths = draw.integers(1, 40, (2, rows.shape[1])).astype(np.float32)
        self.lengths[:, :3] = 1


NUMBERS = Numbers()
E, BETA, TAU, ALPHA, GAMMA = 0.2, 0.1, 0.3, 0.7, 0.6


def gaps(pw, pl, rw, rl):
    return (pw - rw) - (pl - rl)


def power(x):
    return np.exp(np.minimum(x, 80.0))


NUMPY = {
    "dpo": lambda pw, pl, rw, rl, lw, ll: -log_sigmoid(BETA * gaps(pw, pl, rw, rl)),
    "cdpo": lambda pw, pl, rw, rl, lw, ll: (
        -(1 - E) * log_sigmoid(BETA * gaps(pw, pl, rw, rl))
        - E * log_sigmoid(-BETA * gaps(pw, pl, rw, rl))
    ),
    "robust": lambda pw, pl, rw, rl, lw, ll: (
        -(1 - E) * log_sigmoid(BETA * gaps(pw, pl, rw, rl))
        + E * log_sigmoid(-BETA * gaps(pw, pl, rw, rl))
    )
    / (1 - 2 * E),
    "ipo": lambda pw, pl, rw, rl, lw, ll: (gaps(pw, pl, rw, rl) - 0.5 / TAU) ** 2,
    "ipo_per_token": lambda pw, pl, rw, rl, lw, ll: (
        gaps(pw / lw, pl / ll, rw / lw, rl / ll) - 0.5 / TAU
    )
    ** 2,
    "hinge": lambda pw, pl, rw, rl, lw, ll: np.maximum(
        0, 1 - BETA * gaps(pw, pl, rw, rl)
    ),
    "rso": lambda pw, pl, rw, rl, lw, ll: np.maximum(
        0, 1 - 0.05 * gaps(pw, pl, rw, rl)
    ),
    "exo": lambda pw, pl, rw, rl, lw, ll: sum(
        sigmoid(s * BETA * gaps(pw, pl, rw, rl))
        * (log_sigmoid(s * BETA * gaps(pw, pl, rw, rl)) - np.log(q))
        for s, q in ((1, 1 - E), (-1, E))
    ),
    "discopop": lambda pw, pl, rw, rl, lw, ll: (
        -log_sigmoid(BETA * gaps(pw, pl, rw, rl))
        * sigmoid(-BETA * gaps(pw, pl, rw, rl) / 0.05)
        + np.exp(
            -BETA * gaps(pw, pl, rw, rl)
            + log_sigmoid(BETA * gaps(pw, pl, rw, rl) / 0.05)
        )
    ),
    "normalized_dpo": lambda pw, pl, rw, rl, lw, ll: -log_sigmoid(
        5.0 * ((pw - rw) / lw - (pl - rl) / ll)
    ),
    "length_penalized_dpo": lambda pw, pl, rw, rl, lw, ll: -log_sigmoid(
        BETA * gaps(pw, pl, rw, rl) + 0.02 * (lw - ll)
    ),
    "rpo": lambda pw, pl, rw, rl, lw, ll: (
        -log_sigmoid(BETA * gaps(pw, pl, rw, rl)) - ALPHA * pw / lw
    ),
    "forward_kl": lambda pw, pl, rw, rl, lw, ll: -log_sigmoid(
        BETA * (power(rl - pl) - power(rw - pw))
    ),
    "jensen_shannon": lambda pw, pl, rw, rl, lw, ll: -log_sigmoid(
        BETA * (log_sigmoid(pw - rw) - log_sigmoid(pl - rl))
    ),
    "alpha_divergence": lambda pw, pl, rw, rl, lw, ll: -log_sigmoid(
        BETA / ALPHA * (power(ALPHA * (rl - pl)) - power(ALPHA * (rw - pw)))
    ),
    "nca": lambda pw, pl, rw, rl, lw, ll: (
        -log_sigmoid(BETA * (pw - rw))
        - 0.5 * log_sigmoid(-BETA * (pw - rw))
        - 0.5 * log_sigmoid(-BETA * (pl - rl))
    ),
    "apo_zero": lambda pw, pl, rw, rl, lw, ll: (
        sigmoid(-BETA * (pw - rw)) + sigmoid(BETA * (pl - rl))
    ),
    "apo_down": lambda pw, pl, rw, rl, lw, ll: (
        sigmoid(BETA * (pw - rw)) + sigmoid(-BETA * gaps(pw, pl, rw, rl))
    ),
    "sppo": lambda pw, pl, rw, rl, lw, ll: (
        (pw - rw - 0.5 / BETA) ** 2 + (pl - rl + 0.5 / BETA) ** 2
    ),
    "sppo_soft": lambda pw, pl, rw, rl, lw, ll: (
        (pw - rw - 0.2 / BETA) ** 2 + (pl - rl + 0.1 / BETA) ** 2
    ),
    "orpo": lambda pw, pl, rw, rl, lw, ll: (
        -pw / lw
        - ALPHA
        * log_sigmoid(pw / lw - log1mexp(pw / lw) - pl / ll + log1mexp(pl / ll))
    ),
    "simpo": lambda pw, pl, rw, rl, lw, ll: -log_sigmoid(
        2.0 * (pw / lw - pl / ll) - GAMMA
    ),
    "simpo_smoothed": lambda pw, pl, rw, rl, lw, ll: (
        -(1 - E) * log_sigmoid(2.0 * (pw / lw - pl / ll) - GAMMA)
        - E * log_sigmoid(-2.0 * (pw / lw - pl / ll) + GAMMA)
    ),
    "cpo": lambda pw, pl, rw, rl, lw, ll: (
        -log_sigmoid(BETA * (pw - pl)) - ALPHA * pw / lw
    ),
    "slic": lambda pw, pl, rw, rl, lw, ll: (
        np.maximum(0, 1.5 - pw + pl) - ALPHA * pw
    ),
    "aot": lambda pw, pl, rw, rl, lw, ll: (
        -(1 - E) * log_sigmoid(BETA * (np.sort(pw - pl) - np.sort(rw - rl)))
        - E * log_sigmoid(-BETA * (np.sort(pw - pl) - np.sort(rw - rl)))
    ),
    "aot_unpaired": lambda pw, pl, rw, rl, lw, ll: -log_sigmoid(
        BETA * (np.sort(pw - rw) - np.sort(pl - rl))
    ),
}  # fmt: skip

p = preference
WINS = {"chosen_wins": 0.7, "rejected_wins": 0.4}
OURS = {
    "dpo": (p.dpo_loss, "pair", {"beta": BETA}),
    "cdpo": (p.cdpo_loss, "pair", {"beta": BETA, "label_smoothing": E}),
    "robust": (p.robust_loss, "pair", {"beta": BETA, "label_smoothing": E}),
    "ipo": (p.ipo_loss, "pair", {"tau": TAU}),
    "ipo_per_token": (p.ipo_per_token_loss, "lengths", {"tau": TAU}),
    "hinge": (p.hinge_loss, "pair", {"beta": BETA}),
    "rso": (p.rso_loss, "pair", {}),
    "exo": (p.exo_loss, "pair", {"beta": BETA, "label_smoothing": E}),
    "discopop": (p.discopop_loss, "pair", {"beta": BETA}),
    "normalized_dpo": (p.normalized_dpo_loss, "lengths", {}),
    "length_penalized_dpo": (
        p.length_penalized_dpo_loss, "lengths", {"beta": BETA, "alpha": 0.02},
    ),
    "rpo": (p.rpo_loss, "chosen length", {"beta": BETA, "alpha": ALPHA}),
    "forward_kl": (
        p.f_dpo_loss, "pair", {"beta": BETA, "derivative": p.forward_kl},
    ),
    "jensen_shannon": (
        p.f_dpo_loss, "pair", {"beta": BETA, "derivative": p.jensen_shannon},
    ),
    "alpha_divergence": (
        p.f_dpo_loss,
        "pair",
        {"beta": BETA, "derivative": p.alpha_divergence(ALPHA)},
    ),
    "nca": (p.nca_loss, "pair", {"beta": BETA}),
    "apo_zero": (p.apo_zero_loss, "pair", {"beta": BETA}),
    "apo_down": (p.apo_down_loss, "pair", {"beta": BETA}),
    "sppo": (p.sppo_loss, "pair", {"beta": BETA}),
    "sppo_soft": (p.sppo_loss, "pair", {"beta": BETA, **WINS}),
    "orpo": (p.orpo_loss, "free", {"lam": ALPHA}),
    "simpo": (p.simpo_loss, "free", {"beta": 2.0, "gamma": GAMMA}),
    "simpo_smoothed": (
        p.simpo_loss, "free", {"beta": 2.0, "gamma": GAMMA, "label_smoothing": E},
    ),
    "cpo": (p.cpo_loss, "free chosen length", {"beta": BETA, "alpha": ALPHA}),
    "slic": (p.slic_loss, "policy", {"delta": 1.5, "lam": ALPHA}),
    "aot": (p.aot_loss, "pair", {"beta": BETA, "label_smoothing": E}),
    "aot_unpaired": (p.aot_unpaired_loss, "pair", {"beta": BETA}),
}  # fmt: skip
ARGUMENTS = {
    "pair": [0, 1, 2, 3],
    "lengths": [0, 1, 2, 3, 4, 5],
    "chosen length": [0, 1, 2, 3, 4],
    "free": [0, 1, 4, 5],
    "free chosen length": [0, 1, 4],
    "policy": [0, 1],
}


@functools.cache
def compiled(name):
    loss, shape, options = OURS[name]

    @jax.jit
    def run(numbers):
        def total(numbers):
            arguments = [numbers[i] for i in ARGUMENTS[shape]]
            values = loss(*arguments, **options)
            return jnp.sum(values), values

        (_, values), gradient = jax.value_and_grad(total, has_aux=True)(numbers)
        return values, gradient

    return run


def ours(name, single):
    numbers = [jnp.asarray(x) for x in (*single, *NUMBERS.lengths)]
    return jax.tree.map(np.asarray, compiled(name)(numbers))


def test_every_loss_is_in_these_tables():
    """A new loss must bring its oracle."""
    functions = {loss for loss, _, _ in OURS.values()}
    unpaired = {"kto_loss", "bco_loss", "plackett_luce_dpo_loss"}
    unpaired |= {"nash_md_loss", "nash_md_per_token_loss"}
    exported = {name for name in p.__all__ if name.endswith("_loss")} - unpaired
    assert {f.__name__ for f in functions} == exported
    assert set(NUMPY) == set(OURS)


@pytest.mark.parametrize("name", OURS)
def test_loss_equals_numpy_from_the_paper(name):
    """float32 equals float64 NumPy at ordinary and extreme numbers; all is finite."""
    values, gradient = ours(name, NUMBERS.single)
    double = [*NUMBERS.double, *NUMBERS.lengths.astype(np.float64)]
    expected = NUMPY[name](*double)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=2e-6)
    for part in gradient:
        assert np.all(np.isfinite(part))


@pytest.mark.parametrize("name", [n for n in OURS if n not in ("aot", "aot_unpaired")])
def test_gradient_equals_differences_of_the_oracle(name):
    """The gradient by the policy is the slope of the NumPy function."""
    _, gradient = ours(name, NUMBERS.single)
    use = slice(4, NUMBERS.ordinary)
    double = [x[use] for x in (*NUMBERS.double, *NUMBERS.lengths.astype(np.float64))]
    for side in (0, 1):
        up, down = list(double), list(double)
        up[side], down[side] = double[side] + 1e-5, double[side] - 1e-5
        slope = (NUMPY[name](*up) - NUMPY[name](*down)) / 2e-5
        np.testing.assert_allclose(gradient[side][use], slope, rtol=2e-3, atol=2e-5)


def trl(name, pw, pl, rw, rl, lw, ll):
    """TRL 0.24, `dpo_loss`, `odds_ratio_loss` and `cpo_loss`, as they stand there."""
    logits = (pw - pl) - (rw - rl)
    chosen, rejected = pw - rw, pl - rl
    if name == "dpo":
        return -F.logsigmoid(BETA * logits)
    if name == "cdpo":
        return -F.logsigmoid(BETA * logits) * (1 - E) - F.logsigmoid(-BETA * logits) * E
    if name == "robust":
        return (
            -F.logsigmoid(BETA * logits) * (1 - E) + F.logsigmoid(-BETA * logits) * E
        ) / (1 - 2 * E)
    if name == "exo":
        return (BETA * logits).sigmoid() * (
            F.logsigmoid(BETA * logits) - np.log(1 - E)
        ) + (-BETA * logits).sigmoid() * (F.logsigmoid(-BETA * logits) - np.log(E))
    if name == "hinge":
        return torch.relu(1 - BETA * logits)
    if name == "ipo_per_token":
        logits = (pw / lw - pl / ll) - (rw / lw - rl / ll)
        return (logits - 1 / (2 * TAU)) ** 2
    if name == "sppo":
        return (chosen - 0.5 / BETA) ** 2 + (rejected + 0.5 / BETA) ** 2
    if name == "nca":
        return (
            -F.logsigmoid(chosen * BETA)
            - 0.5 * F.logsigmoid(-chosen * BETA)
            - 0.5 * F.logsigmoid(-rejected * BETA)
        )
    if name == "aot_unpaired":
        delta = torch.sort(chosen, dim=0)[0] - torch.sort(rejected, dim=0)[0]
        return -F.logsigmoid(BETA * delta)
    if name == "aot":
        delta = torch.sort(pw - pl, dim=0)[0] - torch.sort(rw - rl, dim=0)[0]
        return -F.logsigmoid(BETA * delta) * (1 - E) - F.logsigmoid(-BETA * delta) * E
    if name == "apo_zero":
        return 1 - F.sigmoid(BETA * chosen) + F.sigmoid(BETA * rejected)
    if name == "apo_down":
        return F.sigmoid(BETA * chosen) + 1 - F.sigmoid(BETA * (chosen - rejected))
    if name == "discopop":
        modulation = torch.sigmoid(BETA * logits / 0.05)
        return (
            -F.logsigmoid(BETA * logits) * (1 - modulation)
            + torch.exp(-BETA * logits) * modulation
        )
    if name == "jensen_shannon":
        logits = logits - (F.softplus(chosen) - F.softplus(rejected))
        return -F.logsigmoid(BETA * logits)
    if name == "alpha_divergence":
        logits = (torch.exp(rejected * -ALPHA) - torch.exp(chosen * -ALPHA)) / ALPHA
        return -F.logsigmoid(BETA * logits)
    if name == "forward_kl":  # alpha = 1, TRL's default
        return -F.logsigmoid(BETA * (torch.exp(-rejected) - torch.exp(-chosen)))
    if name == "orpo":
        pw, pl = pw / lw, pl / ll
        odds = (pw - pl) - (torch.log1p(-torch.exp(pw)) - torch.log1p(-torch.exp(pl)))
        return -pw - ALPHA * F.logsigmoid(odds)
    if name == "simpo":
        logits = pw / lw - pl / ll - GAMMA / 2.0
        return -F.logsigmoid(2.0 * logits)
    assert name == "cpo"
    return -F.logsigmoid(BETA * (pw - pl)) - ALPHA * pw / lw


TRL = [
    "dpo", "cdpo", "robust", "exo", "hinge", "ipo_per_token", "sppo", "nca", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "jensen_shannon",
    "alpha_divergence", "forward_kl", "orpo", "simpo", "cpo",
]  # fmt: skip


@pytest.mark.parametrize("name", TRL)
def test_loss_and_gradient_equal_trl(name):
    """The formulas of TRL 0.24 in torch: values and gradients of the policy."""
    whole = name.startswith("aot")
    use = slice(0, None if whole else NUMBERS.ordinary)
    numbers = [torch.tensor(x) for x in (*NUMBERS.double, *NUMBERS.lengths)]
    policy = [x.requires_grad_() for x in numbers[:2]]
    expected = trl(name, *numbers)
    slope = torch.autograd.grad(expected[use].sum(), policy)
    values, gradient = ours(name, NUMBERS.single)
    np.testing.assert_allclose(
        values[use], expected.detach().numpy()[use], rtol=1e-5, atol=1e-5
    )
    if whole:  # equal log-ratios may share their quantiles in any order
        return
    for found, wanted in zip(gradient, slope, strict=False):
        np.testing.assert_allclose(found[use], wanted[use], rtol=1e-4, atol=1e-5)


def test_kto_and_bco_equal_numpy_and_trl():
    """`kto_loss` and `bco_loss`; TRL lists desirable rows first."""
    policy, _, reference, _ = NUMBERS.double
    good = np.arange(len(policy)) % 3 != 0
    single = [jnp.asarray(x, jnp.float32) for x in (policy, reference)]
    z0, delta = 1.25, -0.75
    kto = jax.jit(
        lambda p, r: preference.kto_loss(
            p, r, jnp.asarray(good), jnp.asarray(z0, jnp.float32), beta=BETA,
            desirable_weight=1.5, undesirable_weight=0.5,
        )
    )(*single)  # fmt: skip
    h = policy - reference
    expected = np.where(
        good, 1.5 * (1 - sigmoid(BETA * (h - z0))), 0.5 * (1 - sigmoid(BETA * (z0 - h)))
    )
    np.testing.assert_allclose(kto, expected, rtol=1e-5, atol=1e-6)
    h = torch.tensor(h)
    chosen = 1.5 * (1 - F.sigmoid(BETA * (h[good] - z0)))
    rejected = 0.5 * (1 - F.sigmoid(BETA * (z0 - h[~good])))
    listed = np.concatenate([np.asarray(kto)[good], np.asarray(kto)[~good]])
    np.testing.assert_allclose(listed, torch.cat((chosen, rejected)), atol=1e-6)

    bco = jax.jit(
        lambda p, r: preference.bco_loss(
            p, r, jnp.asarray(good), jnp.asarray(delta, jnp.float32), beta=BETA
        )
    )(*single)
    gap = BETA * h.numpy() - delta
    expected = np.where(good, -log_sigmoid(gap), -log_sigmoid(-gap))
    np.testing.assert_allclose(bco, expected, rtol=1e-5, atol=1e-6)
    chosen = -F.logsigmoid(BETA * h[good] - delta)
    rejected = -F.logsigmoid(-(BETA * h[~good] - delta))
    listed = np.concatenate([np.asarray(bco)[good], np.asarray(bco)[~good]])
    np.testing.assert_allclose(
        listed, torch.cat((chosen, rejected)), rtol=1e-5, atol=1e-6
    )


def test_nash_md_equals_numpy_and_trl():
    """TRL's loss and gradient per token; ours is the same for responses of a token."""
    draw = np.random.default_rng(5)
    policy, reference = -draw.gamma(1.0, 1.0, (2, 7, 4))
    mask, wins = draw.random((7, 4)) < 0.7, draw.random(7)

    def trl(policy, reference, wins):
        score = (wins - 0.5) * policy.sum(1)
        ratio = (policy - reference).detach()
        return BETA * (ratio * policy).sum(1) - score

    tokens = torch.tensor(np.where(mask, policy, 0.0)).requires_grad_()
    rest = torch.tensor(np.where(mask, reference, 0.0)), torch.tensor(wins)
    expected = trl(tokens, *rest)
    slope = torch.autograd.grad(expected.sum(), tokens)[0]
    policy, reference, wins = (
        jnp.asarray(x, jnp.float32)
        for x in (np.where(mask, policy, np.nan), np.where(mask, reference, 9.0), wins)
    )

    def ours(policy, mask):
        values = p.nash_md_per_token_loss(
            policy, reference[:, : mask.shape[1]], mask, wins, beta=BETA
        )
        return jnp.sum(values), values

    both = jax.jit(jax.value_and_grad(ours, has_aux=True))
    (_, values), gradient = both(policy, jnp.asarray(mask))
    np.testing.assert_allclose(values, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    slope = np.where(mask, slope.numpy(), 0.0)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-6)

    one, other = jnp.where(jnp.asarray(mask), policy, -1.0)[:, 0], reference[:, 0]
    alone = jnp.ones((7, 1), bool)
    (_, values), gradient = both(one[:, None], alone)
    plain = jax.value_and_grad(
        lambda x: jnp.sum(p.nash_md_loss(x, other, wins, beta=BETA))
    )
    value, slope = plain(one)
    np.testing.assert_allclose(value, jnp.sum(values), rtol=1e-5)
    np.testing.assert_allclose(slope, gradient[:, 0], rtol=1e-5)
    pull = BETA * (np.float64(one) - np.float64(other)) - (np.float64(wins) - 0.5)
    np.testing.assert_allclose(slope, pull, rtol=1e-5, atol=1e-6)


def test_plackett_luce_dpo_equals_one_choice_after_the_other():
    """`plackett_luce_dpo_loss` against the product of choices, absent ones left out."""
    draw = np.random.default_rng(3)
    policy, reference = draw.normal(-20, 4, (2, 6, 5)).astype(np.float32)
    ranks = np.asarray(
        [[1, 2, 3, 4, 5], [5, 1, 4, 2, 3], [2, 1, 0, 3, 0], [1, 2, 0, 0, 0],
         [1, 2, 2, 2, 2], [0, 0, 0, 0, 1]], np.int32
    )  # fmt: skip
    policy[4] = [-1e4, -1.0, -2.0, -3.0, -4.0]
    h = 0.3 * (policy.astype(np.float64) - reference)
    expected = []
    for row, rank in zip(h, ranks, strict=True):
        left, loss = [i for i in np.argsort(rank, kind="stable") if rank[i]], 0.0
        while left and rank[left[0]] < rank[left[-1]]:
            loss += np.logaddexp.reduce(row[left]) - row[left[0]]
            left.pop(0)
        expected.append(loss)
    poisoned = np.where(ranks > 0, policy, np.nan).astype(np.float32)
    value = jax.jit(
        lambda x: preference.plackett_luce_dpo_loss(
            x, jnp.asarray(reference), jnp.asarray(ranks), beta=0.3
        )
    )(jnp.asarray(poisoned))
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
