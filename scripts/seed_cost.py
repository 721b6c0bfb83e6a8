"""What n seeds of a study cost, against one compilation and n single runs.

    python scripts/seed_cost.py                    # 4 seeds of two cells of ppo_terms
    python scripts/seed_cost.py --variant=tiny     # a look, in two minutes

Three measurements, in processes of their own without a compilation cache on disk: a
single run (`first`: it compiles), the same with another seed in the same process
(`warm`: it does not), and `ablate` over two cells that share fine-tuning, labels and
reward model. A study of n seeds does n times what the warm run did, and its PPO and
table (`own`) once more. `overhead` is what the study took beyond one compilation
(first - warm), over that work; the aim is at most 1.1. In seconds by the clock, for
which nothing else may run, and of CPU time of all threads of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import pathlib
import sys
import tempfile
import time

import ml_collections
import numpy as np

from rlhf_jax.build import experiment
from rlhf_jax.build.commands import ablating, studying
from rlhf_jax.build.configs import loading

STUDY = pathlib.Path(__file__).parents[1] / "experiments" / "ablations" / "ppo_terms.py"
CELL = "KL penalty"
AIM = 1.1


def now() -> np.ndarray:
    """Seconds by the clock and of CPU time."""
    return np.array([time.perf_counter(), time.process_time()])


def config(seeds: int, variant: str) -> ml_collections.ConfigDict:
    """Two cells: all terms, and one coefficient set to zero."""
    found = loading.load(f"{STUDY}:{variant}" if variant else str(STUDY))
    found.study.terms = tuple(t for t in found.study.terms if t[0] == CELL)
    found.study.seeds = seeds
    return found


def singles(seeds: int, variant: str) -> dict[str, np.ndarray]:
    """Two single runs in one process, and of the second the stages no cell shares."""
    study = studying.read(config(seeds, variant))
    programs, times = experiment.Programs(), [now()]
    with tempfile.TemporaryDirectory() as folder:
        for seed in (0, 1):
            plain = studying.configured(study.config, {}, study.plan, seed)
            workdir = pathlib.Path(folder, str(seed))
            for only in (study.shared, None):  # what is done is not done again
                experiment.execute(plain, workdir, programs=programs, only=only)
                times.append(now())
    began, _, first, middle, end = times
    return {"first": first - began, "warm": end - first, "own": end - middle}


def study(seeds: int, variant: str) -> np.ndarray:
    """`ablate`, whole; what it prints is no part of our result."""
    with tempfile.TemporaryDirectory() as folder:
        began = now()
        with contextlib.redirect_stdout(sys.stderr):
            ablating.ablate(config(seeds, variant), pathlib.Path(folder))
        return now() - began


def measure(seeds: int, variant: str) -> dict[str, np.ndarray]:
    """All figures of `figures`, measured."""
    spawning = multiprocessing.get_context("spawn")
    with spawning.Pool(1, maxtasksperchild=1) as pool:
        single = pool.apply(singles, (seeds, variant))
        whole = pool.apply(study, (seeds, variant))
    return figures(single, whole, seeds)


def figures(
    single: dict[str, np.ndarray], whole: np.ndarray, seeds: int
) -> dict[str, np.ndarray]:
    """Seconds by both clocks; `overhead` is a ratio.

    Args:
      single: of `singles`.
      whole: of `study` over so many seeds.
      seeds: their number.
    """
    compiling = single["first"] - single["warm"]
    work = seeds * (single["warm"] + single["own"])
    found = {**single, "study": whole, "compilation": compiling, "work": work}
    return found | {"overhead": (whole - compiling) / work}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--variant", default="", help="of the study's config")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds={options.seeds} must be at least 1")
    print(table(measure(options.seeds, options.variant), options.seeds))


def table(found: dict[str, np.ndarray], seeds: int) -> str:
    """Figures as lines for a terminal."""
    lines = [f"{f'{seeds} seeds':>12} {'clock':>10} {'CPU':>10}"]
    lines += [f"{k:>12} {clock:10.2f} {cpu:10.2f}" for k, (clock, cpu) in found.items()]
    return "\n".join([*lines, f"aim of the overhead: at most {AIM}"])


if __name__ == "__main__":
    main()
