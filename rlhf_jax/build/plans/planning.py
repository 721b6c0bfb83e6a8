"""`rlhf-jax plan`: every program of an experiment, compiled for a pod that is not here.

Nothing is trained and no array made: the programs are those that `train` runs, lowered
from shapes for the devices of a topology.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from rlhf_jax import planning
from rlhf_jax.build import experiment
from rlhf_jax.build.plans import plan_advice
from rlhf_jax.build.plans.planned import Plan, Planned
from rlhf_jax.build.runs import finishing
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.errors import UserError
from rlhf_jax.planning import Topology
from rlhf_jax.training.stopping import Stop

UNITS = {
    "bytes": "per device, unless said otherwise",
    "flops": "operations of matrix products and kernels per device, 2 a multiply-add",
    "total_flops": "the same over all devices",
    "model_flops": "by formula over all devices: 2 N a token forward, 6 N in training",
    "seconds": "least by roofline: the slowest of compute, memory and links",
}


def plan(
    config: Any,
    name: str,
    topology: Topology,
    workdir: Path,
    *,
    dump: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Compiles everything and writes `plan.json`.

    Args:
      config: of the experiment.
      name: how it is called in the result.
      topology: to plan for.
      workdir: `plan.json` goes here.
      dump: folder for the optimized HLO of each program, or None.
      say: called with a line before and after each program.

    Returns:
      What `plan.json` holds.

    Raises:
      UserError: whatever `train` would refuse before its first step, or a program that
        the compiler fails on.
    """
    config = without_files(config)
    context, stages = experiment.build(
        config, workdir, Stop(), devices=topology.devices
    )
    programs: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for stage in stages:
        if stage.plan is None:
            continue
        made = stage.plan()
        rows = [
            _program(stage, one, context, topology, dump, say) for one in made.programs
        ]
        programs += rows
        found.append(_stage(stage, made, rows, topology))
    if not found:
        raise UserError(f"{name}: no stage of it runs programs that are planned for")
    result = _facts(name, context, topology, stages) | _summary(found, topology)
    result |= {"stages": found, "programs": programs}
    if not result["fits"]:
        result["suggestion"] = plan_advice.suggestion(result, config.to_dict(), context)
    finishing.write_json(workdir / "plan.json", result)
    return result


def without_files(config: Any) -> Any:
    """The config, with stand-ins where it names neither files nor a model."""
    config = config.copy_and_resolve_references()
    given = ("demonstrations", "rankings", "prompts", "tokenizer")
    if config.task.kind == "files" and config.model.path is None:
        if all(config.task[key] is None for key in given):
            config.task.kind = "shapes"
    return config


def _program(
    stage: Stage,
    one: Planned,
    context: Context,
    topology: Topology,
    dump: Path | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    name = f"{stage.name}/{one.name}"
    say(f"compiling {name} ...")
    count = len(topology.devices) // topology.slices
    order = {device: index // count for index, device in enumerate(topology.devices)}
    slices = [order[device] for device in context.placement.mesh.devices.flat]
    with context.placement.active():  # no array may be made here: no device is there
        try:
            compiled = planning.compile_program(
                one.function,
                one.arguments,
                phases=one.phases,
                slices=slices if topology.slices > 1 else (),
            )
        except jax.errors.JaxRuntimeError as error:
            line = " ".join(str(error).split())[:300]
            raise UserError(
                f"{name}: the compiler fails for another reason than memory ({line});"
                " try another microbatch, mesh or version of it"
            ) from error
    say(f"  {name}: {compiled.seconds:.0f} s")
    if dump is not None:
        dump.mkdir(parents=True, exist_ok=True)
        (dump / f"{name.replace('/', '.')}.hlo.txt").write_text(compiled.text)
    memory, total = compiled.memory, compiled.report.total
    beside = planning.per_device(one.beside)
    phases = {
        phase or "rest": _work(cost, topology)
        for phase, cost in compiled.report.phases.items()
    }
    return {
        "name": name,
        "each_step": one.each_step,
        "argument_bytes": memory.arguments,
        "output_bytes": memory.outputs,
        "temp_bytes": memory.temporaries,
        "code_bytes": memory.code,
        "peak_bytes": memory.peak,
        "beside_bytes": beside,
        "resident_bytes": memory.peak + beside,
        "host_bytes": memory.host + planning.per_host(one.beside),
        **_work(total, topology),
        "total_flops": total.flops * context.placement.mesh.size,
        "model_flops": one.model_flops,
        "phases": phases if one.phases else {},
        "unbounded_loops": compiled.report.unbounded,
        "kernels_without_estimate": compiled.report.opaque,
        "compile_seconds": round(compiled.seconds, 1),
        "refused": compiled.refused,
    }


def _work(cost: planning.Cost, topology: Topology) -> dict[str, Any]:
    time = planning.roofline(cost, topology.device)
    return {
        "flops": cost.flops,
        "bytes": cost.bytes,
        "collectives": {k: x._asdict() for k, x in sorted(cost.collectives.items())},
        "seconds": time.seconds,
        "seconds_by_resource": time._asdict(),
        "limited_by": time.limit,
    }


def _stage(
    stage: Stage, made: Plan, rows: list[dict[str, Any]], topology: Topology
) -> dict[str, Any]:
    """What a stage needs: the fullest of its programs, the sum of times of a step."""
    resident = max(row["resident_bytes"] for row in rows)
    rows = [row for row in rows if row["each_step"]]
    seconds = sum(row["seconds"] for row in rows)
    slowest = max(rows, key=lambda row: row["seconds"])
    known = seconds > 0 and not any(row["refused"] for row in rows)
    return {
        "name": stage.name,
        "resident_bytes": resident,
        "fits": resident <= topology.device.memory,
        "margin_bytes": topology.device.memory - resident,
        "seconds_per_step": seconds if known else None,
        "tokens_per_step": made.tokens,
        "tokens_per_second": made.tokens / seconds if known else None,
        "slowest_program": slowest["name"],
        "limited_by": slowest["limited_by"],
    }


def _facts(
    name: str, context: Context, topology: Topology, stages: list[Stage]
) -> dict[str, Any]:
    device = topology.device._asdict()
    found = importlib.util.find_spec("libtpu") is not None
    libtpu = importlib.metadata.version("libtpu") if found else None
    used = device["platform"] == "tpu"
    return {
        "config": name,
        "topology": topology.name,
        "slices": topology.slices,
        "devices": len(topology.devices),
        "mesh": dict(context.placement.mesh.shape),
        "mesh_devices": context.placement.mesh.size,
        "device": device,
        "memory_is_estimated": not topology.exact,
        "versions": {
            "python": sys.version.split()[0],
            "jax": importlib.metadata.version("jax"),
            "libtpu": libtpu if used else None,
        },
        "units": UNITS,
        "stages_without_programs": [s.name for s in stages if s.plan is None],
    }


def _summary(found: list[dict[str, Any]], topology: Topology) -> dict[str, Any]:
    fullest = max(found, key=lambda stage: stage["resident_bytes"])
    return {
        "hbm_bytes": topology.device.memory,
        "resident_bytes": fullest["resident_bytes"],
        "fullest_stage": fullest["name"],
        "fits": fullest["fits"],
        "margin_bytes": fullest["margin_bytes"],
    }
