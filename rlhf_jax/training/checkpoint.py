"""Checkpoints: one step directory holds everything a run needs to go on.

`<stage>/checkpoints/<step>/` has the arrays in three items (`params`, `opt_state`, and
`run` with step, key and the states of the parts) and a JSON record: data position,
fingerprint, metrics pending for that step. It appears by one rename, so a kill in any
phase of a save leaves the checkpoints before it usable. This is the only module that
imports orbax; it uses the v1 interface.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from orbax.checkpoint import v1 as ocp

from rlhf_jax import optimizers, placement
from rlhf_jax.errors import UserError
from rlhf_jax.training import signatures
from rlhf_jax.types import TrainState


class Record(NamedTuple):
    """The host-side half of a checkpoint, plain JSON.

    Attributes:
      step: step of the state, the number of updates made.
      position: of the data, as the batches reported it.
      fingerprint: settings that change numbers, with the data under `data`.
      notes: settings that do not.
      evaluated: whether the state was evaluated before it was saved.
      pending: held-out metrics of this state, to be written with its step's row.
      reason: `scheduled`, `preempted` or `nonfinite`.
    """

    step: int
    position: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    notes: Mapping[str, Any]
    evaluated: bool
    pending: Mapping[str, float | None]
    reason: str

    @property
    def scheduled(self) -> bool:
        """Whether an undisturbed run would have made this checkpoint too."""
        return self.reason == "scheduled"


def committed_steps(directory: str | os.PathLike[str]) -> list[int]:
    """Steps of the whole checkpoints in a `checkpoints` directory, ascending."""
    directory = Path(directory)
    if not directory.is_dir():
        return []
    names = (path.name for path in directory.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if re.fullmatch(r"\d+", name))


def resolve(path: str | os.PathLike[str]) -> Path:
    """A step directory from itself, its `checkpoints` folder or its stage folder.

    The latest step is taken where there is a choice.

    Raises:
      UserError: there is no checkpoint.
    """
    path = Path(path).absolute()
    if (path / "_CHECKPOINT_METADATA").exists():
        return path
    for folder in (path, path / "checkpoints"):
        steps = committed_steps(folder)
        if steps:
            return folder / str(steps[-1])
    raise UserError(
        f"no checkpoint in {path}; name a step directory such as "
        "<workdir>/<stage>/checkpoints/100, or a stage folder that has one"
    )


def read_record(path: str | os.PathLike[str]) -> Record:
    """The JSON record of a step directory.

    Raises:
      UserError: the directory is no checkpoint of this package.
    """
    with _reading(path):
        found = ocp.checkpointables_metadata(str(Path(path).absolute()))
    stored: Any = found.custom_metadata
    if not isinstance(stored, Mapping) or set(stored) != set(Record._fields):
        raise UserError(f"{path} is not a checkpoint written by rlhf_jax")
    return Record(**stored)


def load_params(path: str | os.PathLike[str], group: str | None = None) -> Any:
    """Parameters of a checkpoint, without optimizer and the rest.

    They go where the active placement has them (`placement.Placement.active`), to the
    first device where there is none.

    Args:
      path: a step directory, or a folder that `resolve` understands.
      group: one group such as `policy`; None = all, as a dict by group.

    Raises:
      UserError: there is no such group.
    """
    step = resolve(path)
    stored = contents(step).get("params")
    if not isinstance(stored, Mapping):
        raise UserError(f"checkpoint {step} holds no parameters; it is damaged")
    if group is not None and group not in stored:
        raise UserError(
            f"checkpoint {step} has no parameters {group!r}; it has: "
            f"{', '.join(sorted(stored))}"
        )
    # Stored shardings name devices that may not be here.
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), stored)
    wanted = jax.tree.map(_abstract, placement.abstract(shapes))
    if group is not None:
        wanted = {
            k: v if k == group else jax.tree.map(lambda _: ocp.PLACEHOLDER, v)
            for k, v in wanted.items()
        }
    loaded = _load(step, {"params": wanted})["params"]
    return loaded if group is None else loaded[group]


def load_weights(path: str | os.PathLike[str], group: str) -> Any:
    """What a trained group hands on: the moving average of its parameters where its
    optimizer keeps one (`ema_decay`), else the parameters.

    Args:
      path: a step directory, or a folder that `resolve` understands.
      group: such as `policy`.

    Raises:
      UserError: there is no such group.
    """
    step = resolve(path)
    params = load_params(step, group)
    stored = contents(step).get("opt_state", {})
    inside = {
        id(x) for x in jax.tree.leaves(optimizers.stored_averages(stored.get(group)))
    }
    if not inside:
        return params

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), stored)

    def wanted(leaf: Any, where: Any) -> Any:
        return _abstract(where) if id(leaf) in inside else ocp.PLACEHOLDER

    like = jax.tree.map(wanted, stored, placement.abstract(shapes))
    found = _load(step, {"opt_state": like})["opt_state"]
    (average,) = optimizers.stored_averages(found[group])
    return optimizers.ema_params(optimizers.AverageState(**average), params)


def placed(abstract: Any, shardings: Any) -> Any:
    """An abstract tree with a sharding on each leaf."""
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        abstract,
        shardings,
    )


def load_host(path: str | os.PathLike[str]) -> dict[str, Any]:
    """All arrays of a checkpoint as numpy, by item: `params`, `opt_state`, `run`.

    Needs neither the learner that wrote it nor its devices; typed keys come as data.
    """
    step = resolve(path)
    like = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), contents(step))
    return {"params": {}, "opt_state": {}, **_load(step, like)}


def _load(path: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    with _reading(path):
        return ocp.load_checkpointables(str(path), dict(like))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep orbax's dozen lines per save out of the log; errors still show."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Quiet, and whatever orbax trips over becomes one message."""
    with _quiet():
        try:
            yield
        except Exception as error:  # orbax and tensorstore raise many unrelated types
            raise UserError(
                f"checkpoint {path} cannot be read ({_reason(error)}); it is damaged "
                "or not one of rlhf_jax: delete it to go on from the one before"
            ) from error


