"""What the command line sets up: compiled programs that survive a kill."""

import os
import subprocess
import sys

import pytest

PROCESS = """
from rlhf_jax.build.runs import runtime

runtime.prepare()
import jax

print(jax.jit(lambda x: 3 * x + 1)(2.0))
"""


@pytest.fixture
def process(tmp_path):
    """Runs a process that compiles a program; returns what it printed and the sizes of
    the compiled programs by name."""

    def call():
        keep = {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_PLATFORMS": "cpu"}
        found = subprocess.run(
            [sys.executable, "-c", PROCESS],
            capture_output=True,
            text=True,
            env={**os.environ, **keep, "JAX_COMPILATION_CACHE_DIR": str(tmp_path)},
        )
        assert found.returncode == 0, found.stderr
        sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*-cache")}
        return found, sizes

    return call


@pytest.mark.parametrize("left", [0, 100])
def test_a_program_cut_by_a_kill_is_compiled_and_kept_again(process, tmp_path, left):
    """jax writes over nothing: what is cut would be compiled in every later process."""
    first, sizes = process()
    assert first.stdout == "7.0\n" and sizes
    for name in sizes:
        os.truncate(tmp_path / name, left)
    again, healed = process()
    assert again.stdout == "7.0\n" and "are damaged" in again.stderr
    assert "Traceback" not in again.stderr and "UserWarning" not in again.stderr
    assert healed == sizes
