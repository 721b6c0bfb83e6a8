"""Where the arrays of a run live: a mesh, its rules, and what the networks' names say.

    placement = Placement(mesh, rules, networks.axis_names(network, ...))
    with placement.active():                     # around everything that is traced
        where = placement.shardings(tree)        # of any tree that holds variables
        state = jax.jit(init, out_shardings=where)(key)
        state, _ = update(state, placement.put(frozen), placement.batch(batch))

`shardings` needs no table of its own for a train state, optimizer moments, gradients or
frozen weights: a leaf is known by the end of its path (`params/layers/mlp/up/kernel`),
which an optimizer keeps. What no name fits is held by every device.

Inside of `active()` three things happen while programs are traced: `constrain` lays
activations out (the networks call it), `pinned` holds variables, gradients and states
where `shardings` says (the learners call it on all that they return), and the mesh is
that of `jax.set_mesh`. Outside of it, and on one device, all three do nothing.

For ahead-of-time compilation the mesh may be made of devices that are not here
(`sharding.mesh(devices=topology.devices)`); `abstract(shapes)` is what to lower with.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from rlhf_jax import sharding
from rlhf_jax.errors import UserError

Array = jax.Array
Path = tuple[str, ...]
Names = Mapping[Path, tuple[str | None, ...]]
"""Path of a variable -> logical names of its axes, as `networks.axis_names` gives."""


class Placement(NamedTuple):
    """A mesh, and what lies where on it.

    Attributes:
      mesh: the devices, see `sharding.mesh`.
      rules: logical name -> mesh axes, the table of the run.
      names: of the variables of its networks.
      host_moments: Adam's moments wait in the host's memory (`host_memory`).
      host_frozen: references and reward models wait there, where `frozen` puts them.
      host_all: everything is put there.
    """

    mesh: Mesh
    rules: sharding.Rules = sharding.RULES
    names: Names = {}
    host_moments: bool = False
    host_frozen: bool = False
    host_all: bool = False

    @property
    def spread(self) -> bool:
        """Whether there is more than one device, or more than one memory."""
        return self.mesh.size > 1 or self.host_moments or self.host_frozen

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Programs traced and run inside are laid out so; nothing on one device."""
        kind = _PLATFORM.set(self.mesh.devices.flat[0].platform)
        token = _ACTIVE.set(self if self.spread else _ACTIVE.get())
        try:
            with jax.set_mesh(self.mesh) if self.spread else contextlib.nullcontext():
                yield
        finally:
            _ACTIVE.reset(token)
            _PLATFORM.reset(kind)

    def shardings(self, tree: Any) -> Any:
        """The tree with a sharding at each leaf.

        Args:
          tree: arrays or `jax.ShapeDtypeStruct`: variables of a network, a train state,
            optimizer states, gradients, frozen weights, or a structure of these.
        """
        if not self.spread:
            device = SingleDeviceSharding(self.mesh.devices.flat[0])
            return jax.tree.map(lambda _: device, tree)
        return jax.tree_util.tree_map_with_path(self._sharding, tree)

    def abstract(self, tree: Any) -> Any:
        """`jax.ShapeDtypeStruct`s of a tree, with its shardings."""
        return jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            tree,
            self.shardings(tree),
        )

    def put(self, tree: Any) -> Any:
        """Variables, or a tree of them, where they belong; as it is on one device."""
        return jax.device_put(tree, self.shardings(tree)) if self.spread else tree

    def rows(self, tree: Any) -> Any:
        """Shardings of a batch: rows (axis 0) over the axes that split the data.

        A leaf whose rows do not divide is held by every device; training batches are
        checked beforehand, by `check_rows`.
        """
        return jax.tree.map(self._row_sharding, tree)

    def batch(self, tree: Any) -> Any:
        """A batch from the host, on the devices."""
        if not self.spread:
            return jax.device_put(tree)
        return jax.device_put(tree, self.rows(tree))

    def here(self, rows: int) -> np.ndarray:
        """Rows of a batch that the devices of this process hold, ascending."""
        where = self._row_sharding(jax.ShapeDtypeStruct((rows,), np.int32))
        held = np.zeros(rows, bool)
        for index in where.addressable_devices_indices_map((rows,)).values():
            held[index] = True
        return np.flatnonzero(held)

    def gathered(self, tree: Any, rows: Any) -> Any:
        """A batch on the devices, of which every process has read its rows alone.

        Args:
          tree: on the host, leaves [len(here(rows)), ...].
          rows: of the whole batch; one number for each part of the tree.
        """
        return jax.tree.map(
            lambda count, part: jax.tree.map(lambda x: self._gathered(x, count), part),
            rows,
            tree,
        )

    def _gathered(self, leaf: np.ndarray, rows: int) -> Array:
        shape = (rows, *leaf.shape[1:])
        where = self._row_sharding(jax.ShapeDtypeStruct(shape, leaf.dtype))
        held = self.here(rows)

        def part(index: Any) -> np.ndarray:
            begin, end, _ = index[0].indices(rows)
            first = np.searchsorted(held, begin)
            return leaf[first : first + end - begin][(slice(None), *index[1:])]

        return jax.make_array_from_callback(shape, where, part)

    @property
    def row_shards(self) -> int:
        """Into how many parts the rows of a batch are split."""
        return self.parts("batch")

    def parts(self, name: str | None) -> int:
        """Into how many parts an axis of this logical name is split."""
        return math.prod(self.mesh.shape[axis] for axis in self._over(name))

    def split(self, name: str | None) -> tuple[str, ...]:
        """The mesh axes of several devices that a logical name lies over."""
        return tuple(axis for axis in self._over(name) if self.mesh.shape[axis] > 1)

    def for_rollout(self) -> Placement:
        """Where weights lie while responses are sampled from them."""
        embed = self.rules["rollout_embed"]
        return self._replace(rules={**self.rules, "embed": embed})

    def frozen(self) -> Placement:
        """Where models lie that are asked and not trained."""
        return self._replace(host_all=self.host_frozen)

    def spec(self, *names: str | None) -> PartitionSpec:
        """The partition of an array from the logical names of its axes."""
        return sharding.spec(names, self.rules)

    def check_rows(self, rows: int, what: str) -> None:
        """Raise `UserError` where the rows of a batch do not divide over the devices.

        Args:
          rows: of what one program reads at once.
          what: key or keys that they come from, for the message.
        """
        parts = self.row_shards
        if rows % parts:
            raise UserError(
                f"{what}: {rows} rows do not divide over {parts} devices (mesh axes"
                f" {' x '.join(self._over('batch'))}); choose a multiple of {parts}, or"
                " another config.mesh"
            )

    def _sharding(self, path: Any, leaf: Any) -> NamedSharding:
        where = self.over(self.axes(path, leaf))
        return where.with_memory_kind(sharding.HOST) if self.waits(path) else where

    def waits(self, path: Any) -> bool:
        """Whether the leaf at a path waits on the host."""
        moment = not {"mu", "nu"}.isdisjoint(map(sharding.key, path))
        return self.host_all or (self.host_moments and moment)

    def over(self, names: tuple[str | None, ...]) -> NamedSharding:
        """Sharding of an array from the logical names of its axes.

        Axes of size 1 are left out, as programs leave them out of their results.
        """
        sharding.spec(names, self.rules)  # refuses what claims an axis twice
        kept = [self.split(name) for name in names]
        while kept and not kept[-1]:
            kept.pop()
        return NamedSharding(
            self.mesh,
            PartitionSpec(*(x[0] if len(x) == 1 else x or None for x in kept)),
        )

    def axes(self, path: Any, leaf: Any) -> tuple[str | None, ...]:
        """Logical names of a leaf, by the end of its path; () = on every device."""
        keys = tuple(map(sharding.key, path))
        for start in range(len(keys)):
            names = self.names.get(keys[start:])
            if names is not None and self._divides(names, leaf.shape):
                return names
        return ()

    def _divides(self, names: tuple[str | None, ...], shape: tuple[int, ...]) -> bool:
        """False for what an optimizer keeps in other shapes (factored moments)."""
        return len(names) == len(shape) and not any(
            size % self.parts(name) for name, size in zip(names, shape, strict=True)
        )

    def _row_sharding(self, leaf: Any) -> NamedSharding:
        parts = self.row_shards
        if not leaf.shape or leaf.shape[0] % parts:
            return sharding.replicated(self.mesh)
        return self.over(("batch",))

    def _over(self, name: str | None) -> tuple[str, ...]:
        """The mesh axes that a logical name lies over."""
        return sharding.mesh_axes(None if name is None else self.rules[name])