def _reason(error: Exception) -> str:
    """The first line of an error, or what the system said."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return "No space left on device" if "No space left" in line else line[:200]


def write(path: Path, state: TrainState, record: Record) -> None:
    """Commit a step directory by one rename; `path` must not exist.

    Raises:
      UserError: the file system refuses it, as where the disk is full.
    """
    # Folders made in the background turn an error there into minutes of waiting.
    at_once = ocp.options.AsyncOptions(create_directories_asynchronously=False)
    try:
        with _quiet(), ocp.Context(async_options=at_once):
            ocp.save_checkpointables(
                str(path), _items(state), custom_metadata=record._asdict()
            )
    except Exception as error:  # tensorstore tells of a full disk by a ValueError
        if not isinstance(error, OSError) and "os_error_code" not in str(error):
            raise
        raise UserError(
            f"cannot save {path} ({_reason(error)}); those before it are whole: once"
            " there is room, the same command goes on from the last"
        ) from error


def read(path: Path, like: TrainState) -> TrainState:
    """Read a state back.

    Args:
      path: a step directory.
      like: abstract state (`jax.eval_shape` of the learner's `init`), with shardings
        on the leaves where the state is spread over devices.

    Raises:
      UserError: naming the first array that is missing, new or of another shape.
    """
    like = jax.tree.map(_abstract, like)
    _check_shapes(path, _items(like))
    loaded = _load(path, _items(like))
    run = loaded["run"]
    return TrainState(
        step=run["step"],
        params=loaded.get("params", {}),
        opt_state=loaded.get("opt_state", {}),
        key=run["key"],
        extra=run["extra"],
    )


def _items(state: TrainState) -> dict[str, Any]:
    run = {"step": state.step, "key": state.key, "extra": state.extra}
    items = {"params": state.params, "opt_state": state.opt_state, "run": run}
    return {name: item for name, item in items.items() if item}  # orbax takes no {}


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def contents(path: Path) -> dict[str, Any]:
    """Abstract contents of a step directory, by item, as plain dicts and lists."""
    with _reading(path):
        return dict(ocp.checkpointables_metadata(str(path)).metadata)


def _check_shapes(path: Path, like: Mapping[str, Any]) -> None:
    """Compare arrays by path: orbax would cast another dtype without a word."""
    stored = signatures.of(contents(path))
    wanted = signatures.of(like)
    for name in sorted(stored.keys() | wanted.keys()):
        if stored.get(name) != wanted.get(name):
            raise UserError(
                f"checkpoint {path} does not fit: array {name} is "
                f"{stored.get(name, 'absent')} there and "
                f"{wanted.get(name, 'absent')} in this run; use the settings that it "
                "was made with, or another workdir"
            )
