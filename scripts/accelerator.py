#!/usr/bin/env python3
"""PPO on one accelerator against the limits of the device: decode, update, seeds.

    python scripts/accelerator.py --out=accelerator.json       # 0.5 B weights, bfloat16
    python scripts/accelerator.py --size=toy --out=toy.json    # a look, on any machine

Each figure is a median over repetitions, after two that compile:

- the device's own rates, measured: products of large bfloat16 matrices (FLOP/s) and a
  copy in its memory (bytes/s, read and written);
- `decode`: seconds per token after prefill, and the bytes that a token must read
  (weights in the dtype of the computation, and the cache so far) over the copy's rate;
- `update`: model FLOPs (6 per weight and token and the attention; what remat computes
  again does not count) over the rate of products (`mfu`), and over the maker's peak;
- `iteration`: one PPO iteration with its phases;
- `packed`: the step of `--seeds` runs of a tiny world in one program over that of one.

Parameters and AdamW's moments are float32, value network, reward model and reference
are of the policy's size. The file keeps every repetition, device, versions and date.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp

sys.path.insert(0, str(pathlib.Path(__file__).parent / "benchmarks"))

import ours
from work import SIZES, Work

from rlhf_jax import algorithms, rng
from rlhf_jax.algorithms import optimization, packing
from rlhf_jax.errors import UserError
from rlhf_jax.planning.devices import DEVICES

ACCELERATED = {
    "0.5b": Work(24, 1024, 4096, 16, 32_000, batch=32, prompt=256, response=256),
    "1b": Work(16, 2048, 8192, 32, 32_000, batch=32, prompt=256, response=256),
    "toy": Work(1, 8, 16, 2, 16, batch=2, prompt=2, response=3, epochs=1),
}
AIMS = {"decode": 0.60, "mfu": 0.45, "packed": 2.5}
WARMUP = 2
Numbers = dict[str, Any]


def median_seconds(once: Callable[[], Any], rounds: int) -> list[float]:
    """Seconds of every repetition of `once`, after those that compile."""
    found = []
    for _ in range(WARMUP + rounds):
        since = time.perf_counter()
        jax.block_until_ready(once())
        found.append(time.perf_counter() - since)
    return found[WARMUP:]


def device_rates(rounds: int, side: int, elements: int) -> Numbers:
    """FLOP/s of products and bytes/s of a copy, measured; peaks of the maker if known.

    Args:
      rounds: repetitions.
      side: of the square matrices.
      elements: float32 of the array that is copied.
    """
    square = jnp.ones((side, side), jnp.bfloat16)
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda a: a + 1)
    multiplied = median_seconds(lambda: product(square), rounds)
    long = jnp.ones(elements, jnp.float32)
    copied = median_seconds(lambda: copy(long), rounds)
    kind = jax.devices()[0].device_kind
    known = [d for name, d in DEVICES.items() if name in kind.lower()]
    return {
        "product_flops": 2 * side**3 / statistics.median(multiplied),
        "copy_bytes": 2 * long.nbytes / statistics.median(copied),
        "peak_flops": known[0].flops if known else None,
        "peak_bytes": known[0].bandwidth if known else None,
    }


def weights(work: Work) -> int:
    """Weights that a token reads: layers and language head."""
    layer = 4 * work.width**2 + 3 * work.width * work.mlp
    return work.layers * layer + work.width * work.vocab


def decode_bytes(work: Work, itemsize: int) -> float:
    """Bytes that the mean decoding step must read."""
    columns = work.prompt + work.response / 2
    cache = 2 * work.layers * work.batch * columns * work.width
    return itemsize * (weights(work) + cache)


def decode(work: Work, options: Numbers, rounds: int, rates: Numbers) -> Numbers:
    """Sampling of all tokens less sampling of one, by the token."""
    seconds = {}
    for response in (1, work.response):
        shorter = Work(**{**vars(work), "response": response})
        ppo, frozen = ours.learner(shorter, **options)
        batch, key = ours.prompts(shorter), rng.root(3)
        sampler, params = ppo.parts.sampler, frozen.reference
        seconds[response] = median_seconds(
            lambda: sampler(params, batch, key).tokens,  # noqa: B023
            rounds,
        )
    first, whole = (statistics.median(one) for one in seconds.values())
    token = (whole - first) / (work.response - 1)
    limit = decode_bytes(work, options["dtype"].dtype.itemsize) / rates["copy_bytes"]
    return {
        "seconds": seconds,
        "seconds_per_token": token,
        "tokens_per_second": work.batch / token,
        "of_bandwidth": limit / token,
    }


def update(work: Work, options: Numbers, rounds: int, rates: Numbers) -> Numbers:
    """All epochs of one iteration's learning."""
    ppo, frozen = ours.learner(work, **options)
    state = ppo.learner.init(rng.root(1))
    batch = algorithms.PPOBatch(ours.prompts(work))
    collected = ppo.explain(state, frozen, batch).experience
    learn = jax.jit(
        lambda *args: optimization.optimize(ppo.parts, *args, collected, None),
        donate_argnums=0,
    )
    held, fixed = {"state": state}, frozen._replace(scorer=())

    def once() -> Any:
        held["state"], measured = learn(held["state"], fixed)
        return held["state"].params, measured

    seconds = median_seconds(once, rounds)
    rate = work.update_flops / statistics.median(seconds)
    peak = rates["peak_flops"]
    return {
        "seconds": seconds,
        "flops": rate,
        "mfu": rate / rates["product_flops"],
        "mfu_of_peak": rate / peak if peak else None,
    }


