"""Runs one program as two processes that know of each other."""

import os
import socket
import subprocess
import sys
from typing import NamedTuple

JOIN = "from rlhf_jax.build.runs import joining; joining.join()\n"


class Said(NamedTuple):
    """What a process did."""

    code: int
    out: list[str]
    err: str


def together(program, devices=2):
    """Exit codes and output of the two processes, in their order.

    Args:
      program: Python that finds its arguments in the environment, after `JOIN`.
      devices: fake devices of each.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN + program],
            env=os.environ
            | {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(index),
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    result = []
    try:
        for process in started:
            out, err = process.communicate(timeout=120)
            lines = [x for x in out.splitlines() if not _chatter(x)]
            result.append(Said(process.returncode, lines, err))
    finally:
        for process in started:
            process.kill()
    return result


def _chatter(line):
    """Whether a line is Gloo's, whose threads write parts of lines between others.

    The end of one of its lines may come after another line: an empty one.
    """
    return not line or line.startswith("[Gloo]") or "peer ranks" in line
