"""`rlhf-jax check`: what an experiment is going to do, from abstract shapes alone.

Nothing is trained, written or allocated, so a recipe for a pod is checked on a laptop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rlhf_jax import planning, rng
from rlhf_jax.build import experiment
from rlhf_jax.build.configs import loading
from rlhf_jax.build.plans import planned
from rlhf_jax.build.runs import models
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.training.stopping import Stop
from rlhf_jax.types import Network

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def describe(config: Any, devices: Sequence[Any] | None = None) -> str:
    """Resolved config, arithmetic of every stage, parameters and memory, as text.

    Args:
      config: of the experiment.
      devices: of the mesh, such as those of a topology; None = those that are here.

    Raises:
      UserError: whatever `train` would refuse before its first step.
    """
    context, stages = experiment.build(config, Path("unused"), Stop(), devices=devices)
    plain = config.to_dict()
    described = {stage.name: stage.describe() for stage in stages}
    blocks = [
        ["config", *_rows((k, repr(v)) for k, v in loading.flat(config).items())],
        *(_stage(stage, plain[stage.name], described) for stage in stages),
        _parameters(context, described),
        *_memory(context, plain, described),
    ]
    return "\n\n".join("\n".join(block) for block in blocks)


def _stage(
    stage: Stage, settings: Mapping[str, Any], described: Mapping[str, Any]
) -> list[str]:
    shown = {k: v for k, v in described[stage.name].items() if k != "state"}
    rows = [(k, f"{v:,}" if isinstance(v, int) else str(v)) for k, v in shown.items()]
    return [f"stage {stage.name} (kind {settings['kind']})", *_rows(rows)]


def _parameters(context: Context, described: Mapping[str, Any]) -> list[str]:
    """The shared architecture once, then what each trained group has beside it."""
    table = models.parameter_table(_shapes(context.model.language()))
    shared = {path for path, _, _ in table}
    lines = ["parameters", *_table(table)]
    lines.append(f"  language model: {_count(table):,} parameters, {_size(table)}")
    for stage, facts in described.items():
        if "state" not in facts:
            continue
        for group, variables in facts["state"].params.items():
            own = models.parameter_table(variables)
            lines.append(
                f"  {stage}/{group}: {_count(own):,} trained parameters, {_size(own)}"
            )
            lines += _table([row for row in own if row[0] not in shared], indent=4)
    return lines


class _Arrays(NamedTuple):
    """What a stage has on the devices at once, as shapes in their places."""

    trained: Any
    gradients: Any
    optimizer: Any
    frozen: Any
    cache: Any


COLUMNS = ("trained", "gradients", "optimizer", "frozen", "KV cache")


def _memory(
    context: Context, plain: Mapping[str, Any], described: Mapping[str, Any]
) -> list[list[str]]:
    """Bytes of each array once, and on a mesh those that a device holds of it."""
    found = {
        stage: _arrays(context, plain, stage, facts.get("state"))
        for stage, facts in described.items()
    }
    title = "memory over all devices, without activations; to save it: docs/pods.md"
    tables = [_memory_table(title, COLUMNS, found, _bytes)]
    if context.placement.spread:
        size = context.placement.mesh.size
        title = f"memory of each of {size} devices, without activations and KV cache"
        if context.placement.host_moments:
            title += "; moments wait on the host"
        if context.placement.host_frozen:
            title += "; references and reward models wait on the host"
        found = {stage: arrays[:-1] for stage, arrays in found.items()}
        tables.append(_memory_table(title, COLUMNS[:-1], found, planning.per_device))
    return tables


def _memory_table(
    title: str,
    columns: Sequence[str],
    found: Mapping[str, Sequence[Any]],
    bytes_of: Callable[[Any], int],
) -> list[str]:
    rows: list[Sequence[str]] = [("stage", *columns, "sum")]
    for stage, arrays in found.items():
        sizes = [bytes_of(tree) for tree in arrays]
        rows.append((stage, *map(units, (*sizes, sum(sizes)))))
    return [title, *aligned(rows)]


def _arrays(
    context: Context, plain: Mapping[str, Any], stage: str, state: Any
) -> _Arrays:
    settings = plain[stage]
    beside = FROZEN.get(settings["kind"])
    frozen = beside(context, plain, settings) if beside else []
    if state is not None and context.model.lora is not None:
        frozen.append(planned.variables(context, context.model.language()))
    rows, width = _sampled(settings), context.task.prompt_length
    columns = width + context.task.response_length - 1
    network = context.model.language()
    cache = jax.eval_shape(lambda: network.init_cache(rows, columns)) if rows else ()
    trained = optimizer = ()
    if state is not None:
        trained = context.placement.abstract(state.params)
        optimizer = context.placement.abstract(state.opt_state)
    return _Arrays(trained, trained, optimizer, frozen, cache)


def _sampled(settings: Mapping[str, Any]) -> int:
    """Rows that are sampled at once."""
    size = settings.get("batch_size", 0)
    if settings["kind"] in ("ppo", "online_preference"):
        return size * settings["samples_per_prompt"]
    if settings["kind"] == "best_of_n":
        return size * (settings["best_of"] + 1)
    if settings["kind"] == "label":
        return size * settings["responses"]
    if settings["kind"] == "table":
        return size * max(settings["best_of"], settings["samples"])
    return 0


def _sampling(context: Context, plain: Any, settings: Any) -> list[Any]:
    """The policy that samples."""
    return [planned.variables(context, context.model.language())]


def _beside_ppo(context: Context, plain: Any, settings: Any) -> list[Any]:
    """The reference, and the reward models that are asked."""
    members = settings["reward_model"].rpartition(":")[2].split(",")
    asked = [name for name in members if name in context.rewards]
    found = [planned.held(context, context.model.language())]
    if plain["scorer"] is not None:
        return found
    return found + [planned.held(context, context.model.scalar()) for _ in asked]


def _beside_pairs(context: Context, plain: Any, settings: Any) -> list[Any]:
    """The reference, where it is asked in every step."""
    if settings["reference"] is None or settings["cache_reference"]:
        return []
    return [planned.held(context, context.model.language())]


def _beside_table(context: Context, plain: Any, settings: Any) -> list[Any]:
    """The tuned policy, and what PPO has beside it."""
    tuned = _sampling(context, plain, settings)
    return tuned + _beside_ppo(context, plain, settings)


FROZEN: Mapping[str, Callable[[Context, Any, Any], list[Any]]] = {
    "label": _sampling,
    "best_of_n": _beside_ppo,
    "ppo": _beside_ppo,
    "online_preference": _beside_ppo,
    "preference": _beside_pairs,
    "table": _beside_table,
}
"""Weights that a stage holds and does not train, adapters' base aside."""


