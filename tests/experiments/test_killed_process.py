"""The quickstart in a real process that SIGKILL ends in the middle of a save."""

import os
import signal
import sys

import chaos

from rlhf_jax.build import experiment
from rlhf_jax.training import digest


def test_a_quickstart_killed_in_a_save_ends_as_an_undisturbed_one(
    tiny, tmp_path, capsys
):
    config = tiny("quickstart.py:tiny")
    assert experiment.run(config, tmp_path / "undisturbed") == 0
    assert "report:" not in capsys.readouterr().out, "none is written"
    command = [
        *(sys.executable, "-m", "rlhf_jax", "train"),
        "--config=experiments/quickstart.py:tiny",
        "--config.logging.tensorboard=False",
        "--config.logging.progress=False",
        "--config.logging.report=False",
        f"--workdir={tmp_path / 'killed'}",
    ]
    # The sixth save is the last one of PPO: three stages save at step 2 and at 4.
    blow = chaos.Blow(signal.SIGKILL, "before the record", 6)
    code, restarts = chaos.play(command, blow, rows=0)
    assert (code, restarts) == (-signal.SIGKILL, 1)
    assert digest(tmp_path / "killed") == digest(tmp_path / "undisturbed")
    assert os.listdir(tmp_path / "killed" / "ppo" / "checkpoints") == ["4"]
