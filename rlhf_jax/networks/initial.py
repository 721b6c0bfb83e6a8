"""How arrays start: named axes, a constant, and normal noise drawn part by part.

The modules declare a start, `transformer.init` draws the noise: one call of the random
generator for all arrays of a layer. A call per array would make the generator most of
what the compiler sees (5 s instead of 1 s for a model of two layers).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from rlhf_jax.networks.config import Number

Array = jax.Array


class Start(nn.LogicallyPartitioned):
    """A box around an initial value: names of its axes, and noise to be added.

    Attributes:
      std: standard deviation of the normal noise, 0 for none.
    """

    std: Number = flax.struct.field(default=0.0, pytree_node=False)


def start(
    names: tuple[str, ...], *, std: Number = 0.0, constant: Number = 0.0
) -> Callable[..., Start]:
    """The initializer of a Linen parameter: `constant`, later plus noise."""

    def init(key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        del key
        return Start(jnp.full(shape, constant, dtype), names, std=std)

    return init


def is_box(x: Any) -> bool:
    """Whether a node of a tree is a box around an array."""
    return isinstance(x, nn.meta.AxisMetadata)


def add_noise(tree: Any, key: Array) -> Any:
    """The tree of boxes with its noise, all of it from one draw in float32."""
    boxes, structure = jax.tree.flatten(tree, is_leaf=is_box)
    noisy = [box for box in boxes if isinstance(box, Start) and box.std]
    if not noisy:
        return tree
    sizes = [math.prod(box.value.shape) for box in noisy]
    numbers = jax.random.normal(key, (sum(sizes),), jnp.float32)
    # Without the barrier the compiler would inline the generator into every use.
    pieces = iter(jax.lax.split(jax.lax.optimization_barrier(numbers), sizes))

    def disturb(box: Any) -> Any:
        if not isinstance(box, Start) or not box.std:
            return box
        noise = box.std * next(pieces).reshape(box.value.shape)
        return box.replace(value=box.value + noise.astype(box.value.dtype))

    return jax.tree.unflatten(structure, [disturb(box) for box in boxes])
