"""What a plan says to people: a table, and what to change where it does not fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rlhf_jax.build.commands.checking import aligned, units
from rlhf_jax.build.runs.context import Context


def table(plan: Mapping[str, Any]) -> str:
    """Programs and stages of a plan, one a line, and whether they fit."""
    mesh = " x ".join(f"{k}={v}" for k, v in plan["mesh"].items() if v > 1) or "1"
    device = plan["device"]
    head = (
        f"{plan['config']} on {plan['topology']}"
        f"{' x ' + str(plan['slices']) + ' slices' if plan['slices'] > 1 else ''}:"
        f" {plan['devices']} devices {device['name']} of {units(plan['hbm_bytes'])},"
        f" mesh {mesh}"
    )
    columns = "arguments temporary peak resident GFLOP time".split()
    rows: list[tuple[str, ...]] = [("program", *columns, "limited by")]
    for one in plan["programs"]:
        rows.append(_program(one["name"], one))
        rows += [_phase(name, part) for name, part in one["phases"].items()]
    steps: list[tuple[str, ...]] = [("stage", "resident", "margin", "step", "tokens/s")]
    steps += [_stage(stage) for stage in plan["stages"]]
    lines = [head, *aligned(rows), *aligned(steps), *_notes(plan)]
    return "\n".join(lines)


def _program(name: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    sizes = ("argument_bytes", "temp_bytes", "peak_bytes", "resident_bytes")
    shown = tuple(units(one[key]) for key in sizes)
    if one["refused"]:
        return (name, *shown, "", "", "does not fit")
    return (name, *shown, *_times(one))


def _phase(name: str, part: Mapping[str, Any]) -> tuple[str, ...]:
    return (f"  {name}", "", "", "", "", *_times(part))


def _times(one: Mapping[str, Any]) -> tuple[str, str, str]:
    return f"{one['flops'] / 1e9:,.0f}", seconds(one["seconds"]), one["limited_by"]


def _stage(stage: Mapping[str, Any]) -> tuple[str, ...]:
    step, speed = stage["seconds_per_step"], stage["tokens_per_second"]
    margin = stage["margin_bytes"]
    return (
        stage["name"],
        units(stage["resident_bytes"]),
        units(margin) if margin >= 0 else f"-{units(-margin)}",
        "" if step is None else seconds(step),
        "" if speed is None else f"{speed:,.0f}",
    )


def _notes(plan: Mapping[str, Any]) -> list[str]:
    notes = []
    if plan["mesh_devices"] < plan["devices"]:
        notes.append(
            f"the mesh uses {plan['mesh_devices']} of {plan['devices']} devices; set"
            " config.mesh"
        )
    if plan["memory_is_estimated"]:
        notes.append("memory is that of the CPU's compiler: an estimate")
    unknown = sorted({x for p in plan["programs"] for x in p["unbounded_loops"]})
    if unknown:
        notes.append(f"loops of unknown length count once: {', '.join(unknown)}")
    if plan["stages_without_programs"]:
        left = ", ".join(plan["stages_without_programs"])
        notes.append(f"not planned: {left}")
    margin = plan["margin_bytes"]
    if plan["fits"]:
        return [*notes, f"fits, with {units(margin)} to spare"]
    return [*notes, f"does not fit: {units(-margin)} too much. {plan['suggestion']}"]


def seconds(value: float) -> str:
    """`1.5 s`, `20 ms`, `300 us`."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:,.3g} {unit}"
    return f"{value / 1e-6:,.3g} us"


def suggestion(plan: Mapping[str, Any], config: Any, context: Context) -> str:
    """What would bring the fullest stage down: the first of these that is left.

    Weights that a rollout need not hold whole, smaller microbatches and
    rematerialization where temporaries are most of it, else a mesh that splits the
    state further, else moments that wait on the host.
    """
    stage = plan["fullest_stage"]
    rows = [p for p in plan["programs"] if p["name"].rpartition("/")[0] == stage]
    worst = max(rows, key=lambda row: row["resident_bytes"])
    over = -plan["margin_bytes"]
    ideas = []
    if worst["temp_bytes"] >= over:
        ideas += _gathered(worst["name"], context)
        ideas += _smaller(stage, config[stage], context, worst["name"])
        if config["model"]["remat"] != "full":
            ideas.append("--config.model.remat=full")
        if not config["model"]["scan_layers"]:
            ideas.append("--config.model.scan_layers=True")
    if not ideas:
        ideas += _wider(plan, context, worst["resident_bytes"])
    return f"{worst['name']} is the fullest; try {' or '.join(ideas)}"


def _gathered(name: str, context: Context) -> list[str]:
    """Weights of a rollout gathered at every token, where they are so once for all."""
    found = context.placement
    once = set(found.split("embed")) - set(found.split("rollout_embed"))
    if not name.endswith("/rollout") or not once:
        return []
    return [f"--config.mesh.rules=rollout_embed={'+'.join(found.split('embed'))}"]


def _smaller(stage: str, settings: Any, context: Context, name: str) -> list[str]:
    """More microbatches of an update, or fewer rows of a rollout or an evaluation."""
    least = context.placement.row_shards
    if "/evaluation" in name:
        size = settings["eval_prompts"]
        fewer = max(least, size // 2 // least * least)
        return [f"--config.{stage}.eval_prompts={fewer}"] if fewer != size else []
    size = settings["batch_size"]
    parts = settings["microbatches"]
    rows = (
        size * settings.get("samples_per_prompt", 1) // settings.get("minibatches", 1)
    )
    if name.endswith(("/rollout", "/score")) and size > least:
        return [f"--config.{stage}.batch_size={max(least, size // 2)}"]
    for more in range(parts + 1, rows + 1):
        if rows % more == 0 and (rows // more) % least == 0 and more >= 2 * parts:
            return [f"--config.{stage}.microbatches={more}"]
    return []


def _wider(plan: Mapping[str, Any], context: Context, resident: int) -> list[str]:
    """A mesh that splits parameters and states over more devices, or the host."""
    mesh, devices = plan["mesh"], plan["devices"]
    if mesh["fsdp"] * mesh["tensor"] < devices:
        return [f"--config.mesh.data=1 --config.mesh.fsdp={devices // mesh['tensor']}"]
    need = math.ceil(devices * resident / plan["hbm_bytes"])
    host = "--config.mesh.host_moments=True"
    return [
        *([] if context.placement.host_moments else [host]),
        f"about {need} devices of this kind in place of {devices}, or a model with"
        " fewer parameters (--config.model.param_dtype=bfloat16 halves its bytes)",
    ]
