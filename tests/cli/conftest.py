"""The command line in process, and one finished tiny run for all tests."""

import json

import pytest
from command_line import PROMPT, SMALL, TINY, Outcome

from rlhf_jax.cli.main import main


@pytest.fixture
def command(capsys):
    """`command("check", ...)` runs the command line in this process."""

    def call(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture
def refused(command):
    """`refused("check", ...)` returns the message of a command that must be refused."""

    def call(*arguments):
        code, out, err = command(*arguments)
        lines = err.splitlines()
        assert code == 2, (code, out, err)
        assert [x for x in lines if x.startswith("error:")] == lines[-1:], err
        assert out == ""
        return lines[-1].removeprefix("error: ")

    return call


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A finished run, one of whose PPO steps was dumped; not to be changed."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    dump = "--config.debug.dump_step=1"
    assert main(["train", TINY, f"--workdir={workdir}", *SMALL, dump]) == 0
    return workdir


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "answers.jsonl"
    rows = [
        {"prompt": PROMPT, "response": "*w2* *w4*", "by": "me"},
        {"prompt": [3, 24, 2], "response": [24, 1], "id": "x"},
        {"prompt": PROMPT, "response": "w1"},
    ]
    path.write_text("\n\n".join(map(json.dumps, rows)))
    return path, rows
