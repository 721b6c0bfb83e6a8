"""What waits in the memory of the host between its uses.

A step of a policy needs the moments of its optimizer once, after forward and backward
pass, and the reference and the reward models once, before; otherwise they would fill
memory of the devices for nothing. `Placement.host_moments` and `Placement.host_frozen`
keep them on the host, split as the parameters are, and a program moves them as it needs
them: no number changes (ZeRO-Offload, Ren et al. 2021, arXiv:2101.06840, without its
update on the host).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from rlhf_jax import placement, sharding
from rlhf_jax.errors import UserError


def here(variables: Any) -> Any:
    """Variables on the devices, those of them that wait on the host; else as they are.

    The type of an array tells where it is, so networks ask for all that they read, and
    no learner has to know which of its models waits.
    """
    return jax.tree.map(_here, variables)


def _here(leaf: Any) -> Any:
    away = jax.typeof(leaf).memory_space == jax.memory.Space.Host
    return jax.device_put(leaf, jax.memory.Space.Device) if away else leaf


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
