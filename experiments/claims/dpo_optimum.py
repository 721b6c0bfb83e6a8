"""Where direct preference losses end: the optimum of RLHF, and what moves them off it.

Papers:   Rafailov et al. 2023 (DPO, M6, M7), Xu et al. 2024 (support, M8), Mitchell
          2023 and Chowdhury et al. 2024 (noisy labels, M9), Azar et al. 2023 (IPO,
          M10), Ethayarajh et al. 2024 (KTO).
Command:  rlhf-jax reproduce M6 M7 M8 M9 M10 R3-kto
Hardware: 2 CPU cores, about two minutes.

World E64: all 64 responses and all pairs of them are summed over in float64, so there
is no sampling, and the losses are those of `rlhf_jax.losses.preference`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlhf_jax.losses import preference
from rlhf_jax.studies import reproduction as rep
from rlhf_jax.worlds import enumerable, tabular

SUITES = ("smoke", "nightly", "release")
SEEDS = tuple(range(8))
BETA, FLIPS = 0.3, 0.3
LOSSES = {
    "dpo": preference.dpo_loss,
    "cdpo": preference.cdpo_loss,
    "robust": preference.robust_loss,
    "ipo": preference.ipo_loss,
}
ROWS = jnp.asarray([[i, j] for i in range(64) for j in range(64) if i != j])


def wins(gold, flips=0.0):
    """P(first is labeled better) of all ordered pairs."""
    margin = gold[ROWS[:, 0]] - gold[ROWS[:, 1]]
    return (1 - 2 * flips) * jax.nn.sigmoid(margin) + flips


def pair_objective(name, weight, log_ref, options):
    """The population loss of a policy's 64 logits, pairs weighted."""
    first, second = ROWS[:, 0], ROWS[:, 1]

    def objective(logits):
        logp = jax.nn.log_softmax(logits)
        ends = (logp[first], logp[second], log_ref[first], log_ref[second])
        losses = LOSSES[name](*ends, **dict(options))
        return jnp.sum(weight * losses) / jnp.sum(weight)

    return objective


@functools.partial(jax.jit, static_argnames=("name", "options", "steps"))
def newton(name, options, weight, log_ref, start, steps=40):
    """Logits at the minimum of a population loss that is convex, to round-off."""
    objective = pair_objective(name, weight, log_ref, options)

    def step(x, _):
        direction = jnp.linalg.lstsq(
            jax.hessian(objective)(x), jax.grad(objective)(x), rcond=1e-9
        )[0]
        sizes = 0.5 ** jnp.arange(12)
        tried = jax.vmap(lambda size: objective(x - size * direction))(sizes)
        return x - sizes[jnp.argmin(tried)] * direction, None

    return jax.lax.scan(step, start, None, length=steps)[0]


def descend(objective, start, steps, rate):
    """Logits after so many exact Adam steps, a row for each of `steps`."""
    optimizer = optax.adam(rate)

    def step(carry, _):
        x, state = carry
        update, state = optimizer.update(jax.grad(objective)(x), state)
        return (optax.apply_updates(x, update), state), None

    carry, found = (start, optimizer.init(start)), []
    for count in np.diff((0, *steps)):
        carry, _ = jax.lax.scan(step, carry, None, length=int(count))
        found.append(carry[0])
    return jnp.stack(found)


@functools.partial(jax.jit, static_argnames=("name", "options", "steps"))
def pair_descent(name, options, weight, log_ref, steps):
    """`descend` on a population loss, from the reference."""
    objective = pair_objective(name, weight, log_ref, options)
    return descend(objective, log_ref, steps, 0.05)


def probabilities(logits):
    """float64 softmax on the host."""
    return np.exp(np.asarray(jax.nn.log_softmax(logits)))


def solve(world, name, weight, **options):
    """The distribution at the minimum of a population loss."""
    log_ref = jnp.asarray(world.reference)
    logits = newton(name, tuple(options.items()), weight, log_ref, log_ref)
    return probabilities(logits)


