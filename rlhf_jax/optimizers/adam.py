"""Adam with either place for its epsilon."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax


def scale_by_adam(
    b1: float, b2: float, eps: float, eps_form: str = "optax"
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015) with either place for epsilon, moments in float32.

    With bias-corrected `mhat = m / (1 - b1^t)` and `vhat = v / (1 - b2^t)`:

    - `optax` (also PyTorch; the paper's algorithm 1): `mhat / (sqrt(vhat) + eps)`
    - `tensorflow` (the paper's remark before section 2.1, TF1, and the original
      RLHF code): `sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)`, that is
      `mhat / (sqrt(vhat) + eps / sqrt(1 - b2^t))`: a larger epsilon early on
      (Huang et al. 2024, implementation detail on Adam).
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        def zeros() -> Any:  # buffers of their own: both moments are donated
            return jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)

        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros(), zeros())

    def update(
        updates: Any, state: Any, params: Any = None
    ) -> tuple[Any, optax.ScaleByAdamState]:
        grads = jax.tree.map(lambda g: g.astype(jnp.float32), updates)
        count = state.count + 1
        mu = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, grads, state.mu)
        nu = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * g * g, grads, state.nu)
        first = 1 - jnp.power(b1, count.astype(jnp.float32))
        second = jnp.sqrt(1 - jnp.power(b2, count.astype(jnp.float32)))
        if eps_form == "optax":
            move = lambda m, v: (m / first) / (jnp.sqrt(v) / second + eps)  # noqa: E731
        else:
            move = lambda m, v: second / first * m / (jnp.sqrt(v) + eps)  # noqa: E731
        return jax.tree.map(move, mu, nu), optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)
