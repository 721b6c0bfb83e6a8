"""What optimizing a score does to gold, exactly: best-of-n and tilts, many at once.

For distinct scores best-of-n of atoms p has the distribution F^n - F-^n (Beirami et al.
2024; `rollout.best_of_n.pmf` also shares ties), and ideal reinforcement learning ends
at the tilt p exp(score / beta) / Z. Each curve has, at every n or beta, the KL to the
reference, the gold and the score. All is computed in float64, a sort a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rlhf_jax.worlds.enumerable import World

Settings = Sequence[float | int] | np.ndarray
"""Numbers n of draws, or betas."""


def best_of(
    world: World, scores: Float[np.ndarray, "M N"], draws: Settings
) -> Float[np.ndarray, "M P 3"]:
    """(KL, gold, score) of best-of-n by each score.

    Args:
      world: the world.
      scores: what responses are chosen by, without ties.
      draws: n, at least 1; need not be whole.
    """
    return _curves(_best, world, scores, draws)


def tilts(
    world: World, scores: Float[np.ndarray, "M N"], betas: Settings
) -> Float[np.ndarray, "M P 3"]:
    """(KL, gold, score) of the tilts by each score, all `betas` positive."""
    return _curves(_tilted, world, scores, betas)


def _curves(
    program: Any, world: World, scores: np.ndarray, settings: Settings
) -> np.ndarray:
    with jax.enable_x64(True):
        arrays = (world.reference, world.gold, scores, settings)
        found = program(*(jnp.asarray(x, jnp.float64) for x in arrays))
    return np.asarray(found)


@jax.jit
def _best(reference: Any, gold: Any, scores: Any, draws: Any) -> Any:
    def curve(score: Any) -> Any:
        order = jnp.argsort(score)
        mass = jnp.exp(reference)[order]
        upper = jnp.minimum(jnp.cumsum(mass), 1.0).at[-1].set(1.0)
        lower = jnp.concatenate([jnp.zeros(1), upper[:-1]])

        def point(n: Any) -> Any:
            chosen = upper**n - lower**n
            return _point(chosen, reference[order], gold[order], score[order])

        return jax.lax.map(point, draws)

    return jax.lax.map(curve, scores)


@jax.jit
def _tilted(reference: Any, gold: Any, scores: Any, betas: Any) -> Any:
    def curve(score: Any) -> Any:
        def point(beta: Any) -> Any:
            chosen = jax.nn.softmax(reference + score / beta)
            return _point(chosen, reference, gold, score)

        return jax.lax.map(point, betas)

    return jax.lax.map(curve, scores)


def _point(chosen: Any, reference: Any, gold: Any, score: Any) -> Any:
    """(KL to the reference, E gold, E score); rounding below 0 is cut off."""
    ratio = jnp.log(jnp.where(chosen > 0, chosen, 1.0)) - reference
    divergence = jnp.sum(jnp.where(chosen > 0, chosen * ratio, 0.0))
    return jnp.stack([jnp.maximum(divergence, 0.0), chosen @ gold, chosen @ score])