@jax.jit
def rlhf_ascent(gold, log_ref, table):
    """Token logits after 3000 Adam steps on J, rate 0.2 falling to 0."""
    at = enumerable.rows(4, 3), enumerable.contents(4, 3)

    def loss(table):
        logp = jnp.sum(jax.nn.log_softmax(table)[at], axis=1)
        return -jnp.sum(jnp.exp(logp) * (gold - BETA * (logp - log_ref)))

    schedule = optax.cosine_decay_schedule(0.2, 3000)
    return descend(loss, table, (3000,), schedule)[0]


def exact_rlhf(seed):
    """Gradient ascent on J itself."""
    world = enumerable.e64(seed)
    with jax.enable_x64(True):
        start = jnp.asarray(tabular.reference_table(world))
        gold, log_ref = jnp.asarray(world.gold), jnp.asarray(world.reference)
        pi = enumerable.distribution(np.asarray(rlhf_ascent(gold, log_ref, start)))
    gap = enumerable.best_objective(world, BETA) - enumerable.objective(world, pi, BETA)
    tilt = enumerable.tilt(world, BETA)
    return {
        "J of the tilt less J": gap,
        "total variation to the tilt": enumerable.total_variation(pi, tilt),
    }


def dpo_is_rlhf(seed):
    """The minimum of DPO under Bradley-Terry labels of gold."""
    world = enumerable.e64(seed)
    with jax.enable_x64(True):
        pi = solve(world, "dpo", wins(jnp.asarray(world.gold)), beta=BETA)
    implicit = BETA * (np.log(pi) - world.reference)
    off = (implicit - implicit.mean()) - (world.gold - world.gold.mean())
    tilt = enumerable.tilt(world, BETA)
    return {
        "total variation to the tilt": enumerable.total_variation(pi, tilt),
        "implicit reward less gold": np.abs(off).max(),
    }


def half_support(seed):
    """Pairs cover a random half; two starts with the same reference."""
    world, draw = enumerable.e64(seed), np.random.default_rng(seed)
    covered = np.zeros(64, bool)
    covered[draw.permutation(64)[:32]] = True
    tilt = enumerable.tilt(world, BETA)
    with jax.enable_x64(True):
        inside = jnp.asarray(covered)
        weight = wins(jnp.asarray(world.gold)) * inside[ROWS].all(axis=1)
        log_ref = jnp.asarray(world.reference)
        shift = jnp.where(inside, 0.0, 2.0)  # what no pair speaks about
        ends = [
            probabilities(newton("dpo", (("beta", BETA),), weight, log_ref, start))
            for start in (log_ref, log_ref + shift)
        ]
    ratios = [np.log(pi[covered]) - np.log(tilt[covered]) for pi in ends]
    outside = [float(pi[~covered].sum()) for pi in ends]
    return {
        "spread of log(policy / tilt) where covered": max(np.ptp(r) for r in ratios),
        "mass off the support, between two starts": abs(outside[0] - outside[1]),
        "mass off the support, less the tilt's": abs(
            outside[0] - float(tilt[~covered].sum())
        ),
    }


def flipped_labels(seed):
    """Three in ten labels turned round."""
    world = enumerable.e64(seed)
    tilt, found = enumerable.tilt(world, BETA), {}
    with jax.enable_x64(True):
        weight = wins(jnp.asarray(world.gold), FLIPS)
        for name in ("dpo", "cdpo", "robust"):
            more = {} if name == "dpo" else {"label_smoothing": FLIPS}
            pi = solve(world, name, weight, beta=BETA, **more)
            found[name] = enumerable.total_variation(pi, tilt)
    return {
        "DPO, total variation to the tilt": found["dpo"],
        "robust DPO, total variation to the tilt": found["robust"],
        "cDPO less DPO": found["cdpo"] - found["dpo"],
    }


def travelled(world, logits):
    """KL to the reference of each row of logits."""
    reference = enumerable.reference(world)
    rows = probabilities(logits)
    return [enumerable.kl(pi, reference) for pi in rows], rows


