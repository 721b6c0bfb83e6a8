"""A whole run in two processes: stopped, killed, asked to end, and equal to one.

One in one process is killed on a mesh and ends on another.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import chaos
import jax
import numpy as np
import pytest
from command_line import PROMPT, SMALL, TINY, lines, our_logits

from rlhf_jax.build.commands import opening
from rlhf_jax.cli.main import main
from rlhf_jax.training import checkpoint
from rlhf_jax.training.writers import read_rows

SCRIPT = pathlib.Path(__file__).parents[1] / "scripts" / "launch_local.py"
MESH = ("--config.mesh.data=4", "--config.mesh.fsdp=2")
OTHER = (
    "--config.mesh.fsdp=4",
    "--config.mesh.tensor=2",
    "--config.mesh.rules=vocab=",  # 43 tokens
)
LONGER = (
    "--config.sft.steps=8",
    "--config.rm.batch_size=8",
    "--config.ppo.steps=4",
    "--config.ppo.minibatches=1",
)


def command(workdir, processes=1, devices=8, mesh=MESH):
    options = [f"--processes={processes}", f"--devices-per-process={devices}"]
    train = ["train", TINY, *SMALL, *LONGER, *mesh, f"--workdir={workdir}"]
    return [sys.executable, str(SCRIPT), *options, "--patience=1", "--", *train]


def settings(programs):
    """Environment of processes that compile little, and nothing twice."""
    return {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }


class Launched:
    """The launcher on a folder, under way."""

    def __init__(self, workdir, programs, processes, devices):
        self.workdir = workdir
        self.process = subprocess.Popen(
            command(workdir, processes, devices),
            env=os.environ | settings(programs),
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
def programs(tmp_path_factory):
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def launch(programs):
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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, launch):
    """A finished run of one process with as many devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    code, err = launch(workdir, 1, 8).ended()
    assert code == 0, err
    return workdir


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
    interrupted, undisturbed
):
    workdir, _ = interrupted
    for name in ("metrics", "samples"):
        one = read_rows(undisturbed / f"{name}.jsonl")
        two = read_rows(workdir / f"{name}.jsonl")
        assert len(one) == len(two) > 2
        jax.tree.map(alike, [plain(x) for x in one], [plain(x) for x in two])
    for stage in ("sft", "rm", "ppo"):
        one = checkpoint.load_host(undisturbed / stage)
        two = checkpoint.load_host(workdir / stage)
        jax.tree.map(alike, one["params"], two["params"])


def plain(row):
    return {k: v for k, v in row.items() if not k.startswith("time/")}


def alike(one, two):
    if isinstance(one, str):
        assert one == two
    else:
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("/proc/nowhere/run", "cannot write in /proc/nowhere/run"),
        (f"{__file__}/run", f"--workdir={__file__}/run cannot be made"),
    ],
)
def test_a_shared_folder_that_cannot_be_written_is_one_line(launch, folder, words):
    code, err = launch(pathlib.Path(folder), 2, 4).ended()
    assert code == 2
    said = [line for line in err.splitlines() if "error" in line.lower()]
    assert len(said) == 1 and said[0].startswith(f"error: {words}"), err


def test_a_run_killed_on_a_mesh_ends_alike_on_another(
    undisturbed, programs, tmp_path, monkeypatch, capsys
):
    workdir = tmp_path / "run"
    for name, value in settings(programs).items():
        monkeypatch.setenv(name, value)
    # Saves at 2, 4, 6 and 8 of SFT, 2 of the reward model, 2 and 4 of PPO.
    code, err = chaos.run(command(workdir), "kill_in('before the record', 7)")
    assert code == 4 and "was ended by SIGKILL" in err, err
    assert checkpoint.committed_steps(workdir / "ppo" / "checkpoints") == [2]
    code, err = chaos.run(command(workdir, mesh=OTHER))
    assert code == 0, err
    found = checkpoint.read_record(checkpoint.resolve(workdir / "ppo"))
    assert found.step == 4 and found.notes["mesh.tensor"] == 2
    capsys.readouterr()
    against = f"--against={undisturbed}"
    assert main(["digest", str(workdir), against, "--rtol=1e-4"]) == 0
    assert main(["digest", str(workdir), against]) == 1, capsys.readouterr().out


def test_what_was_trained_on_a_mesh_is_used_on_one_device(
    undisturbed, tmp_path, capsys
):
    assert jax.device_count() == 1
    policy, judge = str(undisturbed / "ppo"), str(undisturbed / "rm")

    def said(*arguments):
        capsys.readouterr()
        assert main([*map(str, arguments)]) == 0
        return capsys.readouterr().out

    sampled = lines(said("generate", policy, f"--prompt={PROMPT}", "--samples=2"))
    responses = tmp_path / "responses.jsonl"
    responses.write_text("".join(f"{json.dumps(row)}\n" for row in sampled))
    scores = [row["score"] for row in lines(said("score", judge, responses))]
    assert len(scores) == 2 and np.isfinite(scores).all()
    said("report", undisturbed, f"--out={tmp_path / 'report.html'}")
    said("export", policy, tmp_path / "exported")
    tokens = [[2, 3, 4]]
    here, there = (
        our_logits(opening.open_model(pathlib.Path(folder)), tokens)
        for folder in (policy, tmp_path / "exported")
    )
    np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-6)
