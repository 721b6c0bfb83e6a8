"""A study that costs nothing: a known effect a cell plus noise of the seed."""

import numpy as np
import pytest

from rlhf_jax.studies import ablation

CONFIG = {
    "ppo": {"kl_coef": 0.05, "whiten": True, "entropy": 0.01, "epochs": 4},
    "seed": 0,
}
TERMS = (
    ablation.Term("KL penalty", {"ppo.kl_coef": 0.0}),
    ablation.Term("whitening", {"ppo.whiten": False}),
    ablation.Term("entropy", {"ppo.entropy": 0.0}),
)
EFFECTS = {"without KL penalty": 2.0, "without whitening": -1.0, "without entropy": 0.0}
METRICS = (
    ablation.Metric("gold", "table.ppo.gold", "up", "score", margin=0.5),
    ablation.Metric("kl", "eval/kl", "down", "nats"),
)


def numbers(cell, seed):
    return np.random.default_rng([seed, *map(ord, cell.name)])


class World:
    """`run(cell, seed)` that keeps what it was asked for.

    `die_at`: raises KeyboardInterrupt at its call of that number, from 0.
    """

    def __init__(self, effects=EFFECTS, diverge=(), dead=(), die_at=None, nan=()):
        self.effects, self.diverge, self.dead = effects, set(diverge), set(dead)
        self.die_at, self.nan, self.calls = die_at, set(nan), []

    def __call__(self, cell, seed):
        if self.die_at == len(self.calls):
            raise KeyboardInterrupt
        self.calls.append((seed, cell.name))
        if (cell.name, seed) in self.diverge:
            raise ablation.Diverged(7, "loss/policy is nan")
        noise = numbers(cell, seed)
        shared = np.random.default_rng(seed).normal()
        gold = shared + self.effects.get(cell.name, 0.0) + noise.normal(0, 0.05)
        if (cell.name, seed) in self.nan:
            gold = np.nan
        steps = np.arange(0, 50, 10)
        curve = gold * steps / 40 + noise.normal(0, 0.01, 5)
        fingerprint = "dead" if cell.name in self.dead | {"all terms"} else cell.name
        norms = np.random.default_rng([seed, *map(ord, fingerprint)]).random(9)
        return ablation.Outcome(
            {"gold": float(gold), "kl": float(5 + noise.normal())},
            {"gold": (steps, curve), "kl": (steps, steps / 10)},
            norms,
            seconds=float(np.random.default_rng().random()),
        )


@pytest.fixture
def world():
    return World


@pytest.fixture
def make_plan():
    def make(seeds=range(8), cells=None, **options):
        cells = cells or ablation.leave_one_out(TERMS)
        options = {"config": CONFIG, "gold": "gold", "kl": "kl"} | options
        return ablation.make("terms", cells, seeds, METRICS, **options)

    return make
