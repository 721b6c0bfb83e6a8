"""Few rows times large weights on one CPU, which decoding consists of.

XLA's library of products seems to rearrange its second factor at every call: of `x @
kernel` that is the kernel, whatever little `x` holds. `kernel.T @ x.T`, with the kernel
already lying as `[outputs, inputs]`, leaves the rearranging to `x` (docs/speed.md).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax import placement

FEW_ROWS = 32
"""Up to here the turned product is the faster one."""
LARGE = 2**18
"""Elements of a kernel from which it is."""


def worth_turning(kernel: Any) -> bool:
    """Whether the program being traced reads `kernel.T` faster in decoding."""
    alone = placement.current() is None and placement.platform() == "cpu"
    return alone and kernel.size >= LARGE


def turned(
    x: Float[Array, "N D"], kernel: Float[Array, "F D"], dtype: Any = None
) -> Float[Array, "N F"]:
    """`x @ kernel.T`, accumulated in `dtype` or, if None, in that of the factors."""
    if x.shape[0] > FEW_ROWS or not worth_turning(kernel):
        return jnp.einsum("nd,fd->nf", x, kernel, preferred_element_type=dtype)
    # Without the barriers the compiler would turn the product back.
    columns = jax.lax.optimization_barrier(x.T)
    product = jnp.matmul(kernel, columns, preferred_element_type=dtype)
    return jax.lax.optimization_barrier(product).T
