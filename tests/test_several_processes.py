"""A whole run in two processes: stopped, killed, asked to end, and equal to one."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from command_line import SMALL, TINY

from rlhf_jax.training import checkpoint
from rlhf_jax.training.writers import read_rows

SCRIPT = pathlib.Path(__file__).parents[1] / "scripts" / "launch_local.py"
MESH = ("--config.mesh.data=4", "--config.mesh.fsdp=2", "--config.rm.batch_size=8")
LONGER = ("--config.sft.steps=8", "--config.ppo.minibatches=1")


class Launched:
    """The launcher on a folder, under way."""

    def __init__(self, workdir, programs, processes, devices):
        options = [f"--processes={processes}", f"--devices-per-process={devices}"]
        train = ["train", TINY, *SMALL, *LONGER, *MESH, f"--workdir={workdir}"]
        self.workdir = workdir
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT, *options, "--patience=1", "--", *train],
            env=os.environ
            | {
                "JAX_ENABLE_COMPILATION_CACHE": "true",
                "JAX_COMPILATION_CACHE_DIR": str(programs),
                "XLA_FLAGS": "--xla_backend_optimization_level=0",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def rows(self):
        return len(read_rows(self.workdir / "metrics.jsonl"))

    def strike(self, index, number, rows):
        """A signal to one process once so many rows are written; exit code, stderr."""
        while self.rows() < rows:
            assert self.process.poll() is None, self.process.communicate()
            with pytest.raises(subprocess.TimeoutExpired):
                self.process.wait(timeout=0.05)
        path = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}")
        pids = [int(pid) for pid in (path / "children").read_text().split()]
        os.kill(pids[index], number)
        return self.ended()

    def ended(self):
        _, err = self.process.communicate(timeout=600)
        return self.process.returncode, err


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    programs = tmp_path_factory.mktemp("programs")
    started = []

    def start(workdir, processes, devices):
        started.append(Launched(workdir, programs, processes, devices))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, launch):
    """A finished run of two processes, and what each interruption came to."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    found = []
    blows = (1, signal.SIGSTOP), (0, signal.SIGKILL), (1, signal.SIGTERM)
    for rows, (index, number) in enumerate(blows, 1):
        began = time.monotonic()
        code, err = launch(workdir, 2, 4).strike(index, number, rows)
        found.append((code, err, time.monotonic() - began))
    code, err = launch(workdir, 2, 4).ended()
    assert code == 0, err
    return workdir, found


def test_a_process_that_is_stopped_or_killed_ends_the_run(interrupted):
    _, ((code, err, _), (killed, said, _), _) = interrupted
    assert code == killed == 4
    assert "error: process 1 of 2 is stopped and does not answer" in err
    assert "error: process 0 of 2 was ended by SIGKILL" in said


def test_a_signal_to_one_process_saves_and_ends_all(interrupted):
    _, (_, _, (code, err, _)) = interrupted
    assert code == 143, err
    assert "Traceback" not in err and err.count("saved in") == 1, err


def test_an_interrupted_run_of_two_processes_equals_one_process(
    interrupted, launch, tmp_path
):
    workdir, _ = interrupted
    code, err = launch(tmp_path / "one", 1, 8).ended()
    assert code == 0, err
    for name in ("metrics", "samples"):
        one = read_rows(tmp_path / "one" / f"{name}.jsonl")
        two = read_rows(workdir / f"{name}.jsonl")
        assert len(one) == len(two) > 2
        jax.tree.map(alike, [plain(x) for x in one], [plain(x) for x in two])
    for stage in ("sft", "rm", "ppo"):
        one = checkpoint.load_host(tmp_path / "one" / stage)
        two = checkpoint.load_host(workdir / stage)
        jax.tree.map(alike, one["params"], two["params"])


def plain(row):
    return {k: v for k, v in row.items() if not k.startswith("time/")}


def alike(one, two):
    if isinstance(one, str):
        assert one == two
    else:
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
