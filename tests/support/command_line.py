"""What the tests of the command line share: a tiny experiment, folders as bytes."""

from pathlib import Path
from typing import NamedTuple

QUICKSTART = str(Path(__file__).parents[2] / "experiments" / "quickstart.py")
TINY = f"--config={QUICKSTART}:tiny"
SMALL = (
    "--config.model.num_layers=1",
    "--config.stages=sft,label,rm,ppo",
    "--config.sft.steps=2",
    "--config.rm.steps=2",
    "--config.ppo.steps=2",
    "--config.ppo.epochs=2",
    "--config.ppo.minibatches=2",
    "--config.label.prompts=8",
    "--config.logging.progress=false",
)
"""Everything that a run has, in the fewest programs."""


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


def contents(folder):
    """Path and bytes of every file, to show that nothing was touched."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
