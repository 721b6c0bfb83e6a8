"""Checkpoints of a state that is spread over devices."""

import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_jax.training import checkpoint
from rlhf_jax.training.digest import digest


@pytest.mark.identity("C38")
def test_resume_keeps_shardings_and_one_device_can_read(tmp_path):
    """Over four devices resume is exact too, and one device reads what four wrote."""
    script = Path(__file__).parent / "sharded_run.py"
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert digest(tmp_path / "halves") == digest(tmp_path / "whole")
    params = checkpoint.load_params(tmp_path / "whole" / "ppo", "policy")
    assert params["params"]["w"].shape == (4, 3)
