"""One optimizer step with the numbers that people look at."""

from __future__ import annotations

from typing import Any

import optax

from rlhf_jax import metrics
from rlhf_jax.types import Metrics, Params


def apply_gradients(
    optimizer: optax.GradientTransformation,
    gradients: Params,
    opt_state: Any,
    params: Params,
    prefix: str = "optim",
) -> tuple[Params, Any, Metrics]:
    """Updates parameters.

    Returns:
      New parameters, new optimizer state and `<prefix>/grad_norm` (before clipping)
      and `<prefix>/update_norm`.
    """
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    norms = {
        f"{prefix}/grad_norm": metrics.scalar(optax.global_norm(gradients)),
        f"{prefix}/update_norm": metrics.scalar(optax.global_norm(updates)),
    }
    return optax.apply_updates(params, updates), opt_state, norms
