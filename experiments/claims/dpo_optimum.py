"""The optimum of RLHF, and that DPO has the same one where pairs cover everything.

Papers:   Rafailov et al. 2023 (DPO, M6, M7), Xu et al. 2024 (support, M8).
Command:  rlhf-jax reproduce M6 M7 M8
Hardware: 2 CPU cores, half a minute.

World E64: all 64 responses and all pairs of them are summed over in float64, so there
is no sampling, and the loss is that of `rlhf_jax.losses.preference`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlhf_jax.losses import preference
from rlhf_jax.studies import reproduction as rep
from rlhf_jax.worlds import enumerable, population, tabular

SUITES = ("smoke", "nightly", "release")
SEEDS = tuple(range(8))
BETA = 0.3


@jax.jit
def rlhf_ascent(gold, log_ref, table):
    """Token logits after 3000 Adam steps on J, rate 0.2 falling to 0."""
    at = enumerable.rows(4, 3), enumerable.contents(4, 3)

    def loss(table):
        logp = jnp.sum(jax.nn.log_softmax(table)[at], axis=1)
        return -jnp.sum(jnp.exp(logp) * (gold - BETA * (logp - log_ref)))

    schedule = optax.cosine_decay_schedule(0.2, 3000)
    return population.descend(loss, table, (3000,), schedule)[0]


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


@jax.jit
def minimum(weight, log_ref, start):
    """Logits at the minimum of DPO's population loss."""
    options = {"beta": BETA}
    objective = population.pair_objective(preference.dpo_loss, weight, log_ref, options)
    return population.newton(objective, start)


def dpo_is_rlhf(seed):
    """The minimum of DPO under Bradley-Terry labels of gold."""
    world = enumerable.e64(seed)
    with jax.enable_x64(True):
        gold, log_ref = jnp.asarray(world.gold), jnp.asarray(world.reference)
        pi = population.probabilities(minimum(population.wins(gold), log_ref, log_ref))
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
        both = inside[population.pairs(64)].all(axis=1)
        weight = population.wins(jnp.asarray(world.gold)) * both
        log_ref = jnp.asarray(world.reference)
        shift = jnp.where(inside, 0.0, 2.0)  # what no pair speaks about
        ends = [
            population.probabilities(minimum(weight, log_ref, start))
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
)
