"""Taking a workdir: everything in it is looked at before anything is written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlhf_jax import hosts
from rlhf_jax.build.runs import finishing
from rlhf_jax.errors import UserError
from rlhf_jax.networks.huggingface import read_json
from rlhf_jax.training import checkpoint
from rlhf_jax.training import fingerprint as fingerprints

Settings = Mapping[str, Mapping[str, Any]]
"""Of each stage, the config that its numbers depend on."""


def claim(
    workdir: Path,
    config: Mapping[str, Any],
    settings: Settings,
    settings_of: Callable[[Mapping[str, Any], tuple[str, ...]], Settings],
) -> None:
    """Makes the folder and writes `config.json`, or refuses and changes nothing.

    Of several processes the first one does, and all look whether they can go on there.

    Args:
      workdir: the folder.
      config: of this run, plain.
      settings: of each stage of this run.
      settings_of: finds the same in another config.

    Raises:
      UserError: it holds another run or one that cannot be read, a stage in it was
        made under other settings that change numbers, or it cannot be written.
    """
    plain = json.loads(json.dumps(config, default=str))
    check_folder(workdir)
    hosts.done(lambda: _claim(workdir, plain, settings, settings_of))
    if hosts.count() > 1 and not (workdir / "config.json").is_file():
        raise UserError(
            f"--workdir={workdir}: process {hosts.index()} does not see what process 0"
            " has written there; name a folder that all of them share"
        )


def _claim(
    workdir: Path,
    plain: Mapping[str, Any],
    settings: Settings,
    settings_of: Callable[[Mapping[str, Any], tuple[str, ...]], Settings],
) -> None:
    path = workdir / "config.json"
    if path.exists():
        _check_same(workdir, read_json(path), plain, settings, settings_of)
    elif _begun(workdir, tuple(settings)):
        raise UserError(
            f"{workdir} has stages but no config.json that says how they were made;"
            " restore it, or choose another --workdir"
        )
    for name in settings:
        finishing.finished(workdir / name, settings[name])
    try:
        finishing.write_json(path, plain)
    except OSError as error:
        raise UserError(f"cannot write in {workdir}: {error.strerror}") from error


def check_folder(path: Path) -> None:
    """Whether a folder can be written, or made; makes nothing.

    Raises:
      UserError: something else is there, or it may not be written.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # too long, or with a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"--workdir={path} cannot be used: {reason}") from error
    if path.exists() and not path.is_dir():
        raise UserError(f"--workdir={path} is a file, not a folder")
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise UserError(f"--workdir={path} cannot be made: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--workdir={path} is not writable: no permission in {there}")


def _begun(workdir: Path, stages: tuple[str, ...]) -> list[str]:
    """Stages that have something to lose."""
    return [
        name
        for name in stages
        if (workdir / name / "done.json").exists()
        or checkpoint.committed_steps(workdir / name / "checkpoints")
    ]


def _check_same(
    workdir: Path,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    settings: Settings,
    settings_of: Callable[[Mapping[str, Any], tuple[str, ...]], Settings],
) -> None:
    names = tuple(old.get("stages") or ())
    if list(names) != list(new["stages"]):
        raise UserError(
            f"{workdir} holds a run with the stages {list(names)}, not"
            f" {new['stages']}; choose another --workdir"
        )
    missing = [name for name in names if name not in old]
    if missing:
        raise UserError(f"{workdir / 'config.json'} has no section '{missing[0]}'")
    before = settings_of(old, names)
    for name in _begun(workdir, names):
        fingerprints.check(before[name], settings[name], checkpoint=str(workdir / name))


def link(source: Path, place: Path) -> None:
    """Makes a stage folder point to that of another run."""
    if not place.is_symlink():
        place.symlink_to(os.path.relpath(source, place.parent))
