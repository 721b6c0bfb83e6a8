"""f-DPO: other divergences than the reverse KL between policy and reference.

Wang et al. 2023 (eq. 13): with `u = policy(y|x) / reference(y|x) = e^h` the implicit
reward is `beta f'(u)` up to a constant of the prompt, and the loss `-log sigmoid(beta
f'(u_w) - beta f'(u_l))`. The reverse KL, `f'(u) = log u + 1`, is DPO.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.losses.combine import Number
from rlhf_jax.losses.preference.batches import positive

LARGEST_EXPONENT = 80.0
"""Powers of u are held at e^80 (float32 ends at e^88): all stays finite."""


def forward_kl(h: Float[Array, "B"]) -> Float[Array, "B"]:
    """`f'(u) = -1/u`, KL(reference || policy)."""
    return -_power(-h)


def jensen_shannon(h: Float[Array, "B"]) -> Float[Array, "B"]:
    """`f'(u) = log(2u / (1 + u))`."""
    return jnp.log(jnp.asarray(2.0, h.dtype)) - jax.nn.softplus(-h)


def alpha_divergence(alpha: float) -> Callable[[Array], Array]:
    """`f'(u) = (1 - u^-alpha) / alpha`; 0 is the reverse KL, 1 the forward one."""
    positive("alpha", alpha)

    def derivative(h: Float[Array, "B"]) -> Float[Array, "B"]:
        return -_expm1(-alpha * h) / alpha

    return derivative


def f_dpo_loss(
    policy_chosen: Float[Array, "B"],
    policy_rejected: Float[Array, "B"],
    ref_chosen: Float[Array, "B"],
    ref_rejected: Float[Array, "B"],
    *,
    derivative: Callable[[Array], Array] = jensen_shannon,
    beta: Number = 0.1,
) -> Float[Array, "B"]:
    """`-log sigmoid(beta (f'(u_w) - f'(u_l)))`.

    Args:
      derivative: f' as a function of `h = log u`: `forward_kl`, `jensen_shannon`,
        `alpha_divergence(alpha)` or one of your own.
      beta: strength of the divergence.
    """
    chosen = derivative(policy_chosen - ref_chosen)
    rejected = derivative(policy_rejected - ref_rejected)
    return jax.nn.softplus(-beta * (chosen - rejected))


def _power(exponent: Array) -> Array:
    return jnp.exp(jnp.minimum(exponent, LARGEST_EXPONENT))


def _expm1(exponent: Array) -> Array:
    return jnp.expm1(jnp.minimum(exponent, LARGEST_EXPONENT))
