"""Adam with either place for its epsilon, and moments of 4 or of 2 bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlhf_jax import rng

Array = jax.Array

MOMENTS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""Names of the dtypes that moments are kept in."""


def scale_by_adam(
    b1: float,
    b2: float,
    eps: float,
    eps_form: str = "optax",
    moment_dtype: str = "float32",
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015) with either place for epsilon.

    With bias-corrected `mhat = m / (1 - b1^t)` and `vhat = v / (1 - b2^t)`:

    - `optax` (also PyTorch; the paper's algorithm 1): `mhat / (sqrt(vhat) + eps)`
    - `tensorflow` (the paper's remark before section 2.1, TF1, and the original
      RLHF code): `sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)`, that is
      `mhat / (sqrt(vhat) + eps / sqrt(1 - b2^t))`: a larger epsilon early on
      (Huang et al. 2024, implementation detail on Adam).

    Moments are computed in float32. Kept in bfloat16 they are rounded by
    `round_at_random`: to the nearest, an average with `1 - b2 = 0.001` would stand
    still once its step is below half the spacing of the numbers, at a fifth to a third
    of what it averages. Rounded at random it is right in the mean; its relative error
    has a root mean square of at most `2^-8 / sqrt(1 - b^2)`: 9 % of the second moment
    at 0.999 (5 % of the step), 1 % of the first at 0.9.
    """
    return adam_of(numbers(b1, b2, eps), eps_form, moment_dtype)


def numbers(b1: float, b2: float, eps: float) -> dict[str, float]:
    """What `adam_of` takes, by name.

    The shares of the new gradient stand beside the decays: in float32 `1 - 0.999` is
    off by 5e-5 of itself, while here it is rounded once.
    """
    return {"b1": b1, "new1": 1 - b1, "b2": b2, "new2": 1 - b2, "eps": eps}


def adam_of(
    held: Mapping[str, Any], eps_form: str, moment_dtype: str
) -> optax.GradientTransformation:
    """`scale_by_adam` of `numbers`, which may be arrays (an optimizer's state)."""
    dtype = MOMENTS[moment_dtype]
    b1, b2, eps = held["b1"], held["b2"], held["eps"]

    def init(params: Any) -> optax.ScaleByAdamState:
        def zeros() -> Any:  # buffers of their own: both moments are donated
            return jax.tree.map(lambda p: jnp.zeros(p.shape, dtype), params)

        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros(), zeros())

    def update(
        updates: Any, state: Any, params: Any = None
    ) -> tuple[Any, optax.ScaleByAdamState]:
        grads, old_mu, old_nu = _wide(updates), _wide(state.mu), _wide(state.nu)
        count = state.count + 1
        mu = jax.tree.map(lambda g, m: b1 * m + held["new1"] * g, grads, old_mu)
        nu = jax.tree.map(lambda g, v: b2 * v + held["new2"] * g * g, grads, old_nu)
        first = 1 - jnp.power(b1, count.astype(jnp.float32))
        second = jnp.sqrt(1 - jnp.power(b2, count.astype(jnp.float32)))
        if eps_form == "optax":
            move = lambda m, v: (m / first) / (jnp.sqrt(v) / second + eps)  # noqa: E731
        else:
            move = lambda m, v: second / first * m / (jnp.sqrt(v) + eps)  # noqa: E731
        moved = jax.tree.map(move, mu, nu)
        if dtype != jnp.float32:
            mu, nu = _narrow(mu, nu, count)
        return moved, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def round_at_random(x: Array, bits: Array) -> Array:
    """float32 to bfloat16, up or down at random, so that the mean is `x`.

    A value between two neighbours goes to each with the chance of its closeness
    (Gupta et al. 2015, arXiv:1502.02551, section 2.1).

    Args:
      x: float32, any shape; what is not finite stays as it is.
      bits: uint32 of the same shape, the lower 16 uniform.
    """
    low = jnp.uint32(0xFFFF)
    raised = jax.lax.bitcast_convert_type(x, jnp.uint32) + (bits & low)
    rounded = jax.lax.bitcast_convert_type(raised & ~low, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)


def _narrow(mu: Any, nu: Any, count: Array) -> tuple[Any, Any]:
    """Both moments in bfloat16; 32 bits at random serve an entry of both.

    The bits follow from the step alone, so that a resumed run draws them again.
    """
    leaves, structure = jax.tree.flatten(mu)
    step = rng.named(rng.root(0), "moments", count)
    keys = jax.random.split(step, len(leaves))
    bits = structure.unflatten(
        jax.random.bits(key, x.shape, jnp.uint32)
        for key, x in zip(keys, leaves, strict=True)
    )
    first = jax.tree.map(round_at_random, mu, bits)
    return first, jax.tree.map(lambda v, b: round_at_random(v, b >> 16), nu, bits)


def _wide(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)
