"""From `config.mesh` to the placement of a run, checked before allocating anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rlhf_jax import host_memory, hosts, networks, rng, sharding
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.tasks.enumerable_task import TabularModel
from rlhf_jax.errors import UserError
from rlhf_jax.placement import Placement
from rlhf_jax.types import Network


def placement(
    section: Section, model: Any, devices: Sequence[Any] | None = None
) -> Placement:
    """Reads `config.mesh`.

    `data fsdp tensor sequence` are the sizes of the axes, one of them -1 for the
    devices that the others leave; `slices` is how many slices of a pod `data` spans;
    `rules` changes single rules of `sharding.RULES`, each `NAME=AXIS`, `NAME=AXIS+AXIS`
    or `NAME=` (not split); `host_moments` keeps Adam's moments on the host, and
    `host_frozen` references and reward models.

    Args:
      section: of the config.
      model: what the networks of the run are made of.
      devices: of the mesh, such as those of a topology that is not here; None = all
        of all processes. One process with every axis at 1 takes the first one.

    Raises:
      UserError: a mesh that the devices do not make, a rule that names nothing, a
        parameter whose axis does not divide, devices without memory on the host.
    """
    sizes = {axis: section.int(axis, -1) for axis in sharding.AXES}
    slices, changes = section.int("slices", 1), section.names("rules")
    found = list(jax.devices() if devices is None else devices)
    if all(size == 1 for size in sizes.values()) and hosts.count() == 1:
        found = found[:1]
    mesh = sharding.mesh(**sizes, slices=slices, devices=found)
    rules = {**sharding.RULES, **_changes(section, changes)}
    waiting = {key: section.bool(key) for key in ("host_moments", "host_frozen")}
    for key in (key for key, waits in waiting.items() if waits):
        host_memory.check(mesh, f"{section.path}.{key}")
    result = Placement(mesh, rules)._replace(**waiting)
    if not result.spread:
        return result
    sharding.check_rules(rules, mesh)
    return _named(result, model, section.path)


def _named(found: Placement, model: Any, path: str) -> Placement:
    """With the names of the networks of a run, whose axes all divide."""
    if isinstance(model, TabularModel):
        raise UserError(
            f"{path} asks for {found.mesh.size} devices or for the host's memory, and"
            " tables over an enumerable world live on one device; leave every axis at"
            f" 1, and {path}.host_moments and {path}.host_frozen at False"
        )
    shown = [
        model.language(adapters=True, value_head=True),
        model.language(),
        model.scalar(adapters=True),
    ]
    found = of(_heads(found, model.config, path), *shown)
    for network in shown:
        check_divides(found, jax.eval_shape(network.init, rng.root(0)), path)
    return found


def check_divides(found: Placement, variables: Any, what: str) -> None:
    """Raise `UserError` where an axis of a variable does not divide.

    Args:
      found: the placement of the run.
      variables: of one network, arrays or shapes.
      what: key of the mesh, for the message.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        keys = tuple(map(sharding.key, path))
        for name, size in zip(found.names[keys], leaf.shape, strict=True):
            if size % found.parts(name):
                raise UserError(
                    f"{what}: {'/'.join(keys)} of shape {leaf.shape} has an axis"
                    f" {name} of {size}, which does not divide over"
                    f" {found.parts(name)} devices (mesh axis"
                    f" {' x '.join(found.split(name))}); change the mesh, or leave"
                    f" that axis whole with {what}.rules={name}="
                )


def of(found: Placement, *shown: Network) -> Placement:
    """The same mesh and rules for other networks."""
    return found._replace(names=networks.axis_names(*shown))


def _heads(found: Placement, config: Any, path: str) -> Placement:
    """Whole heads on each device; key-value heads too few to split are on every one."""
    parts = found.parts("activation_heads")
    if config.num_heads % parts:
        raise UserError(
            f"{path}: {config.num_heads} heads do not divide over {parts} devices;"
            " lower tensor, or leave heads whole with"
            f" {path}.rules=heads=,activation_heads="
        )
    if config.kv_heads % found.parts("activation_kv_heads"):
        whole = {"kv_heads": None, "activation_kv_heads": None}
        found = found._replace(rules={**found.rules, **whole})
    return found


def check_batches(
    found: Placement, stages: Mapping[str, Mapping[str, Any]], path: str = "config"
) -> None:
    """Raise `UserError` where the rows of a training program do not divide.

    Args:
      found: the placement of the run.
      stages: name -> its section, already checked by the stages themselves.
      path: of the sections, for messages.
    """
    for name, section in stages.items():
        rows = section.get("batch_size", 0)
        parts = [key for key in _PARTS if key in section]
        if not parts:
            continue  # nothing is trained
        terms = [f"batch_size={rows}"]
        if "samples_per_prompt" in section and "minibatches" in section:
            rows *= section["samples_per_prompt"]
            terms.append(f"x samples_per_prompt={section['samples_per_prompt']}")
        for key in parts:
            rows //= section[key]
            terms.append(f"/ {key}={section[key]}")
        found.check_rows(rows, f"{path}.{name}: {' '.join(terms)}")
        mix = section.get("pretraining", {})
        if mix.get("coef"):
            found.check_rows(mix["batch_size"], f"{path}.{name}.pretraining.batch_size")


_PARTS = ("minibatches", "microbatches")
"""Keys of what a batch is cut into."""


def _changes(section: Section, changes: Sequence[str]) -> dict[str, Any]:
    """Rules that differ from the table: `vocab=fsdp`, `batch=data+fsdp`, `heads=`."""
    result: dict[str, Any] = {}
    for change in changes:
        name, equals, axes = change.partition("=")
        Section({"name": name}, f"{section.path}.rules").choice("name", sharding.RULES)
        if not equals:
            raise UserError(
                f"{section.path}.rules has '{change}'; write NAME=AXIS, NAME=AXIS+AXIS,"
                f" or '{name}=' for an axis that is not split"
            )
        parts = tuple(axis for axis in axes.split("+") if axis)
        result[name] = parts or None
    return result
