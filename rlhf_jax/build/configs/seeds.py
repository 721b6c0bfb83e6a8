"""Four seeds that may differ: initial weights, data, sampling, labels."""

from __future__ import annotations

from typing import NamedTuple

from rlhf_jax.build.configs.section import Section

LARGEST = 2**32 - 1
"""A random key has room for this much."""


class Seeds(NamedTuple):
    """init: weights; data: worlds, splits, order; sampling: rollouts; label: noise."""

    init: int
    data: int
    sampling: int
    label: int


def seeds(config: Section) -> Seeds:
    """Reads `seed` and `seeds.*`; a seed that is None follows `seed`."""
    common = config.int("seed", 0, LARGEST)
    section = config.section("seeds")

    def one(name: str) -> int:
        own = section.optional(name, lambda key: section.int(key, 0, LARGEST))
        return common if own is None else own

    return Seeds(*(one(name) for name in Seeds._fields))
