"""Start one network from the variables of another."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from rlhf_jax.errors import UserError
from rlhf_jax.types import Network

Array = jax.Array
Variables = Any


def initialize_from(
    network: Network, trunk: Variables, *, key: Array, keep_head: bool = True
) -> Variables:
    """Variables of `network` with the trunk of another network of the same sizes.

    A critic from the policy, from the reward model (`keep_head` copies its head too) or
    with a fresh head, zero if `network` was built with `head_init=zeros()`; a reward
    model from the supervised model. What `trunk` lacks (a head, adapters) is
    initialized from `key`; what `network` lacks (a language head, a scalar head) is
    left behind. Every array is a copy, so that both may be donated.

    Args:
      network: what the variables are for.
      trunk: variables of the other network; adapters are merged first or kept where
        both networks have them.
      key: for what is initialized.
      keep_head: copy the scalar head where both have one.

    Raises:
      UserError: an array of the trunk is missing or of another shape, or the trunk has
        adapters and `network` has none.
    """
    wanted = traverse_util.flatten_dict(jax.eval_shape(network.init, key))
    given = traverse_util.flatten_dict(trunk)
    if "lora" in trunk and network.config.lora is None:
        raise UserError(
            "the trunk has lora adapters and the network has none; pass "
            "merge_lora(variables, config) instead"
        )
    fresh = [
        path for path in wanted if _is_fresh(path, given, keep_head, "lora" in trunk)
    ]
    copied = {path: _copy(path, given, wanted) for path in wanted if path not in fresh}
    made = _initial(network, key, fresh) if fresh else {}
    return traverse_util.unflatten_dict({**copied, **made})


def _is_fresh(path: Any, given: Any, keep_head: bool, has_lora: bool) -> bool:
    """Whether the array at `path` is initialized rather than copied."""
    if path[1] == "head":
        return not keep_head or path not in given
    return path[0] == "lora" and not has_lora


def _copy(path: Any, given: Any, wanted: Any) -> Array:
    name, target = "/".join(path), wanted[path]
    if path not in given:
        raise UserError(f"the trunk has no {name}; use a network of the same family")
    if given[path].shape != target.shape:
        raise UserError(
            f"{name} of the trunk has shape {given[path].shape}, the network needs "
            f"{target.shape}; use the config of the trunk"
        )
    return jnp.array(given[path], dtype=target.dtype, copy=True)


def _initial(network: Network, key: Array, paths: list[Any]) -> dict[Any, Array]:
    """Initial values of some paths; the rest of `init` is dead code to the compiler."""

    @jax.jit
    def pick(key: Array) -> list[Array]:
        flat: Any = traverse_util.flatten_dict(network.init(key))
        return [flat[path] for path in paths]

    return dict(zip(paths, pick(key), strict=True))
