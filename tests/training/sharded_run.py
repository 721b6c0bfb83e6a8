"""Trains the toy learner on four fake devices, in one go and in two halves."""

import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import toy_run as toy  # noqa: E402
from jax.sharding import AxisType, NamedSharding, PartitionSpec  # noqa: E402

from rlhf_jax import rng  # noqa: E402
from rlhf_jax.training import Retention, train  # noqa: E402

MESH = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
ROWS = NamedSharding(MESH, PartitionSpec("data"))


def shardings(state):
    """Matrices by rows, everything else on every device."""
    whole = NamedSharding(MESH, PartitionSpec())
    return jax.tree.map(lambda x: ROWS if x.shape == (4, 3) else whole, state)


def main(workdir: Path) -> None:
    for name, ends in (("whole", (4,)), ("halves", (2, 4))):
        for steps in ends:
            state = train(
                toy.learner(),
                stage="ppo",
                workdir=workdir / name,
                key=rng.root(0),
                frozen=jnp.ones((4, 3)),
                batches=toy.Rows(),
                steps=steps,
                fingerprint={},
                retention=Retention(last=2),
                shardings=shardings,
                place_batch=lambda batch: jax.device_put(batch, ROWS),
                progress=False,
            )
        weights = state.params["policy"]["params"]["w"]
        assert weights.sharding.is_equivalent_to(ROWS, 2), weights.sharding


if __name__ == "__main__":
    main(Path(sys.argv[1]))
