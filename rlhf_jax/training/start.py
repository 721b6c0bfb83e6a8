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
      init_from: parameters for a warm start, which replace those of `learner.init` and
        nothing else: a checkpoint (a path that `checkpoint.resolve` understands), the
        parameters by group, or a function that returns them. Groups that the learner
        does not have are left out; groups that it alone has stay as initialised.
      shardings: abstract state -> its shardings, leaf by leaf, for a fresh and for a
        restored state. None = one device.

    Raises:
      UserError: the checkpoint was made under another number-changing setting, or
        does not fit; `init_from` has no group of the learner, or an array of another
        shape.
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
    if init_from is None:
        state = _initial(learner, key, shardings)
        logging.info("%s: started from scratch", stage)
    else:
        state = _warm(learner, key, shardings, init_from, stage)
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


def _warm(
    learner: Learner,
    key: Array,
    shardings: Callable[[TrainState], Any] | None,
    init_from: InitFrom,
    stage: str,
) -> TrainState:
    """A warm start, for which no parameter is drawn that is given."""
    source, groups = _given(init_from)
    shapes = jax.eval_shape(learner.init, key)
    if shapes.params.keys() <= groups.keys():
        where = None if shardings is None else shardings(shapes)._replace(params={})
        bare = jax.jit(
            lambda key: learner.init(key)._replace(params={}), out_shardings=where
        )
        state = bare(key)._replace(params=shapes.params)
    else:
        state = _initial(learner, key, shardings)
    return _loaded(state, source, groups, stage)


def _given(init_from: InitFrom) -> tuple[str, Mapping[str, Params]]:
    """Parameters by group, and what to call where they come from."""
    if callable(init_from):
        return "given parameters", init_from()
    if isinstance(init_from, Mapping):
        return "given parameters", init_from
    source = str(checkpoint.resolve(init_from))
    return source, checkpoint.load_params(source)


def _loaded(
    state: TrainState, source: str, groups: Mapping[str, Params], stage: str
) -> TrainState:
    """The state with the given parameters: of its own, only their shapes are read.

    Raises:
      UserError: no group in common, or an array of another shape.
    """
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
