"""Controllers of a KL coefficient: fixed, scheduled, proportional, Lagrangian.

A controller says which coefficient holds for this batch, then sees the batch's KL and
moves on. `rewards.kl_penalty` and its relatives use one for the penalty in the rewards,
`losses.kl_to_reference` and its relatives for the term in the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from rlhf_jax.errors import UserError

Coefficient = float | Callable[[Array], Any]
"""A number, or a schedule from the number of updates so far (int32) to one."""

_MOST_ERROR = 0.2


class Controller(NamedTuple):
    """A coefficient that may follow the KL.

    Attributes:
      init: `init() -> state`.
      coef: `coef(state) -> float32[]`, the coefficient of the coming batch.
      update: `update(state, kl, episodes) -> state`, from the mean KL per sequence
        (nats) and the number of sequences of that batch.
    """

    init: Callable[[], Any]
    coef: Callable[[Any], Array]
    update: Callable[[Any, Array, Array], Any]


class Scheduled(NamedTuple):
    """State of `fixed`: the coefficient (None where a schedule gives it), and the
    number of updates so far."""

    coef: Array | None
    count: Array


class Followed(NamedTuple):
    """State of a coefficient that follows the KL, float32[] each: the coefficient
    (of `lagrangian` its logarithm), and the numbers that move it, which are arguments
    of compiled steps like it.

    Attributes:
      coef: now.
      target: nats per sequence.
      pace: the horizon in episodes, or the rate per batch.
    """

    coef: Array
    target: Array
    pace: Array


def _followed(coef: Array, target: float, pace: float) -> Followed:
    numbers = (jnp.asarray(x, jnp.float32) for x in (coef, target, pace))
    return Followed(*numbers)


def fixed(coef: Coefficient) -> Controller:
    """A number, or a schedule of the update count; the KL changes nothing.

    The number is state, and so an argument of compiled steps, not a part of them.
    """

    def init() -> Scheduled:
        number = None if callable(coef) else jnp.asarray(coef, jnp.float32)
        return Scheduled(number, jnp.zeros((), jnp.int32))

    def now(state: Scheduled) -> Array:
        value = coef(state.count) if callable(coef) else state.coef
        return jnp.asarray(value, jnp.float32)

    def update(state: Scheduled, kl: Array, episodes: Array) -> Scheduled:
        return state._replace(count=state.count + 1)

    return Controller(init, now, update)


def proportional(init_coef: float, target: float, horizon: float) -> Controller:
    """The proportional controller of Ziegler et al. 2019 (1909.08593, section 2.2).

    After each batch of n episodes, `coef *= 1 + clip(KL / target - 1, -0.2, 0.2) * n /
    horizon`.

    Args:
      init_coef: the first coefficient (0.15 in the paper).
      target: nats per sequence (6 in the paper), above 0.
      horizon: episodes over which an error of 1 would change the coefficient e-fold
        if it were not clipped (10,000 in the paper), above 0.
    """
    if target <= 0 or horizon <= 0:
        raise UserError(
            f"adaptive KL coefficient: target {target} and horizon {horizon} must be"
            " above 0; for a fixed coefficient use kl_penalty or kl_to_reference"
        )

    def init() -> Followed:
        return _followed(jnp.asarray(init_coef), target, horizon)

    def update(state: Followed, kl: Array, episodes: Array) -> Followed:
        error = jnp.clip(kl / state.target - 1.0, -_MOST_ERROR, _MOST_ERROR)
        # A NaN would stay in the coefficient, and in every checkpoint, for good.
        error = jnp.where(jnp.isfinite(kl), error, 0.0)
        return state._replace(coef=state.coef * (1.0 + error * episodes / state.pace))

    return Controller(init, lambda state: state.coef, update)


def lagrangian(init_coef: float, target: float, rate: float) -> Controller:
    """Dual ascent on `max_pi E[r] subject to KL <= target`.

    The coefficient is the multiplier of the constraint; its logarithm takes a step of
    `rate * clip(KL / target - 1, -1, 1)` after each batch, so it stays positive and
    falls while the constraint is slack (as in Abdolmaleki et al. 2018, MPO, and SAC's
    temperature). Unlike the proportional controller its step does not depend on the
    batch size.

    Args:
      init_coef: the first coefficient, above 0.
      target: the KL to hold, nats per sequence, above 0.
      rate: largest step of log(coef) per batch, above 0.
    """
    if init_coef <= 0 or target <= 0 or rate <= 0:
        raise UserError(
            f"Lagrangian KL coefficient: init_coef {init_coef}, target {target} and"
            f" rate {rate} must be above 0"
        )

    def init() -> Followed:
        return _followed(jnp.log(jnp.asarray(init_coef, jnp.float32)), target, rate)

    def update(state: Followed, kl: Array, episodes: Array) -> Followed:
        error = jnp.clip(kl / state.target - 1.0, -1.0, 1.0)
        moved = jnp.isfinite(kl) & (episodes > 0)
        step = jnp.where(moved, state.pace * error, 0.0)
        return state._replace(coef=state.coef + step)

    return Controller(init, lambda state: jnp.exp(state.coef), update)
