"""How a process joins the others of its run, and how they all end when one fails.

Which processes there are comes from the environment, in this order:

- `JAX_COORDINATOR_ADDRESS=HOST:PORT`, `JAX_NUM_PROCESSES=N`, `JAX_PROCESS_ID=I`;
- SLURM, inside of `srun` with more than one task;
- a TPU VM, whose slice jax finds out by itself.

A process that dies, or stops, without a word is noticed by the heartbeats of
`jax.distributed`, which end the others; one that fails says so itself (`leaving`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from glob import glob
from typing import NamedTuple, NoReturn

from rlhf_jax.build.runs import leaving
from rlhf_jax.errors import UserError

ADDRESS, COUNT, INDEX = VARIABLES = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
)
WAIT = 50.0
"""Seconds until a run whose processes do not come together is given up."""
HEARTBEAT = 30
"""Seconds after which jax takes a silent process for dead, and ends the others."""


class Group(NamedTuple):
    """Where the processes meet; all None where jax finds it out."""

    address: str | None
    count: int | None
    index: int | None


def wanted(environment: Mapping[str, str]) -> Group | None:
    """Which group the environment names; None for a run of one process.

    Raises:
      UserError: it names one incompletely or wrongly.
    """
    given = [name for name in VARIABLES if environment.get(name)]
    if given:
        return _explicit(environment, given)
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return Group(None, None, None)
    return Group(None, None, None) if _has_tpu(environment) else None


def _explicit(environment: Mapping[str, str], given: list[str]) -> Group | None:
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise UserError(
            f"{given[0]} is set and {missing[0]} is not; several processes need"
            f" {', '.join(VARIABLES)}, one process none of them"
        )
    numbers = [environment[name] for name in (COUNT, INDEX)]
    if not all(number.isdecimal() for number in numbers):
        raise UserError(f"{COUNT}={numbers[0]}, {INDEX}={numbers[1]}: not numbers")
    count, index = map(int, numbers)
    if index >= count:
        raise UserError(f"{INDEX}={index} must lie in 0..{count - 1} ({COUNT}={count})")
    address = environment[ADDRESS]
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f"{ADDRESS}={address} is no HOST:PORT, such as 10.0.0.1:8476")
    return Group(address, count, index) if count > 1 else None


def _has_tpu(environment: Mapping[str, str]) -> bool:
    """Whether this machine has TPU chips that jax may use."""
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and "tpu" not in platforms.split(","):
        return False
    chips = glob("/dev/accel[0-9]*") or glob("/dev/vfio/[0-9]*")  # v4 and v5p; later
    return bool(chips) and _module_exists("libtpu")


def _module_exists(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def alone(command: str) -> None:
    """Refuses to run a command in several processes that know nothing of each other.

    Raises:
      UserError: the environment names more than one; the first one says so.
    """
    if not any(os.environ.get(name) for name in VARIABLES):
        return
    group = wanted(os.environ)
    if group is not None and group.index:
        raise SystemExit(2)
    if group is not None:
        raise UserError(
            f"`{command}` runs as one process; start it without a launcher and without"
            f" {', '.join(VARIABLES)}"
        )


def join() -> None:
    """Connects to the other processes, if the environment names any.

    Call it before jax looks for devices.

    Raises:
      UserError: the environment is wrong, or the coordinator's port is taken. A run
        whose processes do not come together ends after `WAIT` seconds, exit code 2.
    """
    group = wanted(os.environ)
    if group is None:
        return
    if group.index == 0 and group.address is not None:
        _check_port(group.address)
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        with _deadline(group):
            jax.distributed.initialize(
                group.address,
                group.count,
                group.index,
                initialization_timeout=int(WAIT) + 30,
                heartbeat_timeout_seconds=HEARTBEAT,
                shutdown_timeout_seconds=int(WAIT),
                cluster_detection_method="deactivate" if group.address else None,
            )
    except ValueError as error:  # no cluster that jax knows
        if group.address is not None or not _has_tpu(os.environ):
            raise UserError(f"the processes of this run: {error}") from error
        return  # a TPU VM outside of Google's cloud: its own chips only
    leaving.listen()


def _check_port(address: str) -> None:
    port = int(address.rpartition(":")[2])
    with socket.socket(socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"{ADDRESS}={address}: process 0 cannot listen on port {port}"
                f" ({error.strerror}); choose another port"
            ) from error


@contextlib.contextmanager
def _deadline(group: Group) -> Iterator[None]:
    """Ends the process with a message where jax would wait, then abort."""
    timer = threading.Timer(WAIT, _give_up, (group,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _give_up(group: Group) -> NoReturn:
    there = group.address or "the coordinator of this cluster"
    if group.index == 0:
        what = f"not all of the {group.count} processes came to {there}"
    elif group.address and _answers(group.address):
        what = f"{there} answers, but not all of the {group.count} processes came"
    else:
        what = f"no coordinator answers at {there}"
    leaving.say(
        f"error: {what} within {WAIT:.0f} s; start all processes, with the same"
        f" {ADDRESS} (that of process 0), and look for an error of another one"
    )
    os._exit(2)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def part() -> None:
    """Waits for the other processes at the end of the run, and disconnects."""
    if not leaving.joined():
        return
    import jax

    from rlhf_jax import hosts

    hosts.barrier()
    leaving.stop_listening()
    jax.distributed.shutdown()
