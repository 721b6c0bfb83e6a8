"""One optimizer step on one parameter group, with the numbers that people look at."""

from __future__ import annotations

from typing import Any

import optax

from rlhf_jax.host_memory import fetched, returned
from rlhf_jax.optimizers import apply_updates
from rlhf_jax.placement import pinned
from rlhf_jax.types import Metrics, Params


def apply_gradients(
    optimizer: optax.GradientTransformation,
    gradients: Params,
    opt_state: Any,
    params: Params,
    prefix: str = "optim",
) -> tuple[Params, Any, Metrics]:
    """Updates parameters; metrics are `<prefix>/grad_norm` and `<prefix>/lr`.

    Gradients and results are held where the parameters lie on a mesh; moments that
    wait on the host are fetched, and go back.
    """
    params, opt_state, measured = apply_updates(
        optimizer, params, fetched(opt_state), pinned(gradients)
    )
    params, opt_state = pinned((params, returned(opt_state)))
    renamed = {name.replace("optim", prefix, 1): m for name, m in measured.items()}
    return params, opt_state, renamed
