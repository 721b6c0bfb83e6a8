"""Several processes as one program: what they tell each other and read together.

Every process runs the same Python with the same arguments; arrays over their devices
are global, and every program that uses them must be started by all. What only one may
do (write a file, call a user's function) the first does, and tells the others. In a run
of one process nothing here costs anything.

Messages go through the key-value store of `jax.distributed`, which jax has no public
name for; orbax uses it in the same way.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax._src import distributed
from jax.experimental import multihost_utils

from rlhf_jax.errors import UserError

T = TypeVar("T")

FOREVER = 7 * 24 * 3600 * 1000
"""Milliseconds. One process may work long; if it dies, jax ends all the others."""

_NUMBERS = itertools.count()


def count() -> int:
    """Number of processes."""
    return distributed.global_state.num_processes if client() is not None else 1


def index() -> int:
    """Which one this is, from 0."""
    return distributed.global_state.process_id if client() is not None else 0


def first() -> bool:
    """Whether this is the process that writes, logs and prints."""
    return index() == 0


def client() -> Any:
    """The connection to the coordinator, or None in a run of one process."""
    return distributed.global_state.client


def told(make: Callable[[], T]) -> T:
    """What `make` gives on the first process, on all of them.

    Args:
      make: called on the first process alone; its result is JSON (numbers arrive
        exactly, tuples as lists).

    Raises:
      UserError: `make` did, on the first process; then on all of them.
    """
    if count() == 1:
        return make()
    key = f"rlhf_jax/told/{next(_NUMBERS)}"
    if first():
        message = _outcome(make)
        client().key_value_set(key, message)
    else:
        message = client().blocking_key_value_get(key, FOREVER)
    outcome = json.loads(message)
    if "error" in outcome:
        raise UserError(outcome["error"])
    return outcome["value"]


def _outcome(make: Callable[[], Any]) -> str:
    try:
        return json.dumps({"value": make()})
    except UserError as error:
        return json.dumps({"error": str(error)})


def done(act: Callable[[], Any]) -> None:
    """Has the first process do something; all go on when it is done.

    Raises:
      UserError: `act` did; then on all processes.
    """

    def make() -> None:
        act()

    told(make)


def barrier() -> None:
    """Returns once every process has come here."""
    if count() > 1:
        client().wait_at_barrier(f"rlhf_jax/barrier/{next(_NUMBERS)}", FOREVER)


def agreed_to_end(question: int) -> bool:
    """Whether this is where all processes end, after a SIGTERM to any of them.

    Args:
      question: 1, 2, ...: how often this has been asked. The answer is yes once.
    """
    return multihost_utils.reached_preemption_sync_point(question)


def fetch(tree: Any) -> Any:
    """Arrays on the host, as NumPy; of a global array every process gets all of it.

    All processes must call this for the same arrays.
    """
    return jax.device_get(jax.tree.map(_whole, tree))


def _whole(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return leaf
    if leaf.is_fully_replicated:
        return leaf
    return multihost_utils.process_allgather(leaf, tiled=True)
