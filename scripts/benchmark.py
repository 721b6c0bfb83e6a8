#!/usr/bin/env python3
"""Time this project and its peers on the same work, interleaved.

    scripts/peers.sh                                  # once: the peers' environments
    python scripts/benchmark.py --sizes=tiny,small,medium --out=benchmark.json
    python scripts/benchmark.py --systems=rlhf_jax,trl --sizes=small --out=b.json
    python scripts/benchmark.py --show=benchmark.json --write   # README and plot again

What one repetition does is `Work` in `scripts/benchmarks/work.py`. Every system runs
in a process of its own that stays alive; in each round every system does the work
once, one after the other, so that a slow minute of the machine falls on all of them.
Ratios are medians over rounds of (peer's seconds / ours). The file keeps every
repetition, thread counts and versions. A peer whose environment is missing is left out
with a notice, or an error where `--systems` names it. `--write` puts the table into
README.md and draws docs/benchmark.svg.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import sys
from typing import NamedTuple

from benchmarks import page, worker
from benchmarks.work import SIZES, Work

from rlhf_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


class System(NamedTuple):
    """What is timed: a worker script, its environment's folder, what it can do, and at
    which sizes."""

    script: str
    environment: str | None
    kinds: tuple[str, ...]
    sizes: tuple[str, ...] = tuple(SIZES)

    @property
    def python(self) -> pathlib.Path:
        """The interpreter that runs the worker."""
        if self.environment is None:
            return pathlib.Path(sys.executable)
        return ROOT / self.environment / "bin" / "python"


SYSTEMS = {
    "rlhf_jax": System("ours.py", None, ("ppo", "sample", "update")),
    "trl": System("trl_ppo.py", ".venv-trl", ("ppo",)),
    # At medium Tunix would take longer than all others together.
    "tunix": System("tunix_ppo.py", ".venv-tunix", ("ppo",), ("tiny", "small")),
    "transformers": System("transformers_generate.py", ".venv-trl", ("sample",)),
}
ROUNDS = {"tiny": 20, "small": 6, "medium": 3}
WARMUP = 2
"""Repetitions that compile, and one more; they are not kept."""


def chosen_systems(names: list[str] | None) -> dict[str, System]:
    """The systems asked for, or all that are installed.

    Raises:
      UserError: a name that nobody has, or an environment that is asked for by name and
        missing.
    """
    unknown = [name for name in names or [] if name not in SYSTEMS]
    if unknown:
        raise UserError(f"no system {unknown[0]!r}; choose from {', '.join(SYSTEMS)}")
    found = {}
    for name, system in SYSTEMS.items():
        if names is not None and name not in names:
            continue
        if system.python.exists():
            found[name] = system
            continue
        way_out = f"{system.environment} is missing; make it with scripts/peers.sh"
        if names is not None:
            raise UserError(f"{name} cannot be timed: {way_out}")
        print(f"notice: {name} is left out: {way_out}", file=sys.stderr)
    return found


def chosen_sizes(text: str) -> list[str]:
    """Names of sizes from a comma-separated list."""
    names = text.split(",")
    unknown = [name for name in names if name not in SIZES]
    if unknown:
        raise UserError(f"no size {unknown[0]!r}; choose from {', '.join(SIZES)}")
    return names


def measure(
    size: str, kind: str, systems: dict[str, System], rounds: int
) -> list[dict]:
    """One entry per system: what it is and all its repetitions, interleaved."""
    work: Work = SIZES[size]
    with contextlib.ExitStack() as stack:
        workers = {}
        for name, system in systems.items():
            print(f"{size} {kind}: starting {name}", file=sys.stderr)
            arguments = [kind, json.dumps(dataclasses.asdict(work))]
            script = ROOT / "scripts" / "benchmarks" / system.script
            started = worker.Worker(
                name, [system.python, script, *arguments, rounds + WARMUP + 1], ROOT
            )
            workers[name] = stack.enter_context(started)
            for _ in range(WARMUP):
                workers[name].repeat()
        repetitions = {name: [] for name in workers}
        for turn in range(rounds):
            for name, one in workers.items():
                repetitions[name].append(one.repeat())
            last = ", ".join(
                f"{n} {r[-1]['seconds']:.3f}" for n, r in repetitions.items()
            )
            print(f"{size} {kind}: round {turn + 1}: {last}", file=sys.stderr)
    return [
        {
            "size": size,
            "kind": kind,
            "system": name,
            **workers[name].facts,
            "repetitions": repetitions[name],
        }
        for name in workers
    ]


def machine() -> dict:
    """Where and when."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        models = [x.split(":")[1].strip() for x in lines if x.startswith("model name")]
        name = models[0] if models else name
    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    )
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": name,
        "cores": cores,
        "system": platform.platform(),
    }


def save(path: pathlib.Path, found: dict) -> None:
    """Writes the file; said before the work where that cannot be done."""
    try:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def load(path: pathlib.Path) -> dict:
    """What an earlier run measured."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read measurements from {path}: {error}") from error


def benchmark(options: argparse.Namespace) -> dict:
    """Measures everything, saving after each part."""
    sizes = chosen_sizes(options.sizes)
    names = options.systems.split(",") if options.systems else None
    systems = chosen_systems(names)
    if options.rounds is not None and options.rounds < 1:
        raise UserError(f"--rounds={options.rounds} must be at least 1")
    found = {"machine": machine(), "results": []}
    save(options.out, found)
    for size in sizes:
        for kind in ("ppo", "sample", "update"):
            able = {
                name: system
                for name, system in systems.items()
                if kind in system.kinds and size in system.sizes
            }
            if able:
                rounds = options.rounds or ROUNDS[size]
                found["results"] += measure(size, kind, able, rounds)
                save(options.out, found)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--systems", help="comma-separated; default: all installed")
    parser.add_argument("--rounds", type=int, help="default: by size")
    parser.add_argument("--out", type=pathlib.Path, default="benchmark.json")
    parser.add_argument("--show", type=pathlib.Path, help="an earlier file; no timing")
    parser.add_argument("--write", action="store_true", help="README.md and docs/")
    options = parser.parse_args(arguments)
    try:
        found = load(options.show) if options.show else benchmark(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(page.table(found))
    if options.write:
        page.write(found, ROOT / "README.md", ROOT / "docs" / "benchmark.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
