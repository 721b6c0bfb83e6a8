"""ODIN: a quality head that is kept from knowing the length, beside one that knows it.

Chen et al. 2024 (arXiv:2402.07319). Two linear heads on shared features give r_Q and
r_L of each response. Preferences are explained by their sum,
`-log sigmoid((r_Q + r_L)_w - (r_Q + r_L)_l)`; r_L is rewarded for its correlation with
length and r_Q punished for its own, and the two heads are pushed to be orthogonal. The
policy is trained on r_Q alone. The equations are quoted from memory of the paper; the
weights of its experiments are not known here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax import metrics, types
from rlhf_jax.losses import ranking
from rlhf_jax.losses.combine import LossTerm, Term
from rlhf_jax.losses.reduction import support

EPS = 1e-6
"""Added to variances, so that equal values have correlation 0 and a finite gradient."""


class TwoHeads(NamedTuple):
    """What the two heads say of rankings.

    Attributes:
      quality: float32[B K], r_Q.
      length: float32[B K], r_L.
      overlap: float32[B], |cosine| of the two heads' kernels, the same in every row.
    """

    quality: Array
    length: Array
    overlap: Array


def two_headed_preference() -> LossTerm:
    """`all_pairs` on the sum of both heads; the metrics speak of the sum."""
    pairs = ranking.all_pairs()

    def values(
        outputs: TwoHeads, batch: types.RankingBatch
    ) -> tuple[Array, types.Metrics]:
        return pairs(outputs.quality + outputs.length, batch)

    return values


def length_decorrelation() -> Term:
    """`|rho(r_Q, length)| - rho(r_L, length)` over the ranked responses of a minibatch.

    The correlations are within prompts (each response against the mean of its own
    prompt), so the length of the prompt does not enter. They couple the rows: every
    row's value is that of all rows given, so a minibatch must not be cut (use one
    microbatch).
    """

    def values(
        outputs: TwoHeads, batch: types.RankingBatch
    ) -> tuple[Array, types.Metrics]:
        counts = (batch.ranks > 0) & support(batch).mask[:, None]
        lengths = jnp.sum(batch.inputs.mask, axis=-1, dtype=outputs.quality.dtype)
        quality = within_prompt_correlation(outputs.quality, lengths, counts)
        length = within_prompt_correlation(outputs.length, lengths, counts)
        report = {
            "reward_model/quality_length_correlation": metrics.scalar(
                jax.lax.stop_gradient(quality)
            ),
            "reward_model/length_correlation": metrics.scalar(
                jax.lax.stop_gradient(length)
            ),
        }
        loss = jnp.abs(quality) - length
        return jnp.broadcast_to(loss, batch.weight.shape), report

    return Term(values)


def head_orthogonality() -> LossTerm:
    """`|W_Q . W_L| / (|W_Q| |W_L|)`: 0 where the heads read different features."""

    def values(
        outputs: TwoHeads, batch: types.RankingBatch
    ) -> tuple[Array, types.Metrics]:
        del batch
        return outputs.overlap, {}

    return values


def within_prompt_correlation(
    x: Float[Array, "B K"], y: Float[Array, "B K"], mask: Bool[Array, "B K"]
) -> Float[Array, ""]:
    """Correlation of deviations from the row's mean, over the entries that count.

    0 where either never deviates.
    """
    a, b = _deviations(x, mask), _deviations(y, mask)
    count = jnp.maximum(jnp.sum(mask, dtype=x.dtype), 1.0)
    sizes = (jnp.sum(a * a) / count + EPS) * (jnp.sum(b * b) / count + EPS)
    return jnp.sum(a * b) / count / jnp.sqrt(sizes)


def _deviations(values: Array, mask: Array) -> Array:
    safe = jnp.where(mask, values, 0.0)
    count = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True, dtype=values.dtype), 1.0)
    return jnp.where(mask, safe - jnp.sum(safe, axis=1, keepdims=True) / count, 0.0)


def overlap(kernels: Float[Array, "D 2"]) -> Float[Array, ""]:
    """|cosine| of the quality head and the length head."""
    quality, length = kernels[:, 0], kernels[:, 1]
    sizes = jnp.sum(quality**2) * jnp.sum(length**2)
    return jnp.abs(jnp.sum(quality * length)) / jnp.sqrt(sizes + EPS)
