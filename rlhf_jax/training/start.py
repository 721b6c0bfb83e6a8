"""Where a stage begins: this workdir, else `init_from`, else scratch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging

from rlhf_jax.errors import UserError
from rlhf_jax.training import checkpoint, fingerprint
from rlhf_jax.training.checkpointer import Checkpointer
from rlhf_jax.types import Learner, Params, TrainState

Array = jax.Array
InitFrom = (
    str | os.PathLike[str] | Mapping[str, Params] | Callable[[], Mapping[str, Params]]
)


class Settings(NamedTuple):
    """What a checkpoint remembers of the run that wrote it.

    Attributes:
      fingerprint: settings that change numbers, those of the data under `data`.
      notes: settings that do not.
    """

    fingerprint: Mapping[str, Any]
    notes: Mapping[str, Any]


class Start(NamedTuple):
    """A state to go on from, and the record it came with (None = a fresh start)."""

    state: TrainState
    record: checkpoint.Record | None

    @property
    def step(self) -> int:
        return 0 if self.record is None else self.record.step

    @property
    def scheduled(self) -> bool:
        """Whether it is a checkpoint that an undisturbed run would have made."""
        return self.record is not None and self.record.scheduled


def begin(
    learner: Learner,
    checkpointer: Checkpointer,
    *,
    stage: str,
    key: Array,
    settings: Settings,
    init_from: InitFrom | None = None,
    shardings: Callable[[TrainState], Any] | None = None,
) -> Start:
    """Restore the latest checkpoint of this workdir, else warm-start, else initialise.

    Args:
      learner: its `init` must be traceable, for shapes are derived from it.
      checkpointer: of this stage.
      stage: name for the log.
      key: given to `learner.init`.
      settings: compared with those of the checkpoint.
      init_from: parameters for a warm start, see `warm_start`.
      shardings: abstract state -> its shardings, leaf by leaf, for a fresh and for a
        restored state. None = one device.

    Raises:
      UserError: the checkpoint was made under another number-changing setting, or
        does not fit.
    """
    latest = checkpointer.latest()
    if latest is not None:
        path = checkpointer.directory / str(latest)
        record = checkpointer.record(latest)
        fingerprint.check(
            record.fingerprint, settings.fingerprint, checkpoint=str(path)
        )
        fingerprint.note(record.notes, settings.notes)
        logging.info("%s: resumed from %s (this workdir)", stage, path)
        like = _like(jax.eval_shape(learner.init, key), shardings)
        return Start(strengthen(checkpointer.restore(latest, like)), record)
    state = _initial(learner, key, shardings)
    if init_from is not None:
        state = warm_start(state, init_from, stage)
    else:
        logging.info("%s: started from scratch", stage)
    state = strengthen(state)
    if shardings is None:
        return Start(committed(state), None)
    where = shardings(jax.eval_shape(lambda: state))
    return Start(jax.tree.map(_settled, state, where), None)


def _initial(
    learner: Learner, key: Array, shardings: Callable[[TrainState], Any] | None
) -> TrainState:
    """`learner.init`; over several devices no array is ever whole on one of them."""
    if shardings is None:
        return learner.init(key)
    where = shardings(jax.eval_shape(learner.init, key))
    return jax.jit(learner.init, out_shardings=where)(key)


def warm_start(state: TrainState, init_from: InitFrom, stage: str = "") -> TrainState:
    """Replace parameters and nothing else: optimizer and schedule start anew.

    Args:
      state: fresh from a learner's `init`.
      init_from: a checkpoint (a path that `checkpoint.resolve` understands), the
        parameters by group, or a function that returns them. Groups that the state
        does not have are left out; groups that it alone has stay as initialised.
      stage: name for the log.

    Raises:
      UserError: no group in common, or an array of another shape.
    """
    if callable(init_from):
        source, groups = "given parameters", init_from()
    elif isinstance(init_from, Mapping):
        source, groups = "given parameters", init_from
    else:
        source = str(checkpoint.resolve(init_from))
        groups = checkpoint.load_params(source)
    shared = sorted(state.params.keys() & groups.keys())
    if not shared:
        raise UserError(
            f"{source} has parameters of {', '.join(sorted(groups))}, but this stage "
            f"trains {', '.join(sorted(state.params))}; nothing to start from"
        )
    loaded = {name: _fit(state.params[name], groups[name], name) for name in shared}
    logging.info(
        "%s: started from %s (init_from; %s), optimizer and schedule anew",
        stage,
        source,
        ", ".join(shared),
    )
    return state._replace(params={**state.params, **loaded})


def strengthen(state: TrainState) -> TrainState:
    """Turn weakly typed scalars and host numbers into arrays of their dtype.

    A checkpoint does not remember weak types; with none around, a restored state
    promotes, and compiles, exactly like the one that was saved.
    """

    def strong(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not getattr(leaf, "weak_type", False):
            return leaf
        array = jnp.asarray(leaf)
        return jax.lax.convert_element_type(array, array.dtype)

    return jax.tree.map(strong, state)


def committed(state: TrainState) -> TrainState:
    """Bind every array to the one device it is on.

    An update returns bound arrays; were its first arguments not bound, jax would
    compile the update a second time for its own results.
    """
    return jax.tree.map(lambda leaf: jax.device_put(leaf, leaf.sharding), state)


def _settled(leaf: Array, where: Any) -> Array:
    """Keys over several processes are where `_initial` put them: jax moves none."""
    return leaf if leaf.sharding == where else jax.device_put(leaf, where)


def _like(
    abstract: TrainState, shardings: Callable[[TrainState], Any] | None
) -> TrainState:
    if shardings is None:
        return abstract
    return checkpoint.placed(abstract, shardings(abstract))


def _fit(like: Params, given: Params, group: str) -> Params:
    """`given` in the structure and dtypes of `like`, compared path by path."""
    wanted, tree = jax.tree_util.tree_flatten_with_path(like)
    found = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(given)[0]
    }
    names = {jax.tree_util.keystr(path) for path, _ in wanted}
    extra = sorted(found.keys() - names)
    if extra:
        raise UserError(f"{group}: the given parameters also have {extra[0]}")
    leaves = []
    for path, leaf in wanted:
        name = jax.tree_util.keystr(path)
        got = found.get(name)
        if got is None or got.shape != leaf.shape:
            shape = "absent" if got is None else f"of shape {got.shape}"
            raise UserError(
                f"{group}: parameter {name} should have shape {leaf.shape} and is "
                f"{shape} in what this stage starts from"
            )
        leaves.append(jnp.asarray(got, leaf.dtype))
    return jax.tree.unflatten(tree, leaves)
