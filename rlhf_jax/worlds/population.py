"""Population losses of enumerable policies: all pairs summed over, no sampling.

A policy is N logits, one for each response; a label is a probability. What a loss of
comparisons ends at is then the minimum of a function that can be written down.

`newton` and `descend` are traced: call them inside `jax.jit`, in float64 under
`jax.enable_x64`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

Objective = Callable[[Array], Array]
"""Logits float[...] to a loss float[]."""


def pairs(size: int) -> Int[np.ndarray, "P 2"]:
    """All ordered pairs of different responses, first the one called better."""
    first, second = np.nonzero(~np.eye(size, dtype=bool))
    return np.stack([first, second], axis=1)


def wins(gold: Float[Array, " N"], flips: float | int = 0.0) -> Float[Array, " P"]:
    """P(first is labeled better) of all `pairs`, Bradley-Terry in gold.

    Args:
      gold: of each response.
      flips: probability that a label is turned round.
    """
    first, second = pairs(gold.shape[0]).T
    return (1 - 2 * flips) * jax.nn.sigmoid(gold[first] - gold[second]) + flips


def pair_objective(
    loss: Callable[..., Array],
    weight: Float[Array, " P"],
    log_reference: Float[Array, " N"],
    options: Mapping[str, Any],
) -> Objective:
    """The mean of a loss of pairs under weights, as a function of N logits.

    Args:
      loss: `loss(policy_chosen, policy_rejected, ref_chosen, ref_rejected, **options)`
        to float[P], a function of `losses.preference`.
      weight: of all `pairs`.
      log_reference: log-prob of each response under the reference.
      options: hyper-parameters of the loss.
    """
    first, second = pairs(log_reference.shape[0]).T

    def objective(logits: Array) -> Array:
        logp = jax.nn.log_softmax(logits)
        ends = (logp[first], logp[second], log_reference[first], log_reference[second])
        return jnp.sum(weight * loss(*ends, **options)) / jnp.sum(weight)

    return objective


def newton(
    objective: Objective, start: Float[Array, " N"], steps: int = 40
) -> Float[Array, " N"]:
    """The minimum of a convex function, to round-off: Newton steps halved as needed.

    Directions without curvature (a shift of all logits) are left alone.
    """

    def step(x: Array, _: None) -> tuple[Array, None]:
        slope, curvature = jax.grad(objective)(x), jax.hessian(objective)(x)
        direction = jnp.linalg.lstsq(curvature, slope, rcond=1e-9)[0]
        sizes = 0.5 ** jnp.arange(12)
        tried = jax.vmap(lambda size: objective(x - size * direction))(sizes)
        return x - sizes[jnp.argmin(tried)] * direction, None

    return jax.lax.scan(step, start, None, length=steps)[0]


def descend(
    objective: Objective,
    start: Float[Array, "*shape"],
    steps: Sequence[int],
    rate: float | optax.Schedule,
) -> Float[Array, "S *shape"]:
    """Where Adam on the exact gradient is after each of `steps`, ascending."""
    optimizer = optax.adam(rate)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        x, state = carry
        update, state = optimizer.update(jax.grad(objective)(x), state)
        return (optax.apply_updates(x, update), state), None

    carry, found = (start, optimizer.init(start)), []
    for count in np.diff((0, *steps)):
        carry, _ = jax.lax.scan(step, carry, None, length=int(count))
        found.append(carry[0])
    return jnp.stack(found)


def probabilities(logits: Float[Array, "*S N"]) -> Float[np.ndarray, "*S N"]:
    """Softmax on the host, float64."""
    return np.exp(np.asarray(jax.nn.log_softmax(logits), np.float64))
