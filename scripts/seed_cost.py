"""What n seeds of a study cost, against one compilation and n single runs.

    python scripts/seed_cost.py                # 4 seeds of two cells of ppo_terms
    python scripts/seed_cost.py --seeds=8 --json

Three measurements, each in a process of its own without a compilation cache on disk:
a single run (`first`: it compiles), the same with another seed in the same process
(`warm`: it does not), and `ablate` over two cells that share fine-tuning, labels and
reward model. A study of n seeds does n times what the warm run did, and its PPO and
table (`own`) once more. `overhead` is what the study took beyond one compilation
(first - warm), over that work; the aim is at most 1.1. All figures are seconds of CPU
time of the process, all threads together, so that other work on the machine counts
little.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pathlib
import tempfile
import time

import ml_collections

from rlhf_jax.build import ablating, experiment, loading, studying

STUDY = "experiments/ablations/ppo_terms.py"
CELL = "KL penalty"
AIM = 1.1


def config(seeds: int, variant: str) -> ml_collections.ConfigDict:
    """Two cells: all terms, and one coefficient set to zero."""
    found = loading.load(f"{STUDY}:{variant}" if variant else STUDY)
    found.study.terms = tuple(t for t in found.study.terms if t[0] == CELL)
    found.study.seeds = seeds
    return found


def singles(seeds: int, variant: str) -> dict[str, float]:
    """Two single runs in one process, and of the second the stages no cell shares."""
    study = studying.read(config(seeds, variant))
    programs, took, own = experiment.Programs(), [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for seed in (0, 1):
            plain = studying.configured(study.config, {}, study.plan, seed)
            workdir = pathlib.Path(folder, str(seed))
            began = time.process_time()
            experiment.execute(plain, workdir, programs=programs, only=study.shared)
            middle = time.process_time()
            experiment.execute(plain, workdir, programs=programs)
            took.append(time.process_time() - began)
            own = time.process_time() - middle
    return {"first": took[0], "warm": took[1], "own": own}


def study(seeds: int, variant: str) -> float:
    """`ablate`, whole."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        ablating.ablate(config(seeds, variant), pathlib.Path(folder))
        return time.process_time() - began


def measure(seeds: int, variant: str) -> dict[str, float]:
    """All figures, seconds; `overhead` is a ratio."""
    spawning = multiprocessing.get_context("spawn")
    with spawning.Pool(1, maxtasksperchild=1) as pool:
        single = pool.apply(singles, (seeds, variant))
        whole = pool.apply(study, (seeds, variant))
    compiling = single["first"] - single["warm"]
    work = seeds * (single["warm"] + single["own"])
    return {
        "seeds": seeds,
        **single,
        "study": whole,
        "compilation": compiling,
        "work": work,
        "overhead": (whole - compiling) / work,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--variant", default="", help="`tiny`: seconds, for a look")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds={options.seeds} must be at least 1")
    found = measure(options.seeds, options.variant)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:>12} {value:10.2f}")
    print(f"{found['overhead']:.2f} times the work of single runs (aim: {AIM})")


if __name__ == "__main__":
    main()
