"""What XLA's products reach on this machine at the shapes of one size, on their own.

    python scripts/benchmarks/products.py medium        # taskset -c 0 for one core

First the products of one decoding step, all kernels of the network one after the other
(so that no cache holds them), as `x @ kernel` and turned (`rlhf_jax.ops.products`), and
beside them the rate at which the same kernels are read and summed. Then those of one
projection in an update: forward, to the input, to the kernel, and to the kernel from a
turned copy of the input.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from work import Work, size_asked

from rlhf_jax.ops import products

TRIES, STEPS = 11, 16


def seconds(function: Callable[..., Any], *arrays: Any) -> float:
    """Median of some calls of the compiled function."""
    compiled, spent = jax.jit(function), []
    jax.block_until_ready(compiled(*arrays))
    for _ in range(TRIES):
        since = time.perf_counter()
        jax.block_until_ready(compiled(*arrays))
        spent.append(time.perf_counter() - since)
    return statistics.median(spent)


def array(*shape: int) -> jax.Array:
    source = np.random.default_rng(shape[0])
    return jnp.asarray(source.standard_normal(shape) / shape[-1], jnp.float32)


def chained(product: Callable[..., Any], kernels: list[Any], x: jax.Array) -> Any:
    """`STEPS` times the product of `x` with every kernel, each waiting for the last."""

    def step(_: Any, x: jax.Array) -> jax.Array:
        for kernel in kernels:
            rows = jnp.resize(x, (x.shape[0], kernel.shape[0]))
            x = x + 1e-6 * product(rows, kernel)[:, : x.shape[1]]
        return x

    return jax.lax.fori_loop(0, STEPS, step, x)


def decoding(work: Work) -> None:
    """The kernels of a network, read for one row per prompt."""
    inner, into = (work.width, work.mlp), (work.mlp, work.width)
    shapes = [(work.width, work.width)] * 4 + [inner, inner, into]
    shapes = shapes * work.layers + [(work.width, work.vocab)]
    kernels = [array(*shape) for shape in shapes]
    turned = [jnp.array(kernel.T) for kernel in kernels]
    x = array(work.batch, work.width)
    elements = sum(kernel.size for kernel in kernels)

    def plain(kernels: Any, x: Any) -> Any:
        return chained(lambda rows, kernel: rows @ kernel, kernels, x)

    def other(kernels: Any, x: Any) -> Any:
        views = [Turned(kernel) for kernel in kernels]
        return chained(lambda rows, view: products.turned(rows, view.kernel), views, x)

    for name, function, arrays in (
        ("x @ kernel", plain, kernels),
        ("turned", other, turned),
    ):
        spent = seconds(function, arrays, x) / STEPS
        flops = 2 * work.batch * elements / spent / 1e9
        rate = 4 * elements / spent / 1e9
        print(f"decode, {name:10s} {1e3 * spent:7.2f} ms {flops:6.0f} GFLOP/s", end="")
        print(f" {rate:5.1f} GB/s")
    spent = seconds(lambda kernels: [kernel.sum() for kernel in kernels], kernels)
    print(f"the same kernels summed: {4 * elements / spent / 1e9:.1f} GB/s")


class Turned:
    """A kernel that lies as [outputs, inputs], with the shape of one that does not."""

    def __init__(self, kernel: jax.Array) -> None:
        self.kernel, self.shape = kernel, kernel.shape[::-1]


def update(work: Work) -> None:
    """The three products of every kind of projection, and a fourth way for the last."""
    tokens = work.batch * (work.prompt + work.response)
    for inputs, outputs in (
        (work.width, work.width),
        (work.width, work.mlp),
        (work.mlp, work.width),
        (work.width, work.vocab),
    ):
        x, y, kernel = (
            array(tokens, inputs),
            array(tokens, outputs),
            array(inputs, outputs),
        )
        flops = 2 * tokens * inputs * outputs
        found = {
            "forward": seconds(lambda x, kernel: x @ kernel, x, kernel),
            "to input": seconds(lambda y, kernel: y @ kernel.T, y, kernel),
            "to kernel": seconds(lambda x, y: x.T @ y, x, y),
            "from a copy": seconds(
                lambda x, y: jax.lax.optimization_barrier(x.T) @ y, x, y
            ),
        }
        rates = ", ".join(f"{k} {flops / v / 1e9:.0f}" for k, v in found.items())
        print(f"update, {inputs} to {outputs}, GFLOP/s: {rates}")


def main() -> None:
    work = size_asked(__doc__)
    decoding(work)
    update(work)


if __name__ == "__main__":
    main()
