#!/usr/bin/env python3
"""Kill a real run in every bad moment and check that it still ends the same.

    scripts/chaos.py --draws=20 -- python -m rlhf_jax train \\
        --config=experiments/quickstart.py:tiny --workdir=/some/where

The command runs once undisturbed and then once per draw, each time in a fresh
subfolder of its `--workdir`. In a draw the process is killed (SIGKILL at a random
moment or in a phase of a save, or SIGTERM, which saves first) and started again with
the same command until it is done; then the digests of both runs are compared. Prints
a table; exit code 1 if any part differs, or if a SIGTERM did not save first.

The phases are found from outside: a `sitecustomize` in front of the child's path
watches Python's audit events (mkdir, open, rename, rmtree), so that the package itself
knows nothing of this.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_STEP = r"checkpoints/\d+"
_DELAYED = "while arrays are written"
PHASES: dict[str, tuple[str, str]] = {
    "before the temporary folder": ("os.mkdir", _STEP + r"[^/]*tmp[^/]*$"),
    "folders made": ("os.mkdir", _STEP + r"[^/]*tmp[^/]*/params"),
    _DELAYED: ("os.mkdir", _STEP + r"[^/]*tmp[^/]*$"),
    "before the array metadata": ("open", _STEP + r"[^/]*tmp[^/]*/.*_METADATA$"),
    "before the record": ("open", _STEP + r"[^/]*tmp[^/]*/_CHECKPOINT_METADATA$"),
    "before the rename": ("os.rename", _STEP + r"[^/]*tmp[^/]*$"),
    "before the old one goes": ("os.rename", _STEP + r"$"),
    "old one renamed": ("shutil.rmtree", _STEP + r"\.deleted$"),
    "old one half deleted": ("os.remove", _STEP + r"\.deleted/"),
    "rows beyond the checkpoint cut": ("os.rename", r"metrics\.jsonl\.tmp$"),
}
"""Phase -> audit event, and a pattern for the path in its first argument."""
_EVENTS = {event for event, _ in PHASES.values()}


class Blow(NamedTuple):
    """One disturbance.

    Attributes:
      signal: SIGKILL or SIGTERM.
      phase: of a save, or None for a moment in time.
      moment: fraction of the rows of `metrics.jsonl`, or occurrence of the phase.
    """

    signal: int
    phase: str | None
    moment: float

    def __str__(self) -> str:
        name = signal.Signals(self.signal).name
        if self.phase is None:
            return f"{name} after {self.moment:.0%} of the rows"
        return f"{name} {self.phase}, occurrence {int(self.moment)}"


def draw_blows(count: int, seed: int, seen: Mapping[str, int]) -> list[Blow]:
    """Kinds in turn: random SIGKILL, phase of a save, SIGTERM, phase of a save.

    Args:
      count: how many.
      seed: of the draws.
      seen: phase -> how often the undisturbed run went through it.
    """
    dice = random.Random(seed)
    phases: list[str] = []
    blows = []
    for index in range(count):
        if index % 2:
            phases = phases or dice.sample(sorted(seen), len(seen))
            phase = phases.pop()
            blows.append(Blow(signal.SIGKILL, phase, dice.randint(1, seen[phase])))
        else:
            which = signal.SIGTERM if index % 4 == 2 else signal.SIGKILL
            blows.append(Blow(which, None, dice.uniform(0.0, 0.98)))
    return blows


def watch(act: Callable[[str], None]) -> None:
    """In the child: call `act(phase)` whenever the process enters a phase."""
    patterns = [(p, name, re.compile(path)) for p, (name, path) in PHASES.items()]
    emptied = [""]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS or not isinstance(arguments[0], str | os.PathLike):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        path = os.fspath(arguments[0])
        if event == "shutil.rmtree":
            emptied[0] = str(path)
        elif event == "os.remove" and os.sep not in str(path):
            path = f"{emptied[0]}/{path}"  # rmtree names files within their folder
        for phase, name, pattern in patterns:
            if name == event and isinstance(path, str) and pattern.search(path):
                act(phase)

    sys.addaudithook(hook)


def kill_in(phase: str, occurrence: int) -> None:
    """In the child: SIGKILL at an occurrence of a phase."""
    left = [occurrence]

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def act(entered: str) -> None:
        left[0] -= entered == phase
        if entered != phase or left[0] != 0:
            return
        if phase == _DELAYED:
            threading.Timer(random.uniform(0.0, 0.08), die).start()
        else:
            die()

    watch(act)


def tally_in(path: str) -> None:
    """In the child: note each phase entered as a line of a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    watch(lambda phase: (os.write(file, f"{phase}\n".encode()), None)[1])


