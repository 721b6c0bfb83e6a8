#!/usr/bin/env python3
"""Where the time of one iteration goes, by the operations of the compiled programs.

    taskset -c 0 python scripts/benchmarks/operations.py small [--kind=sample]

On one core an operation has the core to itself, and its seconds add up. Prints totals
by part of the network and by kind (`product` runs in a library of matrix products,
`other` in loops that XLA wrote), then single operations.
"""

from __future__ import annotations

import argparse
import collections
import os
import pathlib
import re
import tempfile

FLAGS = "--xla_cpu_enable_xprof_traceme=true --xla_dump_hlo_as_text --xla_dump_to="


def names_of(folder: pathlib.Path) -> dict[tuple[str, str], str]:
    """(program, operation) -> where in the source it comes from."""
    found = {}
    for path in folder.glob("*cpu_after_optimizations.txt"):
        program = re.sub(r"^module_\d+\.|\.cpu_after.*$", "", path.name)
        for line in path.read_text().splitlines():
            head = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = ", line)
            name = re.search(r'op_name="([^"]*)"', line)
            if head and name:
                found[program, head[1]] = name[1]
    return found


def part_of(name: str) -> str:
    """A readable place: pass, module, operation."""
    passed = "backward" if "transpose(" in name else "forward"
    pieces = [p for p in name.split("/") if "(" not in p and p != "closed_call"]
    return f"{passed} {'/'.join(pieces[-2:])}"


def durations(folder: pathlib.Path):
    """(program, operation, milliseconds) of every execution in a trace."""
    from jax.profiler import ProfileData

    (path,) = folder.rglob("*.xplane.pb")
    for plane in ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                name = str(stats.get("hlo_op", ""))
                if name and not name.startswith(("while", "call", "conditional")):
                    yield str(stats["hlo_module"]), name, event.duration_ns / 1e6


def report(dumped: pathlib.Path, traced: pathlib.Path, top: int) -> None:
    """Prints the tables."""
    names = names_of(dumped)
    kinds, parts, single = (collections.Counter() for _ in range(3))
    for program, operation, spent in durations(traced):
        kind = "product" if operation.startswith(("ynn", "dot")) else "other"
        place = part_of(names.get((program, operation.lstrip("%")), "?"))
        kinds[f"{program} {kind}"] += spent
        parts[f"{kind} {place}"] += spent
        single[f"{program} {operation} {place}"] += spent
    for counter in (kinds, parts, single):
        print(f"{'ms':>9}")
        for name, spent in counter.most_common(top):
            print(f"{spent:9.1f}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size")
    parser.add_argument("--kind", default="ppo", choices=("ppo", "sample", "update"))
    parser.add_argument("--top", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        dumped, traced = pathlib.Path(name, "dump"), pathlib.Path(name, "trace")
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}{dumped}"
        import jax
        import ours
        from work import SIZES

        makers = dict(ppo=ours.iteration, sample=ours.sampling, update=ours.update)
        once = makers[options.kind](SIZES[options.size])
        once()
        once()
        with jax.profiler.trace(str(traced)):
            once()
        report(dumped, traced, options.top)


if __name__ == "__main__":
    main()
