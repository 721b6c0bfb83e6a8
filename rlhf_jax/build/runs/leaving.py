"""How all processes of a run end when one of them fails, each with its exit code.

A process that fails tells the others before it goes, and they go too: the compiled
programs that they wait in would never return.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from typing import Any, NoReturn

_FAILED, _GONE = "rlhf_jax/failed", "rlhf_jax/gone"
_GRACE = 3.0
"""Seconds in which processes that fail alike do so."""
_LEAVING = threading.Event()
_ONCE = threading.Lock()
"""Taken by the thread that ends this process, and never given back."""


def joined() -> bool:
    """Whether this process has others."""
    if "jax" not in sys.modules:
        return False
    from rlhf_jax import hosts

    return hosts.count() > 1


def leave(code: int, line: str) -> NoReturn:
    """Ends this process and all others, and says why, once.

    Args:
      code: exit code of all processes.
      line: for a person. If the first process says the same, only it does.
    """
    from rlhf_jax import hosts

    _LEAVING.set()
    _ONCE.acquire()
    with contextlib.suppress(Exception):  # a coordinator that is gone
        told = json.dumps([code, line])
        hosts.client().key_value_set(f"{_FAILED}/{hosts.index()}", told)
        if not hosts.first():
            with contextlib.suppress(Exception):
                wait = int(10 * _GRACE * 1000)  # it answers as soon as it listens
                same = hosts.client().blocking_key_value_get(f"{_FAILED}/0", wait)
                line = "" if same == told else line
    if line:
        say(line)
    _exit(code)


def _exit(code: int) -> NoReturn:
    """Out, without the goodbye that jax would wait for; the coordinator goes last."""
    from rlhf_jax import hosts

    with contextlib.suppress(Exception):
        if hosts.first():
            ends = time.monotonic() + 2 * _GRACE
            while time.monotonic() < ends and _others_are_here(hosts.client()):
                time.sleep(0.05)
        else:
            hosts.client().key_value_set(f"{_GONE}/{hosts.index()}", "")
    sys.stdout.flush()
    os._exit(code)


def _others_are_here(client: Any) -> bool:
    from rlhf_jax import hosts

    return len(client.key_value_dir_get(_GONE)) < hosts.count() - 1


def listen() -> None:
    """Begins to watch for the failure of another process."""
    threading.Thread(target=_listen, name="listen", daemon=True).start()


def stop_listening() -> None:
    """For the end of the run, before the coordinator goes."""
    _LEAVING.set()


def _listen() -> None:
    """Leaves when another process has failed; it has said why."""
    from rlhf_jax import hosts

    client = hosts.client()
    while not _LEAVING.wait(1.0):
        try:
            failed = client.key_value_dir_get(_FAILED)
        except Exception:  # the coordinator is gone, and jax will say so
            return
        if failed:
            if not _LEAVING.wait(_GRACE):  # it may fail in the same way by itself
                _ONCE.acquire()
                _follow(json.loads(failed[0][1])[0])
            return


def _follow(code: int) -> NoReturn:
    """Leaves without a word; the one that failed waits to hear so from the first."""
    from rlhf_jax import hosts

    if hosts.first():
        with contextlib.suppress(Exception):
            hosts.client().key_value_set(f"{_FAILED}/0", json.dumps([code, ""]))
    _exit(code)


def say(line: str) -> None:
    """A line on stderr, after what stdout has."""
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
