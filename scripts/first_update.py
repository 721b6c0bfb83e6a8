"""Seconds from the start of a process to the end of the first update of its PPO stage.

    python scripts/first_update.py runs/quickstart-seed0            # three times
    python scripts/first_update.py runs/quickstart-seed0 --cold     # nothing compiled

The argument is a finished run of the quickstart. A copy of it without `ppo` and `table`
is continued in a process of its own, as `train` would, and ended after that update.
The first of the three may compile what is not yet in the compilation cache. The lines
before each total say when its parts ended.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
CONTINUED = """
import os, sys, time

def tell(what):
    print(f"{time.time() - float(os.environ['BEGAN']):8.1f} s  {what}", flush=True)

import jax
from rlhf_jax.cli.main import main
from rlhf_jax.training import loop

train = loop.train
tell("imports")

def hooked(learner, **settings):
    tell(f"{settings['stage']}: build, data, checkpoints")
    def update(state, frozen, batch):
        tell("evaluation and samples before the first update")
        found = learner.update(state, frozen, batch)
        if settings["stage"] == "ppo":
            jax.block_until_ready(found)
            tell("first update")
            os._exit(0)
        return found
    return train(learner._replace(update=update), **settings)

loop.train = hooked
sys.exit(main())
"""


def seconds(workdir: pathlib.Path, environment: dict[str, str]) -> float:
    """Of one process, whole."""
    seed = json.loads((workdir / "config.json").read_text())["seed"]
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, "run")
        shutil.copytree(workdir, copy, ignore=shutil.ignore_patterns("ppo", "table"))
        command = [sys.executable, "-c", CONTINUED, "train"]
        command += ["--config=experiments/quickstart.py", f"--config.seed={seed}"]
        command += [f"--workdir={copy}"]
        began = time.perf_counter()
        told = environment | {"BEGAN": str(time.time())}
        subprocess.run(command, cwd=ROOT, env=told, check=True)
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("--cold", action="store_true", help="an empty cache each time")
    options = parser.parse_args()
    if not (options.workdir / "ppo" / "done.json").is_file():
        parser.error(f"{options.workdir} is no finished run of the quickstart")
    for _ in range(3):
        with tempfile.TemporaryDirectory() as empty:
            cache = {"JAX_COMPILATION_CACHE_DIR": empty} if options.cold else {}
            print(f"{seconds(options.workdir, os.environ | cache):.1f} s", flush=True)


if __name__ == "__main__":
    main()
