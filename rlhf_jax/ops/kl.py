"""The k1, k2, k3 estimators of KL(policy || reference) per sampled token.

Schulman 2020, "Approximating KL divergence". With `d = logprobs - ref_logprobs` of
tokens drawn from the policy, the expectation of k1 and of k3 is the KL; k2 is biased.

As a *reward* (no gradient) k1 gives the right policy gradient. As a *loss* on samples
of the policy only k2 has the gradient of KL(policy || reference): that of k1 is 0 in
expectation, that of k3 is the gradient of KL(reference || policy), the other direction
(checks C11, B31). The exact KL over the vocabulary is `logprobs.exact_kl`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.errors import UserError

Estimator = Callable[[Array, Array], Array]
"""`(logprobs, ref_logprobs) -> per-token estimate`, all of one shape."""

_LARGEST_EXPONENT = 80.0
"""exp(80) = 5.5e34 is finite in float32, and so is a sum of thousands of them."""


def k1(
    logprobs: Float[Array, "*B"], ref_logprobs: Float[Array, "*B"]
) -> Float[Array, "*B"]:
    """`d`: unbiased, high variance, of either sign."""
    return logprobs - ref_logprobs


def k2(
    logprobs: Float[Array, "*B"], ref_logprobs: Float[Array, "*B"]
) -> Float[Array, "*B"]:
    """`d^2 / 2`: biased, low variance, not negative."""
    return 0.5 * jnp.square(logprobs - ref_logprobs)


def k3(
    logprobs: Float[Array, "*B"], ref_logprobs: Float[Array, "*B"]
) -> Float[Array, "*B"]:
    """`exp(-d) - 1 + d`: unbiased, low variance, not negative.

    `expm1` keeps the digits where the two policies nearly agree. The exponent is held
    at 80, so that a token which the reference finds far likelier stays finite (check
    B32); there is no gradient through the exponential beyond that.
    """
    gap = ref_logprobs - logprobs
    return jnp.expm1(jnp.minimum(gap, _LARGEST_EXPONENT)) - gap


def k3_with_k2_gradient(
    logprobs: Float[Array, "*B"], ref_logprobs: Float[Array, "*B"]
) -> Float[Array, "*B"]:
    """The value of k3 with the gradient of k2.

    As a loss it shows an unbiased divergence and pulls towards the reference by the
    right gradient, that of KL(policy || reference) (k3 alone: the reverse, check B31).
    """
    straight = k2(logprobs, ref_logprobs)
    value = k3(logprobs, ref_logprobs)
    return straight + jax.lax.stop_gradient(value - straight)


ESTIMATORS: dict[str, Estimator] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
    "k3_with_k2_gradient": k3_with_k2_gradient,
}
"""The estimators by name."""


def named(estimator: str | Estimator) -> Estimator:
    """The estimator of a name; a function is taken as it is.

    Raises:
      UserError: there is none of that name.
    """
    if not isinstance(estimator, str):
        return estimator
    if estimator not in ESTIMATORS:
        raise UserError(
            f"unknown KL estimator '{estimator}'; use one of {', '.join(ESTIMATORS)}"
        )
    return ESTIMATORS[estimator]
