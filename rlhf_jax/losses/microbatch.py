"""Gradients of a minibatch, one microbatch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax import metrics
from rlhf_jax.errors import UserError
from rlhf_jax.placement import pinned

Array = jax.Array


def split(batch: Any, microbatches: int) -> Any:
    """[B ...] leaves to [microbatches, B / microbatches, ...].

    Microbatch `m` takes the rows `m, m + microbatches, ...`, so that a batch sharded
    over devices by contiguous rows stays where it is.

    Raises:
      UserError: a leaf's rows do not divide.
    """

    def split_leaf(leaf: Array) -> Array:
        rows = leaf.shape[0]
        if rows % microbatches:
            raise UserError(
                f"a batch of {rows} rows does not divide into {microbatches} "
                "microbatches; choose a number of microbatches that divides it"
            )
        leaf = leaf.reshape(rows // microbatches, microbatches, *leaf.shape[1:])
        return jnp.swapaxes(leaf, 0, 1)

    return jax.tree.map(split_leaf, batch)


def accumulated_gradients(
    loss_fn: Callable[[Any, Any, Any], tuple[Array, Mapping[str, Any]]],
    params: Any,
    batch: Any,
    prepared: Any,
    microbatches: int = 1,
) -> tuple[tuple[Array, dict[str, Any]], Any]:
    """`jax.value_and_grad(loss_fn, has_aux=True)` with a `lax.scan` over microbatches.

    The parts are added, not averaged: `loss_fn` divides by the denominators of the
    whole minibatch that `prepared` carries (`Loss.prepare`), so the result does not
    depend on `microbatches` beyond rounding, and only one microbatch's activations live
    at a time. Gradients are added in at least float32 and returned in the dtype of
    their parameter.

    Args:
      loss_fn: `loss_fn(params, part of batch, prepared) -> (float[], metrics)`.
      params: pytree of floating-point arrays.
      batch: pytree whose leaves lead with B.
      prepared: pytree, handed to every microbatch as it is.
      microbatches: number of parts, a divisor of B.

    Returns:
      `((loss, metrics), gradients)` of the whole batch.
    """
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    if microbatches == 1:
        return gradient(params, batch, prepared)

    def wide(leaf: Array) -> Array:
        return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))

    def body(carry: tuple[Array, Any], part: Any) -> tuple[tuple[Array, Any], Any]:
        total, sums = carry
        (value, report), grads = gradient(params, part, prepared)
        sums = pinned(jax.tree.map(lambda s, g: s + wide(g), sums, grads))
        return (total + value, sums), report

    parts = split(batch, microbatches)
    first = jax.tree.map(lambda x: x[0], parts)
    value_type = jax.eval_shape(lambda: loss_fn(params, first, prepared)[0])
    zeros = pinned(jax.tree.map(lambda p: wide(jnp.zeros_like(p)), params))
    start = (jnp.zeros(value_type.shape, value_type.dtype), zeros)
    (total, sums), stacked = jax.lax.scan(body, start, parts)
    grads = jax.tree.map(lambda s, p: s.astype(p.dtype), sums, params)
    return (total, metrics.reduce_stacked(stacked)), grads
