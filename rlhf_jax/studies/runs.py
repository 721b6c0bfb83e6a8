"""A run as its workdir tells it, read so that a run in progress can be read too."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.errors import UserError

FILES = ("config.json", "metrics.jsonl", "samples.jsonl", "summary.json")


class Curve(NamedTuple):
    """One metric of one stage: steps float64[N] ascending, values float64[N]."""

    steps: np.ndarray
    values: np.ndarray


class Run(NamedTuple):
    """What a workdir holds.

    Attributes:
      name: short name, unique among the runs read together.
      workdir: where it lies.
      config: nested config, empty where there is none.
      stages: stage -> metric name -> `Curve`, stages in the order they were written.
      samples: rows of `samples.jsonl` (`schema.SampleRow`), in order.
      summary: `summary.json` (`schema.Summary`), empty where there is none.
      problems: what could not be read, each a sentence that names file and line.
    """

    name: str
    workdir: Path
    config: dict[str, Any]
    stages: dict[str, dict[str, Curve]]
    samples: list[dict[str, Any]]
    summary: dict[str, Any]
    problems: list[str]


def read(workdirs: Sequence[Path]) -> list[Run]:
    """Read runs, in order, under short names that tell them apart.

    Raises:
      UserError: no workdir given, one that is not a run, or a `config.json` that is
        damaged: without it a page could not say which run it shows.
    """
    if not workdirs:
        raise UserError("report needs at least one run: give the workdir of a run")
    paths = [Path(workdir) for workdir in workdirs]
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is no directory: give the workdir of a run")
        if not any((path / name).exists() for name in FILES):
            raise UserError(
                f"{path} holds no run: none of {', '.join(FILES)} is in it; "
                "give the directory that --workdir named"
            )
    names = short_names(paths)
    return [_read_one(name, path) for name, path in zip(names, paths, strict=True)]


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, with as many parents as it takes to differ."""
    parts = [path.resolve().parts for path in paths]
    longest = max(map(len, parts))
    for depth in range(1, longest + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        names[index] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return names


def _read_one(name: str, path: Path) -> Run:
    problems: list[str] = []
    rows = _rows(path / "metrics.jsonl", problems)
    return Run(
        name=name,
        workdir=path,
        config=_config(path / "config.json"),
        stages=_stages(rows),
        samples=_rows(path / "samples.jsonl", problems),
        summary=_object(path / "summary.json", problems),
        problems=problems,
    )


def _config(path: Path) -> dict[str, Any]:
    """Of a run, or empty where there is none."""
    problems: list[str] = []
    config = _object(path, problems)
    if problems:
        raise UserError(
            f"{path} is damaged: {problems[0].removesuffix('; left out.')}; restore it,"
            " or train again in another --workdir"
        )
    return config


def _object(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        problems.append(f"{path.name} is not valid JSON ({error}); left out.")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path.name} is not a JSON object; left out.")
        return {}
    return value


def _rows(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """Rows with a stage and a step; the last line may be cut off by a run at work."""
    if not path.exists():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            problems.append(
                f"{path.name}, line {number} is no row with stage and step; left out."
            )
    return rows


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or "stage" not in row:
        return None
    step = _number(row.get("step"))
    if step is None or not math.isfinite(step):
        return None
    return row | {"stage": str(row["stage"]), "step": int(step)}


def _stages(rows: list[dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    points: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        stage = points.setdefault(row["stage"], {})
        for name, value in row.items():
            number = None if name in ("stage", "step") else _number(value)
            if number is not None:
                stage.setdefault(name, {})[row["step"]] = number
    return {
        stage: {name: _curve(found) for name, found in named.items()}
        for stage, named in points.items()
    }


def _curve(points: dict[int, float]) -> Curve:
    steps = sorted(points)
    values = [points[step] for step in steps]
    return Curve(np.asarray(steps, np.float64), np.asarray(values, np.float64))


def _number(value: Any) -> float | None:
    """A metric's number; null is NaN (a row says that it has none), text is nothing."""
    if value is None:
        return math.nan
    return float(value) if isinstance(value, (bool, int, float)) else None
