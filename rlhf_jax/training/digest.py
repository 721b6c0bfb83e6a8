"""One hash per part of a finished run, to tell whether two runs ended alike.

Everything that a number can hang on is covered; wall-clock times are not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.training import checkpoint
from rlhf_jax.training.writers import read_rows

PARTS = (
    "parameters",
    "optimizer",
    "controllers",
    "data position",
    "metrics",
    "samples",
)


def digest(workdir: str | os.PathLike[str]) -> dict[str, str]:
    """Hash the parts of a run over all its stages.

    Args:
      workdir: folder of a run. Of each stage the latest checkpoint counts.

    Returns:
      A SHA-256 in hex for each of `PARTS`: `parameters`, `optimizer`, `controllers`
      (states of the parts, such as the KL coefficient), `data position` (step, random
      key and position in the data), `metrics` and `samples` (the rows without the
      `time/*` keys, in order).

    Raises:
      UserError: there is no checkpoint in `workdir`.
    """
    hashes = {part: hashlib.sha256() for part in PARTS}
    for name, parts in contents(workdir).items():
        arrays, position = parts["data position"]
        lines = {
            **{part: _array_lines(parts[part]) for part in PARTS[:3]},
            "data position": [*_array_lines(arrays), _line(position)],
        }
        for part, found in lines.items():
            hashes[part].update(name.encode())
            for line in found:
                hashes[part].update(line)
    for part in ("metrics", "samples"):
        for row in rows(Path(workdir), part):
            hashes[part].update(_line(row))
    return {part: hashes[part].hexdigest() for part in PARTS}


def contents(workdir: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """What the latest checkpoint of each stage holds, by part; arrays on the host.

    Raises:
      UserError: there is no checkpoint in `workdir`.
    """
    root = Path(workdir)
    stages = sorted(_stages(root))
    if not stages:
        raise UserError(
            f"no checkpoint below {root}; name the workdir of a run, the folder that "
            "has config.json and one folder for each stage"
        )
    found = {}
    for name in stages:
        step = checkpoint.resolve(root / name)
        record, items = checkpoint.read_record(step), checkpoint.load_host(step)
        run = items["run"]
        found[name] = {
            "parameters": items["params"],
            "optimizer": items["opt_state"],
            "controllers": run["extra"],
            "data position": (
                {"step": run["step"], "key": run["key"]},
                record.position,
            ),
        }
    return found


def rows(root: Path, part: str) -> list[dict[str, Any]]:
    """The rows `metrics` or `samples` of a run, without times."""
    return [_timeless(row) for row in read_rows(root / f"{part}.jsonl")]


def _stages(root: Path) -> Iterator[str]:
    for folder in root.rglob("checkpoints"):
        if checkpoint.committed_steps(folder):
            yield folder.parent.relative_to(root).as_posix()


def _array_lines(tree: Any) -> Iterator[bytes]:
    """Path, dtype, shape and bytes of every array, in order of the paths."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = sorted(((jax.tree_util.keystr(path), leaf) for path, leaf in flat))
    for name, leaf in named:
        array = np.ascontiguousarray(leaf)
        yield f"{name} {array.dtype} {array.shape}\n".encode()
        yield array.tobytes()


def _timeless(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if not k.startswith("time/")}


def _line(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, sort_keys=True) + "\n").encode()
