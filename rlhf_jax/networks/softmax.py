"""The softmax of attention with its product, and a backward pass that reads it once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_MASKED = -1e30


def exponentials(
    scores: Float[Array, "*rows S"], mask: Bool[Array, "*#rows S"]
) -> tuple[Float[Array, "*rows S"], Float[Array, "*rows 1"]]:
    """`exp(scores - largest)` where `mask`, else 0, and the sums of the rows.

    The quotient is the softmax. The sum of a row without any True is given as 1, so
    that its softmax is 0.
    """
    scores = jnp.where(mask, scores, _MASKED)
    peak = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - jnp.maximum(peak, _MASKED / 2))
    total = weights.sum(axis=-1, keepdims=True)
    return weights, jnp.where(total == 0, 1.0, total)


@jax.custom_vjp
def mix(
    scores: Float[Array, "B K G L S"],
    values: Float[Array, "B K S E"],
    mask: Bool[Array, "B #K #G L S"],
) -> Float[Array, "B K G L E"]:
    """`softmax(scores where mask) @ values`, softmax in float32.

    Differentiable in scores and values (reverse mode). With P the softmax and O the
    result, `dS = P * (dP - rowsum(dP * P))`, and `rowsum(dP * P) = rowsum(dO * O)`
    (Dao et al. 2022, arXiv:2205.14135, appendix B.4), which is a sum over E instead of
    one over S. Rows are divided by their sums where they are short: O and dO, not P.
    """
    return _forward(scores, values, mask)[0]


def _forward(scores: Array, values: Array, mask: Array) -> tuple[Array, Any]:
    weights, total = exponentials(scores, mask)
    weights = weights.astype(values.dtype)
    mixed = jnp.einsum(
        "bkgls,bkse->bkgle", weights, values, preferred_element_type=jnp.float32
    )
    mixed = (mixed / total).astype(values.dtype)
    return mixed, (weights, total, values, mixed)


def _backward(saved: Any, cotangent: Array) -> tuple[Array, Array, None]:
    weights, total, values, mixed = saved
    per_sum = cotangent / total
    common = jnp.sum(per_sum * mixed, axis=-1, keepdims=True)
    per_sum = per_sum.astype(values.dtype)
    d_weights = jnp.einsum(
        "bkgle,bkse->bkgls", per_sum, values, preferred_element_type=jnp.float32
    )
    d_values = jnp.einsum("bkgls,bkgle->bkse", weights, per_sum)
    return weights * (d_weights - common), d_values, None


mix.defvjp(_forward, _backward)