def deterministic_labels(seed):
    """The better response always wins; KL after 500, 2000 and 8000 steps."""
    world, steps = enumerable.e64(seed), (500, 2000, 8000)
    with jax.enable_x64(True):
        gold, log_ref = jnp.asarray(world.gold), jnp.asarray(world.reference)
        weight = (gold[ROWS[:, 0]] > gold[ROWS[:, 1]]).astype(float)
        found = {}
        for name, options in (("dpo", {"beta": BETA}), ("ipo", {"tau": 0.5})):
            logits = pair_descent(name, tuple(options.items()), weight, log_ref, steps)
            found[name] = travelled(world, logits)
    ipo, dpo = found["ipo"][0], found["dpo"][0]
    return {
        "IPO: KL at 8000 over KL at 500 steps": ipo[2] / ipo[0],
        "DPO: KL at 2000 less KL at 500 steps": dpo[1] - dpo[0],
        "DPO: KL at 8000 less KL at 2000 steps": dpo[2] - dpo[1],
        "DPO: largest probability": found["dpo"][1][2].max(),
        "IPO: KL": ipo[2],
    }


@functools.partial(jax.jit, static_argnames="steps")
def kto_descent(gold, log_ref, steps):
    """`descend` on KTO's population loss, from the reference."""
    mass, liked, yes = jnp.exp(log_ref), jax.nn.sigmoid(gold), jnp.ones(64, bool)

    def loss(logits):
        logp = jax.nn.log_softmax(logits)
        z0 = jnp.maximum(jnp.sum(jnp.exp(logp) * (logp - log_ref)), 0.0)
        good = preference.kto_loss(logp, log_ref, yes, z0, beta=BETA)
        bad = preference.kto_loss(logp, log_ref, ~yes, z0, beta=BETA)
        return jnp.sum(mass * (liked * good + (1 - liked) * bad))

    return descend(loss, log_ref, steps, 0.05)


def kto_population(seed):
    """KTO on single responses of the reference, liked with probability sigmoid(gold);
    its reference point is the exact KL."""
    world, steps = enumerable.e64(seed), (500, 2000, 8000)
    with jax.enable_x64(True):
        gold, log_ref = jnp.asarray(world.gold), jnp.asarray(world.reference)
        kls, rows = travelled(world, kto_descent(gold, log_ref, steps))
    return {
        "mass on what most like, 8000 steps": float(rows[2][world.gold > 0].sum()),
        "total variation to the tilt": enumerable.total_variation(
            rows[2], enumerable.tilt(world, BETA)
        ),
        "KL at 500 steps": kls[0],
        "KL at 8000 steps": kls[2],
    }


E64 = "E64, a random world a seed, beta = 0.3; labels are Bradley-Terry in gold, "
PAIRS = E64 + "all pairs alike. The minimum of the population loss by Newton steps."
ANY = rep.FullScale(
    "Holds for any model that can represent the optimum: a derivation.",
    "None: the optimum cannot be enumerated there.",
)
DPO = "Rafailov et al. 2023, Direct preference optimization"

