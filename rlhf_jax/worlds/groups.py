"""The advantage that a response has in a group, in the mean over the others.

GRPO divides the centered reward by the standard deviation of its group. What a response
gains on average is

    u(y) = E (r(y) - mean) / std,   over G - 1 others drawn from the policy

which for G = 2 is P(worse) - P(better), and for large G (r - E r) / std(r).
"""

from __future__ import annotations

import math

import numpy as np

from rlhf_jax.worlds.prefixes import Vector

MIN_STD = 1e-4
"""Floor of a standard deviation, as in `advantages.group_relative`."""

_MOST_TUPLES = 2**20
_DRAWS = 8192
_GRID = 512


def normalized(reward: Vector, pi: Vector, group: float | None) -> Vector:
    """u(y) of every response, population deviation.

    Args:
      reward: of each response.
      pi: its probability.
      group: G; None only centers, exactly; `math.inf` is the limit of large groups.
        Small groups are enumerated; where that is too much (`sampled`), the others are
        8192 fixed stratified draws, which leaves an error of about 0.01.
    """
    centered = reward - pi @ reward
    if group is None:
        return centered
    if math.isinf(group):
        return centered / max(math.sqrt(pi @ centered**2), MIN_STD)
    if sampled(len(pi), group):
        return _by_draws(reward, pi, int(group))
    return _by_enumeration(reward, pi, int(group))


def sampled(count: int, group: float | None) -> bool:
    """Whether groups of this size among so many responses are too many to enumerate."""
    if group is None or math.isinf(group):
        return False
    return group * math.log(count) > math.log(_MOST_TUPLES)


def _by_enumeration(reward: np.ndarray, pi: np.ndarray, size: int) -> np.ndarray:
    """Axis 0 of the arrays is the response itself, the further ones are the others."""
    total, squares, mass = np.zeros(()), np.zeros(()), np.ones(())
    for axis in range(size):
        along = [1] * size
        along[axis] = -1
        total = total + reward.reshape(along)
        squares = squares + reward.reshape(along) ** 2
        mass = mass * pi.reshape(along) if axis else mass
    own = reward.reshape([-1] + [1] * (size - 1))
    scaled = mass * _scaled(own, total, squares, size)
    return scaled.reshape(len(pi), -1).sum(axis=1)


def _scaled(
    own: np.ndarray, total: np.ndarray, squares: np.ndarray, size: int
) -> np.ndarray:
    """(own - mean) / std of a group with this sum and this sum of squares."""
    mean = total / size
    std = np.sqrt(np.maximum(squares / size - mean**2, 0.0))
    return (own - mean) / np.maximum(std, MIN_STD)


def _by_draws(reward: np.ndarray, pi: np.ndarray, size: int) -> np.ndarray:
    """The mean over draws of the others, the same noise each time (a smooth field).

    u depends on a response by its reward alone: where there are many responses it is
    interpolated between rewards on a grid.
    """
    rng = np.random.default_rng(0)
    strata = np.stack([rng.permutation(_DRAWS) for _ in range(size - 1)], axis=1)
    uniform = (strata + rng.random(strata.shape)) / _DRAWS
    order = np.argsort(reward)
    below = np.cumsum(pi[order])
    chosen = np.searchsorted(below / below[-1], uniform, side="right")
    others = reward[order][np.minimum(chosen, len(pi) - 1)]
    total, squares = others.sum(axis=1), np.square(others).sum(axis=1)
    few = len(reward) <= _GRID
    grid = reward if few else np.quantile(reward, np.linspace(0, 1, _GRID))
    own = grid[:, None]
    mean = _scaled(own, total + own, squares + own**2, size).mean(axis=1)
    return mean if few else np.interp(reward, grid, mean)
