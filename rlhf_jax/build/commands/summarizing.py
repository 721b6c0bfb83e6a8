"""`summary.json` of a run, and what a run says at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlhf_jax.build.runs import finishing
from rlhf_jax.build.runs.context import Context, Stage


def summarize(context: Context, stages: list[Stage], config: Any) -> None:
    """Writes `summary.json` from the results of the stages done so far."""
    summary: dict[str, Any] = {"seconds_by_stage": {}, "stages": {}}
    for stage in stages:
        path = context.folder(stage.name) / "done.json"
        if not path.is_file():
            continue
        record = json.loads(path.read_text())
        summary["seconds_by_stage"][stage.name] = record["seconds"]
        kind = config[stage.name].kind
        if kind in ("table", "pydoc_summary", "exact"):
            summary.update(record["result"])
        elif kind in ("rm", "odin") and "reward_model" not in summary:
            summary["reward_model"] = record["result"]
        else:
            summary["stages"][stage.name] = record["result"]
    finishing.write_json(context.workdir / "summary.json", summary)


def closing(workdir: Path) -> str:
    """What a run says at its end: the table and the verdict."""
    summary = json.loads((workdir / "summary.json").read_text())
    lines = []
    for row, columns in summary.get("table", {}).items():
        shown = [
            f"{name} {columns[name]['mean']:.3f} ± {columns[name]['se']:.3f}"
            for name in ("gold", "proxy", "kl", "length")
            if name in columns
        ]
        lines.append(f"{row:>12}  " + "  ".join(shown))
    return "\n".join([*lines, summary.get("verdict", "done")])