CLAIMS = (
    rep.Claim(
        id="M6",
        paper=DPO + ", eq. 4; Korbak et al. 2022",
        statement="gradient ascent on E r - beta KL reaches the tilt "
        "pi_ref exp(r / beta) / Z and the value beta log Z",
        protocol="E64, a random world a seed, beta = 0.3: 3000 Adam steps on the "
        "exact objective, rate 0.2 falling to 0, on token logits after every prefix.",
        seeds=SEEDS,
        measure=exact_rlhf,
        threshold={
            "J of the tilt less J": rep.Exact(0.0, 1e-5),
            "total variation to the tilt": rep.Exact(0.0, 1e-3),
        },
        full_scale=ANY,
        suites=SUITES,
    ),
    rep.Claim(
        id="M7",
        paper=DPO + ", theorem 1 and eq. 7",
        statement="the minimum of DPO's population loss is RLHF's optimum, its "
        "implicit reward is the reward",
        protocol=PAIRS,
        seeds=SEEDS,
        measure=dpo_is_rlhf,
        threshold={
            "total variation to the tilt": rep.Exact(0.0, 1e-6),
            "implicit reward less gold": rep.Exact(0.0, 1e-6),
        },
        full_scale=rep.FullScale(
            "Pythia 6.9B on TL;DR, beta 0.5, learning rate 1e-6, batch 64.",
            "Win rate against the reference 61 % (PPO 57 %) as the paper reports it",
        ),
        suites=SUITES,
    ),
    rep.Claim(
        id="M8",
        paper="Xu et al. 2024, Is DPO superior to PPO for LLM alignment?",
        statement="where pairs cover half of the responses DPO is right among these, "
        "but the mass of the others is left to the start",
        protocol=PAIRS + " Pairs are of a random half of the responses; a second start "
        "has 2 more on the logits of the other half, the same reference.",
        seeds=SEEDS,
        measure=half_support,
        threshold={
            "spread of log(policy / tilt) where covered": rep.Exact(0.0, 1e-6),
            "mass off the support, between two starts": rep.Above(0.05),
            "mass off the support, less the tilt's": rep.Above(0.05),
        },
        full_scale=ANY,
        suites=SUITES,
    ),
    rep.Claim(
        id="M9",
        paper="Chowdhury et al. 2024, Provably robust DPO; Mitchell 2023, cDPO",
        statement="with 30 % of the labels turned round robust DPO still ends at the "
        "tilt, DPO does not, and cDPO ends further off",
        protocol=PAIRS + " Both noise-aware losses are told the rate.",
        seeds=SEEDS,
        measure=flipped_labels,
        threshold={
            "robust DPO, total variation to the tilt": rep.Exact(0.0, 0.02),
            "DPO, total variation to the tilt": rep.Above(0.3),
            "cDPO less DPO": rep.Above(0.05),
        },
        full_scale=rep.FullScale(
            "GPT-2 large on IMDb, flip rate 0.4, beta 0.1, learning rate 1e-3.",
            "Robust DPO keeps its reward under flips, DPO and cDPO lose theirs",
        ),
        suites=SUITES,
        unit="total variation",
    ),
    rep.Claim(
        id="M10",
        paper="Azar et al. 2023, A general theoretical paradigm (IPO), section 4",
        statement="where the better response always wins DPO travels ever further "
        "from the reference, IPO stays where it is",
        protocol=E64.split(";")[0] + " (IPO tau = 0.5): the better always wins; exact "
        "Adam steps (0.05), 500, 2000 and 8000 of them.",
        seeds=SEEDS,
        measure=deterministic_labels,
        threshold={
            "IPO: KL at 8000 over KL at 500 steps": rep.Exact(1.0, 0.01),
            "DPO: KL at 2000 less KL at 500 steps": rep.Above(0.02),
            "DPO: KL at 8000 less KL at 2000 steps": rep.Above(0.0),
        },
        full_scale=rep.FullScale(
            "The paper's bandits; TRL's beta sweeps at 7B.",
            "DPO becomes deterministic on bandits of 3 arms, IPO does not",
        ),
        suites=SUITES,
    ),
    rep.Claim(
        id="R3-kto",
        paper="Ethayarajh et al. 2024, KTO, theorem 4.3",
        statement="KTO on noisy likes ends with its mass on what most people like, not "
        "at the tilt that the strength of the likes would ask for",
        protocol="E64, a random world a seed, beta = 0.3: responses of the reference, "
        "liked with probability sigmoid(gold); 8000 exact Adam steps (0.05).",
        seeds=SEEDS,
        measure=kto_population,
        threshold={
            "mass on what most like, 8000 steps": rep.Above(0.95),
            "total variation to the tilt": rep.Above(0.05),
        },
        full_scale=rep.FullScale(
            "Pythia and Llama 1B to 30B on SHP, HH and OASST, beta 0.1.",
            "KTO matches or exceeds DPO; at 1 desirable in 10 still above SFT",
        ),
        suites=SUITES,
    ),
)