def _shapes(network: Network) -> Any:
    return jax.eval_shape(network.init, rng.root(0))


def _bytes(tree: Any) -> int:
    """Bytes of all arrays of an abstract tree; a typed key counts as its data."""
    leaves = [x for x in jax.tree.leaves(tree) if hasattr(x, "dtype")]
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)


def _count(table: Iterable[Any]) -> int:
    return sum(math.prod(shape) for _, shape, _ in table)


def _size(table: Iterable[Any]) -> str:
    width = jax.numpy.dtype
    return units(sum(math.prod(s) * width(kind).itemsize for _, s, kind in table))


def units(size: int | float) -> str:
    """Bytes as a person reads them: 1536 -> '1.5 KiB'."""
    for unit in UNITS[:-1]:
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} {UNITS[-1]}"


def _table(table: Sequence[Any], indent: int = 2) -> list[str]:
    rows = [
        (path, " x ".join(map(str, shape)) or "scalar", kind)
        for path, shape, kind in table
    ]
    return aligned(rows, indent)


def _rows(rows: Iterable[tuple[str, str]]) -> list[str]:
    return aligned(list(rows))


def aligned(rows: Sequence[Sequence[str]], indent: int = 2) -> list[str]:
    """Columns of equal width, the last one ragged."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        " " * indent
        + "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
