"""What PyTorch's products reach at the shapes of one size: `products.py` of the peers.

    .venv-trl/bin/python scripts/benchmarks/torch_products.py medium

Kernels lie as [outputs, inputs], as those of `torch.nn.Linear`. One decoding step
multiplies all kernels of the network one after the other; then come the products of
one projection in an update: forward, to the input, to the kernel.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from work import Work, size_asked

TRIES, STEPS = 11, 16


def seconds(function: Callable[[], object]) -> float:
    """Median of some calls."""
    spent = []
    function()
    for _ in range(TRIES):
        since = time.perf_counter()
        function()
        spent.append(time.perf_counter() - since)
    return statistics.median(spent)


def kernels(work: Work) -> list[tuple[int, int]]:
    """Inputs and outputs of every kind of projection."""
    inner, into = (work.width, work.mlp), (work.mlp, work.width)
    return [(work.width, work.width), inner, into, (work.width, work.vocab)]


def decoding(work: Work) -> None:
    """The kernels of a network, read for one row per prompt."""
    square, inner, into, head = kernels(work)
    shapes = ([square] * 4 + [inner, inner, into]) * work.layers + [head]
    weights = [torch.randn(outputs, inputs) for inputs, outputs in shapes]
    rows = {inputs: torch.randn(work.batch, inputs) for inputs, _ in shapes}

    def steps() -> None:
        for _ in range(STEPS):
            for weight in weights:
                torch.nn.functional.linear(rows[weight.shape[1]], weight)

    spent = seconds(steps) / STEPS
    flops = 2 * work.batch * sum(weight.numel() for weight in weights)
    print(f"decode {1e3 * spent:7.2f} ms {flops / spent / 1e9:6.0f} GFLOP/s")


def update(work: Work) -> None:
    """The three products of every kind of projection."""
    tokens = work.batch * (work.prompt + work.response)
    for inputs, outputs in kernels(work):
        x, y = torch.randn(tokens, inputs), torch.randn(tokens, outputs)
        weight = torch.randn(outputs, inputs)
        found = {
            "forward": seconds(lambda x=x, w=weight: torch.nn.functional.linear(x, w)),
            "to input": seconds(lambda y=y, w=weight: y @ w),
            "to kernel": seconds(lambda x=x, y=y: y.T @ x),
        }
        flops = 2 * tokens * inputs * outputs
        rates = ", ".join(f"{k} {flops / v / 1e9:.0f}" for k, v in found.items())
        print(f"update, {inputs} to {outputs}, GFLOP/s: {rates}")


def main() -> None:
    work = size_asked(__doc__)
    with torch.inference_mode():
        decoding(work)
        update(work)


if __name__ == "__main__":
    main()