def iteration(work: Work, options: Numbers, rounds: int) -> Numbers:
    """One PPO iteration, and its phases."""
    once = ours.iteration(work, **options)
    found = []
    for _ in range(WARMUP + rounds):
        since = time.perf_counter()
        parts = once()
        found.append({"seconds": time.perf_counter() - since, **parts})
    return {"repetitions": found[WARMUP:]}


def packed(work: Work, seeds: int, rounds: int) -> Numbers:
    """Steps of several runs in one program, against those of one."""
    ppo, frozen = ours.learner(work)
    take = packing.packed(packing.step(ppo.parts, ppo.programs.learn))
    batch = algorithms.PPOBatch(ours.prompts(work))
    seconds = {}
    for count in (1, seeds):
        held = [ppo.learner.init(rng.root(seed)) for seed in range(count)]

        def once(held: list[Any] = held) -> Any:
            found = take(tuple((state, frozen, batch) for state in held))
            held[:] = [state for state, _ in found]
            return [state.params for state in held]

        seconds[count] = median_seconds(once, rounds)
    one, all_of_them = (statistics.median(times) for times in seconds.values())
    return {"seconds": seconds, "seeds": seeds, "ratio": all_of_them / one}


def measure(size: str, seeds: int, rounds: int, options: Numbers) -> Numbers:
    """Everything that the file holds."""
    work, toy = ACCELERATED[size], size == "toy"
    tiny = work if toy else SIZES["tiny"]
    rates = device_rates(rounds, *((64, 1 << 10) if toy else (8192, 1 << 29)))
    parts: dict[str, Callable[[], Numbers]] = {
        "decode": lambda: decode(work, options, rounds, rates),
        "update": lambda: update(work, options, rounds, rates),
        "iteration": lambda: iteration(work, options, rounds),
        "packed": lambda: packed(tiny, seeds, rounds),
    }
    found: Numbers = {}
    for name, part in parts.items():
        try:
            found[name] = part()
        except jax.errors.JaxRuntimeError as error:  # the others are still worth having
            found[name] = {"failed": str(error).splitlines()[0]}
        print(f"{name}: {_line(found[name])}", file=sys.stderr, flush=True)
    return {
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax")},
        "size": size,
        "work": vars(work),
        "options": {name: str(value) for name, value in options.items()},
        "rates": rates,
        "aims": AIMS,
        **found,
    }


def _line(part: Numbers) -> str:
    shown = {k: v for k, v in part.items() if k not in ("seconds", "repetitions")}
    return ", ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items()
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="0.5b", choices=tuple(ACCELERATED))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--remat", default="none")
    parser.add_argument("--attention", default="plain")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    asked = parser.parse_args()
    if asked.rounds < 1 or asked.seeds < 1:
        parser.error("--rounds and --seeds are at least 1")
    options = {
        "dtype": jnp.bfloat16,
        "remat": asked.remat,
        "attention": asked.attention,
    }
    try:
        with asked.out.open("a"):  # an hour is not lost to a place that is not there
            pass
        found = measure(asked.size, asked.seeds, asked.rounds, options)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    print(_line(found["rates"]))


if __name__ == "__main__":
    main()
