"""Three draws of `scripts/chaos.py` against a real run of two stages."""

import sys
from pathlib import Path

import pytest


@pytest.mark.identity("C38")
def test_three_draws_end_the_same(chaos, tmp_path, capsys):
    """Killed at random, in a phase of a save, and on SIGTERM, a run ends the same."""
    run = str(Path(__file__).parent / "toy_run.py")
    command = [sys.executable, run, f"--workdir={tmp_path}", "--steps=6"]
    assert chaos.main(["--draws=3", "--seed=1", "--", *command]) == 0
    told = capsys.readouterr().out
    assert "3 of 3 draws end the same" in told
    assert "SIGTERM" in told and told.count("SIGKILL") == 2


def test_draws_cover_every_phase(chaos):
    """Twenty draws visit all ten phases of a save, and only those that occur."""
    seen = dict.fromkeys(chaos.PHASES, 2)
    blows = chaos.draw_blows(20, 0, seen)
    assert {blow.phase for blow in blows} == {None, *chaos.PHASES}
    few = chaos.draw_blows(8, 0, {"before the rename": 1})
    assert {blow.phase for blow in few} == {None, "before the rename"}
