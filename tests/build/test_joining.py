"""Which processes a run has, by its environment, and those that do not come."""

import os
import socket
import subprocess
import sys

import pytest

from rlhf_jax.build.runs import joining
from rlhf_jax.errors import UserError

MEET = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:8476",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}


@pytest.fixture
def no_chips(monkeypatch):
    monkeypatch.setattr(joining, "glob", lambda pattern: [])


@pytest.mark.usefixtures("no_chips")
def test_the_environment_names_the_group():
    assert joining.wanted({}) is None
    assert joining.wanted(MEET) == ("10.0.0.1:8476", 4, 3)
    assert joining.wanted(MEET | {"SLURM_STEP_NUM_TASKS": "8"}).count == 4
    one = MEET | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}
    assert joining.wanted(one) is None
    assert joining.wanted({"SLURM_STEP_NUM_TASKS": "8"}) == (None, None, None)
    assert joining.wanted({"SLURM_STEP_NUM_TASKS": "1"}) is None


def test_chips_of_a_tpu_vm_are_found(monkeypatch):
    monkeypatch.setattr(joining, "glob", lambda pattern: ["/dev/accel0"])
    monkeypatch.setattr(joining, "_module_exists", lambda name: name == "libtpu")
    assert joining.wanted({}) == (None, None, None)
    assert joining.wanted({"JAX_PLATFORMS": "tpu,cpu"}) is not None
    assert joining.wanted({"JAX_PLATFORMS": "cpu"}) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"JAX_PROCESS_ID": ""}, "JAX_COORDINATOR_ADDRESS is set and JAX_PROCESS_ID"),
        ({"JAX_COORDINATOR_ADDRESS": ""}, "JAX_NUM_PROCESSES is set and"),
        ({"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID=4 must lie in 0..3"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES=two"),
        ({"JAX_COORDINATOR_ADDRESS": "host"}, "host is no HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": "host:0"}, "host:0 is no HOST:PORT"),
    ],
)
def test_a_group_that_is_named_wrongly_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        joining.wanted(MEET | change)


def test_a_command_for_one_process_is_refused_once(monkeypatch):
    for name, value in MEET.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="2"):
        joining.alone("rlhf-jax check")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(UserError, match="`rlhf-jax check` runs as one process"):
        joining.alone("rlhf-jax check")


def test_a_port_that_is_taken_is_named(monkeypatch):
    with socket.socket() as busy:
        busy.bind(("", 0))
        busy.listen()
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", address)
        monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
        monkeypatch.setenv("JAX_PROCESS_ID", "0")
        with pytest.raises(UserError, match=f"{address}: process 0 cannot listen"):
            joining.join()


def join_in_vain(index, port):
    code = "from rlhf_jax.build.runs import joining as j; j.WAIT = 1.0; j.join()"
    env = os.environ | MEET | {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": index}
    env["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{port}"
    return subprocess.Popen(
        [sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True
    )


def test_processes_that_do_not_meet_give_up_with_one_line():
    """Jax would abort with a stack trace, after five minutes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = {}
    for index in "10":
        process = join_in_vain(index, port)
        said[index] = process.communicate(timeout=60)[1]
        assert process.returncode == 2, said
        assert said[index].startswith("error: ") and said[index].count("\n") == 1
    assert f"no coordinator answers at 127.0.0.1:{port}" in said["1"]
    assert f"not all of the 2 processes came to 127.0.0.1:{port}" in said["0"]
