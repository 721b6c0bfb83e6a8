"""Regression of several attributes of a response, as HelpSteer's ratings.

Dong et al. 2023 (SteerLM, arXiv:2310.05344) and Wang et al. 2023 (HelpSteer,
arXiv:2311.09528): a reward model with one output per attribute, trained on ratings. A
response need not be rated on every attribute.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax import metrics, types
from rlhf_jax.losses.combine import LossTerm
from rlhf_jax.losses.reduction import Support, support


class AttributeBatch(NamedTuple):
    """Rated responses.

    Attributes:
      inputs: prompt and response, arrays [B L].
      ratings: float32[B A]; anything where `rated` is False.
      rated: bool[B A], which attributes of the response were rated.
      example_id: int32[B].
      weight: float32[B].
    """

    inputs: types.ModelInputs
    ratings: Array
    rated: Array
    example_id: Array
    weight: Array


@support.register
def _(batch: AttributeBatch) -> Support:
    """The rows with a rating."""
    return Support(jnp.any(batch.rated, axis=1), batch.weight)


def attribute_regression() -> LossTerm:
    """`sum_a (s_a - r_a)^2 / #rated`: mean squared error over the rated attributes.

    Outputs are float32[B A]; a response counts once, however many of its attributes
    were rated, and a rating that is missing has no influence at all.
    """

    def values(
        outputs: Array, batch: AttributeBatch
    ) -> tuple[Array, dict[str, metrics.Mean]]:
        error = squared_error(outputs, batch.ratings, batch.rated)
        weight = jnp.broadcast_to(batch.weight[:, None], batch.rated.shape)
        report = {
            "reward_model/squared_error": metrics.mean(
                jax.lax.stop_gradient(error), batch.rated, weight
            )
        }
        rated = jnp.sum(batch.rated, axis=1, dtype=error.dtype)
        return jnp.sum(error, axis=1) / jnp.maximum(rated, 1.0), report

    return values


def squared_error(
    outputs: Float[Array, "B A"],
    ratings: Float[Array, "B A"],
    rated: Bool[Array, "B A"],
) -> Float[Array, "B A"]:
    """Squared differences, 0 (and without gradient) where nothing was rated."""
    known = jnp.where(rated, ratings, 0.0)
    return jnp.square(jnp.where(rated, outputs, 0.0) - known)


def weighted_sum(
    outputs: Float[Array, "B A"], weights: Float[Array, " A"]
) -> Float[Array, " B"]:
    """One score from several attributes, as a policy is trained on it."""
    return outputs @ weights