def run(
    command: Sequence[str], plant: str = "", blow: Blow | None = None, rows: int = 0
) -> tuple[int, str]:
    """Run to the end or to the blow; exit code (negative = signal), end of stderr.

    Args:
      command: what to run.
      plant: a call into this module that the child makes when it starts.
      blow: a signal to send; its phase, if any, is the plant's business.
      rows: size of the undisturbed run's `metrics.jsonl` in bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ)
        if plant:
            _plant(Path(folder), plant)
            path = environment.get("PYTHONPATH", "")
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, path]))
        with open(Path(folder) / "stderr", "w+", encoding="utf-8") as log:
            child = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=log, env=environment
            )
            if blow is not None and blow.phase is None:
                _strike(child, blow, rows, workdir_of(command))
            code = child.wait()
            log.seek(0)
            return code, log.read()[-2000:]


def in_folder(command: Sequence[str], folder: Path) -> list[str]:
    """The command with its workdir replaced."""
    return [
        f"--workdir={folder}" if part.startswith("--workdir=") else part
        for part in command
    ]


def play(
    command: Sequence[str], blow: Blow, rows: int, max_restarts: int = 5
) -> tuple[int, int]:
    """Run, strike, restart until done: exit code of the first, number of restarts.

    Raises:
      RuntimeError: the run cannot be brought to its end, with its stderr.
    """
    plant = f"kill_in({blow.phase!r}, {int(blow.moment)})" if blow.phase else ""
    code, log = run(command, plant, blow, rows)
    restarts, last = 0, code
    while last != 0:
        if restarts == max_restarts or (restarts and last > 0):
            raise RuntimeError(f"after {blow}: exit code {last}\n{log}")
        last, log = run(command)
        restarts += 1
    return code, restarts


def workdir_of(command: Sequence[str]) -> Path | None:
    """The folder that the command's `--workdir=` names."""
    given = [
        p.removeprefix("--workdir=") for p in command if p.startswith("--workdir=")
    ]
    return Path(given[-1]) if given else None


def parts_of(folder: Path) -> dict[str, str]:
    """Digest of a run, the records of its stages, and the checkpoints it has kept."""
    from rlhf_jax.training.digest import digest
    from rlhf_jax.training.writers import read_rows

    records = [
        {name: value for name, value in row.items() if not name.startswith("time/")}
        for path in sorted(folder.glob("*/**/*.jsonl"))
        for row in read_rows(path)
    ]
    text = json.dumps(records, sort_keys=True).encode()
    kept = sorted(str(p.relative_to(folder)) for p in folder.rglob("checkpoints/*"))
    return {
        **digest(folder),
        "records": hashlib.sha256(text).hexdigest(),
        "checkpoints": " ".join(kept),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all draws; 0 if every run ended like the undisturbed one."""
    options, command = _parse(arguments)
    root = workdir_of(command) or Path()
    first = root / "undisturbed"
    began = time.monotonic()
    tally = root / "phases.txt"
    root.mkdir(parents=True, exist_ok=True)
    code, log = run(in_folder(command, first), f"tally_in({str(tally)!r})")
    if code != 0:
        print(f"error: the undisturbed run ends with {code}\n{log}", file=sys.stderr)
        return 2
    wanted, rows = parts_of(first), (first / "metrics.jsonl").stat().st_size
    print(f"undisturbed: {time.monotonic() - began:.1f} s", flush=True)
    seen = collections.Counter(tally.read_text().splitlines())
    failed = 0
    for index, blow in enumerate(draw_blows(options.draws, options.seed, seen)):
        folder = root / f"draw-{index:02d}"
        code, restarts = play(in_folder(command, folder), blow, rows)
        found = parts_of(folder)
        wrong = [f"{part} differ" for part in wanted if found[part] != wanted[part]]
        if blow.signal == signal.SIGTERM and code not in (0, 143):
            wrong.append(f"exit code {code} on SIGTERM, should be 143")
        verdict = "; ".join(wrong) or "the same"
        print(
            f"{index:3d}  {str(blow):<58} exit {code:4d}  restarts {restarts}  "
            f"{verdict}",
            flush=True,
        )
        failed += bool(wrong)
    print(f"{options.draws - failed} of {options.draws} draws end the same")
    return 1 if failed else 0


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=20, help="kills (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    options = parser.parse_args(given[:cut])
    command = given[cut + 1 :]
    if workdir_of(command) is None:
        parser.error("give the command to disturb, with its --workdir=, after --")
    return options, command


def _plant(folder: Path, call: str) -> None:
    """Write the `sitecustomize` that calls into this module in the child."""
    here = Path(__file__).absolute().parent
    lines = f"import sys; sys.path.append({str(here)!r}); import chaos; chaos.{call}\n"
    (folder / "sitecustomize.py").write_text(lines)


def _strike(
    child: subprocess.Popen[bytes], blow: Blow, rows: int, folder: Path | None
) -> None:
    """Send the signal a little after enough rows have been written."""
    path = (folder or Path()) / "metrics.jsonl"
    while child.poll() is None:
        written = path.stat().st_size if path.exists() else 0
        if written >= blow.moment * rows:
            break
        time.sleep(0.005)
    try:
        child.wait(timeout=random.uniform(0.0, 0.1))
    except subprocess.TimeoutExpired:
        child.send_signal(blow.signal)


if __name__ == "__main__":
    sys.exit(main())
