"""Learning-rate schedules: functions from the optimizer step to a number.

A schedule counts *optimizer* steps (0 before the first update), never microbatches:
an iteration of PPO with 4 epochs of 2 minibatches counts 8. `staircase` turns a
schedule of iterations into one of optimizer steps.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array
Schedule = Callable[[Array | int], Array]
"""`schedule(step) -> float32[]`, traceable."""


def constant(value: float) -> Schedule:
    """`value` at every step."""
    return lambda step: jnp.asarray(value, jnp.float32)


def linear(peak: float, steps: int, end: float = 0.0) -> Schedule:
    """From `peak` at step 0 to `end` at step `steps`, then `end`.

    Stiennon et al. 2020 and Huang et al. 2024 anneal PPO this way, to zero.
    """

    def schedule(step: Array | int) -> Array:
        left = 1.0 - _fraction(step, steps)
        return end + (peak - end) * left

    return schedule


def cosine(peak: float, steps: int, end: float = 0.0) -> Schedule:
    """Half a cosine from `peak` at step 0 to `end` at step `steps`, then `end`.

    Loshchilov and Hutter 2017, equation 5, without restarts.
    """

    def schedule(step: Array | int) -> Array:
        height = 0.5 * (1.0 + jnp.cos(jnp.pi * _fraction(step, steps)))
        return end + (peak - end) * height

    return schedule


def warmup(steps: int, then: Schedule) -> Schedule:
    """Rise linearly to `then(0)` over `steps`, then follow `then` from its own step 0.

    Step 0 already has `1 / (steps + 1)` of the peak, so that no update is wasted.
    """

    def schedule(step: Array | int) -> Array:
        count = jnp.asarray(step)
        rise = (count.astype(jnp.float32) + 1.0) / (steps + 1.0)
        later = then(jnp.maximum(count - steps, 0))
        return jnp.where(count < steps, rise * then(0), later)

    return schedule


def staircase(schedule: Schedule, every: int) -> Schedule:
    """Hold each value for `every` optimizer steps (one iteration of PPO)."""
    return lambda step: schedule(jnp.asarray(step) // every)


def _fraction(step: Array | int, steps: int) -> Array:
    return jnp.clip(jnp.asarray(step).astype(jnp.float32) / max(steps, 1), 0.0, 1.0)
