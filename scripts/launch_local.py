#!/usr/bin/env python
"""Run a command as several processes on this machine, each with fake CPU devices.

    python scripts/launch_local.py --processes=2 --devices-per-process=4 -- \\
        train --config=experiments/quickstart.py:tiny --config.mesh.data=8 --workdir=W

What comes after `--` is a command of `rlhf-jax`. The processes find each other over
loopback, as they would over the network of a pod. The output of process 0 is shown as
it is, that of the others with their number in front. SIGTERM and SIGINT go to all of
them. When one is killed, or stops answering, the others are ended and the exit code is
4; the same command then continues from the last save. Else the exit code is theirs.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, NamedTuple

LOST = 4
"""Exit code after a process was killed or stopped answering."""
GRACE = 20.0
"""Seconds that the others have to end by themselves after one has failed."""
POLL = 0.05


class Child(NamedTuple):
    """One process and the threads that pass its output on."""

    index: int
    process: subprocess.Popen[bytes]
    pipes: tuple[threading.Thread, ...]


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(index: int, count: int, port: int, devices: int) -> dict[str, str]:
    """What tells a process which one it is."""
    flag = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(index),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip(),
    }


def end_with_parent() -> None:
    """Has a process killed when the launcher is: nobody would end it (Linux)."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def start(command: Sequence[str], count: int, devices: int) -> list[Child]:
    """Starts the processes; they do not see the signals of this terminal."""
    port = free_port()
    children = []
    for index in range(count):
        process = subprocess.Popen(
            [sys.executable, "-m", "rlhf_jax", *command],
            env=environment(index, count, port, devices),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=end_with_parent if sys.platform == "linux" else None,
        )
        ends = (process.stdout, sys.stdout), (process.stderr, sys.stderr)
        pipes = tuple(
            threading.Thread(target=show, args=(index, source, sink), daemon=True)
            for source, sink in ends
        )
        for pipe in pipes:
            pipe.start()
        children.append(Child(index, process, pipes))
    return children


def show(index: int, source: IO[bytes], sink: IO[str]) -> None:
    """Passes lines on, but for what the transport says of its connections."""
    for line in source:
        text = line.decode(errors="replace")
        if text.startswith("[Gloo]"):
            continue
        plain = index == 0 or text.startswith("error: ")
        sink.write(text if plain else f"[{index}] {text}")
        sink.flush()


def watch(children: Sequence[Child], patience: float, asked: list[int]) -> int:
    """Waits until all processes have ended, or ends them; the exit code.

    Args:
      children: the processes.
      patience: seconds that a stopped process may take to go on.
      asked: signals passed on so far.
    """
    stopped: dict[int, float] = {}
    while None in (codes := [child.process.poll() for child in children]):
        for child, code in zip(children, codes, strict=True):
            if code is None:
                notice_stop(child, stopped)
                since = stopped.get(child.index)
                if since is not None and time.monotonic() - since > patience:
                    return lost(children, child, "is stopped and does not answer")
            elif code < 0 and -code not in asked:
                name = signal.Signals(-code).name
                return lost(children, child, f"was ended by {name}")
            elif code != 0:
                end(children, GRACE)
                return abs(code) + 128 * (code < 0)
        time.sleep(POLL)
    return last_word(children, asked)


def last_word(children: Sequence[Child], asked: Sequence[int]) -> int:
    """The exit code where all have ended: that of the first that did not succeed."""
    for child in children:
        code = child.process.returncode
        if code < 0 and -code not in asked:
            return lost(children, child, f"was ended by {signal.Signals(-code).name}")
        if code:
            return abs(code) + 128 * (code < 0)
    return 0


def notice_stop(child: Child, stopped: dict[int, float]) -> None:
    """Keeps the time since which a process is stopped (SIGSTOP)."""
    flags = os.WSTOPPED | os.WCONTINUED | os.WNOHANG
    try:
        event = os.waitid(os.P_PID, child.process.pid, flags)
    except ChildProcessError:  # it has just ended
        return
    if event is None:
        return
    if event.si_code == os.CLD_CONTINUED:
        stopped.pop(child.index, None)
    else:
        stopped[child.index] = time.monotonic()


def lost(children: Sequence[Child], child: Child, what: str) -> int:
    """Ends the others, which wait for it in vain, and says so."""
    end(children, 0.0)
    print(
        f"error: process {child.index} of {len(children)} {what}; the others were"
        " ended. The same command continues from the last save.",
        file=sys.stderr,
        flush=True,
    )
    return LOST


def end(children: Sequence[Child], grace: float) -> None:
    """Waits a while for the processes, then kills what is left of them."""
    until = time.monotonic() + grace
    for child in children:
        try:
            child.process.wait(max(until - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            child.process.kill()
    for child in children:
        child.process.wait()
        for pipe in child.pipes:
            pipe.join(timeout=5.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Starts the processes and stays until they have ended."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2, help="how many (2)")
    parser.add_argument(
        "--devices-per-process", type=int, default=1, help="fake devices of each (1)"
    )
    parser.add_argument(
        "--patience", type=float, default=20.0, help="seconds for a stopped process"
    )
    options = parser.parse_args(given[:cut])
    command = given[cut + 1 :]
    if not command or min(options.processes, options.devices_per_process) < 1:
        parser.error("give at least one process and device, and a command after --")
    children: list[Child] = []
    asked: list[int] = []

    def forward(number: int, frame: object) -> None:
        del frame
        asked.append(number)
        for child in children:
            if child.process.poll() is None:
                child.process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    children += start(command, options.processes, options.devices_per_process)
    try:
        return watch(children, options.patience, asked)
    finally:
        end(children, 0.0)


if __name__ == "__main__":
    sys.exit(main())