_ACTIVE: contextvars.ContextVar[Placement | None] = contextvars.ContextVar(
    "placement", default=None
)
_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "platform", default=None
)


def platform() -> str:
    """Of the devices that programs are traced for: of a placement, which may be planned
    for devices that are not here, or of those at hand."""
    return _PLATFORM.get() or jax.default_backend()


def constrain(x: Array, *axes: str | None) -> Array:
    """An activation, laid out by the logical names of its axes.

    Args:
      x: inside of a traced function.
      axes: one name of the rules for each axis, None for an axis that is not split.
    """
    placement = _ACTIVE.get()
    if placement is None:
        return x
    spec = sharding.spec(axes, placement.rules)
    return jax.lax.with_sharding_constraint(x, NamedSharding(placement.mesh, spec))


def current() -> Placement | None:
    """The placement that is active, for what lays itself out (`jax.shard_map`)."""
    return _ACTIVE.get()


def pinned(tree: Any) -> Any:
    """Variables, gradients or a state inside of a traced function, held in their place.

    Without it the compiler chooses where results lie, and they drift from step to step.
    """
    placement = _ACTIVE.get()
    if placement is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, placement.shardings(tree))


def abstract(tree: Any) -> Any:
    """Shapes of variables with the shardings of the active placement, if there is one.

    For what is read from files inside of `Placement.active`.
    """
    placement = _ACTIVE.get()
    return tree if placement is None else placement.abstract(tree)


def one_device() -> Placement:
    """Everything on the first device."""
    return Placement(sharding.mesh(devices=jax.devices()[:1]))
