"""What noisy or too clean labels do to direct preference losses.

Papers:   Mitchell 2023 and Chowdhury et al. 2024 (noisy labels, M9), Azar et al. 2023
          (IPO, M10), Ethayarajh et al. 2024 (KTO).
Command:  rlhf-jax reproduce M9 M10 R3-kto
Hardware: 2 CPU cores, half a minute.

World E64: all 64 responses and all pairs of them are summed over in float64, so there
is no sampling, and the losses are those of `rlhf_jax.losses.preference`.
"""

import functools

import jax
import jax.numpy as jnp

from rlhf_jax.losses import preference
from rlhf_jax.studies import reproduction as rep
from rlhf_jax.worlds import enumerable, population

SUITES = ("smoke", "nightly", "release")
SEEDS = tuple(range(8))
BETA, FLIPS = 0.3, 0.3
LOSSES = {
    "dpo": preference.dpo_loss,
    "cdpo": preference.cdpo_loss,
    "robust": preference.robust_loss,
    "ipo": preference.ipo_loss,
}


@functools.partial(jax.jit, static_argnames=("name", "options"))
def minimum(name, options, weight, log_ref, start):
    """Logits at the minimum of a population loss."""
    objective = population.pair_objective(LOSSES[name], weight, log_ref, dict(options))
    return population.newton(objective, start)


@functools.partial(jax.jit, static_argnames=("name", "options", "steps"))
def descent(name, options, weight, log_ref, steps):
    """Logits after so many exact steps on a population loss, from the reference."""
    objective = population.pair_objective(LOSSES[name], weight, log_ref, dict(options))
    return population.descend(objective, log_ref, steps, 0.05)


def solve(world, name, weight, **options):
    """The distribution at the minimum of a population loss."""
    log_ref = jnp.asarray(world.reference)
    logits = minimum(name, tuple(options.items()), weight, log_ref, log_ref)
    return population.probabilities(logits)


def flipped_labels(seed):
    """Three in ten labels turned round."""
    world = enumerable.e64(seed)
    tilt, found = enumerable.tilt(world, BETA), {}
    with jax.enable_x64(True):
        weight = population.wins(jnp.asarray(world.gold), FLIPS)
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
    rows = population.probabilities(logits)
    return [enumerable.kl(pi, reference) for pi in rows], rows


def deterministic_labels(seed):
    """The better response always wins; KL after 500, 2000 and 8000 steps."""
    world, steps = enumerable.e64(seed), (500, 2000, 8000)
    with jax.enable_x64(True):
        gold, log_ref = jnp.asarray(world.gold), jnp.asarray(world.reference)
        first, second = population.pairs(64).T
        weight = (gold[first] > gold[second]).astype(float)
        found = {}
        for name, options in (("dpo", {"beta": BETA}), ("ipo", {"tau": 0.5})):
            logits = descent(name, tuple(options.items()), weight, log_ref, steps)
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

    return population.descend(loss, log_ref, steps, 0.05)


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
