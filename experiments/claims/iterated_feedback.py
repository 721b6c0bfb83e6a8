"""Labels in rounds: collect from the policy, retrain the reward model, optimize again.

Papers:   Bai et al. 2022 (arXiv:2204.05862, iterated online feedback), Christiano et
          al. 2017 (arXiv:1706.03741), arXiv:2505.18126 (which rounds' labels to keep).
Command:  rlhf-jax reproduce R9-iterated R9-union
Hardware: 2 CPU cores, about two minutes.

World E32k: the policy of a round is the exact tilt of the reference by the reward model
of the round, so rounds differ in their labels and in nothing else.
"""

import functools

import jax.numpy as jnp
import numpy as np

from rlhf_jax import rng
from rlhf_jax.studies import reproduction as rep
from rlhf_jax.worlds import enumerable, proxy

SUITES = ("nightly", "release")
SEEDS, FURTHER = tuple(range(16)), tuple(range(16, 32))
ROUNDS, PAIRS, BETA = 3, 512, 0.3
LABELS = dict(sharpness=2.0, flip=0.25)


def reward_models(world, data, key):
    """Standardized scores of a reward model for each list of pairs."""
    size = ROUNDS * PAIRS
    padded = jnp.stack([jnp.resize(rows, (size, 2)) for rows in data])
    return proxy.learned(world, key, padded, [len(rows) for rows in data])


@functools.cache
def chains(seed):
    """Gold and KL after each round: of the union of all labels, and of the last."""
    world, key = enumerable.e32k(seed), rng.root(seed)
    many = proxy.compared(world, rng.named(key, "once"), ROUNDS * PAIRS, **LABELS)
    first = proxy.compared(world, rng.named(key, "labels", 0), PAIRS, **LABELS)
    once, score = reward_models(world, [many, first], rng.named(key, 0))
    policies = {"union": enumerable.tilt(world, BETA, score)}
    policies["last"] = policies["union"]
    found = {"once": [described(world, enumerable.tilt(world, BETA, once))]}
    found |= {name: [described(world, pi)] for name, pi in policies.items()}
    union = first
    for round in range(1, ROUNDS):
        fresh = {
            name: proxy.compared(
                world, rng.named(key, name, round), PAIRS, policy=pi, **LABELS
            )
            for name, pi in policies.items()
        }
        union = jnp.concatenate([union, fresh["union"]])
        data = [union, fresh["last"]]
        scores = reward_models(world, data, rng.named(key, round))
        for name, score in zip(("union", "last"), scores, strict=True):
            policies[name] = enumerable.tilt(world, BETA, score)
            found[name].append(described(world, policies[name]))
    return found


def described(world, policy):
    """(gold, KL to the reference)."""
    divergence = enumerable.kl(policy, enumerable.reference(world))
    return float(policy @ world.gold), divergence


def iterated(seed):
    """Three rounds against one with as many labels."""
    found = chains(seed)
    rounds = 1 + np.arange(ROUNDS)
    union = [gold for gold, _ in found["union"]]
    last = [gold for gold, _ in found["last"]]
    once = found["once"][0]
    panel = "Gold of the tilt by the reward model"
    curves = [
        rep.Curve(panel, "all labels so far", rounds, union),
        rep.Curve(panel, "labels of the last round", rounds, last),
        rep.Curve(panel, "one round", [ROUNDS], [once[0]], kind="point"),
    ]
    values = {
        "three rounds less one": union[-1] - once[0],
        "KL, three rounds": found["union"][-1][1],
        "KL, one round": once[1],
    }
    return rep.Measured(values, curves)


def union_or_last(seed):
    """All labels so far against those of the last round."""
    found = chains(seed)
    return {
        "all labels less the last": found["union"][-1][0] - found["last"][-1][0],
        "gold, labels of the last round": found["last"][-1][0],
    }


WORLD = (
    "E32k, a random world a seed; 512 pairs a round from the round's policy, "
    "Bradley-Terry labels of sharpness 2, a quarter turned round; a new reward model "
    "of 8 hidden units, 1500 Adam steps; next policy: exact tilt of the reference, "
    "beta 0.3 on scores of deviation 1. "
)

CLAIMS = (
    rep.Claim(
        id="R9-iterated",
        paper="Bai et al. 2022, section 4.5, iterated online RLHF; Christiano et al. "
        "2017, section 3.3",
        statement="three rounds of labels from the current policy give more gold than "
        "one round with as many labels from the reference",
        protocol=WORLD + "Three rounds and the union of their labels, against 1536 "
        "pairs of the reference.",
        seeds=SEEDS,
        further_seeds=FURTHER,
        measure=iterated,
        threshold={"three rounds less one": rep.Above(0.0)},
        full_scale=rep.FullScale(
            "52B, preference model retrained weekly on the union of all labels; "
            "AlpacaFarm, Pythia 410M, 4 rounds.",
            "Elo of the online models above that of the static ones",
        ),
        suites=SUITES,
        unit="sd of gold",
        plot=rep.Plot(
            "round", "gold [sd under the reference]", "Mean over seeds ± 1 error."
        ),
    ),
    rep.Claim(
        id="R9-union",
        paper="arXiv:2505.18126, On the over-optimization of iterated RLHF",
        statement="training on the labels of all rounds gives more gold than on those "
        "of the last",
        protocol=WORLD + "Gold after the third round, each chain collecting its own.",
        seeds=SEEDS,
        further_seeds=FURTHER,
        measure=union_or_last,
        threshold={"all labels less the last": rep.Above(0.0)},
        full_scale=rep.FullScale(
            "Pythia 410M policy, 1,000 preferences a round, 4 rounds, gold 7B.",
            "Gold 0.448 ± 0.065 (all labels), 0.357 (the last)",
        ),
        suites=SUITES,
        unit="sd of gold",
    ),
)
