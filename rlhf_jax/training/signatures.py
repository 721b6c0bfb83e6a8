"""What tells whether a checkpoint fits: the arrays of a state by path."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def of(tree: Any) -> dict[str, str]:
    """Path -> dtype and shape of every array of a tree, as `float32[2, 3]`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(_key(k) for k in path): _show(x) for path, x in flat}


def _key(entry: Any) -> str:
    for kind in ("key", "name", "idx"):
        if hasattr(entry, kind):
            return str(getattr(entry, kind))
    return str(entry)


def _show(leaf: Any) -> str:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = jax.eval_shape(jax.random.key_data, leaf)
        return f"{data.dtype}{list(data.shape)}"
    return f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"
