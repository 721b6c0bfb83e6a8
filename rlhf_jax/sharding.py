"""Meshes and shardings: four axes, logical names, one table of rules.

The networks name the axes of their parameters (`embed`, `mlp`, `heads` ...); here is
which mesh axis each name is laid over. The mesh has the axes `data` and `fsdp` (both
split the batch; `fsdp` also splits parameters), `tensor` (splits heads and hidden
units) and `sequence` (splits the length). All are `Auto`: the compiler places the
collectives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rlhf_jax.errors import UserError

AXES = ("data", "fsdp", "tensor", "sequence")

HOST = "pinned_host"
"""Kind of the memory of a host that its devices read and write."""

Rules = Mapping[str, str | tuple[str, ...] | None]
"""Logical name -> mesh axis, several of them, or None (replicated)."""

RULES: Rules = {
    # Parameters.
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "head_dim": None,
    "layers": None,
    "positions": None,
    "lora_rank": None,
    # `embed` while responses are sampled: the weights are gathered once for all tokens,
    # instead of once for each of them.
    "rollout_embed": None,
    # Activations. `batch` takes both axes that split the data, so that the width of an
    # activation cannot lie over `fsdp` as the width of a parameter does.
    "batch": ("data", "fsdp"),
    "length": "sequence",
    "cache_length": None,
    "activation_embed": None,
    "activation_heads": "tensor",
    "activation_kv_heads": "tensor",
    "activation_mlp": "tensor",
}
"""Where the names of `networks` lie by default."""


def mesh(
    *,
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    sequence: int = 1,
    slices: int = 1,
    devices: list[Any] | None = None,
) -> Mesh:
    """A mesh with the axes of `AXES`, every one of them `Auto`.

    Args:
      data, fsdp, tensor, sequence: axis sizes; at most one is -1, which takes the
        devices that the others leave.
      slices: of a pod; `data` spans them, so that only gradients go over the slower
        network between slices, and the other axes stay inside of one.
      devices: a list of `jax.Device`, all of them by default.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or the devices are
        of another number of slices.
    """
    devices = jax.devices() if devices is None else devices
    shape = _fill((data, fsdp, tensor, sequence), len(devices))
    types = (AxisType.Auto,) * len(AXES)
    if slices == 1:
        return Mesh(_torus(shape, devices), AXES, axis_types=types)
    return Mesh(_hybrid(shape, slices, devices), AXES, axis_types=types)


def _torus(shape: tuple[int, ...], devices: list[Any]) -> np.ndarray:
    """Devices in the order of a mesh, neighbours beside each other where there are any.

    An axis of the mesh may be a part of an axis of the pod (16 x 4 on 8 x 8).
    """
    try:
        return mesh_utils.create_device_mesh(shape, devices)
    except NotImplementedError:
        return mesh_utils.create_device_mesh(
            shape, devices, allow_split_physical_axes=True
        )


def _hybrid(shape: tuple[int, ...], slices: int, devices: list[Any]) -> np.ndarray:
    """Devices in the order of a mesh whose first axis spans slices.

    Devices that know no slices (CPUs) are taken as so many equal slices in a row.
    """
    if shape[0] % slices:
        raise UserError(
            f"mesh: data={shape[0]} does not divide over slices={slices}; data spans"
            " the slices, so make it a multiple"
        )
    if devices[0].platform == "cpu":
        return np.asarray(devices, object).reshape(shape)
    there = {device.slice_index for device in devices}
    if len(there) != slices:
        raise UserError(f"mesh: slices={slices}, but the devices are of {len(there)}")
    return mesh_utils.create_hybrid_device_mesh(
        (shape[0] // slices, *shape[1:]),
        (slices, 1, 1, 1),
        devices,
        allow_split_physical_axes=True,
    )


def _fill(sizes: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Axis sizes with -1 replaced, checked against the number of devices."""
    text = " x ".join(f"{name}={size}" for name, size in zip(AXES, sizes, strict=True))
    free = sizes.count(-1)
    if free > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(
            f"mesh {text}: sizes are positive and at most one is -1 (what is left)"
        )
    known = math.prod(size for size in sizes if size != -1)
    if count % known or (not free and known != count):
        raise UserError(
            f"mesh {text} needs {'a multiple of ' * free}{known} devices and "
            f"there are {count}; change the sizes or set one of them to -1"
        )
    return tuple(count // known if size == -1 else size for size in sizes)


def key(entry: Any) -> str:
    """One step of the path of a leaf, as text."""
    for kind in ("key", "name", "idx"):
        if hasattr(entry, kind):
            return str(getattr(entry, kind))
    return str(entry)


def mesh_axes(rule: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes of one rule, or of one entry of a partition."""
    if rule is None:
        return ()
    return (rule,) if isinstance(rule, str) else rule


def check_rules(rules: Rules, mesh: Mesh) -> None:
    """Raise `UserError` where a rule names an axis that the mesh does not have."""
    for name, rule in rules.items():
        for axis in mesh_axes(rule):
            if axis not in mesh.axis_names:
                raise UserError(
                    f"sharding rule {name} -> {axis}: the mesh has the axes "
                    f"{', '.join(mesh.axis_names)}"
                )


def spec(logical_axes: tuple[str | None, ...], rules: Rules = RULES) -> PartitionSpec:
    """The partition of one array from the logical names of its axes.

    Raises:
      UserError: a name has no rule, or two axes of the array claim one mesh axis.
    """
    taken: dict[str, str] = {}
    for name in logical_axes:
        if name is not None and name not in rules:
            raise UserError(f"logical axis {name!r} has no sharding rule")
        for axis in mesh_axes(None if name is None else rules[name]):
            if axis in taken:
                raise UserError(
                    f"logical axes {taken[axis]!r} and {name!r} of one array are both "
                    f"laid over the mesh axis {axis!r}; change one rule"
                )
            taken[axis] = str(name)
    return PartitionSpec(
        *(None if name is None else rules[name] for name in logical_axes)
    )


def shardings(mesh: Mesh, logical_axes: Any, rules: Rules = RULES) -> Any:
    """Shardings of a tree from the logical axes of its leaves.

    Args:
      mesh: where the arrays live.
      logical_axes: a tree whose leaves are tuples of logical names or None, one entry
        for each axis of the array; `()` for a scalar or a replicated array. What
        `networks.logicalmesh_axes(network)` gives.
      rules: logical name -> mesh axes.

    Returns:
      The same tree with a `NamedSharding` in the place of every tuple.
    """
    check_rules(rules, mesh)

    def is_leaf(node: Any) -> bool:
        return type(node) is tuple and all(isinstance(x, str | None) for x in node)

    return jax.tree.map(
        lambda axes: NamedSharding(mesh, spec(axes, rules)),
        logical_axes,
        is_leaf=is_leaf,
    )


def check_fits(arrays: Any, shardings: Any) -> None:
    """Raise `UserError` where an axis of an array does not divide over its mesh axes.

    Args:
      arrays: a tree of arrays or `jax.ShapeDtypeStruct`.
      shardings: the same tree of `NamedSharding`.
    """

    def check(path: Any, array: Any, sharding: NamedSharding) -> None:
        for axis, (size, names) in enumerate(
            zip(array.shape, sharding.spec, strict=False)
        ):
            names = mesh_axes(names)
            parts = math.prod(sharding.mesh.shape[name] for name in names)
            if size % parts:
                raise UserError(
                    f"{jax.tree_util.keystr(path)} of shape {tuple(array.shape)}: axis "
                    f"{axis} of size {size} does not divide over {parts} devices "
                    f"(mesh axis {' x '.join(names)}); change the mesh"
                )

    jax.tree_util.tree_map_with_path(check, arrays, shardings)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of batch-leading arrays: axis 0 over `data` and `fsdp` together."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of what every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())
