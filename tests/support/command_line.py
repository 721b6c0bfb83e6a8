"""What the tests of the command line share: a tiny experiment, folders, logits."""

import json
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from rlhf_jax import networks
from rlhf_jax.types import ModelInputs

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
PROMPT = "w1 *w2* w3 *w4* =>"


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


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def inputs(tokens):
    tokens = jnp.asarray(tokens, jnp.int32)
    return ModelInputs(
        tokens=tokens,
        mask=jnp.ones(tokens.shape, bool),
        positions=jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape),
        segment_ids=jnp.zeros_like(tokens),
    )


def our_logits(opened, tokens):
    hidden = opened.network.apply(opened.variables, inputs(tokens)).hidden
    return np.asarray(networks.logits(opened.network, opened.variables, hidden))
