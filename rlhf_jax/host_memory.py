"""Moments of optimizers that wait in the memory of the host between their uses.

A step of a policy needs them once, after forward and backward pass; until then they
would fill memory of the devices for nothing. `Placement.host_moments` keeps them on the
host, split as the parameters are, and a program moves them as it updates: no number
changes (ZeRO-Offload, Ren et al. 2021, arXiv:2101.06840, without its update on the
host).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from rlhf_jax import placement, sharding
from rlhf_jax.errors import UserError


def fetched(opt_state: Any) -> Any:
    """An optimizer state with its moments on the devices, inside of a traced function.

    As it is where none of them waits on the host.
    """
    return _moved(opt_state, lambda where: where.with_memory_kind("device"))


def returned(opt_state: Any) -> Any:
    """An optimizer state with its moments back where they wait; see `fetched`."""
    return _moved(opt_state, lambda where: where)


def _moved(opt_state: Any, to: Callable[[Any], Any]) -> Any:
    active = placement.current()
    if active is None or not active.host_moments:
        return opt_state
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, where: (
            jax.device_put(leaf, to(where)) if active.waits(path) else leaf
        ),
        opt_state,
        active.shardings(opt_state),
    )


def check(mesh: Mesh, what: str) -> None:
    """Raise `UserError` where devices of a mesh cannot keep arrays on their host.

    Args:
      mesh: of the run.
      what: key that asks for it, for the message.
    """
    device = mesh.devices.flat[0]
    kinds = [memory.kind for memory in device.addressable_memories()]
    if sharding.HOST not in kinds:
        raise UserError(
            f"{what}=True: {device.device_kind} has no memory of kind {sharding.HOST}"
            f" (it has {', '.join(kinds)}); set it to False"
        )
