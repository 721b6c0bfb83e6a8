"""Moving averages of parameters, kept in the optimizer state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlhf_jax.errors import UserError
from rlhf_jax.types import TrainState

Array = jax.Array


class AverageState(NamedTuple):
    """Exponential moving average of parameters, biased towards zero until read.

    Attributes:
      count: int32[], updates seen.
      decay: float32[].
      average: tree like the parameters, float32, started at zero.
    """

    count: Array
    decay: Array
    average: Any


def average_params(decay: float) -> optax.GradientTransformation:
    """Moving average of the parameters *after* each update; the last link of a chain.

    The average starts at zero and is corrected on reading, as Adam's moments are, so
    it does not depend on the values that the parameters had when it was initialised
    (a warm start replaces those).
    """

    def init(params: Any) -> AverageState:
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        return AverageState(
            jnp.zeros((), jnp.int32), jnp.asarray(decay, jnp.float32), zeros
        )

    def update(
        updates: Any, state: Any, params: Any = None
    ) -> tuple[Any, AverageState]:
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(
            lambda a, p: decay * a + (1 - decay) * p.astype(jnp.float32),
            state.average,
            new,
        )
        return updates, AverageState(state.count + 1, state.decay, average)

    return optax.GradientTransformation(init, update)


def ema_params(opt_state: Any, like: Any) -> Any:
    """The moving average of one group's parameters, bias removed, dtypes as `like`.

    Raises:
      UserError: the optimizer was built without `ema_decay`.
    """
    found = find_state(opt_state, AverageState)
    if found is None:
        raise UserError(
            "the optimizer keeps no moving average of the parameters; "
            "build it with ema_decay=0.999 (or leave the average out)"
        )
    scale = 1 - jnp.power(found.decay, found.count.astype(jnp.float32))
    return jax.tree.map(
        lambda a, p: jnp.where(found.count > 0, a / scale, p).astype(p.dtype),
        found.average,
        like,
    )


def final_params(state: TrainState, group: str) -> Any:
    """What a group is evaluated with and hands on: the moving average of its parameters
    where its optimizer keeps one, else the parameters."""
    params, opt_state = state.params[group], state.opt_state.get(group)
    if find_state(opt_state, AverageState) is None:
        return params
    return ema_params(opt_state, params)


def stored_averages(stored: Any) -> list[Any]:
    """The moving averages in an optimizer state that a checkpoint gives as plain
    dicts and lists, each a dict with the fields of `AverageState`."""
    if not isinstance(stored, Mapping | list | tuple):
        return []
    if isinstance(stored, Mapping):
        if set(stored) == set(AverageState._fields):
            return [stored]
        stored = list(stored.values())
    return [average for part in stored for average in stored_averages(part)]


def find_state(tree: Any, kind: type) -> Any:
    """The first state of a kind in an optimizer state, or None."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, kind))
    found = [leaf for leaf in leaves if isinstance(leaf, kind)]
    return found[0] if found else None
