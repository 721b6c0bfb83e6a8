"""WARM: one reward model from the weights of several (Rame et al. 2024).

arXiv:2401.12187: the mean of the weights of reward models that were fine-tuned from one
pretrained start, with other seeds, data orders or settings. Unlike an ensemble it costs
one forward pass; it needs the shared start, since weights of unrelated networks do not
average to anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.errors import UserError
from rlhf_jax.types import Params


def average(
    members: Sequence[Params], weights: Sequence[float | int] | None = None
) -> Params:
    """The weighted mean of trees of variables, summed in float32.

    The mean of identical members is the member, bit for bit (check C29).

    Args:
      members: variables of one architecture.
      weights: one per member, not negative; None for equal ones. They are divided by
        their sum.

    Raises:
      UserError: no member, trees that differ, or unusable weights.
    """
    if not members:
        raise UserError("an average needs at least one member; name reward models")
    shares = _shares(len(members), weights)
    first = _shapes(members[0])
    for number, member in enumerate(members[1:], start=2):
        if _shapes(member) != first:
            raise UserError(
                f"member {number} of an average has other arrays than the first; only"
                " models of one architecture can be averaged"
            )

    def mean(*arrays: Any) -> Any:
        # Differences to the first are exactly 0 for identical members.
        base = jnp.asarray(arrays[0], jnp.float32)
        total = jnp.zeros_like(base)
        for share, other in zip(shares[1:], arrays[1:], strict=True):
            total = total + share * (jnp.asarray(other, jnp.float32) - base)
        return (base + total).astype(arrays[0].dtype)

    return jax.tree.map(mean, *members)


def _shares(count: int, weights: Sequence[float | int] | None) -> list[float]:
    values = [1.0] * count if weights is None else [float(w) for w in weights]
    if len(values) != count or min(values) < 0 or not sum(values) > 0:
        raise UserError(
            f"weights {values} of an average of {count}: give one per member, none"
            " negative and not all 0"
        )
    return [value / sum(values) for value in values]


def _shapes(tree: Params) -> Any:
    shapes = jax.tree.map(lambda x: (tuple(x.shape), str(x.dtype)), tree)
    leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    return leaves, structure
